//! What strategies are judged by: captured statements, what writes their tables, what was counted and measured. Reads the
//! tables of schema perf and catalogs with the rights of the caller.

use std::collections::{BTreeMap, HashMap, HashSet};

use perf_core::cache::candidate::{Summary, Writes};
use pgrx::pg_sys;

use super::{dependence, failed, Measured};
use crate::error::Error;
use crate::pg::ident;
use crate::pg::statement_shape::{Command, Shape};
use crate::pg::text::Text;
use crate::pg::{background, catalog, privilege};
use crate::workload::shapes::Shapes;

/// A captured statement of clients, of all roles that send it.
pub struct Statement {
    pub queryid: u64,
    pub text: String,
    pub calls: f64,
    pub total_ms: f64,
    pub shape: Shape,
    /// One of its roles sees not all rows, or other circumstances differ.
    pub row_security: bool,
}

/// A table.
pub struct Relation {
    pub schema: String,
    pub name: String,
    kind: String,
    row_security: bool,
    /// What it is a part of, or itself.
    pub root: u32,
    columns: HashMap<i16, String>,
    /// Columns whose equal values are the same text.
    printed_alike: Vec<String>,
}

/// A cell of a shadow.
struct Cell {
    size_bytes: i64,
    ttl_s: f64,
    gets: f64,
    hits: f64,
}

/// Everything.
#[derive(Default)]
pub struct Facts {
    /// Captured statements that read, the heaviest first; `None` where nothing is captured.
    pub statements: Option<Vec<Statement>>,
    /// Over how many seconds they were captured.
    pub seconds: Option<f64>,
    /// Statements of other roles.
    pub hidden: usize,
    /// What was counted of reads, by queryid.
    pub summaries: HashMap<u64, Summary>,
    /// Statements that write, and how often a second.
    writers: Vec<(f64, dependence::Writer)>,
    relations: HashMap<u32, Relation>,
    shadows: HashMap<String, Vec<Cell>>,
    /// Gets and hits of the store.
    store: HashMap<String, (f64, f64)>,
}

impl Facts {
    pub fn read(shapes: Option<&Shapes>) -> Result<Facts, Error> {
        let mut facts = Facts::default();
        if let Some(shapes) = shapes {
            facts.seconds = shapes.hours.map(|hours| hours * 3_600.0);
            facts.hidden = shapes.hidden;
            facts.relations = relations(shapes)?;
            facts.summaries = summaries()?;
            facts.sort(shapes);
        }
        facts.shadows = shadows()?;
        facts.store = store()?;
        Ok(facts)
    }

