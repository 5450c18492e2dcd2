//! Words and SQL for the verdicts on existing indexes. Locks each table for the time it takes to print an index of it, if
//! nobody is in the way.

use std::time::Instant;

use perf_core::index::upkeep::{confidence, Action, Better, Finding, UNUSED_BYTES_MIN, YOUNG_DAYS};
use perf_core::index::{name, Candidate, Key};
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::Case;
use crate::advise::index::ddl::concurrently;
use crate::advise::index::pool;
use crate::advise::index::rows::{summary, Recommendation, EVIDENCE_MAX, HIGH_PCT, MEDIUM_PCT};
use crate::advise::index::study::{Known, Studied, Study};
use crate::indexes::Server;
use crate::pg::ident;
use crate::pg::index_definition::{self, Definition};
use crate::pg::relation::Unusable;
use crate::workload::queries::Workload;

/// `high` from this many bytes freed: a share of any server's memory and of every backup.
const HIGH_BYTES: f64 = 1024.0 * UNUSED_BYTES_MIN;
/// `medium` from this many bytes freed.
const MEDIUM_BYTES: f64 = 100.0 * UNUSED_BYTES_MIN;

/// One row for each case, the most important first. A table that somebody has locked is left out, and said so.
pub fn make(
    workload: &Workload,
    study: &mut Study,
    server: &Server,
    cases: &[Case<'_>],
    deadline: Instant,
) -> Vec<Recommendation> {
    let mut rows = Vec::new();
    let mut locked: Vec<pg_sys::Oid> = Vec::new();
    let mut left = 0;
    for case in cases {
        pgrx::check_for_interrupts!();
        let relation = case.found.relation;
        if Instant::now() >= deadline {
            left += 1;
            continue;
        }
        if locked.contains(&relation) {
            continue;
        }
        let index = pg_sys::Oid::from(case.found.index.oid);
        let columns: Vec<i16> = case.found.index.keys.iter().map(|key| key.column).collect();
        match index_definition::read(relation, index, &columns) {
            Ok(definition) => rows.extend(Writer { workload, study, server, case }.row(definition)),
            Err(Unusable::Locked) => locked.push(relation),
            Err(_) => {}
        }
    }
    for name in locked.into_iter().filter_map(ident::relation) {
        let notice = format!("{name} was left out: another session has locked it");
        if !study.notices.contains(&notice) {
            study.notices.push(notice);
        }
    }
    if left > 0 {
        study.notices.push(format!(
            "the time budget ran out: {left} findings on existing indexes were left out; raise time_budget_ms"
        ));
    }
    rows.sort_by(|(a, a_bytes), (b, b_bytes)| {
        rank(&a.priority).cmp(&rank(&b.priority)).then(b_bytes.total_cmp(a_bytes)).then_with(|| a.id.cmp(&b.id))
    });
    rows.into_iter().map(|(row, _)| row).collect()
}

fn rank(priority: &str) -> usize {
    ["high", "medium", "low"].iter().position(|known| *known == priority).unwrap_or(3)
}

struct Writer<'a> {
    workload: &'a Workload,
    study: &'a Study,
    server: &'a Server,
    case: &'a Case<'a>,
}

