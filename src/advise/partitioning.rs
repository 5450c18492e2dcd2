//! Which tables would gain from being partitioned by time: what the captured workload asks of them by ranges of a time column,
//! and what it deletes by age, weighed by `perf_core::partition::advice`. Called by `perf.partition_advice`. Plans statements,
//! and locks as planning does; nothing is left locked.

use std::time::Instant;

use perf_core::index::needs::{Comparison, Needs};
use perf_core::index::Part;
use perf_core::partition::advice::{self, Advice, Spread, Use};
use perf_core::partition::Every;
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::index::study::{self, Known, Studied, Study};
use crate::act::tasks::partition::convert::plan::{self, Request};
use crate::error::Error;
use crate::partitions::check::unharmed;
use crate::pg::planner::WriteCommand;
use crate::pg::relation::{Column, Relation};
use crate::pg::{ident, privilege, query};
use crate::workload::queries::Workload;

const BLOCK_BYTES: f64 = 8192.0;
/// Statements listed in the evidence of a row, at most.
const EVIDENCE_MAX: usize = 20;
/// Where dates and timestamps of the server count from, in microseconds since 1970.
const SERVER_EPOCH_US: f64 = 946_684_800e6;
/// What bounds would be cut by, as a conversion has it by default.
pub const ZONE: &str = "UTC";
/// SQLSTATE of what is in the way of the caller, rather than of the table.
const DENIED: &str = "42501";
const DAY_US: f64 = 86_400e6;
/// What partitions may be cut by.
const NAMED: [Every; 5] = [Every::Day, Every::Week, Every::Month, Every::Quarter, Every::Year];

/// One row of the answer.
#[derive(Clone, Debug)]
pub struct Row {
    /// Quoted and qualified.
    pub relation: String,
    /// Unquoted.
    pub control_column: String,
    /// Width of a partition.
    pub every: String,
    /// high, medium or low.
    pub priority: &'static str,
    /// Of the measured time of the workload.
    pub benefit_pct: f64,
    /// what_if, or measured where nothing had to be estimated.
    pub basis: &'static str,
    /// One sentence.
    pub reason: String,
    /// Numbers behind it.
    pub evidence: Value,
    /// What converts the table; `None` where something is in the way.
    pub ddl: Option<String>,
}

/// What one statement asks of one column.
struct Asked {
    at: usize,
    by_time: Use,
}

/// The tables of at least this size that would gain, the most first, and what the user should know.
pub fn advise(workload: &Workload, bytes_min: f64, deadline: Instant) -> Result<(Vec<Row>, Vec<String>), Error> {
    let study = study::run(workload, deadline)?;
    let mut tables: Vec<&Known> = study.relations.values().filter(|known| known.bytes() >= bytes_min).collect();
    tables.sort_by_key(|known| known.relation.oid.to_u32());
    let mut rows: Vec<Row> = tables.into_iter().filter_map(|known| of_table(&study, workload, known)).collect();
    rows.sort_by(|a, b| b.benefit_pct.total_cmp(&a.benefit_pct).then_with(|| a.relation.cmp(&b.relation)));
    Ok((rows, study.notices))
}

/// The best of its columns, if any is worth a word.
fn of_table(study: &Study, workload: &Workload, known: &Known) -> Option<Row> {
    let table = &known.relation;
    let is_plain = table.kind == b'r' && !is_partition(table.oid);
    let columns = table.columns.iter().filter(|column| is_plain && !column.is_virtual);
    let found = columns.filter_map(|column| {
        let spread = spread(table, column)?;
        let asked = asked(study, table, column);
        let uses: Vec<Use> = asked.iter().map(|asked| asked.by_time).collect();
        let wanted = wanted(table, column);
        let best = wanted
            .and_then(|every| advice::best(&uses, &spread, &[every]))
            .or_else(|| advice::best(&uses, &spread, &NAMED))?;
        Some((column, spread, asked, best))
    });
    let (column, spread, asked, best) = found.max_by(|a, b| a.3.saved.total_cmp(&b.3.saved))?;
    let benefit_pct = 100.0 * best.saved / study.total_weight;
    if !benefit_pct.is_finite() || benefit_pct < advice::NOTICEABLE_PCT {
        return None;
    }
    let mut writes = study.statements.iter().flat_map(|statement| &statement.base.writes);
    let is_changed = writes.any(|write| {
        write.relation == table.oid && write.command == WriteCommand::Update && write.columns.contains(&column.number)
    });
    Some(row(workload, known, column, &Found { spread, asked, best, benefit_pct, is_changed }))
}

