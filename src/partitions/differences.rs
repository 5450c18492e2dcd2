//! Where partitions are not like the table that they are partitions of, in what the server does not keep alike by itself:
//! owner, privileges, row security, replica identity, statistics targets; and what was left undone about constraints and
//! detaches. Each with the SQL that mends it. [`super::like`] makes a new table alike; this compares thousands at once.
//!
//! Called by the check of partitions, inside a transaction. Reads catalogs; the text of row-security policies makes the
//! server lock their tables in ACCESS SHARE for a moment, so the caller limits how long a lock is waited for.

use pgrx::pg_sys;

use crate::pg::text::Text;
use crate::pg::{privilege, query};

/// One difference.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The table that is checked; the partition may be one of its partitions' own.
    pub top: pg_sys::Oid,
    /// What is the matter, by the name that users see.
    pub problem: String,
    /// More of it.
    pub detail: String,
    /// What mends it, where SQL can.
    pub fix: Option<String>,
}

/// All differences within these tables, by the names of the partitions.
pub fn of(tops: &[pg_sys::Oid]) -> Vec<Difference> {
    privilege::with_own_path(|| {
        query::run_with(DIFFERENCES, &[tops.to_vec().into()], |row| Difference {
            top: row.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid),
            problem: row.string(2),
            detail: row.string(3),
            fix: row.get::<Text>(4).map(|fix| fix.0),
        })
        .1
    })
}

/// $1: the tables. A policy's expression names its own table where it has a subquery: that name is the partition's there.
const DIFFERENCES: &std::ffi::CStr = c"
WITH RECURSIVE tree (top, parent, child, depth, is_detaching) AS (
        SELECT i.inhparent, i.inhparent, i.inhrelid, 1, i.inhdetachpending FROM pg_inherits i WHERE i.inhparent = ANY ($1)
        UNION ALL
        SELECT t.top, i.inhparent, i.inhrelid, t.depth + 1, i.inhdetachpending
          FROM tree t JOIN pg_inherits i ON i.inhparent = t.child
         WHERE t.depth < 4 AND NOT t.is_detaching AND NOT i.inhparent = ANY ($1)),
     named AS MATERIALIZED (
        SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
               format('%I.%I', n.nspname, c.relname) AS full_name
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid IN (SELECT child FROM tree) OR c.oid = ANY ($1)),
     pairs AS MATERIALIZED (
        SELECT t.top, p AS p, c AS c FROM tree t JOIN named p ON p.oid = t.parent JOIN named c ON c.oid = t.child
         WHERE NOT t.is_detaching),
     roles AS MATERIALIZED (SELECT r.oid, quote_ident(r.rolname) AS name FROM pg_roles r UNION ALL SELECT 0, 'PUBLIC')
