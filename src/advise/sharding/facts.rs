//! The tables of the database as advice on sharding looks at them. Reads catalogs and pg_stats with the rights of the
//! caller, waits for no lock.

use std::collections::{HashMap, HashSet};

use perf_core::sharding::{Column, ForeignKey, Relation, TypeClass, Unique};
use pgrx::pg_sys;

use crate::error::Error;
use crate::indexes::OWN_SCHEMA;
use crate::pg::lock::Shared;
use crate::pg::text::Text;
use crate::pg::{catalog, ident, privilege};

/// Tables looked at, at most: the largest.
const TABLES_MAX: i64 = 5_000;
/// Bytes a row is taken to have where nobody has counted rows.
const ROW_BYTES: f64 = 100.0;

/// Tables with the numbers of their columns.
#[derive(Default)]
pub struct Tables {
    /// As the advice wants them.
    pub relations: Vec<Relation>,
    /// Between them.
    pub foreign_keys: Vec<ForeignKey>,
    /// OIDs, by place.
    pub oids: Vec<pg_sys::Oid>,
    /// Place of a table, and of a partition: that of its root.
    places: HashMap<u32, usize>,
    /// Column of a table or partition, by OID and number.
    columns: HashMap<(u32, i16), usize>,
}

impl Tables {
    /// Place of a table.
    pub fn place(&self, table: pg_sys::Oid) -> Option<usize> {
        self.places.get(&table.to_u32()).copied()
    }

    /// Place of a column within its table.
    pub fn column(&self, table: pg_sys::Oid, number: i16) -> Option<usize> {
        self.columns.get(&(table.to_u32(), number)).copied()
    }
}

/// One table, as pg_class has it.
struct Class {
    oid: pg_sys::Oid,
    name: String,
    kind: String,
    rows: Option<f64>,
    bytes: f64,
    statistics: pg_sys::Oid,
    obstacles: Vec<String>,
}

/// Reads all tables of users, and of `touched` those of any kind. `updated` are columns that statements set.
pub fn read(touched: &HashSet<u32>, updated: &[(pg_sys::Oid, i16)]) -> Result<Tables, Error> {
    privilege::with_own_path(|| {
        let mut tables = Tables::default();
        let touched: Vec<pg_sys::Oid> = touched.iter().copied().map(pg_sys::Oid::from).collect();
        let classes = classes(&touched)?;
        for class in &classes {
            tables.places.insert(class.oid.to_u32(), tables.relations.len());
            tables.oids.push(class.oid);
            let mut obstacles = class.obstacles.clone();
            match class.kind.as_str() {
                "f" => obstacles.push("is a foreign table".to_owned()),
                "m" => obstacles.push("is a materialized view".to_owned()),
                _ => {}
            }
            let bytes = if class.bytes > 0.0 { class.bytes } else { size_of(class.oid).unwrap_or(0.0) };
            tables.relations.push(Relation {
                name: class.name.clone(),
                rows: class.rows.unwrap_or(bytes / ROW_BYTES),
                bytes,
                columns: Vec::new(),
                unique: Vec::new(),
                triggers: Vec::new(),
                obstacles,
            });
        }
        columns(&mut tables, &classes)?;
        partitions(&mut tables, &touched)?;
        uniques(&mut tables)?;
        unanalysed(&mut tables);
        triggers(&mut tables)?;
        foreign_keys(&mut tables)?;
        for (table, number) in updated {
            if let (Some(place), Some(column)) = (tables.place(*table), tables.column(*table, *number)) {
                tables.relations[place].columns[column].updated = true;
            }
        }
        Ok(tables)
    })
}

fn failed(error: pgrx::spi::Error) -> Error {
    crate::collect::partitions::spi_failed(error)
}

/// Bytes of a table that nobody has analysed, unless somebody has locked it.
fn size_of(table: pg_sys::Oid) -> Option<f64> {
    let _lock = Shared::try_take(table)?;
    catalog::value::<i64>("SELECT pg_total_relation_size($1)", &[table.into()]).ok().flatten().map(|bytes| bytes as f64)
}