impl Writer<'_> {
    /// The row, and the bytes that it sorts by; None when the table is gone.
    fn row(&self, definition: Definition) -> Option<(Recommendation, f64)> {
        let found = self.case.found;
        let relation = ident::relation(found.relation)?;
        let action = match self.case.verdict.action {
            Action::Drop => "drop",
            Action::Reindex => "reindex",
        };
        let saved = (action == "drop").then(|| self.write_cost()).flatten();
        let benefit = saved.map(|weight| 100.0 * weight / self.study.total_weight.max(f64::MIN_POSITIVE));
        let bytes = self.freed();
        let (ddl, undo) = self.ddl(&definition);
        let row = Recommendation {
            id: name::stable_id(&[action, &relation, &found.name]),
            priority: self.priority(bytes, benefit).to_owned(),
            action,
            source: "workload",
            status: "recommended",
            existing: found.parts.clone(),
            columns: definition.keys.clone(),
            access_method: found.index.method.clone(),
            ddl: Some(ddl),
            undo_ddl: undo,
            size_bytes: bytes.map(|bytes| bytes as i64),
            benefit_pct: benefit,
            benefit_ms_per_hour: saved.zip(self.workload.hours).map(|(weight, hours)| weight / hours),
            write_cost_pct: Some(0.0),
            confidence: self.confidence(),
            basis: self.basis(),
            reason: self.reason(&definition),
            evidence: self.evidence(),
            relation,
            ..Recommendation::default()
        };
        Some((row, bytes.unwrap_or(0.0)))
    }

    /// What the writes of the table pay for the index, in the unit of weights; None when that is not known.
    fn write_cost(&self) -> Option<f64> {
        let found = self.case.found;
        let writes = |statement: &Studied| statement.base.writes.iter().any(|write| write.relation == found.relation);
        if !self.study.statements.iter().any(writes) {
            // A partition is written to through its parent, in shares that nobody counts.
            let is_known = !self.study.cut_short && !self.workload.statements.is_empty() && !found.in_partition;
            return is_known.then_some(0.0);
        }
        let keys = found.columns.iter().map(|column| Key::ascending(*column)).collect();
        let candidate = Candidate::btree(found.relation.to_u32(), keys, 0);
        match self.study.relations.get(&candidate.relation) {
            Some(known) => pool::write_cost(self.study, self.workload, known, &candidate),
            None => pool::write_cost(
                self.study,
                self.workload,
                &Known::read(found.relation, &self.study.expressions).ok()?,
                &candidate,
            ),
        }
    }

    /// Bytes that the advice frees; None when that is not known.
    fn freed(&self) -> Option<f64> {
        match (self.case.verdict.action, self.case.verdict.finding) {
            (_, Finding::Bloated { freed }) => Some(freed),
            (Action::Drop, _) => Some(self.case.found.index.bytes),
            (Action::Reindex, _) => None,
        }
    }

    fn priority(&self, bytes: Option<f64>, benefit: Option<f64>) -> &'static str {
        let (bytes, benefit) = (bytes.unwrap_or(0.0), benefit.unwrap_or(0.0));
        let is_broken = matches!(self.case.verdict.finding, Finding::Invalid { .. });
        if benefit >= HIGH_PCT || bytes >= HIGH_BYTES {
            "high"
        } else if benefit >= MEDIUM_PCT || bytes >= MEDIUM_BYTES || is_broken {
            "medium"
        } else {
            "low"
        }
    }

    fn confidence(&self) -> &'static str {
        match self.case.verdict.finding {
            Finding::Unused => confidence(self.server.days, self.server.has_replicas),
            // Somebody scans it whose plans are not known: a replica, or a statement that was not planned.
            Finding::Covered { .. }
                if self.server.has_replicas
                    || self.study.cut_short
                    || (self.case.found.index.scans > 0 && self.case.replanned.is_empty()) =>
            {
                "medium"
            }
            Finding::Bloated { .. } => "medium",
            _ => "high",
        }
    }

    fn basis(&self) -> &'static str {
        match self.case.verdict.finding {
            Finding::Bloated { .. } => "what_if",
            _ if !self.case.replanned.is_empty() => "what_if",
            _ => "measured",
        }
    }

    fn ddl(&self, definition: &Definition) -> (String, Option<String>) {
        let found = self.case.found;
        let index = ident::qualified(&found.schema, &found.name);
        match self.case.verdict.action {
            Action::Reindex => (format!("REINDEX INDEX CONCURRENTLY {index}"), None),
            // Neither form of a partitioned index knows CONCURRENTLY.
            Action::Drop if found.index.partitioned => (format!("DROP INDEX {index}"), Some(definition.create.clone())),
            Action::Drop => (format!("DROP INDEX CONCURRENTLY {index}"), Some(concurrently(&definition.create))),
        }
    }

    fn reason(&self, definition: &Definition) -> String {
        let found = self.case.found;
        let own = &found.name;
        let keys = definition.keys.join(", ");
        let other = self.case.other.map(|other| other.name.as_str()).unwrap_or_default();
        let mut reason = match self.case.verdict.finding {
            Finding::Unused if found.index.scans == 0 => {
                format!("No scan of {own} ({keys}) was counted in the {} of statistics{}", self.days(), self.since())
            }
            Finding::Unused => {
                format!("{own} ({keys}) was last scanned {:.0} days ago", found.index.idle_days.floor())
            }
            Finding::Duplicate { better, .. } => {
                format!("{own} ({keys}) is a duplicate of {other}, which {}", self.why_the_other(better))
            }
            Finding::Covered { .. } => self.covered(&keys, other),
            Finding::Invalid { by: Some(_) } => {
                format!("{own} is left from a build that failed: it is written to and never read, and {other} does what it would")
            }
            Finding::Invalid { by: None } if self.case.verdict.action == Action::Drop => {
                format!("{own} is left from a DROP INDEX CONCURRENTLY that did not finish")
            }
            Finding::Invalid { by: None } => {
                format!("The build of {own} ({keys}) failed: it is written to and never read until it is built again")
            }
            Finding::Bloated { freed } => format!(
                "A fresh build of {own} ({keys}) would be {:.0} % smaller by the table's statistics",
                100.0 * freed / found.index.bytes.max(1.0)
            ),
        };
        if matches!(self.case.verdict.finding, Finding::Invalid { by: None }) && found.index.unique {
            reason.push_str("; it is unique, so duplicate values must be removed first");
        }
        if self.case.verdict.finding == Finding::Unused {
            if self.server.days < YOUNG_DAYS {
                reason.push_str(&format!("; the statistics are only {} old, so ask again after a week", self.days()));
            }
            if self.server.has_replicas {
                reason.push_str("; scans on replicas are not counted here, so look there first");
            }
        }
        if !self.case.replanned.is_empty() {
            reason.push_str("; the statements that use it were planned without it, and none costs over 1 % more");
        }
        if found.index.partitioned {
            reason.push_str("; it goes with its parts in all partitions, and blocks them while it does");
        }
        if self.server.is_standby {
            reason.push_str("; this is a standby, so run it on the primary");
        }
        reason.push('.');
        reason
    }

    fn covered(&self, keys: &str, other: &str) -> String {
        let own = &self.case.found.name;
        let same_length = self.case.other.is_some_and(|one| one.index.keys.len() == self.case.found.index.keys.len());
        if !same_length {
            format!("The keys of {own} ({keys}) are the first of {other}, which does all that it does")
        } else if self.case.other.is_some_and(|one| one.index.unique) && !self.case.found.index.unique {
            format!("{own} ({keys}) has the keys of {other}, which enforces uniqueness besides")
        } else {
            format!("{own} ({keys}) has the keys of {other}, which includes more columns")
        }
    }

    fn why_the_other(&self, better: Better) -> &str {
        match better {
            Better::Bound => self.case.other.and_then(|other| other.bound_by.as_deref()).unwrap_or("is needed"),
            Better::Unique => "enforces uniqueness besides",
            Better::Used => "is used more",
            Better::Older => "is older",
        }
    }

    fn days(&self) -> String {
        match self.server.days.floor() as i64 {
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        }
    }

    fn since(&self) -> &'static str {
        if self.server.since_start {
            " since the server started"
        } else {
            ""
        }
    }

    fn evidence(&self) -> Value {
        let relations = std::iter::once(self.case.found.relation.to_u32()).collect();
        let mut replanned: Vec<_> =
            self.case.replanned.iter().map(|(at, after)| (&self.study.statements[*at], after)).collect();
        replanned.sort_by(|a, b| b.0.weight.total_cmp(&a.0.weight).then(a.0.at.cmp(&b.0.at)));
        replanned
            .into_iter()
            .take(EVIDENCE_MAX)
            .map(|(studied, after)| {
                let statement = &self.workload.statements[studied.at];
                let old = summary(&studied.base.scans, studied.base.sorts, &[], &relations);
                let new = summary(&after.scans, after.sorts, &[], &relations);
                json!({
                    "queryid": (statement.queryid != 0).then_some(statement.queryid),
                    "calls": statement.calls,
                    "ms": statement.total_ms,
                    "cost_before": studied.base.total_cost,
                    "cost_after": after.total_cost,
                    "plan_change": format!("{old} -> {new}"),
                    "parameters": if studied.generic { "generic" } else { "known" },
                })
            })
            .collect()
    }
}
