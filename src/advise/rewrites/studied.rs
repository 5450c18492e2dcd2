//! One captured statement: analysed and planned with its samples, and what the rules find in it, judged by what it costs.
//! Called for one statement after another; locks nothing that lasts.

use std::collections::HashSet;

use perf_core::rewrite::{self as decide, improvement_pct, Rule};
use pgrx::pg_sys;

use super::{costs, facts, Row};
use crate::advise::index::study::{self, parameters_of};
use crate::error::Error;
use crate::memory::survey::Snapshot;
use crate::pg::planner::{Deadline, Failure, Parameter, Planned, Statement};
use crate::pg::query_rules::{self, Finding, Seen, Source, Unseen};
use crate::workload::queries::StatementSample;

/// Samples of one that are looked at, at most.
const SAMPLES_MAX: usize = 3;
/// Never wait longer for a lock that somebody else holds.
const LOCK_TIMEOUT_MS: u32 = 20;
/// What costs the planner less is not worth being told without a better statement at hand.
const TOLD_COST: f64 = 100.0;

/// One statement that was understood.
pub struct Studied<'a> {
    pub(super) item: &'a Snapshot,
    /// Normalised.
    text: String,
    sample: StatementSample,
    parameters: Vec<Parameter>,
    pub(super) seen: Seen,
    /// As things are.
    pub(super) base: Planned,
}

impl<'a> Studied<'a> {
    /// Analyses and plans it; some of its findings are of `repeats` executions in a transaction.
    pub fn of(
        item: &'a Snapshot,
        text: String,
        samples: Vec<StatementSample>,
        repeats: usize,
    ) -> Result<Studied<'a>, Unseen> {
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
            let seen = match query_rules::look(&source, repeats) {
                Ok(seen) => seen,
                Err(Unseen::Unclear) => continue,
                // What another sample would have said against it is not known.
                Err(Unseen::TimedOut) => return Err(Unseen::TimedOut),
            };
            if let Some(known) = &mut studied {
                known.compare(seen);
                continue;
            }
            let mut first = Studied { item, text: text.clone(), sample, parameters, seen, base: Planned::default() };
            if !first.seen.relations.is_empty() {
                first.base = costs::plan(&first.statement(None)).map_err(|failure| match failure {
                    Failure::TimedOut => Unseen::TimedOut,
                    _ => Unseen::Unclear,
                })?;
            }
            studied = Some(first);
        }
        studied.ok_or(Unseen::Unclear)
    }

    /// Takes in what another sample shows.
    fn compare(&mut self, seen: Seen) {
        // What is right for one literal is no advice where others come as well.
        let shown = |finding: &Finding| finding.written.as_ref().and_then(|written| written.shown.clone());
        self.seen.findings.retain(|one| {
            let again = |other: &Finding| other.rule == one.rule && shown(other) == shown(one);
            one.fixed.is_none() || seen.findings.iter().any(again)
        });
        // Values differ: what one sample does not show another may.
        for finding in seen.findings {
            if finding.fixed.is_none() && !self.seen.findings.iter().any(|one| one.rule == finding.rule) {
                self.seen.findings.push(finding);
            }
        }
    }

    /// It, or another in its place, as it is planned.
    pub(super) fn statement<'b>(&'b self, instead: Option<&'b str>) -> Statement<'b> {
        let sent = study::captured(&self.sample, &self.parameters, pg_sys::Oid::from(self.item.key.userid));
        match instead {
            None => sent,
            Some(text) => Statement { text, unwrap: false, ..sent },
        }
    }

    /// A row without what is special about it.
    pub(super) fn row(&self, rule: Rule) -> Row {
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

    /// All that is to be told of it, in the order of the rules. `told`: what was told of tables already.
    pub fn rows(
        &self,
        often: Option<&(usize, usize)>,
        told: &mut HashSet<(Rule, u32)>,
        include_inapplicable: bool,
    ) -> Result<Vec<Row>, Error> {
        let mut tables = Vec::new();
        for oid in &self.seen.relations {
            tables.extend(facts::table(*oid)?.map(|table| (*oid, table)));
        }
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let mut found: Vec<(Rule, Row)> = Vec::new();
        for finding in &self.seen.findings {
            if Deadline::has_passed() {
                break;
            }
            let row = self.judged(finding, &tables, include_inapplicable)?;
            found.extend(row.map(|row| (finding.rule, row)));
        }
        found.extend(self.unbounded(&tables).map(|row| (Rule::MissingTimeBound, row)));
        found.extend(often.map(|often| (Rule::RepeatedStatement, self.repeated(often))));
        found.extend(self.spilling().map(|row| (Rule::WorkMemSpill, row)));
        found.extend(self.planned().map(|row| (Rule::PlanningTime, row)));
        // Beside something better to do they are noise, unless they are known to mislead.
        if found.is_empty() || self.misled().is_some() {
            found.extend(self.stale(&tables, told).into_iter().map(|row| (Rule::StaleStatistics, row)));
        }
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
}