/// What is to be told of a table.
struct Found {
    spread: Spread,
    asked: Vec<Asked>,
    best: Advice,
    benefit_pct: f64,
    /// Some statement updates the column.
    is_changed: bool,
}

fn row(workload: &Workload, known: &Known, column: &Column, found: &Found) -> Row {
    let (table, best) = (&known.relation, &found.best);
    let relation = table.qualified();
    let every = best.every.to_string();
    let length_us = advice::length_us(best.every.span());
    let mut obstacles = obstacles(table, column, &every);
    if found.is_changed {
        obstacles.push(format!(
            "statements change {}, which would move rows between partitions",
            ident::quote(&column.name)
        ));
    }
    let saved = |asked: &Asked| advice::saved(&asked.by_time, length_us, &found.spread);
    let mut asked: Vec<&Asked> = found.asked.iter().filter(|asked| saved(asked) > 0.0).collect();
    asked.sort_by(|a, b| saved(b).total_cmp(&saved(a)).then(a.at.cmp(&b.at)));
    let deletes = asked.iter().filter(|asked| asked.by_time.is_delete).count();
    let size_mb = known.bytes() / 1_048_576.0;
    let mut reason = format!(
        "{relation} has {size_mb:.0} MB, {} statements read it by ranges of {} and {deletes} delete by its age: in \
         {:.0} partitions ({every}) they would take {:.1} % less of all measured time",
        asked.len() - deletes,
        ident::quote(&column.name),
        best.partitions.ceil() + 1.0,
        found.benefit_pct
    );
    if !obstacles.is_empty() {
        reason = format!("in the way: {}; without that, {reason}", obstacles.join(", "));
    }
    let statements: Vec<Value> = asked
        .iter()
        .take(EVIDENCE_MAX)
        .map(|asked| {
            let statement = &workload.statements[asked.at];
            let touched = found.spread.touched(asked.by_time.range_share, length_us);
            json!({ "queryid": statement.queryid, "calls": statement.calls, "ms": statement.total_ms,
                    "kind": if asked.by_time.is_delete { "delete_by_age" } else { "range" },
                    "rows_asked_pct": 100.0 * asked.by_time.range_share, "pages_now": known.bytes() / BLOCK_BYTES,
                    "pages_then": if asked.by_time.is_delete { 0.0 } else { touched * known.bytes() / BLOCK_BYTES },
                    "saved_ms": saved(asked) })
        })
        .collect();
    let (inserted, deleted) = written(table.oid);
    Row {
        control_column: column.name.clone(),
        priority: advice::priority(found.benefit_pct, !obstacles.is_empty()),
        benefit_pct: found.benefit_pct,
        // The time of a DELETE that is no more is what was measured; what a range would read is estimated.
        basis: if deletes == asked.len() { "measured" } else { "what_if" },
        reason,
        evidence: json!({ "size_bytes": known.bytes(), "rows": table.tuples, "span_days": found.spread.span_us() / DAY_US,
                          "partitions": best.partitions.ceil() + 1.0, "rows_inserted": inserted, "rows_deleted": deleted,
                          "workload_hours": workload.hours, "obstacles": obstacles, "statements": statements }),
        ddl: obstacles.is_empty().then(|| {
            format!(
                "CALL perf.partition_convert({}, {}, {})",
                ident::literal(&relation),
                ident::literal(&column.name),
                ident::literal(&every)
            )
        }),
        relation,
        every,
    }
}

/// Where the rows lie by a column, if it tells the time and was analysed.
fn spread(table: &Relation, column: &Column) -> Option<Spread> {
    let is_date = column.type_oid == pg_sys::DATEOID;
    if !is_date && !matches!(column.type_oid, pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID) {
        return None;
    }
    let bounds = table.values(column)?.bounds;
    let at = |datum: &pg_sys::Datum| {
        if is_date {
            let days = datum.value() as i32;
            (days != i32::MIN && days != i32::MAX).then(|| SERVER_EPOCH_US + f64::from(days) * DAY_US)
        } else {
            let us = datum.value() as i64;
            (us != i64::MIN && us != i64::MAX).then_some(SERVER_EPOCH_US + us as f64)
        }
    };
    Spread::of(bounds.iter().filter_map(at).collect())
}

/// What all statements ask of the table by this column.
fn asked(study: &Study, table: &Relation, column: &Column) -> Vec<Asked> {
    let by_statement = |statement: &Studied| {
        let needs = statement.base.needs.iter().filter(|needs| needs.relation == table.oid.to_u32());
        let by_time: Vec<(&Needs, f64)> =
            needs.filter_map(|needs| Some((needs, range_share(needs, column)?))).collect();
        let (needs, range_share) = by_time.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        let is_delete = is_delete_by_age(statement, table, needs, column);
        let scan_share = scan_share(study, statement, table);
        Some(Asked { at: statement.at, by_time: Use { weight: statement.weight, scan_share, range_share, is_delete } })
    };
    study.statements.iter().filter_map(by_statement).collect()
}

