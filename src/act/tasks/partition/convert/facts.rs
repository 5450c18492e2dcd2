//! What the catalogs say of a table that is to be converted, and of the partitioned one that it became. Read inside a
//! transaction under a `search_path` of `pg_catalog`, which makes the server print every other name with its schema. Locks
//! nothing.

use perf_core::partition::{at_of_number, at_of_uuid, At, EpochUnit, Key};
use perf_core::partition_convert::Definition;
use pgrx::pg_sys;

use crate::act::runs::rows;
use crate::pg::query::text;
use crate::pg::text::Text;
use crate::pg::{ddl, privilege};

/// A table, by its names as SQL text has them.
#[derive(Clone, Debug)]
pub struct Table {
    /// OID.
    pub oid: pg_sys::Oid,
    /// Schema, unquoted.
    pub schema: String,
    /// Name, unquoted.
    pub name: String,
    /// Both, quoted.
    pub full: String,
    /// Owner, quoted, if that is not the current role.
    pub foreign_owner: Option<String>,
}

/// Reads the names of a table; `None` when it is gone.
pub fn table(oid: pg_sys::Oid) -> Option<Table> {
    rows(
        c"SELECT n.nspname::text, c.relname::text, format('%I.%I', n.nspname, c.relname),
                 CASE WHEN c.relowner <> u.oid THEN quote_ident(pg_get_userbyid(c.relowner)) END
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_roles u
          WHERE c.oid = $1 AND u.rolname = current_user",
        &[oid.into()],
        |row| Table {
            oid,
            schema: row.string(1),
            name: row.string(2),
            full: row.string(3),
            foreign_owner: Some(row.string(4)).filter(|owner| !owner.is_empty()),
        },
    )
    .into_iter()
    .next()
}

/// Whether a name in the schema of a table is taken by a relation, an index, a type or extended statistics.
pub fn is_name_used(table: &Table, name: &str) -> bool {
    is_name_used_in(&table.schema, name)
}

/// The same for a schema.
pub fn is_name_used_in(schema: &str, name: &str) -> bool {
    let found = rows(
        c"SELECT true FROM pg_namespace n WHERE n.nspname = $1
            AND (EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid AND relname = $2)
                 OR EXISTS (SELECT FROM pg_type WHERE typnamespace = n.oid AND typname = $2)
                 OR EXISTS (SELECT FROM pg_statistic_ext WHERE stxnamespace = n.oid AND stxname = $2))",
        &[text(schema), text(name)],
        |_| (),
    );
    !found.is_empty()
}

/// The column to partition by.
#[derive(Clone, Debug)]
pub struct Control {
    /// Its number.
    pub number: i16,
    /// Its name, quoted.
    pub name: String,
    /// `date`, `timestamp` ...; what the catalogs call it.
    pub type_name: String,
    /// It takes no NULL.
    pub not_null: bool,
    /// Stored or virtual.
    pub is_generated: bool,
}

/// Finds a column by its unquoted name.
pub fn control(table: &Table, name: &str) -> Option<Control> {
    rows(
        c"SELECT a.attnum, quote_ident(a.attname), a.atttypid::regtype::text, a.attnotnull, a.attgenerated <> ''
          FROM pg_attribute a WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
        &[table.oid.into(), text(name)],
        |row| Control {
            number: row.get::<i16>(1).unwrap_or_default(),
            name: row.string(2),
            type_name: row.string(3),
            not_null: row.get::<bool>(4).unwrap_or(false),
            is_generated: row.get::<bool>(5).unwrap_or(false),
        },
    )
    .into_iter()
    .next()
}

/// The newest value of the control column.
#[derive(Clone, Debug, PartialEq)]
pub enum Newest {
    /// There is no row, or none with a value.
    None,
    /// This number, of a `bigint`.
    Number(i64),
    /// At this position.
    At(At),
    /// Infinity.
    Infinite,
}

