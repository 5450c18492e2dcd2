-- The extension is installed in the schema it names, at the version its control file names.
SELECT e.extname, n.nspname, e.extrelocatable, e.extversion = x.default_version AS is_default_version
FROM pg_extension e
JOIN pg_namespace n ON n.oid = e.extnamespace
JOIN pg_available_extensions x ON x.name = e.extname
WHERE e.extname = 'perf_opt';

-- It cannot be moved, and nobody but a superuser installs it.
ALTER EXTENSION perf_opt SET SCHEMA public;
CREATE ROLE regress_perf_plain;
CREATE SCHEMA regress_perf_schema;
DROP EXTENSION perf_opt;
SET ROLE regress_perf_plain;
CREATE EXTENSION perf_opt;
RESET ROLE;
CREATE EXTENSION perf_opt SCHEMA regress_perf_schema;
CREATE EXTENSION perf_opt;
CREATE EXTENSION perf_opt;

-- Every setting says what it is.
SELECT name FROM pg_settings WHERE name LIKE 'perf\_opt.%' AND coalesce(short_desc, '') = '' ORDER BY name;

-- Every function says what it is, and none written in SQL resolves names by the caller's search_path. A procedure that commits
-- may not set one: those listed here qualify every name, and use no operator.
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'perf'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
 WHERE p.pronamespace = 'perf'::regnamespace AND l.lanname IN ('sql', 'plpgsql')
   AND NOT coalesce(p.proconfig, '{}') @> '{"search_path=pg_catalog, pg_temp"}'
   -- Names in these were bound when they were made.
   AND (p.prosqlbody IS NULL OR p.prosecdef);

DROP SCHEMA regress_perf_schema;
DROP ROLE regress_perf_plain;
