//! What is to be said of a statement by what was measured of it and by the state of its tables: no bound in time, repetition,
//! temporary files, statistics, planning. Called by [`Studied::rows`]; locks nothing.

use std::collections::HashSet;

use perf_core::rewrite::{self as decide, improvement_pct, Rule};
use pgrx::pg_sys;

use super::studied::Studied;
use super::{costs, facts, Row};
use crate::pg::{ident, planner, query_rules};

impl Studied<'_> {
    /// It reads all of a table that grows with time.
    pub(super) fn unbounded(&self, tables: &[(pg_sys::Oid, facts::Table)]) -> Option<Row> {
        let reads_all = |oid: pg_sys::Oid, is_partitioned: bool| {
            let mut scans = self.base.scans.iter().filter(|scan| scan.method == "Seq Scan");
            scans.any(|scan| is_partitioned || scan.relation == oid)
        };
        self.seen.reads.iter().filter(|read| !read.has_time_bound && !read.is_pinned).find_map(|read| {
            let (oid, table) = tables.iter().find(|(oid, _)| *oid == read.relation)?;
            let column = table.time_column.as_ref()?;
            if table.rows < decide::LARGE_ROWS || !reads_all(*oid, table.is_partitioned) {
                return None;
            }
            let (column, name) = (ident::quote(column), ident::relation(*oid)?);
            Some(Row {
                note: format!(
                    "{name}: ask for a range of {column} (for example {column} >= now() - interval '30 days'), and keep what is \
                     older in a summary. It changes the result, so how far back to look is yours to say."
                ),
                ..self.row(Rule::MissingTimeBound)
            })
        })
    }

    /// It is executed many times in a transaction.
    pub(super) fn repeated(&self, (count, transactions): &(usize, usize)) -> Row {
        let before = self.base.total_cost * *count as f64;
        let batch = self.seen.batch.as_ref();
        let cost_after = batch.and_then(|batch| costs::cost(&self.statement(Some(&batch.sample))));
        let after_sql = cost_after.and(batch).and_then(|batch| batch.shown.clone());
        let what =
            format!("up to {count} times in a transaction, in {transactions} of the transactions that were kept");
        let note = if after_sql.is_some() {
            "ask once for all values, and tell the rows apart by the column; costs are of all executions."
        } else {
            "ask once for all values (= ANY of an array, or a join with what gave the values), and tell the rows apart by a \
             column that is selected."
        };
        Row {
            cost_before: Some(before),
            cost_after,
            improvement_pct: improvement_pct(Some(before), cost_after),
            basis: if cost_after.is_some() { "what_if" } else { "none" },
            changes_result: after_sql.is_some().then_some(true),
            after_sql,
            note: format!("{what}: {note}"),
            ..self.row(Rule::RepeatedStatement)
        }
    }

    /// It writes temporary files.
    pub(super) fn spilling(&self) -> Option<Row> {
        let bytes = self.item.temp_bytes();
        if bytes < f64::from(pg_sys::BLCKSZ) {
            return None;
        }
        let current = planner::work_mem_kb();
        let written = format!("{:.1} MB of temporary files an execution", bytes / 1_048_576.0);
        let mut row = self.row(Rule::WorkMemSpill);
        let Some(kb) = decide::work_mem_kb(bytes, current) else {
            row.note =
                format!("{written}: more than memory should be given for; let it read, sort or group fewer rows.");
            return Some(row);
        };
        let more = format!("{kb}kB");
        let planned = query_rules::with_setting(c"work_mem", &more, || costs::cost(&self.statement(None)));
        row.cost_after = planned.ok().flatten();
        row.improvement_pct = improvement_pct(row.cost_before, row.cost_after);
        row.basis = if row.cost_after.is_some() { "what_if" } else { "none" };
        row.supporting_ddl = Some(format!("SET LOCAL work_mem = '{}MB'", kb / 1024));
        row.note = format!(
            "{written}: set it in the transaction that needs it, or for its role, rather than for everybody; each sort and hash \
             of each session may take that much. The result stays."
        );
        Some(row)
    }

    /// Statistics of its tables are old, or mislead.
    pub(super) fn stale(&self, tables: &[(pg_sys::Oid, facts::Table)], told: &mut HashSet<(Rule, u32)>) -> Vec<Row> {
        let mut rows = Vec::new();
        for (oid, table) in tables {
            let is_stale = !table.is_partitioned && decide::is_stale(table.live, table.changed, table.analyzed);
            if !is_stale || !told.insert((Rule::StaleStatistics, oid.to_u32())) {
                continue;
            }
            let Some(name) = ident::relation(*oid) else { continue };
            let what = if table.analyzed {
                format!("{:.0} of {:.0} rows changed since ANALYZE", table.changed, table.live)
            } else {
                "never analysed".to_owned()
            };
            rows.push(Row {
                supporting_ddl: Some(format!("ANALYZE {name}")),
                note: format!("{name}: {what}. Costs are known anew after that; the result stays."),
                ..self.row(Rule::StaleStatistics)
            });
        }
        let first = self.seen.relations.first();
        if let (true, Some(factor), Some(oid)) = (rows.is_empty(), self.misled(), first) {
            let names: Vec<String> = self.seen.relations.iter().filter_map(|oid| ident::relation(*oid)).collect();
            if told.insert((Rule::StaleStatistics, oid.to_u32())) {
                rows.push(Row {
                    supporting_ddl: Some(format!("ANALYZE {}", names.join(", "))),
                    note: format!(
                        "when it ran, rows were {factor:.0} times more or fewer than expected. Where ANALYZE does not help: \
                         CREATE STATISTICS for columns that depend on each other."
                    ),
                    ..self.row(Rule::StaleStatistics)
                });
            }
        }
        rows
    }

    /// By which factor rows came that were not expected, or were and did not come, where that is clear.
    pub(super) fn misled(&self) -> Option<f64> {
        self.base.misestimate.filter(|factor| *factor >= decide::MISESTIMATE)
    }

    /// Planning it takes longer than executing it.
    pub(super) fn planned(&self) -> Option<Row> {
        let counters = &self.item.counters;
        let pct = decide::planning_pct(counters.plans, counters.calls, counters.planning_ns, counters.total_ns)?;
        let ms = |ns: u64| ns as f64 * 1e-6 / counters.calls.max(1) as f64;
        Some(Row {
            cost_before: None,
            improvement_pct: Some(pct),
            basis: "measured",
            note: format!(
                "planning {:.3} ms, execution {:.3} ms on average: prepare it once for each connection (PREPARE, or the driver's \
                 prepared statements; a pooler has to know of them), so that its plan is kept. improvement_pct is the share of \
                 its time that planning takes: the most that can be gained.",
                ms(counters.planning_ns),
                ms(counters.total_ns)
            ),
            ..self.row(Rule::PlanningTime)
        })
    }
}