fn classes(touched: &[pg_sys::Oid]) -> Result<Vec<Class>, Error> {
    catalog::rows(
        "WITH RECURSIVE roots AS (
             SELECT c.oid, n.nspname, c.relname, c.relkind, c.relhassubclass FROM pg_class c
               JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.oid >= $1 AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname <> $2
                AND (c.relkind IN ('r', 'p') OR (c.relkind IN ('f', 'm') AND c.oid = ANY ($3)))
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                   AND d.deptype = 'e')),
         tree AS (
             SELECT r.oid AS root, r.oid, true AS own FROM roots r
             UNION ALL
             SELECT t.root, i.inhrelid, false FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
               JOIN pg_class p ON p.oid = i.inhrelid AND p.relispartition),
         parts AS (
             SELECT t.root, c.oid, c.relkind, c.reltuples, c.relpages + coalesce(
                        (SELECT sum(x.relpages) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                          WHERE i.indrelid = c.oid), 0)
                    + coalesce((SELECT x.relpages FROM pg_class x WHERE x.oid = c.reltoastrelid), 0) AS pages
               FROM tree t JOIN pg_class c ON c.oid = t.oid),
         sums AS (
             SELECT root, sum(reltuples) FILTER (WHERE relkind <> 'p' AND reltuples >= 0)::float8 AS rows,
                    sum(pages)::float8 * current_setting('block_size')::float8 AS bytes,
                    (array_agg(oid ORDER BY reltuples DESC, oid) FILTER (WHERE relkind <> 'p'))[1] AS largest
               FROM parts GROUP BY root)
         SELECT r.oid, r.nspname::text, r.relname::text, r.relkind::text, s.rows, s.bytes,
                CASE WHEN r.relkind = 'p' AND NOT EXISTS (
                          SELECT FROM pg_stats v WHERE v.schemaname = r.nspname AND v.tablename = r.relname)
                     THEN coalesce(s.largest, r.oid) ELSE r.oid END,
                EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = r.oid AND w.ev_type <> '1'),
                r.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = r.oid),
                EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = r.oid)
           FROM roots r JOIN sums s ON s.root = r.oid
          ORDER BY r.oid = ANY ($3) DESC, s.bytes DESC, r.oid LIMIT $4",
        &[
            pg_sys::Oid::from(pg_sys::FirstNormalObjectId).into(),
            Text(OWN_SCHEMA.to_owned()).into(),
            touched.to_vec().into(),
            TABLES_MAX.into(),
        ],
        |row| {
            let text = |n| catalog::text_of(row, n);
            let is = |n| Ok::<bool, pgrx::spi::Error>(row.get::<bool>(n)?.unwrap_or(false));
            let oid = row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid);
            let mut obstacles = Vec::new();
            if is(8)? {
                obstacles.push("has rules".to_owned());
            }
            if is(9)? {
                obstacles.push("other tables inherit from it".to_owned());
            }
            if is(10)? {
                obstacles.push("inherits from another table".to_owned());
            }
            Ok(Some(Class {
                oid,
                name: ident::qualified(&text(2)?, &text(3)?),
                kind: text(4)?,
                rows: row.get::<f64>(5)?,
                bytes: row.get::<f64>(6)?.unwrap_or(0.0),
                statistics: row.get::<pg_sys::Oid>(7)?.unwrap_or(oid),
                obstacles,
            }))
        },
    )
    .map_err(failed)
}

/// A column as the catalogs have it.
struct Found {
    table: pg_sys::Oid,
    number: i16,
    column: Column,
    /// n_distinct as pg_stats has it.
    distinct: Option<f64>,
}

