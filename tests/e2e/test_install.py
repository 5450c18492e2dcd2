"""CREATE EXTENSION in every situation, and what every public object owes its users."""

from __future__ import annotations

from .case import ClusterTest

# Public objects of the schema perf: all but those whose name begins with an underscore.
UNCOMMENTED = """
SELECT 'function ' || p.oid::regprocedure
FROM pg_proc p
WHERE p.pronamespace = 'perf'::regnamespace AND p.proname NOT LIKE '\\_%'
  AND obj_description(p.oid, 'pg_proc') IS NULL
UNION ALL
SELECT CASE WHEN c.relkind IN ('v', 'm') THEN 'view ' ELSE 'table ' END || c.oid::regclass
FROM pg_class c
WHERE c.relnamespace = 'perf'::regnamespace AND c.relname NOT LIKE '\\_%'
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND obj_description(c.oid, 'pg_class') IS NULL
ORDER BY 1
"""
# Functions and relations of the extension; partitions, which its worker makes meanwhile, left out.
MEMBERS = """
SELECT count(*) FROM pg_depend d
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'perf_opt')
  AND (d.classid = 'pg_proc'::regclass
       OR d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM pg_class WHERE NOT relispartition))
"""


class Preloaded(ClusterTest):
    """The library is in shared_preload_libraries."""

    def test_create_drop_create(self) -> None:
        database = self.fresh_database()
        self.assertEqual(
            self.cluster.sql("SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
                             "WHERE e.extname = 'perf_opt'", dbname=database), [("perf",)])
        before = self.cluster.scalar(MEMBERS, dbname=database)
        self.cluster.sql("DROP EXTENSION perf_opt", dbname=database)
        self.assertEqual(self.cluster.sql("SELECT p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
                                          "WHERE n.nspname = 'perf'", dbname=database), [])
        self.cluster.sql("CREATE EXTENSION perf_opt", dbname=database)
        self.assertEqual(self.cluster.scalar(MEMBERS, dbname=database), before)

    def test_two_databases(self) -> None:
        for database in (self.fresh_database(), self.fresh_database()):
            self.assertEqual(self.cluster.scalar("SELECT count(*) FROM pg_extension WHERE extname = 'perf_opt'",
                                                 dbname=database), 1)

    def test_rolled_back_and_not_for_everybody(self) -> None:
        database = self.fresh_database(extension=False)
        with self.cluster.connect(database) as session:
            session.query("BEGIN; CREATE EXTENSION perf_opt; ROLLBACK")
        self.assertEqual(self.cluster.sql("SELECT 1 FROM pg_extension WHERE extname = 'perf_opt'", dbname=database), [])
        self.cluster.sql("CREATE ROLE plain LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE plain")
        self.assert_sql_error("42501", self.cluster, "CREATE EXTENSION perf_opt", dbname=database, user="plain")

    def test_every_public_object_has_a_comment(self) -> None:
        database = self.fresh_database()
        self.assertEqual([name for (name,) in self.cluster.sql(UNCOMMENTED, dbname=database)], [])

    def test_the_comment_check_sees_what_is_missing(self) -> None:
        database = self.fresh_database()
        self.cluster.sql("CREATE FUNCTION perf.planted() RETURNS int LANGUAGE sql AS 'SELECT 1'; "
                         "CREATE FUNCTION perf._hidden() RETURNS int LANGUAGE sql AS 'SELECT 1'; "
                         "CREATE TABLE perf.planted_table (a int); CREATE VIEW perf.planted_view AS SELECT 1 AS one; "
                         "CREATE TABLE perf.described (a int); COMMENT ON TABLE perf.described IS 'it is'",
                         dbname=database)
        self.assertEqual([name for (name,) in self.cluster.sql(UNCOMMENTED, dbname=database)],
                         ["function perf.planted()", "table perf.planted_table", "view perf.planted_view"])

    def test_settings_are_described(self) -> None:
        missing = self.cluster.sql("SELECT name FROM pg_settings WHERE name LIKE 'perf\\_opt.%' "
                                   "AND coalesce(short_desc, '') = ''")
        self.assertEqual(missing, [])


class NotPreloaded(ClusterTest):
    """The library is loaded, if at all, by the first call of a function."""

    settings = {"shared_preload_libraries": ""}

    def test_create_and_drop(self) -> None:
        database = self.fresh_database()
        self.assertEqual([name for (name,) in self.cluster.sql(UNCOMMENTED, dbname=database)], [])
        self.cluster.sql("DROP EXTENSION perf_opt", dbname=database)

    def test_load_in_a_session(self) -> None:
        with self.cluster.connect() as session:
            session.query("LOAD 'perf_opt'")
            self.assertEqual(session.query("SELECT 1").scalar(), 1)


class PreloadedWithoutExtension(ClusterTest):
    """The library is loaded and no database has the extension."""

    def test_the_server_works_and_restarts(self) -> None:
        cluster = self.private_cluster()
        self.assertEqual(cluster.scalar("SELECT count(*) FROM pg_extension WHERE extname = 'perf_opt'"), 0)
        cluster.restart()
        self.assertEqual(cluster.scalar("SELECT 1"), 1)