impl Newest {
    /// The position, once it is known what a number counts.
    pub fn at(&self, key: Key) -> Option<At> {
        match (self, key) {
            (Newest::At(at), _) => Some(*at),
            (Newest::Number(number), Key::Epoch(unit)) => Some(at_of_number(unit, *number)),
            (Newest::Infinite, _) => Some(At::MAX),
            _ => None,
        }
    }
}

/// The one value of a query about the rows of a table, all of them: asked as its owner, since to plan a query is to run
/// functions of the table's indexes already. The current role has the owner's rights.
fn of_rows<T: pgrx::FromDatum + 'static>(table: &Table, query: &str) -> Option<T> {
    privilege::as_relation_owner_unforced(table.oid, || ddl::value(query))
}

/// Looks for the newest value: in an index if one has it, else in all rows.
pub fn newest(table: &Table, control: &Control) -> Newest {
    let (infinite, value) = match control.type_name.as_str() {
        "date" => ("NOT isfinite(v)", "((v - DATE '1970-01-01')::int8 * 86400000000)::text"),
        "uuid" | "bigint" => ("false", "v::text"),
        _ => ("NOT isfinite(v)", "least(extract(epoch FROM v) * 1000000, 9e18)::int8::text"),
    };
    let query = format!(
        "SELECT CASE WHEN {infinite} THEN 'infinity' ELSE {value} END FROM (SELECT {name} AS v FROM ONLY {table} \
         WHERE {name} IS NOT NULL ORDER BY {name} DESC LIMIT 1) newest",
        name = control.name,
        table = table.full,
    );
    let Some(Text(found)) = of_rows(table, &query) else { return Newest::None };
    match (control.type_name.as_str(), found.parse::<i64>()) {
        (_, Err(_)) if found == "infinity" => Newest::Infinite,
        ("uuid", _) => uuid(&found).map_or(Newest::None, |uuid| Newest::At(at_of_uuid(&uuid))),
        ("bigint", Ok(number)) => Newest::Number(number),
        (_, Ok(at)) => Newest::At(at),
        _ => Newest::None,
    }
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|char| *char != '-').collect();
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

/// Whether a row has no value in the control column.
pub fn has_null(table: &Table, control: &Control) -> bool {
    let question = format!("SELECT EXISTS (SELECT FROM ONLY {} WHERE {} IS NULL)", table.full, control.name);
    !control.not_null && of_rows(table, &question).unwrap_or(false)
}

/// What kind of key a column of a type is.
pub fn key(type_name: &str, epoch: Option<EpochUnit>) -> Option<Key> {
    match type_name {
        "date" => Some(Key::Date),
        "timestamp without time zone" => Some(Key::Timestamp),
        "timestamp with time zone" => Some(Key::Timestamptz),
        "uuid" => Some(Key::Uuid7),
        "bigint" => epoch.map(Key::Epoch),
        _ => None,
    }
}

/// A unique index of the table without the control column.
#[derive(Clone, Debug)]
pub struct Unique {
    /// Its name, unquoted.
    pub name: String,
    /// `p` or `u` if it is a constraint's.
    pub constraint: Option<char>,
    /// What follows `USING INDEX`: `DEFERRABLE INITIALLY DEFERRED`.
    pub options: String,
    /// As `pg_get_indexdef` has it.
    pub definition: String,
    /// What else is known of it, as statements that say it again: comments, replica identity, CLUSTER.
    pub restore: Vec<String>,
}

impl Unique {
    /// Its definition in parts.
    pub fn parsed(&self, table: &Table) -> Option<Definition> {
        Definition::parse(&self.definition, &crate::pg::ident::quote(&self.name), &table.full)
    }
}