fn columns(tables: &mut Tables, classes: &[Class]) -> Result<(), Error> {
    let of: Vec<pg_sys::Oid> = classes.iter().map(|class| class.oid).collect();
    let statistics: Vec<pg_sys::Oid> = classes.iter().map(|class| class.statistics).collect();
    let found = catalog::rows(
        "SELECT a.attrelid, a.attnum, a.attname::text, b.oid, b.typcategory::text, v.n_distinct::float8,
                v.null_frac::float8, v.most_common_freqs,
                EXISTS (SELECT FROM pg_depend d JOIN pg_sequence q ON q.seqrelid = d.objid
                         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                           AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
                           AND q.seqtypid <> 'bigint'::regtype),
                format_type(a.atttypid, NULL)
                || coalesce((SELECT format(' COLLATE %I.%I', x.nspname, k.collname) FROM pg_collation k
                               JOIN pg_namespace x ON x.oid = k.collnamespace
                              WHERE k.oid = a.attcollation AND k.oid <> b.typcollation), '')
           FROM unnest($1::oid[], $2::oid[]) AS r (root, statistics)
           JOIN pg_class c ON c.oid = r.statistics JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_attribute a ON a.attrelid = r.root AND a.attnum > 0 AND NOT a.attisdropped
           JOIN pg_type t ON t.oid = a.atttypid
           JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
           LEFT JOIN pg_stats v ON v.schemaname = n.nspname AND v.tablename = c.relname AND v.attname = a.attname
                               AND v.inherited = (c.relkind = 'p')
          ORDER BY 1, 2",
        &[of.into(), statistics.into()],
        |row| {
            let type_oid = row.get::<pg_sys::Oid>(4)?.unwrap_or(pg_sys::InvalidOid);
            let category = row.get::<Text>(5)?.unwrap_or_default().0;
            Ok(Some(Found {
                table: row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid),
                number: row.get::<i16>(2)?.unwrap_or(0),
                column: Column {
                    name: row.get::<Text>(3)?.unwrap_or_default().0,
                    n_distinct: f64::NAN,
                    null_fraction: row.get::<f64>(7)?.unwrap_or(0.0),
                    most_common: row
                        .get::<Vec<Option<f32>>>(8)?
                        .unwrap_or_default()
                        .into_iter()
                        .flatten()
                        .map(f64::from)
                        .collect(),
                    updated: false,
                    class: class_of(type_oid, &category),
                    type_name: row.get::<Text>(10)?.unwrap_or_default().0,
                    narrow_sequence: row.get::<bool>(9)?.unwrap_or(false),
                },
                distinct: row.get::<f64>(6)?,
            }))
        },
    )
    .map_err(failed)?;
    for Found { table, number, mut column, distinct } in found {
        let Some(place) = tables.place(table) else { continue };
        let relation = &mut tables.relations[place];
        match distinct {
            // Negative: a share of the rows.
            Some(share) if share < 0.0 => column.n_distinct = (-share * relation.rows).round(),
            Some(number) => column.n_distinct = number,
            None => {}
        }
        tables.columns.insert((table.to_u32(), number), relation.columns.len());
        relation.columns.push(column);
    }
    Ok(())
}

fn class_of(type_oid: pg_sys::Oid, category: &str) -> TypeClass {
    match category {
        _ if matches!(type_oid, pg_sys::FLOAT4OID | pg_sys::FLOAT8OID | pg_sys::MONEYOID) => TypeClass::Other,
        _ if type_oid == pg_sys::UUIDOID => TypeClass::Key,
        "N" | "S" | "E" | "I" => TypeClass::Key,
        "D" | "T" => TypeClass::Time,
        _ => TypeClass::Other,
    }
}

/// Columns of partitions that statements name themselves are those of the root.
fn partitions(tables: &mut Tables, touched: &[pg_sys::Oid]) -> Result<(), Error> {
    let found = catalog::rows(
        "SELECT p.oid, p.root, a.attnum, b.attnum
           FROM (SELECT o AS oid, pg_partition_root(o)::oid AS root FROM unnest($1::oid[]) AS o) AS p
           JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum > 0 AND NOT a.attisdropped
           JOIN pg_attribute b ON b.attrelid = p.root AND b.attname = a.attname AND b.attnum > 0
          WHERE p.root <> p.oid",
        &[touched.to_vec().into()],
        |row| {
            Ok(Some((row.get::<pg_sys::Oid>(1)?, row.get::<pg_sys::Oid>(2)?, row.get::<i16>(3)?, row.get::<i16>(4)?)))
        },
    )
    .map_err(failed)?;
    for one in found {
        let (Some(part), Some(root), Some(number), Some(of_root)) = one else { continue };
        if let (Some(place), Some(column)) = (tables.place(root), tables.column(root, of_root)) {
            tables.places.insert(part.to_u32(), place);
            tables.columns.insert((part.to_u32(), number), column);
        }
    }
    Ok(())
}

