//! What captured statements could do better. Callers see their own statements, members of pg_read_all_stats those of the roles
//! that they could become as well: analysing a text can run code. Texts are shown as `perf.statements()` shows them.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use perf_core::rewrite::{self as decide, improvement_pct, Rule};
use pgrx::pg_sys;

use super::{costs, facts, Answer, Row};
use crate::advise::index::study::parameters_of;
use crate::error::Error;
use crate::indexes::OWN_SCHEMA;
use crate::memory::samples;
use crate::memory::survey::{self, Snapshot};
use crate::pg::names::{current_database, Visibility};
use crate::pg::planner::{Parameter, Planned, Statement};
use crate::pg::query_rules::{self, Finding, Seen, Source};
use crate::pg::{ident, role};
use crate::workload::captured;
use crate::workload::queries::StatementSample;
use crate::workload::transactions;

/// Statements looked at, at most, by measured time.
const STATEMENTS_MAX: usize = 200;
/// Samples of one that are looked at, at most.
const SAMPLES_MAX: usize = 3;
/// Never wait longer for a lock that somebody else holds.
const LOCK_TIMEOUT_MS: u32 = 20;
/// What costs the planner less is not worth being told without a better statement at hand.
const TOLD_COST: f64 = 100.0;
/// Bytes of a block.
const BLOCK: f64 = 8192.0;
/// How the server checks a foreign key; nobody's statement.
const FOREIGN_KEY_CHECK: &str = "SELECT 1 FROM ONLY ";

/// Adds the rows of the captured statements of this database.
pub fn add(answer: &mut Answer, include_inapplicable: bool, deadline: Instant) -> Result<(), Error> {
    let database = current_database();
    let mut kept: HashMap<_, _> = samples::of_database(database).into_iter().collect();
    let mut items: Vec<Snapshot> = survey::snapshot(Some(database), true)
        .into_iter()
        .filter(|item| !item.is_other && item.counters.calls > 0)
        .collect();
    items.sort_by_key(|item| (std::cmp::Reverse(item.time_ns()), item.key.queryid));
    let visible = Visibility::of_current_role();
    let repeats = repeats(database);
    let mut told = HashSet::new();
    let (mut hidden, mut unclear, mut looked_at) = (0usize, 0usize, 0usize);
    let mut next = answer.rows.iter().map(|row| row.example_no).max().unwrap_or(0) + 1;
    for item in &items {
        pgrx::check_for_interrupts!();
        let user = pg_sys::Oid::from(item.key.userid);
        if !visible.covers(item.key.userid) || !role::may_plan_as(user) {
            hidden += 1;
            continue;
        }
        let text = item.text.as_ref().map(|text| text.to_utf8()).unwrap_or_default();
        if text.is_empty() || (!item.key.toplevel && text.starts_with(FOREIGN_KEY_CHECK)) {
            continue;
        }
        if looked_at >= STATEMENTS_MAX || Instant::now() >= deadline {
            answer.notices.push(format!(
                "only the {looked_at} statements with the most time were looked at; there are {} more",
                items.len() - looked_at
            ));
            break;
        }
        looked_at += 1;
        let often = item.key.toplevel.then(|| repeats.get(&(item.key.userid, item.key.queryid))).flatten();
        let samples = captured::statement(item, kept.remove(&item.key).unwrap_or_default()).samples;
        let Some(studied) = Studied::of(item, text, samples, often.map_or(1, |one| one.0)) else {
            // Utility statements, and those of functions whose variables nobody knows here.
            unclear += usize::from(item.key.toplevel && begins_as_query(item));
            continue;
        };
        let mut rows = studied.rows(often, &mut told, include_inapplicable)?;
        for row in &mut rows {
            row.example_no = next;
            next += 1;
        }
        answer.rows.append(&mut rows);
    }
    if hidden > 0 {
        answer.notices.push(format!(
            "{hidden} statements were left out: they are of other roles. Members of pg_read_all_stats who are members of \
             those roles as well are told"
        ));
    }
    if unclear > 0 {
        answer.notices.push(format!("{unclear} statements were left out because they cannot be analysed"));
    }
    Ok(())
}

