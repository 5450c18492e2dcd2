//! Makes a table like a partitioned one, so that it can become a partition that nobody can tell from one that was made by
//! hand with care: what a partition does not inherit by itself (privileges, owner, row security and its policies, statistics
//! targets, replica identity, comments) comes from the parent, what the parent cannot have (storage options, access
//! method, tablespace, partitions of its own, membership in publications) from the newest partition.
//!
//! Called inside a transaction by whoever makes partitions, as the owner of the parent: the functions of its indexes run. Locks the parent and the newest partition in ACCESS SHARE for
//! the time of the copy, until the transaction ends; nobody else sees the new table before that.

use perf_core::index::name::{shortened, NAME_BYTES_MAX};
use pgrx::pg_sys;

use crate::error::Error;
use crate::pg::query::text;
use crate::pg::text::Text;
use crate::pg::{ddl, ident, partition_bound, privilege, query};

/// Partitions of partitions are copied so deep.
const DEPTH_MAX: u32 = 2;

/// A table to be made.
pub struct NewTable<'a> {
    /// Unquoted.
    pub schema: &'a str,
    /// Unquoted.
    pub name: &'a str,
}

/// What the newest partition is like.
#[derive(Default)]
struct Model {
    relkind: u8,
    is_unlogged: bool,
    options: Vec<String>,
    tablespace: Option<String>,
    access_method: Option<String>,
    partition_key: Option<String>,
}

/// Makes the table; its OID. `model` is the partition whose storage it gets.
pub fn create(parent: pg_sys::Oid, model: Option<pg_sys::Oid>, new: &NewTable) -> Result<pg_sys::Oid, Error> {
    privilege::with_own_path(|| create_at_depth(parent, model, new, 0))
}

fn create_at_depth(
    parent: pg_sys::Oid,
    model: Option<pg_sys::Oid>,
    new: &NewTable,
    depth: u32,
) -> Result<pg_sys::Oid, Error> {
    let source = ident::relation(parent).ok_or_else(|| gone(parent))?;
    let full_name = ident::qualified(new.schema, new.name);
    let like = model.map(read_model).unwrap_or_else(|| read_model(parent));
    // A partition inherits identity columns from 17 on, and may not have its own; before that they are the parent's alone.
    let mut statement = format!(
        "CREATE {}TABLE {full_name} (LIKE {source} INCLUDING ALL EXCLUDING IDENTITY)",
        if like.is_unlogged { "UNLOGGED " } else { "" }
    );
    let is_partitioned = model.is_some() && like.relkind == b'p';
    match like.partition_key.filter(|_| is_partitioned) {
        Some(key) => statement.push_str(&format!(" PARTITION BY {key}")),
        None => {
            if let Some(method) = &like.access_method {
                statement.push_str(&format!(" USING {method}"));
            }
            if !like.options.is_empty() {
                statement.push_str(&format!(" WITH ({})", like.options.join(", ")));
            }
        }
    }
    if let Some(tablespace) = &like.tablespace {
        statement.push_str(&format!(" TABLESPACE {tablespace}"));
    }
    ddl::run(&statement);
    let created = oid_of(new).ok_or_else(|| gone(parent))?;
    finish(parent, model, created);
    if is_partitioned && depth < DEPTH_MAX {
        if let Some(model) = model {
            create_parts(model, created, new, depth)?;
        }
    }
    Ok(created)
}

/// What a new partition could not get before it was attached: what needs its indexes.
pub fn finish(parent: pg_sys::Oid, model: Option<pg_sys::Oid>, created: pg_sys::Oid) {
    for statement in extras(parent, model, created) {
        ddl::run(&statement);
    }
}

/// The parts of a partition that is itself partitioned: with the bounds that those of the model have.
fn create_parts(model: pg_sys::Oid, created: pg_sys::Oid, new: &NewTable, depth: u32) -> Result<(), Error> {
    let parts = query::run_with(
        c"SELECT i.inhrelid, c.relname::text, p.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            JOIN pg_class p ON p.oid = i.inhparent
           WHERE i.inhparent = $1 AND NOT i.inhdetachpending ORDER BY c.relname",
        &[model.into()],
        |row| (row.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid), row.string(2), row.string(3)),
    )
    .1;
    for (number, (part, part_name, model_name)) in parts.iter().enumerate() {
        let Some(bound) = partition_bound::text(*part) else { continue };
        // events_p2026_03_eu is to events_p2026_03 what events_p2026_04_eu is to events_p2026_04.
        let suffix = match part_name.strip_prefix(model_name.as_str()) {
            Some(suffix) if !suffix.is_empty() => suffix.to_owned(),
            _ => format!("_{}", number + 1),
        };
        let name = shortened(new.name, NAME_BYTES_MAX.saturating_sub(suffix.len())) + &suffix;
        let table = NewTable { schema: new.schema, name: &name };
        create_at_depth(created, Some(*part), &table, depth + 1)?;
        let (whole, full_name) = (ident::qualified(new.schema, new.name), ident::qualified(new.schema, &name));
        ddl::run(&format!("ALTER TABLE {whole} ATTACH PARTITION {full_name} {bound}"));
    }
    Ok(())
}