/// The valid unique indexes without a column, the primary key first.
pub fn uniques_without(table: &Table, control: &Control) -> Vec<Unique> {
    rows(
        c"SELECT i.relname::text, c.contype::text,
                 concat(CASE WHEN c.condeferrable THEN ' DEFERRABLE' END, CASE WHEN c.condeferred THEN ' INITIALLY DEFERRED' END),
                 pg_get_indexdef(x.indexrelid),
                 array_to_string(ARRAY[
                     CASE WHEN c.oid IS NOT NULL THEN
                         format('COMMENT ON CONSTRAINT %I ON %s IS %L', c.conname, $3, obj_description(c.oid, 'pg_constraint')) END,
                     format('COMMENT ON INDEX %I.%I IS %L', $4, i.relname, obj_description(i.oid, 'pg_class')),
                     CASE WHEN x.indisreplident THEN
                         format('ALTER TABLE ONLY %s REPLICA IDENTITY USING INDEX %I', $3, i.relname) END,
                     CASE WHEN x.indisclustered THEN format('ALTER TABLE ONLY %s CLUSTER ON %I', $3, i.relname) END],
                     E'\\x01')
          FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
          LEFT JOIN pg_constraint c ON c.conindid = x.indexrelid AND c.contype IN ('p', 'u') AND c.conrelid = x.indrelid
          WHERE x.indrelid = $1 AND x.indisunique AND x.indisvalid AND NOT x.indisexclusion
            AND NOT $2 = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1])
          ORDER BY x.indisprimary DESC, i.relname",
        &[table.oid.into(), control.number.into(), text(&table.full), text(&table.schema)],
        |row| Unique {
            name: row.string(1),
            constraint: row.string(2).chars().next(),
            options: row.string(3),
            definition: row.string(4),
            restore: row.string(5).split('\u{1}').filter(|one| !one.ends_with(" IS NULL")).map(str::to_owned).collect(),
        },
    )
}

/// Publications of updates or deletes that do not send the control column.
pub fn narrow_publications(table: &Table, control: &Control) -> Vec<String> {
    texts(
        c"SELECT quote_ident(p.pubname) FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
          JOIN pg_class c ON c.oid = r.prrelid
          WHERE r.prrelid = $1 AND r.prattrs IS NOT NULL AND NOT $2 = ANY (r.prattrs::int2[])
            AND (p.pubupdate OR p.pubdelete) AND c.relreplident IN ('d', 'i') ORDER BY 1",
        &[table.oid.into(), control.number.into()],
    )
}

/// Whether a constraint of the table has the control column among its keys.
pub fn constraint_has(table: &Table, name: &str, control: &Control) -> bool {
    let found = rows(
        c"SELECT true FROM pg_constraint WHERE conrelid = $1 AND conname = $2 AND contype IN ('p', 'u') AND $3 = ANY (conkey)",
        &[table.oid.into(), text(name), control.number.into()],
        |_| (),
    );
    !found.is_empty()
}

/// An index of the table: whether it is valid; `None` when the table has none of that name.
pub fn index_validity(table: &Table, name: &str) -> Option<bool> {
    rows(
        c"SELECT x.indisvalid AND x.indisready FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
          WHERE x.indrelid = $1 AND i.relname = $2",
        &[table.oid.into(), text(name)],
        |row| row.get::<bool>(1).unwrap_or(false),
    )
    .into_iter()
    .next()
}

/// A CHECK of the table: whether it is validated; `None` when there is none of that name.
pub fn check_validity(table: &Table, name: &str) -> Option<bool> {
    rows(
        c"SELECT convalidated FROM pg_constraint WHERE conrelid = $1 AND conname = $2 AND contype = 'c'",
        &[table.oid.into(), text(name)],
        |row| row.get::<bool>(1).unwrap_or(false),
    )
    .into_iter()
    .next()
}

/// The first column of a query whose rows are texts.
pub fn texts(statement: &'static std::ffi::CStr, arguments: &[pgrx::datum::DatumWithOid]) -> Vec<String> {
    rows(statement, arguments, |row| row.string(1))
}

/// OIDs that a query gives.
pub fn oids(statement: &'static std::ffi::CStr, arguments: &[pgrx::datum::DatumWithOid]) -> Vec<pg_sys::Oid> {
    rows(statement, arguments, |row| row.get::<pg_sys::Oid>(1)).into_iter().flatten().collect()
}