/// Share of the rows in the range of a column that a statement asks for; `None` when it asks for none.
fn range_share(needs: &Needs, column: &Column) -> Option<f64> {
    let ranges: Vec<f64> = needs
        .filters
        .iter()
        .filter(|filter| filter.part == Part::Column(column.number))
        .filter(|filter| matches!(filter.comparison, Comparison::Range | Comparison::Equal | Comparison::In))
        .map(|filter| filter.selectivity)
        .collect();
    match ranges.as_slice() {
        [] => None,
        [one] => Some(*one),
        // Both ends of a range: what one leaves out and what the other leaves out are different rows.
        several => {
            let least = several.iter().copied().fold(1.0, f64::min);
            let left = several.iter().sum::<f64>() - (several.len() - 1) as f64;
            Some(left.clamp(0.0, least))
        }
    }
}

/// It deletes what is in a range of the column, and asks for nothing else.
fn is_delete_by_age(statement: &Studied, table: &Relation, needs: &Needs, column: &Column) -> bool {
    let is_range = needs
        .filters
        .iter()
        .all(|filter| filter.part == Part::Column(column.number) && filter.comparison == Comparison::Range);
    let alone = needs.alternatives.is_empty() && needs.joins.is_empty();
    let mut writes = statement.base.writes.iter();
    let deletes = writes.any(|write| write.relation == table.oid && write.command == WriteCommand::Delete);
    is_range && alone && deletes && statement.base.scans.len() == 1
}

/// Share of what the statement reads whole that is this table; 0 when it does not read it whole.
fn scan_share(study: &Study, statement: &Studied, table: &Relation) -> f64 {
    let whole = |relation: pg_sys::Oid| {
        let known = study.relations.get(&relation.to_u32());
        known.map_or(0.0, Known::bytes)
    };
    let scans = statement.base.scans.iter().filter(|scan| scan.method == "Seq Scan");
    let all: f64 = scans.clone().map(|scan| whole(scan.relation)).sum();
    let this: f64 = scans.filter(|scan| scan.relation == table.oid).map(|scan| whole(scan.relation)).sum();
    if all > 0.0 {
        this / all
    } else {
        0.0
    }
}

/// The interval that the policy wants for the table, by this column or by none in particular.
fn wanted(table: &Relation, column: &Column) -> Option<Every> {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"SELECT every FROM perf.partition_policy WHERE table_name = $1 AND coalesce(control_column, $2) = $2",
            &[query::text(&table.name), query::text(&column.name)],
            |row| row.string(1),
        )
    });
    found.1.first().and_then(|every| Every::parse(every).ok())
}

fn is_partition(table: pg_sys::Oid) -> bool {
    let read = || query::run_with(c"SELECT FROM pg_class WHERE oid = $1 AND relispartition", &[table.into()], |_| ()).0;
    privilege::with_own_path(read) > 0
}

/// Rows inserted and deleted since statistics were reset.
fn written(table: pg_sys::Oid) -> (i64, i64) {
    let read = || {
        query::run_with(
            c"SELECT pg_stat_get_tuples_inserted($1), pg_stat_get_tuples_deleted($1)",
            &[table.into()],
            |row| (row.get::<i64>(1).unwrap_or(0), row.get::<i64>(2).unwrap_or(0)),
        )
        .1
    };
    privilege::with_own_path(read).into_iter().next().unwrap_or_default()
}

/// What a conversion would refuse, but for who asks for it, in half a sentence each.
fn obstacles(table: &Relation, column: &Column, every: &str) -> Vec<String> {
    let request =
        Request { control: column.name.clone(), every: every.to_owned(), time_zone: ZONE.to_owned(), epoch: None };
    let study = unharmed(|| Ok(privilege::with_own_path(|| plan::study(table.oid, &request, false))?));
    let mut found: Vec<String> = match study {
        Ok(study) => {
            let of_the_table = study.obstacles.into_iter().filter(|obstacle| obstacle.sqlstate != DENIED);
            of_the_table.map(|obstacle| obstacle.message).collect()
        }
        Err(failure) => vec![failure.message],
    };
    if table.values(column).is_some_and(|values| values.null_share > 0.0) {
        found.push(format!("column {} is NULL in some rows", ident::quote(&column.name)));
    }
    found
}
