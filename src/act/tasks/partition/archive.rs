//! Moves a detached partition to the schema for archived ones, with its own partitions, indexes and sequences. A name
//! that is taken there is respected: what comes later is renamed.
//!
//! Called by the expiry of partitions. Locks the table in ACCESS EXCLUSIVE for the moment of the move.

use perf_core::index::name::{shortened, NAME_BYTES_MAX};
use pgrx::pg_sys;

use super::expire::lock_detached;
use super::expire_state::Expired;
use super::Look;
use crate::act::executor::Failure;
use crate::error::Error;
use crate::partitions::questions::is_taken;
use crate::partitions::Table;
use crate::pg::query::text;
use crate::pg::{ddl, ident, privilege, query, role};

/// Names tried for a table or an index.
const NAMES_MAX: u32 = 1_000;

/// Moves it. Where it is then; `None` when it is somebody else's by now.
pub fn to_schema(look: &Look, expired: &Expired) -> Result<Option<String>, Failure> {
    look.ground.step(&[expired.oid], || {
        if !lock_detached(expired, "ACCESS EXCLUSIVE")? {
            return Ok(None);
        }
        let schema = look.settings.archive_schema.as_str();
        make_schema(look, schema)?;
        for table in tree(expired.oid) {
            move_table(table, schema)?;
        }
        expired.forget()?;
        let name = ident::relation(expired.oid).unwrap_or_default();
        Ok(Some(format!("{}; it is {name} now", expired.bounds)))
    })
}

/// Refuses the server's own schemas and perf_opt's: unqualified names of everybody are looked up in them first, or what is
/// in them is taken for theirs.
pub fn check_schema(schema: &str) -> Result<(), Error> {
    if schema.starts_with("pg_") || ["information_schema", "perf"].contains(&schema) {
        return Err(Error::InvalidArgument {
            argument: "archive_schema",
            value: format!("\"{schema}\""),
            accepted: "A schema for tables of users.".to_owned(),
        });
    }
    Ok(())
}

/// Makes the schema, the parent's owner's, if there is none.
fn make_schema(look: &Look, schema: &str) -> Result<(), Failure> {
    check_schema(schema)?;
    let found = privilege::with_own_path(|| {
        query::run_with(c"SELECT nspowner FROM pg_namespace WHERE nspname = $1", &[text(schema)], |row| {
            row.get::<pg_sys::Oid>(1)
        })
    });
    let parent_owner = Table::read("parent", look.parent)?.owner;
    if let Some(owner) = found.1.into_iter().flatten().next() {
        return check_owner(schema, owner, parent_owner);
    }
    let may = ddl::value::<bool>("SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')");
    if may != Some(true) {
        return Err(Failure {
            hint: Some("Create the schema, or GRANT CREATE ON DATABASE to the role.".to_owned()),
            ..Failure::new(
                "42501",
                format!(
                    "there is no schema {}, and the job's owner may not create schemas in this database",
                    ident::quote(schema)
                ),
            )
        });
    }
    let owner = role_name(parent_owner).ok_or_else(|| Failure::new("42704", "the parent's owner is gone"))?;
    ddl::run(&format!("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {owner}", ident::quote(schema)));
    Ok(())
}

/// Whoever owns a schema may drop what is in it, and stand names in the way: old data goes to nobody else's.
fn check_owner(schema: &str, owner: pg_sys::Oid, parent_owner: pg_sys::Oid) -> Result<(), Failure> {
    if owner == parent_owner || owner == privilege::current_role() || privilege::is_superuser(owner) {
        return Ok(());
    }
    let name = ident::quote(schema);
    let owner = role_name(owner).unwrap_or_else(|| format!("role {}", owner.to_u32()));
    Err(Failure {
        hint: Some(format!(
            "Choose another archive_schema, or have the parent's owner, the job's owner or a superuser own it: ALTER \
             SCHEMA {name} OWNER TO ..."
        )),
        ..Failure::new(
            "42501",
            format!("schema {name} belongs to {owner}, who could drop or replace what is archived there"),
        )
    })
}

