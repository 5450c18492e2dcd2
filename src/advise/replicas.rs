//! What read replicas could take over: the time of captured transactions, scaled to what each application did in all, handed
//! to `perf_core::replicas`. Called by the recommendations on scaling. Owns nothing; locks nothing.

use std::collections::{BTreeMap, HashMap};

use perf_core::replicas::{self, Advice, Work};

use crate::pg::names::{Names, Visibility};
use crate::workload::shapes::{Shaped, Shapes};
use crate::workload::transactions::{Application, Trace};

/// Instead of names that the caller may not see.
const HIDDEN: &str = "<insufficient privilege>";

/// Roles of applications that there was no room for.
const OTHERS: &str = "(other)";

/// What can be said.
pub struct Offload {
    /// Shares and targets.
    pub advice: Advice,
    /// Transactions were captured; otherwise each statement counted by itself, and what belongs to a transaction that
    /// writes was not known: a bound.
    pub by_transactions: bool,
}

/// What `traces` of this database say. `applications` are those of the database.
pub fn offload(shapes: &Shapes, traces: &[Trace], applications: &[Application]) -> Offload {
    let mut names = Visible { names: Names::default(), visibility: Visibility::of_current_role() };
    if traces.is_empty() {
        return Offload { advice: replicas::advise(&by_statements(shapes, &mut names)), by_transactions: false };
    }
    Offload {
        advice: replicas::advise(&by_transactions(shapes, traces, applications, &mut names)),
        by_transactions: true,
    }
}

/// Names as far as the caller may see them.
struct Visible {
    names: Names,
    visibility: Visibility,
}

impl Visible {
    fn role(&mut self, userid: u32) -> String {
        if userid == 0 {
            return OTHERS.to_owned();
        }
        match self.visibility.covers(userid).then(|| self.names.role(userid)) {
            Some(name) => name.map_or_else(|| userid.to_string(), |name| String::from_utf8_lossy(name).into_owned()),
            None => HIDDEN.to_owned(),
        }
    }

    fn application(&self, userid: u32, name: &str) -> String {
        if self.visibility.covers(userid) { name } else { HIDDEN }.to_owned()
    }
}

/// Whether a statement reads catalogs alone, or what this extension knows: a look at the server that runs it.
fn is_about_the_server(one: &Shaped) -> bool {
    one.shape.catalogs && one.shape.tables.is_empty()
}

fn is_write(one: &Shaped) -> bool {
    one.shape.command == crate::pg::statement_shape::Command::Write
}

fn by_statements(shapes: &Shapes, names: &mut Visible) -> Vec<Work> {
    let top = shapes.statements.iter().filter(|one| one.toplevel && !is_about_the_server(one));
    let mut work: Vec<Work> = top
        .map(|one| Work {
            role: names.role(one.userid.to_u32()),
            total_ms: one.total_ms,
            writes: is_write(one),
            locks_rows: one.shape.locks_rows,
            volatile: one.shape.volatile,
            temporary_tables: one.shape.temporary,
            ..Work::default()
        })
        .collect();
    // What nobody understands may do anything.
    let unknown_ms = shapes.unclear_ms + shapes.hidden_ms;
    if unknown_ms > 0.0 {
        work.push(Work { role: HIDDEN.to_owned(), total_ms: unknown_ms, volatile: true, ..Work::default() });
    }
    work
}

/// Of one application: time of captured transactions that write, and of others.
#[derive(Default)]
struct Captured {
    writing_ns: f64,
    reading_ns: f64,
}

fn by_transactions(shapes: &Shapes, traces: &[Trace], applications: &[Application], names: &mut Visible) -> Vec<Work> {
    let known: HashMap<(u64, bool), &Shaped> =
        shapes.statements.iter().map(|one| ((one.queryid, one.toplevel), one)).collect();
    // What is not understood, is of roles the caller could not become, or was not kept, may do anything.
    let may_do_anything = |id: &(u64, bool)| match known.get(id) {
        Some(one) => one.shape.volatile,
        None => shapes.apart.get(id).copied().unwrap_or(true),
    };
    let is_known = |id: &(u64, bool)| known.contains_key(id) || shapes.apart.contains_key(id);
    let mut captured: BTreeMap<(u32, &str), Captured> = BTreeMap::new();
    for trace in traces {
        let sum = captured.entry((trace.userid, &trace.application)).or_default();
        *if trace.writes { &mut sum.writing_ns } else { &mut sum.reading_ns } += trace.statement_ns as f64;
    }
    let totals: HashMap<(u32, &str), (f64, f64)> = (applications.iter())
        .map(|one| {
            let writing = one.writing_ns as f64;
            ((one.userid, one.name.as_str()), (writing, (one.statement_ns as f64 - writing).max(0.0)))
        })
        .collect();
    let factor = |total: f64, part: f64| if part > 0.0 { total / part } else { 0.0 };
    let counts = |trace: &&Trace| {
        let is_look = |id: &(u64, bool)| match known.get(id) {
            Some(one) => Some(is_about_the_server(one)),
            None => shapes.own.contains(id).then_some(true),
        };
        let ids = || trace.steps.iter().map(|step| (step.queryid, step.toplevel));
        let mut looks = ids().filter_map(|id| is_look(&id)).peekable();
        looks.peek().is_none() || !looks.all(|is_look| is_look) || ids().any(|id| !is_known(&id))
    };
    let mut work: Vec<Work> = (traces.iter().filter(counts))
        .map(|trace| {
            let key = (trace.userid, trace.application.as_str());
            let scale = match (totals.get(&key), captured.get(&key)) {
                (Some((writing, _)), Some(part)) if trace.writes => factor(*writing, part.writing_ns),
                (Some((_, reading)), Some(part)) => factor(*reading, part.reading_ns),
                _ => 1.0,
            };
            let total_ms = trace.statement_ns as f64 * 1e-6 * scale;
            let steps = || trace.steps.iter().map(|step| known.get(&(step.queryid, step.toplevel)));
            Work {
                role: names.role(trace.userid),
                application: names.application(trace.userid, &trace.application),
                total_ms,
                fresh_ms: if trace.fresh { total_ms } else { 0.0 },
                // A standby refuses a statement that writes, though it may have found nothing to write here.
                writes: trace.writes || steps().flatten().any(|one| is_write(one)),
                locks_rows: steps().flatten().any(|one| one.shape.locks_rows),
                // So may what is not known to its end.
                volatile: trace.truncated
                    || trace.steps.iter().any(|step| may_do_anything(&(step.queryid, step.toplevel))),
                temporary_tables: trace.temporary,
            }
        })
        .collect();
    // Of what was never captured it is known only whether it wrote.
    for ((userid, name), (writing, reading)) in totals {
        let part = captured.get(&(userid, name));
        let missing = |total: f64, captured: Option<f64>| if captured.unwrap_or(0.0) > 0.0 { 0.0 } else { total };
        let rest = [
            (missing(writing, part.map(|p| p.writing_ns)), true, false),
            (missing(reading, part.map(|p| p.reading_ns)), false, true),
        ];
        for (ns, writes, volatile) in rest.into_iter().filter(|(ns, ..)| *ns > 0.0) {
            work.push(Work {
                role: names.role(userid),
                application: names.application(userid, name),
                total_ms: ns * 1e-6,
                writes,
                volatile,
                ..Work::default()
            });
        }
    }
    work
}
