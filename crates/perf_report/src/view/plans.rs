//! What was, what is planned, and what it costs: comparison, roadmap, money.

use std::collections::BTreeMap;

use super::{chip, finite, plain, sentence, sql, statement, words, Block, Cell, Kind, Section, Table, Tone};
use crate::clean;
use crate::document::{Compared, Document, RoadmapTask};
use crate::format;

/// Two periods side by side, the largest changes first.
pub(super) fn comparison(document: &Document) -> Section {
    let (id, title) = ("comparison", "Comparison");
    let Some(comparison) = &document.comparison else {
        let takeaway = "Nothing to compare with. perf.baseline_capture('before') keeps how things are now; \
                        perf.report(compare_to => 'before') shows what changed since."
            .to_owned();
        return Section { id, title, takeaway, blocks: Vec::new() };
    };
    let mut statements: Vec<&Compared> = comparison.statements.iter().collect();
    let weight = |c: &Compared| {
        let time = |calls: Option<f64>, mean: Option<f64>| finite(calls).unwrap_or(0.0) * finite(mean).unwrap_or(0.0);
        (time(c.calls_after, c.mean_ms_after) - time(c.calls_before, c.mean_ms_before)).abs()
    };
    statements.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    let before = or(clean::line(&comparison.before, clean::NAME), "before");
    let after = or(clean::line(&comparison.after, clean::NAME), "Now");
    let columns = [
        "Statement",
        ">Mean before",
        ">Mean after",
        ">Change",
        "Verdict",
        ">p95 before+",
        ">p95 after+",
        ">Calls before+",
        ">Calls after+",
    ];
    let mut table = Table::new(format!("{after}, compared with {before}"), &columns);
    for s in &statements {
        table.push(vec![
            statement(&s.query),
            plain(format::ms(s.mean_ms_before)),
            plain(format::ms(s.mean_ms_after)),
            plain(format::change(s.change_pct)),
            chip(&s.verdict),
            plain(format::ms(s.p95_ms_before)),
            plain(format::ms(s.p95_ms_after)),
            plain(format::count(s.calls_before)),
            plain(format::count(s.calls_after)),
        ]);
    }
    let verdicts = |verdict: &str| statements.iter().filter(|s| s.verdict == verdict).count();
    let (faster, slower) = (verdicts("faster"), verdicts("slower"));
    let mut takeaway = match finite(comparison.total_change_pct) {
        Some(change) if change <= -0.5 => {
            format!("The workload takes {} less time than {before}. ", format::percent(Some(-change)))
        }
        Some(change) if change >= 0.5 => {
            format!("The workload takes {} more time than {before}. ", format::percent(Some(change)))
        }
        Some(_) => format!("The workload takes as long as {before}. "),
        None => String::new(),
    };
    takeaway.push_str(&match statements.len() {
        0 => "No statement ran in both.".to_owned(),
        _ => format!("{} faster, {} slower.", format::plural(faster, "statement is", "statements are"), slower),
    });
    let blocks = if statements.is_empty() { Vec::new() } else { vec![Block::Table(table)] };
    Section { id, title, takeaway, blocks }
}

fn or(text: String, other: &str) -> String {
    if text.is_empty() {
        other.to_owned()
    } else {
        text
    }
}

