//! Work memory of roles whose statements write temporary files: by what was measured of each, within what the machine has.

use std::collections::{BTreeMap, HashMap};

use perf_core::guard::work_mem_bound_kb;
use perf_core::rewrite::work_mem_kb;
use pgrx::pg_sys;
use serde_json::json;

use super::{value_of, Basis, Context, Row, WORK_MEM};
use crate::act::change::setting::{self, Place, Settings};
use crate::advise::index::study::{self, parameters_of};
use crate::collect::host;
use crate::error::Error;
use crate::memory::samples;
use crate::memory::survey::{self, Snapshot};
use crate::pg::names::{current_database, Visibility};
use crate::pg::planner::{self, Configuration};
use crate::pg::{background, ident, query_rules, role};
use crate::workload::captured;

const NAME: &str = "work_mem";
/// Executions without which nothing is advised.
const CALLS_MIN: u64 = 10;
/// Share of all time that a role's spilling statements must take.
const SHARE_MIN: f64 = 0.01;

/// A statement that writes temporary files.
struct Spill {
    item: Snapshot,
    /// By an execution.
    bytes: f64,
    /// With which it would not, in kB.
    wanted_kb: i64,
}

/// A row for each role that would do with more, as far as the caller may know of its statements.
pub(super) fn rows(context: &Context) -> Result<Vec<Row>, Error> {
    // Who reads a standby cannot change its roles there.
    if context.shapes.is_none() || background::in_recovery() {
        return Ok(Vec::new());
    }
    let database = current_database();
    let items = survey::snapshot(Some(database), true);
    let visible = Visibility::of_current_role();
    let total_ms: f64 = items.iter().map(|item| item.time_ns() as f64 * 1e-6).sum();
    let mut configured = setting::of_server()?;
    configured.extend(setting::of_entries()?);
    let mut roles: BTreeMap<u32, Vec<Spill>> = BTreeMap::new();
    for item in items {
        let user = item.key.userid;
        let bytes = item.temp_bytes();
        let may_know = visible.covers(user) && role::may_plan_as(pg_sys::Oid::from(user));
        if item.is_other || item.counters.calls < CALLS_MIN || bytes < f64::from(pg_sys::BLCKSZ) || !may_know {
            continue;
        }
        let Some(wanted_kb) = work_mem_kb(bytes, current_kb(&configured, database, user)) else { continue };
        roles.entry(user).or_default().push(Spill { item, bytes, wanted_kb });
    }
    let memory = context.measured.memory_bytes.or_else(host::memory_bytes);
    let buffers = value_of::<i64>("SELECT setting::int8 * 8192 FROM pg_settings WHERE name = 'shared_buffers'", &[])?;
    let sessions = context.measured.connections_of_database;
    let bound = memory.and_then(|memory| work_mem_bound_kb(memory, buffers.unwrap_or(0) as f64, sessions));
    let Some(bound_kb) = bound else { return Ok(Vec::new()) };
    let mut kept: HashMap<_, _> =
        if roles.is_empty() { HashMap::new() } else { samples::of_database(database).into_iter().collect() };
    let mut rows = Vec::new();
    for (user, spills) in roles {
        let (fits, beyond): (Vec<Spill>, Vec<Spill>) = spills.into_iter().partition(|one| one.wanted_kb <= bound_kb);
        let ms = |list: &[Spill]| list.iter().map(|one| one.item.time_ns() as f64 * 1e-6).sum::<f64>();
        let Some(kb) = fits.iter().map(|one| one.wanted_kb).max() else { continue };
        let (Some(name), true) = (role::known_name(pg_sys::Oid::from(user)), ms(&fits) >= SHARE_MIN * total_ms) else {
            continue;
        };
        let current = current_kb(&configured, database, user);
        let mut saved_ms = 0.0;
        for one in &fits {
            let statement = captured::statement(&one.item, kept.remove(&one.item.key).unwrap_or_default());
            let Some(sample) = statement.samples.first() else { continue };
            let parameters = parameters_of(sample);
            let asked = study::captured(sample, &parameters, statement.userid);
            let cost = |kb: i64| {
                let plan =
                    || planner::plan(&asked, &[Configuration::default()]).ok()?.first().map(|plan| plan.total_cost);
                query_rules::with_setting(c"work_mem", &format!("{kb}kB"), plan).ok().flatten()
            };
            if let (Some(before), Some(after)) = (cost(current), cost(kb)) {
                saved_ms += statement.total_ms * (1.0 - after / before.max(f64::MIN_POSITIVE)).max(0.0);
            }
        }
        let place = Place { is_server: false, database, role: user, name: NAME.to_owned() };
        let value = format!("{}MB", kb / 1024);
        let megabytes = fits.iter().map(|one| one.bytes).fold(0.0, f64::max) / 1_048_576.0;
        let mut row = Row::new("vertical");
        row.id = format!("{WORK_MEM}{name}");
        row.triggered = true;
        row.priority = "medium".to_owned();
        row.metric = Some("temp_written".to_owned());
        row.unit = Some("MB an execution".to_owned());
        row.measured_value = Some(megabytes);
        row.basis = if saved_ms > 0.0 { Basis::WhatIf } else { Basis::Measured };
        row.expected_benefit_pct = (saved_ms > 0.0 && total_ms > 0.0).then(|| 100.0 * saved_ms / total_ms);
        row.recommendation = format!("Give role {} {value} of work memory in this database.", ident::quote(&name));
        row.config = setting::statement(&place, Some(&value));
        row.reason = format!(
            "{} statements of the role write up to {megabytes:.1} MB of temporary files an execution, with {:.1} % of the \
             time, at a work_mem of {current} kB; a quarter of the memory beside the buffers, for {sessions:.0} sessions that sort \
             or hash twice each, is {bound_kb} kB.",
            fits.len(),
            100.0 * ms(&fits) / total_ms.max(f64::MIN_POSITIVE),
        );
        if !beyond.is_empty() {
            row.reason.push_str(&format!(" {} more would need more than that.", beyond.len()));
        }
        row.evidence = json!({
            "role": user, "role_name": name, "value": value, "work_mem_kb": kb, "current_kb": current,
            "bound_kb": bound_kb, "sessions": sessions, "memory_bytes": memory, "statements": fits.iter().map(|one| json!({
                "queryid": one.item.key.queryid as i64, "temp_bytes": one.bytes.round(), "calls": one.item.counters.calls,
                "wanted_kb": one.wanted_kb })).collect::<Vec<_>>(),
        });
        rows.push(row);
    }
    Ok(rows)
}

/// The work memory that sessions of a role have, in kB: what is set most closely counts.
fn current_kb(configured: &Settings, database: u32, role: u32) -> i64 {
    let places = [(false, database, role), (false, 0, role), (false, database, 0), (false, 0, 0), (true, 0, 0)];
    let found = places.into_iter().find_map(|(is_server, database, role)| {
        configured.get(&Place { is_server, database, role, name: NAME.to_owned() })
    });
    found.and_then(|found| found.value.parse::<f64>().ok()).map_or(4096, |kb| kb as i64)
}