    fn sort(&mut self, shapes: &Shapes) {
        let mut by_id: BTreeMap<u64, Statement> = BTreeMap::new();
        for one in &shapes.statements {
            if one.shape.command == Command::Write {
                if let Some(seconds) = self.seconds {
                    let writer = dependence::Writer::of(&one.shape, |table| self.root(table));
                    self.writers.push((one.calls / seconds.max(1.0), writer));
                }
            } else if one.toplevel {
                let known = by_id.entry(one.queryid).or_insert_with(|| Statement {
                    queryid: one.queryid,
                    text: one.text.clone(),
                    calls: 0.0,
                    total_ms: 0.0,
                    shape: one.shape.clone(),
                    row_security: false,
                });
                known.calls += one.calls;
                known.total_ms += one.total_ms;
                known.row_security |= one.shape.row_security;
            }
        }
        let mut statements: Vec<Statement> = by_id.into_values().collect();
        statements.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms).then(a.queryid.cmp(&b.queryid)));
        self.statements = Some(statements);
    }

    fn root(&self, table: pg_sys::Oid) -> u32 {
        self.relations.get(&table.to_u32()).map_or(table.to_u32(), |relation| relation.root)
    }

    /// Writes of the rows that a statement reads.
    pub fn writes(&self, statement: &Statement) -> Writes {
        let (uses, _) = dependence::statement(&statement.shape, |table| self.root(table)).uses(usize::MAX);
        let mut sum = Writes::default();
        for (per_s, writer) in &self.writers {
            let (mut all, mut one) = (false, false);
            for (place, updated) in &writer.writes {
                let Some(table) = writer.statement.tables.get(*place) else { continue };
                let columns = writer.statement.written(*place, updated, crate::pg::statement_shape::UNKNOWN_SLOT);
                for reading in uses.iter().filter(|reading| reading.relation == *table) {
                    let is_told = columns.iter().any(|(column, _)| reading.columns.contains(column));
                    all |= !is_told;
                    one |= is_told;
                }
            }
            match (all, one) {
                (true, _) => sum.of_all += per_s,
                (false, true) => sum.of_one += per_s,
                _ => {}
            }
        }
        sum
    }

    /// Columns of a statement's tables that have a value each: table, column, place of the value.
    pub fn keyed(&self, statement: &Statement) -> Vec<(&Relation, &str, usize)> {
        let mut found: Vec<(&Relation, &str, usize)> = Vec::new();
        for pin in &statement.shape.pins {
            let [slot] = pin.slots[..] else { continue };
            let table = statement.shape.tables.get(pin.column.0);
            let Some(relation) = table.and_then(|table| self.relations.get(&table.to_u32())) else { continue };
            let Some(column) = relation.columns.get(&pin.column.1) else { continue };
            if slot < crate::pg::statement_shape::UNKNOWN_SLOT && !found.iter().any(|(_, _, known)| *known == slot) {
                found.push((relation, column, slot));
            }
        }
        found.sort_by_key(|(_, _, slot)| *slot);
        found
    }

    /// Whether a changed row of any table that a statement reads says by the columns of these names whose results it changes:
    /// in the one place where the statement wants the column equal to a value, and in no other table. Types whose equal values
    /// are printed in several ways say nothing.
    pub fn is_exact(&self, statement: &Statement, keyed: &(&Relation, &str, usize)) -> bool {
        let (relation, column, _) = keyed;
        let read = statement.shape.tables.iter().filter_map(|table| self.relations.get(&self.root(*table)));
        let with_it = read.filter(|one| one.columns.values().any(|name| name == column)).count();
        let is_whole = self.relations.get(&relation.root).is_some_and(|root| std::ptr::eq(root, *relation));
        with_it == 1 && is_whole && relation.printed_alike.iter().any(|name| name == column)
    }

    /// Columns of a table that do not say so for each of some statements.
    pub fn inexact(&self, statements: &[&Statement], relation: &Relation) -> Vec<String> {
        let says = |statement: &&Statement, column: &str| {
            let keyed = self.keyed(statement);
            keyed.iter().any(|one| one.1 == column && self.is_exact(statement, one) && std::ptr::eq(one.0, relation))
        };
        let columns = relation.columns.values();
        columns.filter(|column| !statements.iter().all(|statement| says(statement, column))).cloned().collect()
    }

    /// Tables that a statement reads, by their quoted names.
    pub fn names_of(&self, statement: &Statement) -> Vec<String> {
        let named = self.tables_of(statement).into_iter();
        let mut names: Vec<String> = named.map(|one| ident::qualified(&one.schema, &one.name)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Tables that a statement reads, in their order.
    pub fn tables_of(&self, statement: &Statement) -> Vec<&Relation> {
        let mut seen = HashSet::new();
        (statement.shape.tables.iter())
            .filter(|table| seen.insert(table.to_u32()))
            .filter_map(|table| self.relations.get(&self.root(*table)).or(self.relations.get(&table.to_u32())))
            .collect()
    }

    /// Why a statement's results cannot be cached, if they cannot.
    pub fn obstacle(&self, statement: &Statement) -> Option<String> {
        let shape = &statement.shape;
        let tables = self.tables_of(statement);
        let is = |found: bool, why: &str| found.then(|| why.to_owned());
        is(shape.command != Command::Select, "it writes")
            .or_else(|| is(shape.locks_rows, "it locks rows (FOR UPDATE and the like)"))
            .or_else(|| is(shape.any_volatile || shape.volatile, "it calls a volatile function"))
            .or_else(|| is(shape.calls_functions, "it calls functions of users, of which nobody knows what they read"))
            .or_else(|| is(shape.temporary, "it reads temporary tables"))
            .or_else(|| is(shape.catalogs, "it reads catalogs or tables of perf_opt"))
            .or_else(|| is(shape.session, "it depends on the session (current_user, a setting)"))
            .or_else(|| {
                let name = shape.unknown_stable.as_ref()?;
                Some(format!("it calls {name}, of which it is not known on what it depends"))
            })
            .or_else(|| {
                let is_limited = statement.row_security || tables.iter().any(|table| table.row_security);
                is(is_limited, "row-level security shows each role other rows")
            })
            .or_else(|| {
                let foreign = tables.iter().find(|table| table.kind == "f")?;
                Some(format!("{} is a foreign table: what writes it is not seen", ident::quote(&foreign.name)))
            })
            .or_else(|| is(tables.is_empty(), "it reads no table that is known"))
    }

    /// The hit rate that the store has had under this name, or else the shadow's largest cache with the time to live that is
    /// nearest.
    pub(super) fn measured(&self, name: &str, ttl_s: Option<f64>) -> Option<Measured> {
        if let Some((gets, hits)) = self.store.get(name).filter(|(gets, _)| *gets > 0.0) {
            return Some(Measured { gets: *gets, share: hits / gets, by_store: true, size_bytes: 0, ttl_s: 0.0 });
        }
        let wanted = ttl_s.unwrap_or(f64::INFINITY).ln();
        let off = |cell: &Cell| match (wanted.is_finite(), cell.ttl_s.is_finite()) {
            (true, true) => (cell.ttl_s.ln() - wanted).abs(),
            (false, false) => 0.0,
            _ => f64::MAX,
        };
        let cells = self.shadows.get(name)?;
        let best = cells.iter().filter(|cell| cell.gets > 0.0).min_by(|a, b| {
            b.size_bytes.cmp(&a.size_bytes).then(off(a).total_cmp(&off(b))).then(a.ttl_s.total_cmp(&b.ttl_s))
        })?;
        Some(Measured {
            gets: best.gets,
            share: best.hits / best.gets,
            by_store: false,
            size_bytes: best.size_bytes,
            ttl_s: best.ttl_s,
        })
    }
}

fn relations(shapes: &Shapes) -> Result<HashMap<u32, Relation>, Error> {
    let touched: HashSet<u32> =
        shapes.statements.iter().flat_map(|one| &one.shape.tables).map(|table| table.to_u32()).collect();
    let touched: Vec<pg_sys::Oid> = touched.into_iter().map(pg_sys::Oid::from).collect();
    let found = catalog::rows(
        "WITH RECURSIVE up (asked, oid) AS (
             SELECT o, o FROM unnest($1::oid[]) AS o
             UNION ALL
             SELECT u.asked, i.inhparent FROM up u JOIN pg_inherits i ON i.inhrelid = u.oid
               JOIN pg_class c ON c.oid = u.oid AND c.relispartition),
         roots AS (SELECT u.asked, u.oid AS root FROM up u JOIN pg_class c ON c.oid = u.oid AND NOT c.relispartition),
         wanted AS (SELECT asked AS oid, root FROM roots UNION SELECT root, root FROM roots)
         SELECT w.oid, w.root, n.nspname::text, c.relname::text, c.relkind::text, c.relrowsecurity,
                array_agg(a.attnum ORDER BY a.attnum) FILTER (WHERE a.attnum > 0 AND NOT a.attisdropped),
                array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attnum > 0 AND NOT a.attisdropped),
                array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attnum > 0 AND NOT a.attisdropped
                    AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype,
                                       'text'::regtype, 'varchar'::regtype)
                    AND NOT EXISTS (SELECT FROM pg_collation o WHERE o.oid = a.attcollation AND NOT o.collisdeterministic))
           FROM wanted w JOIN pg_class c ON c.oid = w.oid JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_attribute a ON a.attrelid = c.oid
          GROUP BY 1, 2, 3, 4, 5, 6",
        &[touched.into()],
        |row| {
            let oid = |n| Ok::<u32, pgrx::spi::Error>(row.get::<pg_sys::Oid>(n)?.map_or(0, |oid| oid.to_u32()));
            let string = |n| catalog::text_of(row, n);
            let numbers = row.get::<Vec<Option<i16>>>(7)?.unwrap_or_default();
            let names = row.get::<Vec<Option<String>>>(8)?.unwrap_or_default();
            let printed_alike = row.get::<Vec<Option<String>>>(9)?.unwrap_or_default().into_iter().flatten().collect();
            let columns = numbers.into_iter().zip(names).filter_map(|(number, name)| number.zip(name)).collect();
            Ok(Some((
                oid(1)?,
                Relation {
                    root: oid(2)?,
                    schema: string(3)?,
                    name: string(4)?,
                    kind: string(5)?,
                    row_security: row.get::<bool>(6)?.unwrap_or(false),
                    columns,
                    printed_alike,
                },
            )))
        },
    )
    .map_err(failed)?;
    Ok(found.into_iter().collect())
}