fn role_name(role: pg_sys::Oid) -> Option<String> {
    role::known_name(role).map(|name| ident::quote(&name))
}

/// A table and its partitions, the table first.
fn tree(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"SELECT relid::oid FROM (SELECT relid, level FROM pg_partition_tree($1)
                                      UNION SELECT $1::oid::regclass, 0) t ORDER BY level, relid",
            &[table.into()],
            |row| row.get::<pg_sys::Oid>(1),
        )
    });
    found.1.into_iter().flatten().collect()
}

/// Moves one table. What goes with it by itself must find its names free too.
fn move_table(table: pg_sys::Oid, schema: &str) -> Result<(), Failure> {
    let Some((own_schema, _)) = ident::relation_parts(table) else { return Ok(()) };
    if own_schema == schema {
        return Ok(());
    }
    for (oid, kind) in members(table, schema) {
        rename(oid, kind, schema)?;
    }
    let kind = if is_foreign(table) { "FOREIGN TABLE" } else { "TABLE" };
    let name = ident::relation(table).unwrap_or_default();
    ddl::run(&format!("ALTER {kind} {name} SET SCHEMA {}", ident::quote(schema)));
    Ok(())
}

fn is_foreign(table: pg_sys::Oid) -> bool {
    Table::read("relation", table).is_ok_and(|table| table.relkind == b'f')
}

/// The table, its indexes and the sequences of its columns, as far as their names are taken in a schema.
fn members(table: pg_sys::Oid, schema: &str) -> Vec<(pg_sys::Oid, &'static str)> {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"SELECT m.oid, m.kind FROM (
                  SELECT $1::oid AS oid, CASE c.relkind WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS kind
                    FROM pg_class c WHERE c.oid = $1
                  UNION ALL SELECT indexrelid, 'INDEX' FROM pg_index WHERE indrelid = $1
                  UNION ALL SELECT d.objid, 'SEQUENCE' FROM pg_depend d
                    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
                   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
                     AND d.deptype IN ('a', 'i')) m
              JOIN pg_class c ON c.oid = m.oid
             WHERE EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = $2
                            AND (EXISTS (SELECT FROM pg_class x WHERE x.relnamespace = n.oid AND x.relname = c.relname)
                                 OR m.kind <> 'INDEX' AND EXISTS (SELECT FROM pg_type x WHERE x.typnamespace = n.oid
                                                                    AND x.typname = c.relname)))",
            &[table.into(), text(schema)],
            |row| {
                let kind = match row.string(2).as_str() {
                    "INDEX" => "INDEX",
                    "SEQUENCE" => "SEQUENCE",
                    "FOREIGN TABLE" => "FOREIGN TABLE",
                    _ => "TABLE",
                };
                row.get::<pg_sys::Oid>(1).map(|oid| (oid, kind))
            },
        )
    });
    found.1.into_iter().flatten().collect()
}

/// Gives a relation a name that is free where it is and where it goes.
fn rename(relation: pg_sys::Oid, kind: &str, schema: &str) -> Result<(), Failure> {
    let Some((own_schema, name)) = ident::relation_parts(relation) else { return Ok(()) };
    for n in 2..=NAMES_MAX {
        let suffix = format!("_{n}");
        let new = shortened(&name, NAME_BYTES_MAX - suffix.len()) + &suffix;
        if !is_taken(&own_schema, &new) && !is_taken(schema, &new) {
            let full_name = ident::qualified(&own_schema, &name);
            ddl::run(&format!("ALTER {kind} {full_name} RENAME TO {}", ident::quote(&new)));
            return Ok(());
        }
    }
    Err(Failure::new("42P07", format!("{NAMES_MAX} names like {} are taken", ident::quote(&name))))
}