SELECT s.top, s.problem, s.detail, s.fix FROM (
    SELECT t.top, c.full_name AS place, 'detach_interrupted' AS problem,
           format('a concurrent detach of %s was begun and has not ended', c.full_name) AS detail,
           format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', p.full_name, c.full_name) AS fix
      FROM tree t JOIN named p ON p.oid = t.parent JOIN named c ON c.oid = t.child WHERE t.is_detaching
    UNION ALL
    SELECT x.top, (x.c).full_name, 'owner_differs',
           format('%s belongs to %s, %s to %s', (x.c).full_name, pg_get_userbyid((x.c).relowner), (x.p).full_name, r.name),
           format('ALTER TABLE %s OWNER TO %s', (x.c).full_name, r.name)
      FROM pairs x JOIN roles r ON r.oid = (x.p).relowner WHERE (x.c).relowner <> (x.p).relowner
    UNION ALL
    SELECT x.top, (x.c).full_name, 'privileges_differ',
           format('%s has not the privileges of %s: %s', (x.c).full_name, (x.p).full_name, string_agg(d.what, '; ' ORDER BY d.what)),
           string_agg(d.fix, E';\n' ORDER BY d.place, d.fix)
      FROM pairs x CROSS JOIN LATERAL (
           SELECT 1 AS place, format('%s for %s is too much', string_agg(o.privilege, ', ' ORDER BY o.privilege), r.name) AS what,
                  format('REVOKE %s ON TABLE %s FROM %s', string_agg(o.privilege, ', ' ORDER BY o.privilege), (x.c).full_name, r.name) AS fix
             FROM (SELECT o.grantee, o.privilege_type AS privilege FROM aclexplode((x.c).relacl) o WHERE o.grantee <> (x.c).relowner
                   EXCEPT SELECT g.grantee, g.privilege_type FROM aclexplode((x.p).relacl) g) o
             JOIN roles r ON r.oid = o.grantee GROUP BY r.name
           UNION ALL
           SELECT 2, format('the right of %s to grant %s is too much', r.name, string_agg(o.privilege, ', ' ORDER BY o.privilege)),
                  format('REVOKE GRANT OPTION FOR %s ON TABLE %s FROM %s', string_agg(o.privilege, ', ' ORDER BY o.privilege),
                         (x.c).full_name, r.name)
             FROM (SELECT o.grantee, o.privilege_type AS privilege FROM aclexplode((x.c).relacl) o
                    WHERE o.grantee <> (x.c).relowner AND o.is_grantable
                   INTERSECT SELECT g.grantee, g.privilege_type FROM aclexplode((x.p).relacl) g WHERE NOT g.is_grantable) o
             JOIN roles r ON r.oid = o.grantee GROUP BY r.name
           UNION ALL
           SELECT 3, format('%s for %s is missing', string_agg(g.privilege, ', ' ORDER BY g.privilege), r.name),
                  format('GRANT %s ON TABLE %s TO %s%s', string_agg(g.privilege, ', ' ORDER BY g.privilege), (x.c).full_name, r.name,
                         CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' END)
             FROM (SELECT g.grantee, g.privilege_type AS privilege, bool_or(g.is_grantable) AS is_grantable
                     FROM aclexplode((x.p).relacl) g WHERE g.grantee NOT IN ((x.p).relowner, (x.c).relowner) GROUP BY 1, 2
                   EXCEPT SELECT o.grantee, o.privilege_type, o.is_grantable FROM aclexplode((x.c).relacl) o) g
             JOIN roles r ON r.oid = g.grantee
            WHERE g.is_grantable OR NOT EXISTS (SELECT FROM aclexplode((x.c).relacl) o
                                                 WHERE o.grantee = g.grantee AND o.privilege_type = g.privilege)
            GROUP BY r.name, g.is_grantable
           UNION ALL
           SELECT 4, format('%s (%I) for %s is too much', o.privilege_type, b.attname, r.name),
                  format('REVOKE %s (%I) ON TABLE %s FROM %s', o.privilege_type, b.attname, (x.c).full_name, r.name)
             FROM pg_attribute b, aclexplode(b.attacl) o JOIN roles r ON r.oid = o.grantee
            WHERE b.attrelid = (x.c).oid AND b.attacl IS NOT NULL AND NOT b.attisdropped
              AND NOT EXISTS (SELECT FROM pg_attribute a, aclexplode(a.attacl) g
                               WHERE a.attrelid = (x.p).oid AND a.attname = b.attname
                                 AND g.grantee = o.grantee AND g.privilege_type = o.privilege_type)
           UNION ALL
           SELECT 5, format('%s (%I) for %s is missing', g.privilege_type, a.attname, r.name),
                  format('GRANT %s (%I) ON TABLE %s TO %s%s', g.privilege_type, a.attname, (x.c).full_name, r.name,
                         CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' END)
             FROM pg_attribute a, aclexplode(a.attacl) g JOIN roles r ON r.oid = g.grantee
            WHERE a.attrelid = (x.p).oid AND a.attacl IS NOT NULL AND NOT a.attisdropped
              AND NOT EXISTS (SELECT FROM pg_attribute b, aclexplode(b.attacl) o
                               WHERE b.attrelid = (x.c).oid AND b.attname = a.attname
                                 AND g.grantee = o.grantee AND g.privilege_type = o.privilege_type
                                 AND (o.is_grantable OR NOT g.is_grantable))) d
     WHERE (x.c).relacl IS DISTINCT FROM (x.p).relacl
        OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid IN ((x.p).oid, (x.c).oid) AND a.attacl IS NOT NULL)
     GROUP BY x.top, (x.c).full_name, (x.p).full_name
    UNION ALL
    SELECT x.top, (x.c).full_name, 'row_security_differs',
           format('%s has not the row security of %s: %s', (x.c).full_name, (x.p).full_name, string_agg(DISTINCT d.what, '; ')),
           string_agg(d.fix, E';\n' ORDER BY d.place, d.fix)
      FROM pairs x CROSS JOIN LATERAL (
           SELECT 1 AS place, 'it is ' || CASE WHEN (x.c).relrowsecurity THEN 'on' ELSE 'off' END AS what,
                  format('ALTER TABLE %s %s ROW LEVEL SECURITY', (x.c).full_name,
                         CASE WHEN (x.p).relrowsecurity THEN 'ENABLE' ELSE 'DISABLE' END) AS fix
            WHERE (x.c).relrowsecurity <> (x.p).relrowsecurity
           UNION ALL
           SELECT 2, 'it is ' || CASE WHEN (x.c).relforcerowsecurity THEN 'forced' ELSE 'not forced' END,
                  format('ALTER TABLE %s %sFORCE ROW LEVEL SECURITY', (x.c).full_name,
                         CASE WHEN (x.p).relforcerowsecurity THEN '' ELSE 'NO ' END)
            WHERE (x.c).relforcerowsecurity <> (x.p).relforcerowsecurity
           UNION ALL
           SELECT f.place, f.what, f.fix
             FROM (SELECT o.*, own.using_text, own.check_text FROM pg_policy o, LATERAL (
                          SELECT replace(pg_get_expr(o.polqual, o.polrelid), quote_ident((x.p).relname) || '.',
                                         quote_ident((x.c).relname) || '.') AS using_text,
                                 replace(pg_get_expr(o.polwithcheck, o.polrelid), quote_ident((x.p).relname) || '.',
                                         quote_ident((x.c).relname) || '.') AS check_text) own
                    WHERE o.polrelid = (x.p).oid) a
             FULL JOIN (SELECT o.*, pg_get_expr(o.polqual, o.polrelid) AS using_text,
                               pg_get_expr(o.polwithcheck, o.polrelid) AS check_text
                          FROM pg_policy o WHERE o.polrelid = (x.c).oid) b ON b.polname = a.polname
             CROSS JOIN LATERAL (
                  SELECT 3 AS place, format('policy %I is %s', b.polname, CASE WHEN a.polname IS NULL THEN 'too much'
                                                                               ELSE 'another one' END) AS what,
                         format('DROP POLICY %I ON %s', b.polname, (x.c).full_name) AS fix
                   WHERE b.polname IS NOT NULL
                  UNION ALL
                  SELECT 4, format('policy %I is %s', a.polname, CASE WHEN b.polname IS NULL THEN 'missing' ELSE 'another one' END),
                         format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', a.polname, (x.c).full_name,
                                CASE WHEN a.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                                CASE a.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                              WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                                (SELECT string_agg(r.name, ', ' ORDER BY r.name) FROM roles r WHERE r.oid = ANY (a.polroles)),
                                ' USING (' || a.using_text || ')', ' WITH CHECK (' || a.check_text || ')')
                   WHERE a.polname IS NOT NULL) f
            WHERE (a.polcmd, a.polpermissive, a.using_text, a.check_text)
                  IS DISTINCT FROM (b.polcmd, b.polpermissive, b.using_text, b.check_text)
               OR NOT (a.polroles <@ b.polroles AND b.polroles <@ a.polroles)) d
     WHERE (x.c).relkind IN ('r', 'p')
       AND ((x.c).relrowsecurity <> (x.p).relrowsecurity OR (x.c).relforcerowsecurity <> (x.p).relforcerowsecurity
            OR EXISTS (SELECT FROM pg_policy o WHERE o.polrelid IN ((x.p).oid, (x.c).oid)))
     GROUP BY x.top, (x.c).full_name, (x.p).full_name
    UNION ALL
    SELECT x.top, (x.c).full_name, 'replica_identity_differs',
           format('%s has another replica identity than %s', (x.c).full_name, (x.p).full_name),
           format('ALTER TABLE %s REPLICA IDENTITY %s', (x.c).full_name,
                  CASE (x.p).relreplident WHEN 'd' THEN 'DEFAULT' WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
                       ELSE 'USING INDEX ' || own.name END)
      FROM pairs x LEFT JOIN LATERAL (
           SELECT quote_ident(i.relname) AS name, k.indisreplident
             FROM pg_index l JOIN pg_inherits h ON h.inhparent = l.indexrelid JOIN pg_index k ON k.indexrelid = h.inhrelid
             JOIN pg_class i ON i.oid = k.indexrelid
            WHERE l.indrelid = (x.p).oid AND l.indisreplident AND k.indrelid = (x.c).oid LIMIT 1) own ON (x.p).relreplident = 'i'
     WHERE (x.c).relkind IN ('r', 'p')
       AND ((x.c).relreplident <> (x.p).relreplident OR (x.p).relreplident = 'i' AND NOT own.indisreplident)
    UNION ALL
    SELECT x.top, (x.c).full_name, 'statistics_differ',
           format('%s has other statistics targets than %s: %s', (x.c).full_name, (x.p).full_name,
                  string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)),
           string_agg(format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', (x.c).full_name, a.attname,
                             coalesce(a.attstattarget, -1)), E';\n' ORDER BY a.attnum)
      FROM pairs x JOIN pg_attribute a ON a.attrelid = (x.p).oid JOIN pg_attribute b ON b.attrelid = (x.c).oid AND b.attname = a.attname
     WHERE a.attnum > 0 AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) <> coalesce(b.attstattarget, -1)
     GROUP BY x.top, (x.c).full_name, (x.p).full_name
    UNION ALL
    SELECT v.top, r.full_name, 'constraint_not_valid', format('constraint %I of %s was never validated', k.conname, r.full_name),
           format('ALTER TABLE %s VALIDATE CONSTRAINT %I', r.full_name, k.conname)
      FROM (SELECT top, (c).oid FROM pairs UNION SELECT oid, oid FROM unnest($1) AS oid) v
      JOIN named r ON r.oid = v.oid JOIN pg_constraint k ON k.conrelid = v.oid
     WHERE NOT k.convalidated AND k.conislocal AND k.coninhcount = 0 AND k.conparentid = 0 AND k.contype IN ('c', 'f', 'n')
       AND coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true'
) s ORDER BY s.top, s.place, s.problem";