fn summaries() -> Result<HashMap<u64, Summary>, Error> {
    // A standby cannot read a table without WAL.
    if background::in_recovery() {
        return Ok(HashMap::new());
    }
    // Of everybody's statements; whose rows are told is decided by whose statements they are.
    let read = || {
        catalog::rows(
        "SELECT queryid, window_s, reads, unknown_reads, total_ms, mean_bytes, keys, key_reads FROM perf.cache_candidate",
        &[],
        |row| {
            let number = |n| Ok::<f64, pgrx::spi::Error>(row.get::<f64>(n)?.unwrap_or(0.0));
            let list = |n| -> Result<Vec<f64>, pgrx::spi::Error> {
                Ok(row.get::<Vec<Option<f64>>>(n)?.unwrap_or_default().into_iter().flatten().collect())
            };
            Ok(Some((
                row.get::<i64>(1)?.unwrap_or(0) as u64,
                Summary {
                    window_s: number(2)?,
                    reads: number(3)?,
                    unknown: number(4)?,
                    total_ms: number(5)?,
                    bytes: number(6)?,
                    keys: list(7)?,
                    key_reads: list(8)?,
                },
            )))
        },
    )
    .map_err(failed)
    };
    let found = privilege::as_owner(c"cache_candidate", read)?;
    Ok(found.into_iter().collect())
}