fn gone(parent: pg_sys::Oid) -> Error {
    Error::UndefinedObject {
        message: format!("the table with OID {} does not exist any more", parent.to_u32()),
        hint: "It was dropped meanwhile.".to_owned(),
    }
}

fn oid_of(new: &NewTable) -> Option<pg_sys::Oid> {
    let found = query::run_with(
        c"SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
        &[text(new.schema), text(new.name)],
        |row| row.get::<pg_sys::Oid>(1),
    );
    found.1.into_iter().flatten().next()
}

fn read_model(model: pg_sys::Oid) -> Model {
    query::run_with(
        c"SELECT c.relkind::text, c.relpersistence::text,
                 (SELECT array_agg(format('%I = %L', o.option_name, o.option_value))
                    FROM pg_options_to_table(c.reloptions) o WHERE o.option_value IS NOT NULL AND c.relkind = 'r'),
                 (SELECT array_agg(format('toast.%I = %L', o.option_name, o.option_value))
                    FROM pg_class t, pg_options_to_table(t.reloptions) o
                   WHERE t.oid = c.reltoastrelid AND o.option_value IS NOT NULL AND c.relkind = 'r'),
                 (SELECT quote_ident(s.spcname) FROM pg_tablespace s WHERE s.oid = c.reltablespace),
                 (SELECT quote_ident(a.amname) FROM pg_am a WHERE a.oid = c.relam AND c.relkind = 'r'),
                 CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END
            FROM pg_class c WHERE c.oid = $1",
        &[model.into()],
        |row| {
            let options = |column| row.get::<Vec<Option<Text>>>(column).unwrap_or_default();
            let first = |column: i32| row.string(column).bytes().next().unwrap_or(b' ');
            Model {
                relkind: first(1),
                is_unlogged: first(2) == b'u',
                options: options(3).into_iter().chain(options(4)).flatten().map(|option| option.0).collect(),
                tablespace: row.get::<Text>(5).map(|name| name.0),
                access_method: row.get::<Text>(6).map(|name| name.0),
                partition_key: row.get::<Text>(7).map(|key| key.0),
            }
        },
    )
    .1
    .into_iter()
    .next()
    .unwrap_or_default()
}

/// Statements that give a table what it did not get from LIKE and will not get from ATTACH. `table` is new and like
/// `parent`; `model` is a partition of the parent.
pub fn extras(parent: pg_sys::Oid, model: Option<pg_sys::Oid>, table: pg_sys::Oid) -> Vec<String> {
    let find = || {
        query::run_with(EXTRAS, &[parent.into(), model.unwrap_or(pg_sys::InvalidOid).into(), table.into()], |row| {
            row.string(1)
        })
        .1
    };
    privilege::with_own_path(find)
}

/// $1 the parent, $2 its newest partition or 0, $3 the new table. In the order in which they are to run: the owner first,
/// since whoever is a member of it may do the rest; privileges that defaults have given are taken away before those of the
/// parent are given.
const EXTRAS: &std::ffi::CStr = c"
WITH p AS (SELECT c.*, format('%I.%I', n.nspname, c.relname) AS full_name
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1),
     t AS (SELECT c.*, format('%I.%I', n.nspname, c.relname) AS full_name
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $3),
     roles AS (SELECT r.oid, quote_ident(r.rolname) AS name FROM pg_roles r UNION ALL SELECT 0, 'PUBLIC'),
     parent_grants AS (SELECT a.* FROM p, aclexplode(p.relacl) a WHERE a.grantee <> p.relowner),
     own_grants AS (SELECT a.* FROM t, aclexplode(t.relacl) a WHERE a.grantee <> t.relowner)