/// The phases, a table each.
pub(super) fn roadmap(document: &Document) -> Section {
    let mut phases: BTreeMap<i32, Vec<&RoadmapTask>> = BTreeMap::new();
    for task in &document.roadmap {
        phases.entry(task.phase).or_default().push(task);
    }
    let applies = |t: &&&RoadmapTask| !matches!(t.status.as_str(), "not_needed" | "not_applicable");
    let done = |t: &&&RoadmapTask| t.status == "done";
    let mut blocks = Vec::new();
    // All phases together have the room of one table.
    let mut room = super::ROWS;
    for (phase, tasks) in phases.iter_mut() {
        if room == 0 {
            break;
        }
        tasks.sort_by_key(|t| t.task_no);
        let first = tasks.first();
        let name = first.map_or_else(String::new, |t| clean::line(&t.phase_name, clean::NAME));
        let weeks = first.map_or_else(String::new, |t| clean::line(&t.weeks, 20));
        let (left, all) = (tasks.iter().filter(done).count(), tasks.iter().filter(applies).count());
        let mut caption = format!("Phase {phase}");
        if !name.is_empty() {
            caption.push_str(&format!(": {name}"));
        }
        if !weeks.is_empty() {
            caption.push_str(&format!(", weeks {weeks}"));
        }
        caption.push_str(&format!(". {left} of {all} done"));
        let columns = ["Task", "Status", ">Expected gain", ">Measured gain", ">Hours", "Why+", "SQL+"];
        let mut table = Table::new(caption, &columns);
        for task in tasks.iter().take(room) {
            let hours = match (finite(task.effort_hours_low), finite(task.effort_hours_high)) {
                (Some(low), Some(high)) if low != high => format!("{}–{}", format::plain(low), format::plain(high)),
                (Some(hours), _) | (None, Some(hours)) => format::plain(hours),
                (None, None) => format::MISSING.to_owned(),
            };
            table.push(vec![
                sentence(&task.task),
                chip(&task.status),
                plain(expected_gain(task)),
                plain(format::percent(task.measured_gain_pct)),
                plain(hours),
                sentence(&task.reason),
                sql(&task.ddl),
            ]);
        }
        table.left_out = tasks.len() - table.rows.len();
        room -= table.rows.len();
        blocks.push(Block::Table(table));
    }
    let (done_count, all) =
        (document.roadmap.iter().filter(|t| done(&t)).count(), document.roadmap.iter().filter(|t| applies(&t)).count());
    let takeaway = match (document.roadmap.is_empty(), document.roadmap.iter().find(|t| t.status == "ready")) {
        (true, _) => "No roadmap. perf.load_policy() loads one to edit.".to_owned(),
        (_, Some(next)) => {
            let task = clean::line(&next.task, clean::NAME);
            format!("{done_count} of {} done. Next: {task}.", format::plural(all, "task is", "tasks are"))
        }
        (_, None) => format!("{done_count} of {} done.", format::plural(all, "task is", "tasks are")),
    };
    Section { id: "roadmap", title: "Roadmap", takeaway, blocks }
}

/// What a task is expected to gain, and how that is known: a hope must not look like a measurement.
fn expected_gain(task: &RoadmapTask) -> String {
    match (finite(task.expected_gain_pct), words(&task.gain_basis)) {
        (Some(gain), basis) if !basis.is_empty() => format!("{} ({basis})", format::percent(Some(gain))),
        (gain, _) => format::percent(gain),
    }
}

/// What it costs in a month.
pub(super) fn cost(document: &Document) -> Section {
    let columns = [">Quantity", "Unit", ">A month, from", ">to", "Known by", "Note+"];
    let columns: Vec<&'static str> = std::iter::once("Item").chain(columns).collect();
    let mut table = Table::new("Items, a month", &columns);
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for item in &document.cost {
        let currency = clean::line(&item.currency, 8);
        let (low, high) = (finite(item.monthly_cost_low), finite(item.monthly_cost_high));
        if low.or(high).is_some() {
            let sum = sums.entry(currency.clone()).or_default();
            *sum = (sum.0 + low.or(high).unwrap_or(0.0), sum.1 + high.or(low).unwrap_or(0.0));
        }
        table.push(vec![
            sentence(&item.item),
            plain(format::count(item.quantity)),
            sentence(&item.resource_unit),
            plain(money(low, &currency)),
            plain(money(high, &currency)),
            // What is hoped for must not look like what was counted.
            Cell {
                text: words(&item.basis),
                kind: Kind::Chip(if item.basis == "measured" { Tone::Good } else { Tone::Neutral }),
                ..Cell::default()
            },
            sentence(&item.note),
        ]);
    }
    let takeaway = match (document.cost.len(), sums.iter().next()) {
        (0, _) => "No prices are known. The table perf.price holds yours.".to_owned(),
        (items, None) => format!("{} without a price.", format::plural(items, "item", "items")),
        (items, Some((currency, (low, high)))) if sums.len() == 1 => {
            let (low, high) = (money(Some(*low), currency), money(Some(*high), currency));
            format!("The sum of {}: {low} to {high} a month.", format::plural(items, "item", "items"))
        }
        (items, Some(_)) => format!("{} in {} currencies.", format::plural(items, "item", "items"), sums.len()),
    };
    let blocks = if table.rows.is_empty() { Vec::new() } else { vec![Block::Table(table)] };
    Section { id: "cost", title: "Cost", takeaway, blocks }
}

/// `3,500 USD`; never shortened to millions.
fn money(amount: Option<f64>, currency: &str) -> String {
    match amount {
        None => format::MISSING.to_owned(),
        Some(amount) => format!("{} {currency}", format::plain(amount.round())).trim_end().to_owned(),
    }
}
