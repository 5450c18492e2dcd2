//! What captured statements could do better. Callers see their own statements, members of pg_read_all_stats those of the roles
//! that they could become as well: analysing a text can run code. Texts are shown as `perf.statements()` shows them.

use std::collections::{HashMap, HashSet};

use perf_core::rewrite as decide;
use pgrx::pg_sys;

use super::studied::Studied;
use super::Answer;
use crate::error::Error;
use crate::memory::samples;
use crate::memory::survey::{self, Snapshot};
use crate::pg::names::{current_database, Visibility};
use crate::pg::planner::Deadline;
use crate::pg::query_rules::Unseen;
use crate::pg::role;
use crate::workload::{captured, shapes, transactions};

/// Statements looked at, at most, by measured time.
const STATEMENTS_MAX: usize = 200;
/// How the server checks a foreign key; nobody's statement.
const FOREIGN_KEY_CHECK: &str = "SELECT 1 FROM ONLY ";

/// What became of the statements.
#[derive(Default)]
struct Tally {
    /// Of other roles.
    hidden: usize,
    /// Cannot be analysed.
    unclear: usize,
    /// One of them would have taken too long.
    slow: usize,
    looked_at: usize,
    /// Lighter ones that nobody came to, and whether for lack of time.
    left: usize,
    late: bool,
}

/// Adds the rows of the captured statements of this database, the heaviest first, as far as the time goes.
pub fn add(answer: &mut Answer, include_inapplicable: bool) -> Result<(), Error> {
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
    let mut tally = Tally::default();
    let mut next = answer.rows.iter().map(|row| row.example_no).max().unwrap_or(0) + 1;
    for (at, item) in items.iter().enumerate() {
        pgrx::check_for_interrupts!();
        tally.late = Deadline::has_passed();
        if tally.late || tally.looked_at >= STATEMENTS_MAX {
            tally.left = items.len() - at;
            break;
        }
        let user = pg_sys::Oid::from(item.key.userid);
        if !visible.covers(item.key.userid) || !role::may_plan_as(user) {
            tally.hidden += 1;
            continue;
        }
        let text = item.text.as_ref().map(|text| text.to_utf8()).unwrap_or_default();
        let samples = kept.remove(&item.key).unwrap_or_default();
        let is_check = !item.key.toplevel && text.starts_with(FOREIGN_KEY_CHECK);
        if text.is_empty() || is_check || shapes::is_own(item, &text, &samples) {
            continue;
        }
        tally.looked_at += 1;
        let often = item.key.toplevel.then(|| repeats.get(&(item.key.userid, item.key.queryid))).flatten();
        let samples = captured::statement(item, samples).samples;
        let studied = match Studied::of(item, text, samples, often.map_or(1, |one| one.0)) {
            Ok(studied) => studied,
            Err(Unseen::TimedOut) => {
                tally.slow += 1;
                continue;
            }
            Err(Unseen::Unclear) => {
                // Utility statements, and those of functions whose variables nobody knows here.
                tally.unclear += usize::from(item.key.toplevel && begins_as_query(item));
                continue;
            }
        };
        let mut rows = studied.rows(often, &mut told, include_inapplicable)?;
        for row in &mut rows {
            row.example_no = next;
            next += 1;
        }
        answer.rows.append(&mut rows);
    }
    tally.late |= Deadline::has_passed();
    answer.notices.extend(tally.notices());
    Ok(())
}

impl Tally {
    /// What was left out, and why.
    fn notices(&self) -> Vec<String> {
        let Tally { hidden, unclear, slow, looked_at, left, late } = *self;
        let mut notices = Vec::new();
        if late || left > 0 {
            let why = if late { "the time was up: " } else { "" };
            notices.push(format!(
                "{why}only the {looked_at} statements with the most time were looked at; there are {left} more"
            ));
        }
        if slow > 0 {
            notices.push(format!("{slow} statements were left out: analysing one takes too long"));
        }
        if hidden > 0 {
            notices.push(format!(
                "{hidden} statements were left out: they are of other roles. Members of pg_read_all_stats who are members of \
                 those roles as well are told"
            ));
        }
        if unclear > 0 {
            notices.push(format!("{unclear} statements were left out because they cannot be analysed"));
        }
        notices
    }
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