SELECT s.statement FROM (
    SELECT 1 AS place, '' AS name, format('ALTER TABLE %s OWNER TO %s', t.full_name, r.name) AS statement
      FROM p, t, roles r WHERE p.relowner <> t.relowner AND r.oid = p.relowner
    UNION ALL
    SELECT DISTINCT 2, r.name, format('REVOKE %s ON TABLE %s FROM %s', o.privilege_type, t.full_name, r.name)
      FROM t, own_grants o JOIN roles r ON r.oid = o.grantee
     WHERE NOT EXISTS (SELECT FROM parent_grants g WHERE g.grantee = o.grantee AND g.privilege_type = o.privilege_type)
    UNION ALL
    SELECT DISTINCT 3, r.name || g.privilege_type, format('GRANT %s ON TABLE %s TO %s%s', g.privilege_type, t.full_name, r.name,
                                                 CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' END)
      FROM t, parent_grants g JOIN roles r ON r.oid = g.grantee
     WHERE NOT EXISTS (SELECT FROM own_grants o WHERE o.grantee = g.grantee AND o.privilege_type = g.privilege_type
                                                  AND o.is_grantable = g.is_grantable)
    UNION ALL
    SELECT DISTINCT 4, r.name || a.attname || g.privilege_type,
           format('GRANT %s (%I) ON TABLE %s TO %s%s', g.privilege_type, a.attname, t.full_name, r.name,
                  CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' END)
      FROM t, p JOIN pg_attribute a ON a.attrelid = p.oid, aclexplode(a.attacl) g JOIN roles r ON r.oid = g.grantee
     WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 5, a.attname, format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', t.full_name, a.attname, a.attstattarget)
      FROM t, p JOIN pg_attribute a ON a.attrelid = p.oid JOIN pg_attribute b ON b.attname = a.attname
     WHERE b.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget >= 0
       AND b.attstattarget IS DISTINCT FROM a.attstattarget
    UNION ALL
    SELECT 6, a.attname, format('ALTER TABLE %s ALTER COLUMN %I SET (%s)', t.full_name, a.attname,
                                (SELECT string_agg(format('%I = %L', o.option_name, o.option_value), ', ')
                                   FROM pg_options_to_table(a.attoptions) o
                                  WHERE o.option_name IN ('n_distinct', 'n_distinct_inherited')))
      FROM t, p JOIN pg_attribute a ON a.attrelid = p.oid JOIN pg_attribute b ON b.attname = a.attname
     WHERE b.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
       -- The server keeps reserved keys of its own beside these, such as the versions of columns.
       AND EXISTS (SELECT FROM pg_options_to_table(a.attoptions) o
                    WHERE o.option_name IN ('n_distinct', 'n_distinct_inherited'))
    UNION ALL
    SELECT 7, '', format('ALTER TABLE %s REPLICA IDENTITY ', t.full_name) ||
                         CASE p.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX '
                         || (SELECT quote_ident(x.relname) FROM pg_index k JOIN pg_class x ON x.oid = k.indexrelid
                              WHERE k.indrelid = t.oid AND k.indisunique AND k.indpred IS NULL
                                AND (SELECT array_agg(a.attname ORDER BY u.place)
                                       FROM unnest(k.indkey::int2[]) WITH ORDINALITY u (attnum, place)
                                       JOIN pg_attribute a ON a.attrelid = k.indrelid AND a.attnum = u.attnum)
                                  = (SELECT array_agg(a.attname ORDER BY u.place)
                                       FROM pg_index l, unnest(l.indkey::int2[]) WITH ORDINALITY u (attnum, place), pg_attribute a
                                      WHERE l.indrelid = p.oid AND l.indisreplident
                                        AND a.attrelid = l.indrelid AND a.attnum = u.attnum)
                              ORDER BY x.relname LIMIT 1) END
      FROM p, t WHERE p.relreplident IN ('f', 'n', 'i') AND t.relreplident <> p.relreplident
    UNION ALL
    SELECT 8, '', format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t.full_name)
      FROM p, t WHERE p.relrowsecurity AND NOT t.relrowsecurity
    UNION ALL
    SELECT 9, '', format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', t.full_name)
      FROM p, t WHERE p.relforcerowsecurity AND NOT t.relforcerowsecurity
    UNION ALL
    SELECT 10, o.polname, format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', o.polname, t.full_name,
               CASE WHEN o.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
               CASE o.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                             ELSE 'ALL' END,
               (SELECT string_agg(r.name, ', ') FROM roles r WHERE r.oid = ANY (o.polroles)),
               ' USING (' || pg_get_expr(o.polqual, o.polrelid) || ')',
               ' WITH CHECK (' || pg_get_expr(o.polwithcheck, o.polrelid) || ')')
      FROM t, p JOIN pg_policy o ON o.polrelid = p.oid
     WHERE NOT EXISTS (SELECT FROM pg_policy x WHERE x.polrelid = t.oid AND x.polname = o.polname)
    UNION ALL
    SELECT 11, '', format('COMMENT ON TABLE %s IS %L', t.full_name, obj_description(p.oid, 'pg_class'))
      FROM p, t WHERE obj_description(p.oid, 'pg_class') IS DISTINCT FROM obj_description(t.oid, 'pg_class')
                  AND obj_description(t.oid, 'pg_class') IS NULL
    UNION ALL
    SELECT 12, u.pubname, format('ALTER PUBLICATION %I ADD TABLE ONLY %s%s%s', u.pubname, t.full_name,
               (SELECT format(' (%s)', string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum)) FROM pg_attribute a
                 WHERE a.attrelid = m.prrelid AND a.attnum = ANY (m.prattrs::int2[])),
               ' WHERE (' || pg_get_expr(m.prqual, m.prrelid) || ')')
      FROM t, pg_publication_rel m JOIN pg_publication u ON u.oid = m.prpubid
     WHERE m.prrelid = $2 AND pg_has_role(u.pubowner, 'USAGE')
       AND NOT EXISTS (SELECT FROM pg_publication_rel x WHERE x.prpubid = m.prpubid AND x.prrelid IN ($1, $3))
) s WHERE s.statement IS NOT NULL ORDER BY s.place, s.name";