fn shadows() -> Result<HashMap<String, Vec<Cell>>, Error> {
    let read = || {
        catalog::rows("SELECT strategy, size_bytes, ttl_s, gets, hits FROM perf.cache_shadow_result", &[], |row| {
            let number = |n| Ok::<f64, pgrx::spi::Error>(row.get::<f64>(n)?.unwrap_or(0.0));
            let cell = Cell {
                size_bytes: row.get::<i64>(2)?.unwrap_or(0),
                ttl_s: number(3)?,
                gets: number(4)?,
                hits: number(5)?,
            };
            Ok(Some((row.get::<Text>(1)?.unwrap_or_default().0, cell)))
        })
        .map_err(failed)
    };
    let found = privilege::as_owner(c"cache_shadow_result", read)?;
    let mut shadows: HashMap<String, Vec<Cell>> = HashMap::new();
    for (name, cell) in found {
        shadows.entry(name).or_default().push(cell);
    }
    Ok(shadows)
}

/// Gets and hits of the store by name: of perf.cache_stats().
fn store() -> Result<HashMap<String, (f64, f64)>, Error> {
    // A standby has no store.
    if background::in_recovery() {
        return Ok(HashMap::new());
    }
    let may = catalog::value::<bool>("SELECT has_function_privilege('perf.cache_stats()', 'EXECUTE')", &[])
        .map_err(failed)?;
    if may != Some(true) {
        return Ok(HashMap::new());
    }
    let found = catalog::rows(
        "SELECT name, sum(gets)::float8, sum(hits)::float8 FROM perf.cache_stats() WHERE name IS NOT NULL GROUP BY name",
        &[],
        |row| {
            let number = |n| Ok::<f64, pgrx::spi::Error>(row.get::<f64>(n)?.unwrap_or(0.0));
            Ok(Some((row.get::<Text>(1)?.unwrap_or_default().0, (number(2)?, number(3)?))))
        },
    )
    .map_err(failed)?;
    Ok(found.into_iter().collect())
}