/// Statements that one transaction executed many times, by role and queryid: how often at most, and in how many of the kept
/// transactions.
fn repeats(database: u32) -> HashMap<(u32, u64), (usize, usize)> {
    let mut found: HashMap<(u32, u64), (usize, usize)> = HashMap::new();
    for trace in transactions::traces(database) {
        let steps = trace.steps.iter().filter(|step| step.toplevel).map(|step| {
            let bytes = step.values.iter().flat_map(|value| value.unwrap_or(0).to_le_bytes());
            (step.queryid, perf_core::fnv::fnv1a(bytes))
        });
        for (queryid, count) in decide::repeated(steps) {
            let known = found.entry((trace.userid, queryid)).or_default();
            *known = (known.0.max(count), known.1 + 1);
        }
    }
    found
}

fn begins_as_query(item: &Snapshot) -> bool {
    let text = item.text.as_ref().map(|text| text.to_utf8()).unwrap_or_default();
    let word: String = text.chars().skip_while(|c| !c.is_alphabetic()).take_while(char::is_ascii_alphabetic).collect();
    ["select", "insert", "update", "delete", "with", "merge"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// One statement that was understood.
struct Studied<'a> {
    item: &'a Snapshot,
    /// Normalised.
    text: String,
    sample: StatementSample,
    parameters: Vec<Parameter>,
    seen: Seen,
    base: Planned,
}

impl<'a> Studied<'a> {
    fn of(item: &'a Snapshot, text: String, samples: Vec<StatementSample>, repeats: usize) -> Option<Studied<'a>> {
        let mut studied: Option<Studied<'a>> = None;
        for sample in samples.into_iter().take(SAMPLES_MAX) {
            let parameters = parameters_of(&sample);
            let source = Source {
                text: &sample.text,
                search_path: (!sample.search_path.is_empty()).then_some(sample.search_path.as_str()),
                role: pg_sys::Oid::from(item.key.userid),
                parameters: &parameters,
                lock_timeout_ms: LOCK_TIMEOUT_MS,
            };
            let Ok(seen) = query_rules::look(&source, repeats) else { continue };
            if let Some(known) = &mut studied {
                // What is right for one literal is no advice where others come as well.
                let shown = |finding: &Finding| finding.written.as_ref().and_then(|written| written.shown.clone());
                known.seen.findings.retain(|one| {
                    let again = |other: &Finding| other.rule == one.rule && shown(other) == shown(one);
                    one.fixed.is_none() || seen.findings.iter().any(again)
                });
                // Values differ: what one sample does not show another may.
                for finding in seen.findings {
                    if finding.fixed.is_none() && !known.seen.findings.iter().any(|one| one.rule == finding.rule) {
                        known.seen.findings.push(finding);
                    }
                }
            } else {
                let mut first =
                    Studied { item, text: text.clone(), sample, parameters, seen, base: Planned::default() };
                first.base = costs::plan(&first.statement(None)).ok()?;
                studied = Some(first);
            }
        }
        studied
    }

    /// It, or another in its place, as it is planned.
    fn statement<'b>(&'b self, instead: Option<&'b str>) -> Statement<'b> {
        Statement {
            text: instead.unwrap_or(&self.sample.text),
            search_path: (!self.sample.search_path.is_empty()).then_some(self.sample.search_path.as_str()),
            role: Some(pg_sys::Oid::from(self.item.key.userid)),
            parameters: &self.parameters,
            cardinalities: &self.sample.cardinalities,
            lock_timeout_ms: Some(LOCK_TIMEOUT_MS),
            unwrap: instead.is_none(),
        }
    }

    fn row(&self, rule: Rule) -> Row {
        Row {
            title: rule.title().to_owned(),
            source: "workload",
            queryid: Some(self.item.key.queryid as i64),
            problem: rule.problem().to_owned(),
            before_sql: self.text.clone(),
            cost_before: Some(self.base.total_cost),
            basis: "none",
            ..Row::default()
        }
    }

    fn rows(
        &self,
        often: Option<&(usize, usize)>,
        told: &mut HashSet<(Rule, u32)>,
        include_inapplicable: bool,
    ) -> Result<Vec<Row>, Error> {
        let mut tables = Vec::new();
        for oid in &self.seen.relations {
            tables.extend(facts::table(*oid)?.map(|table| (*oid, table)));
        }
        // Catalogs and tables of this extension are nobody's to write other statements for.
        let own = |schema: &str| ["pg_catalog", "information_schema", OWN_SCHEMA].contains(&schema);
        if tables.is_empty() || tables.iter().any(|(_, table)| own(&table.schema)) {
            return Ok(Vec::new());
        }
        let mut found: Vec<(Rule, Row)> = Vec::new();
        for finding in &self.seen.findings {
            let row = self.judged(finding, &tables, include_inapplicable)?;
            found.extend(row.map(|row| (finding.rule, row)));
        }
        found.extend(self.unbounded(&tables).map(|row| (Rule::MissingTimeBound, row)));
        found.extend(often.map(|often| (Rule::RepeatedStatement, self.repeated(often))));
        found.extend(self.spilling().map(|row| (Rule::WorkMemSpill, row)));
        found.extend(self.stale(&tables, told).into_iter().map(|row| (Rule::StaleStatistics, row)));
        found.extend(self.planned().map(|row| (Rule::PlanningTime, row)));
        found.sort_by_key(|(rule, _)| *rule);
        Ok(found.into_iter().map(|(_, row)| row).collect())
    }

    /// What became of a finding: measured, and left out where it does not apply here or gains nothing.
    fn judged(
        &self,
        finding: &Finding,
        tables: &[(pg_sys::Oid, facts::Table)],
        include_inapplicable: bool,
    ) -> Result<Option<Row>, Error> {
        if let Some(column) = finding.indexed {
            if !facts::is_indexed(column)? {
                return Ok(None);
            }
        }
        if finding.rule == Rule::SelectStar
            && !tables.iter().any(|(_, table)| table.columns >= decide::WIDE.0 || table.width >= decide::WIDE.1)
        {
            return Ok(None);
        }
        let mut is_proven = true;
        for column in &finding.not_null {
            is_proven &= facts::is_not_null(*column)?;
        }
        let mut note = finding.note.clone();
        let mut row = self.row(finding.rule);
        let written = finding.written.as_ref().filter(|_| is_proven);
        if let Some(written) = written {
            if !finding.not_null.is_empty() {
                note = "Same rows, proven: neither side can be NULL (both columns are NOT NULL). NOT EXISTS can be an anti join."
                    .to_owned();
            }
            row.cost_after = costs::cost(&self.statement(Some(&written.sample)));
            if row.cost_after.is_some() && !finding.is_bound {
                row.after_sql = written.shown.clone();
                row.changes_result = Some(finding.changes_result);
                if let Some(fixed) = finding.fixed {
                    note.push_str(&format!(" It holds for {fixed}, which is a $n in before_sql, and for no other."));
                }
                if row.after_sql.is_none() {
                    note.push_str(" The text cannot be shown without its literals.");
                }
            }
        } else if let Some(ddl) = &finding.ddl {
            row.cost_after = costs::cost_with(&self.statement(None), ddl, &[]);
            row.supporting_ddl = Some(ddl.clone());
        }
        if row.cost_after.is_some() {
            row.basis = "what_if";
            row.improvement_pct = improvement_pct(row.cost_before, row.cost_after);
        }
        row.note = format!("{}: {note}", finding.what);
        let is_worth = match row.cost_after {
            // What a list costs is not in the planner's cost.
            _ if finding.rule == Rule::LongInList => true,
            Some(after) => decide::is_worth(self.base.total_cost, after),
            None => self.base.total_cost >= TOLD_COST,
        };
        if !is_worth {
            row.note.push_str(" Here the planner finds nothing to gain by it.");
        }
        Ok((is_worth || include_inapplicable).then_some(row))
    }

    fn unbounded(&self, tables: &[(pg_sys::Oid, facts::Table)]) -> Option<Row> {
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

    fn repeated(&self, (count, transactions): &(usize, usize)) -> Row {
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

    fn spilling(&self) -> Option<Row> {
        let counters = &self.item.counters;
        let bytes = counters.usage.temp_blks_written as f64 * BLOCK / counters.calls.max(1) as f64;
        if bytes < BLOCK {
            return None;
        }
        // SAFETY: a plain read of a setting of this process.
        let current = i64::from(unsafe { pg_sys::work_mem });
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

    fn stale(&self, tables: &[(pg_sys::Oid, facts::Table)], told: &mut HashSet<(Rule, u32)>) -> Vec<Row> {
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
        let off = self.base.misestimate.filter(|factor| *factor >= decide::MISESTIMATE);
        let first = self.seen.relations.first();
        if let (true, Some(factor), Some(oid)) = (rows.is_empty(), off, first) {
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

    fn planned(&self) -> Option<Row> {
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