fn uniques(tables: &mut Tables) -> Result<(), Error> {
    let found = catalog::rows(
        "SELECT i.indrelid, c.relname::text, (i.indkey::int2[])[0:i.indnkeyatts - 1]
           FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
          WHERE i.indrelid = ANY ($1) AND (i.indisunique OR i.indisexclusion) AND i.indislive ORDER BY 1, 2",
        &[tables.oids.clone().into()],
        |row| {
            let numbers = row.get::<Vec<Option<i16>>>(3)?.unwrap_or_default();
            let name = ident::quote(&row.get::<Text>(2)?.unwrap_or_default().0);
            Ok(Some((row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid), name, numbers)))
        },
    )
    .map_err(failed)?;
    for (table, name, numbers) in found {
        let columns = numbers.into_iter().flatten().filter_map(|number| tables.column(table, number)).collect();
        if let Some(place) = tables.place(table) {
            tables.relations[place].unique.push(Unique { name, columns });
        }
    }
    Ok(())
}

/// Without statistics a column is taken to have as many values as rows, and the advice says that nobody has looked.
fn unanalysed(tables: &mut Tables) {
    for relation in &mut tables.relations {
        let rows = relation.rows;
        let mut missing = false;
        for column in relation.columns.iter_mut().filter(|column| column.n_distinct.is_nan()) {
            column.n_distinct = rows.max(1e6);
            missing |= column.class == TypeClass::Key;
        }
        // An empty table has none either, and needs none.
        if missing && relation.bytes > 0.0 {
            relation.obstacles.push(
                "has no statistics that you may read: how evenly its values spread is not known (ANALYZE it)"
                    .to_owned(),
            );
        }
    }
}

fn triggers(tables: &mut Tables) -> Result<(), Error> {
    let found = catalog::rows(
        "SELECT t.tgrelid, t.tgname::text FROM pg_trigger t
          WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY 1, 2",
        &[tables.oids.clone().into()],
        |row| Ok(Some((row.get::<pg_sys::Oid>(1)?, row.get::<Text>(2)?.unwrap_or_default().0))),
    )
    .map_err(failed)?;
    for (table, name) in found {
        if let Some(place) = table.and_then(|table| tables.place(table)) {
            tables.relations[place].triggers.push(ident::quote(&name));
        }
    }
    Ok(())
}

fn foreign_keys(tables: &mut Tables) -> Result<(), Error> {
    let found = catalog::rows(
        "SELECT k.conname::text, k.conrelid, k.confrelid, k.conkey, k.confkey,
                k.confdeltype IN ('n', 'd') OR k.confupdtype IN ('c', 'n', 'd') FROM pg_constraint k
          WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY ($1) ORDER BY 2, 1",
        &[tables.oids.clone().into()],
        |row| {
            let numbers = |n| Ok::<_, pgrx::spi::Error>(row.get::<Vec<Option<i16>>>(n)?.unwrap_or_default());
            Ok(Some((
                ident::quote(&row.get::<Text>(1)?.unwrap_or_default().0),
                row.get::<pg_sys::Oid>(2)?.unwrap_or(pg_sys::InvalidOid),
                row.get::<pg_sys::Oid>(3)?.unwrap_or(pg_sys::InvalidOid),
                numbers(4)?,
                numbers(5)?,
                row.get::<bool>(6)?.unwrap_or(false),
            )))
        },
    )
    .map_err(failed)?;
    for (name, from, to, ours, theirs, changes_columns) in found {
        let columns = ours
            .into_iter()
            .zip(theirs)
            .filter_map(|(a, b)| Some((tables.column(from, a?)?, tables.column(to, b?)?)))
            .collect();
        if let (Some(from), Some(to)) = (tables.place(from), tables.place(to)) {
            tables.foreign_keys.push(ForeignKey { name, from, to, columns, changes_columns });
        }
    }
    Ok(())
}
