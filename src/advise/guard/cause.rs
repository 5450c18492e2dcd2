//! Whether a change can be what has made statements slower: asked of the planner, for what was measured before and after a
//! change may have other reasons, a table that grows above all. A setting is no cause where the slower statements are
//! planned the same way with its old value; an index is none of a reader that does not read by it, nor of a writer that does
//! not have to write to it. Plans in subtransactions, as the statements' roles; locks nothing that lasts.

use std::collections::HashSet;
use std::ffi::CString;

use pgrx::pg_sys;

use super::{indexes, slower};
use crate::act::change::setting::{self, Setting, Settings};
use crate::act::change::store::Change;
use crate::act::runs::rows;
use crate::advise::index::study::{self, parameters_of};
use crate::error::Error;
use crate::pg::planner::{self, Configuration, Planned, Statement, UsedIndex, WriteCommand};
use crate::pg::{privilege, query_rules};
use crate::workload::captured;
use crate::workload::queries::{StatementSample, WorkloadStatement};

/// Statements planned at most, and samples of each.
const STATEMENTS_MAX: usize = 20;
const SAMPLES_MAX: usize = 3;
/// Costs of the same plan that differ by more are of sorts and hashes that do not fit into memory any more.
const COST_MOVED: f64 = 0.05;
/// What changes the cost of a plan that stays the same by what it does, rather than by what a step is said to cost.
const MEMORY: [&str; 2] = ["work_mem", "hash_mem_multiplier"];
/// What works while a statement is executed: of which plans, by what stands in them.
const AT_EXECUTION: [(&str, &str); 3] =
    [("max_parallel_workers", "Gather"), ("parallel_leader_participation", "Gather"), ("jit", "")];

/// How the change can be the cause, in words; `None`: it cannot.
pub fn of(change: &Change) -> Result<Option<String>, Error> {
    let slower: HashSet<i64> = slower(change)?.into_iter().collect();
    let workload = captured::read()?;
    let mut wanted: Vec<&WorkloadStatement> =
        workload.statements.iter().filter(|statement| slower.contains(&statement.queryid)).collect();
    wanted.truncate(STATEMENTS_MAX);
    if change.kind == setting::KIND {
        of_settings(&setting::of(change), &wanted)
    } else {
        of_index(change, &wanted)
    }
}

fn plan(statement: &WorkloadStatement, sample: &StatementSample) -> Option<Planned> {
    let parameters = parameters_of(sample);
    // What was counted when it ran may be of either plan.
    let asked = Statement { cardinalities: &[], ..study::captured(sample, &parameters, statement.userid) };
    let configuration = Configuration { explain: true, ..Configuration::default() };
    planner::plan(&asked, &[configuration]).ok()?.into_iter().next()
}

/// Plans under other values of settings.
fn plan_with(values: &[(CString, String)], statement: &WorkloadStatement, sample: &StatementSample) -> Option<Planned> {
    match values.split_first() {
        None => plan(statement, sample),
        Some(((name, value), rest)) => {
            query_rules::with_setting(name, value, || plan_with(rest, statement, sample)).ok().flatten()
        }
    }
}

/// What a plan does, without what its steps are said to cost.
fn shape(plan: &Planned) -> String {
    let text = plan.text.as_deref().unwrap_or_default();
    text.lines().map(|line| line.split("  (cost").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn of_settings(settings: &[Setting], wanted: &[&WorkloadStatement]) -> Result<Option<String>, Error> {
    let server = setting::of_server()?;
    let (was, is) = (values(settings, &server, |one| &one.was), values(settings, &server, |one| &one.is));
    let by_memory = settings.iter().any(|one| MEMORY.contains(&one.place.name.as_str()));
    for statement in wanted {
        for sample in statement.samples.iter().take(SAMPLES_MAX) {
            let (Some(before), Some(since)) = (plan_with(&was, statement, sample), plan_with(&is, statement, sample))
            else {
                continue;
            };
            let queryid = statement.queryid;
            if shape(&before) != shape(&since) {
                return Ok(Some(format!("statement {queryid} is planned another way than with the setting as it was")));
            }
            let cost = since.total_cost / before.total_cost.max(f64::MIN_POSITIVE);
            if by_memory && (cost - 1.0).abs() > COST_MOVED {
                return Ok(Some(format!(
                    "statement {queryid} has to use more temporary files than with the setting as it was"
                )));
            }
            let text = since.text.as_deref().unwrap_or_default();
            let works = |one: &Setting| {
                AT_EXECUTION.iter().any(|(name, step)| {
                    (one.place.name == *name || *name == "jit" && one.place.name.starts_with("jit"))
                        && text.contains(step)
                })
            };
            if settings.iter().any(works) {
                return Ok(Some(format!(
                    "statement {queryid} is executed in another way than with the setting as it was"
                )));
            }
        }
    }
    Ok(None)
}

/// Values to plan with: where nothing is set for a database or role, those of the server.
fn values(settings: &[Setting], server: &Settings, of: fn(&Setting) -> &Option<String>) -> Vec<(CString, String)> {
    let value = |one: &Setting| {
        let place = setting::Place { is_server: true, database: 0, role: 0, name: one.place.name.clone() };
        let value = of(one).clone().or_else(|| server.get(&place).map(|found| found.value.clone()))?;
        Some((CString::new(one.place.name.as_str()).ok()?, value))
    };
    settings.iter().filter_map(value).collect()
}

/// The columns of an index: keys, and what its expressions and its predicate mention.
fn columns_of(index: u32) -> Result<HashSet<i16>, Error> {
    privilege::as_owner(super::memory::TABLE, || {
        let found = rows(
            c"SELECT k.attnum::int2 FROM pg_catalog.pg_index i, pg_catalog.unnest(i.indkey::int2[]) AS k (attnum)
               WHERE i.indexrelid = $1 AND k.attnum > 0
               UNION
              SELECT d.refobjsubid::int2 FROM pg_catalog.pg_depend d
               WHERE d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.refobjsubid > 0",
            &[pg_sys::Oid::from(index).into()],
            |row| row.get::<i16>(1),
        );
        Ok(found.into_iter().flatten().collect())
    })
}

fn of_index(change: &Change, wanted: &[&WorkloadStatement]) -> Result<Option<String>, Error> {
    let Some(index) = indexes::oid(change) else { return Ok(None) };
    let columns = columns_of(index)?;
    for statement in wanted {
        let Some(plan) = statement.samples.iter().take(SAMPLES_MAX).find_map(|sample| plan(statement, sample)) else {
            continue;
        };
        let queryid = statement.queryid;
        let reads = plan.scans.iter().flat_map(|scan| &scan.indexes);
        if reads.into_iter().any(|used| *used == UsedIndex::Real(pg_sys::Oid::from(index))) {
            return Ok(Some(format!("statement {queryid} reads by it")));
        }
        let is_written =
            plan.writes.iter().filter(|write| write.relation == change.target).any(|write| match write.command {
                WriteCommand::Insert => true,
                WriteCommand::Update => write.columns.iter().any(|column| columns.contains(column)),
                WriteCommand::Delete => false,
            });
        if is_written {
            return Ok(Some(format!("statement {queryid} has to write to it")));
        }
    }
    Ok(None)
}
