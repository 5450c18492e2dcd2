//! What grows, how far it will, and when it meets a limit.

use super::{day, finite, plain, sentence, words, Block, Section, Table};
use crate::chart::{Chart, Line, Style};
use crate::clean;
use crate::document::{Capacity, Document};
use crate::format::{self, Unit};
use crate::series;

/// Charts with their forecasts, and the limits ahead.
pub(super) fn section(document: &Document) -> Section {
    let charts: Vec<Chart> = document.capacity.iter().take(12).map(chart).filter(|c| !c.is_empty()).collect();
    let mut blocks = Vec::new();
    if !charts.is_empty() {
        blocks.push(Block::Charts(charts));
    }
    blocks.extend(outlook(document).map(Block::Table));
    blocks.extend(limits(document).map(Block::Table));
    Section { id: "capacity", title: "Capacity", takeaway: takeaway(document), blocks }
}

/// What people call a metric.
fn title(metric: &str) -> String {
    match metric {
        "database_size" => "Database size".to_owned(),
        "disk_used" => "Disk in use".to_owned(),
        "peak_connections" => "Connections at peak".to_owned(),
        "qps" => "Statements a second".to_owned(),
        other => words(other),
    }
}

fn chart(capacity: &Capacity) -> Chart {
    let unit = Unit::of(&capacity.unit);
    let points = series::points(&capacity.history);
    let last = points.iter().rev().find_map(|(at, value)| value.map(|value| (*at, value)));
    let mut fan: Vec<_> = capacity
        .forecast
        .iter()
        .filter_map(|f| {
            let mid = finite(f.mid)?;
            Some((f.at.seconds(), finite(f.low).unwrap_or(mid), mid, finite(f.high).unwrap_or(mid)))
        })
        .take(400)
        .collect();
    fan.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut summary = format!("{}: ", title(&capacity.metric));
    match last {
        Some((_, value)) => summary.push_str(&format!("{} now", unit.show(Some(value)))),
        None => summary.push_str("not measured yet"),
    }
    if let Some((.., low, mid, high)) = fan.last().copied() {
        let at = capacity.forecast.iter().map(|f| f.at).max().map_or_else(String::new, |at| at.day());
        let range = format!("between {} and {}", unit.show(Some(low)), unit.show(Some(high)));
        summary.push_str(&format!(", {} expected on {at}, {range}", unit.show(Some(mid))));
    }
    summary.push('.');
    // The fan opens where the measurements end.
    if let (Some((at, value)), false) = (last, fan.is_empty()) {
        fan.insert(0, (at, value, value, value));
    }
    let limits = capacity.triggers.iter().filter_map(|t| Some((clean::line(&t.name, clean::NAME), finite(t.value)?)));
    Chart {
        title: title(&capacity.metric),
        summary,
        unit: capacity.unit.clone(),
        lines: vec![Line { name: "measured".to_owned(), points, style: Style::Line }],
        fan,
        limits: limits
            .take(6)
            .map(|(name, value)| (format!("{name}: {}", unit.short().show(Some(value))), value))
            .collect(),
    }
}

/// Where things will be.
fn outlook(document: &Document) -> Option<Table> {
    let columns = ["Measure", "When", ">Now", ">Expected", ">At least", ">At most", "Forecast", "Rests on+"];
    let mut table = Table::new("Outlook", &columns);
    for capacity in &document.capacity {
        let unit = Unit::of(&capacity.unit).short();
        let now = series::last(&series::points(&capacity.history));
        let named = capacity.forecast.iter().filter(|f| !f.label.is_empty());
        let mut forecasts: Vec<_> = named.map(|f| (clean::line(&f.label, 40), Some(f))).collect();
        if forecasts.is_empty() {
            let last = capacity.forecast.iter().max_by_key(|f| f.at);
            forecasts.push((last.map_or_else(|| format::MISSING.to_owned(), |f| f.at.day()), last));
        }
        for (label, forecast) in forecasts {
            table.push(vec![
                plain(title(&capacity.metric)),
                plain(label),
                plain(unit.show(now)),
                plain(unit.show(forecast.and_then(|f| f.mid))),
                plain(unit.show(forecast.and_then(|f| f.low))),
                plain(unit.show(forecast.and_then(|f| f.high))),
                plain(words(&capacity.quality)),
                plain(rests_on(capacity)),
            ]);
        }
    }
    (!table.rows.is_empty()).then_some(table)
}

/// How much a forecast is worth: what it rests on, and how far off such forecasts were.
fn rests_on(capacity: &Capacity) -> String {
    let days = finite(capacity.history_days).map(|d| format!("{} days", format::plain(d.round())));
    let error = finite(capacity.backtest_error_pct).map(|e| format!("errors of {}", format::percent(Some(e))));
    let coverage = finite(capacity.backtest_coverage_pct).map(|c| format!("{} within range", format::percent(Some(c))));
    let parts: Vec<String> = [days, error, coverage].into_iter().flatten().collect();
    if parts.is_empty() {
        format::MISSING.to_owned()
    } else {
        parts.join(", ")
    }
}

/// The limits, the nearest first.
fn limits(document: &Document) -> Option<Table> {
    let mut all: Vec<_> = document.capacity.iter().flat_map(|c| c.triggers.iter().map(move |t| (c, t))).collect();
    all.sort_by_key(|(_, t)| (t.crosses_at.is_none(), t.crosses_at));
    let columns = ["Measure", "Limit", ">At", "Expected", "Earliest", "Latest+", "What to do"];
    let mut table = Table::new("Limits ahead", &columns);
    for (capacity, trigger) in &all {
        table.push(vec![
            plain(title(&capacity.metric)),
            sentence(&trigger.name),
            plain(Unit::of(&capacity.unit).short().show(trigger.value)),
            day(trigger.crosses_at),
            day(trigger.crosses_earliest_at),
            day(trigger.crosses_latest_at),
            sentence(&trigger.action),
        ]);
    }
    (!all.is_empty()).then_some(table)
}

fn takeaway(document: &Document) -> String {
    if document.capacity.is_empty() {
        return "No sizes have been sampled yet. The sampler starts with the server once perf_opt is loaded; a forecast \
                needs two weeks of history."
            .to_owned();
    }
    let crossings = document.capacity.iter().flat_map(|c| c.triggers.iter().map(move |t| (c, t)));
    match crossings.filter_map(|(c, t)| Some((t.crosses_at?, c, t))).min_by_key(|(at, ..)| *at) {
        Some((at, capacity, trigger)) => {
            let value = Unit::of(&capacity.unit).show(trigger.value);
            let early =
                trigger.crosses_earliest_at.map_or_else(String::new, |at| format!(", {} at the earliest", at.day()));
            format!("{} reaches {value} on {}{early}; no other limit is met before.", title(&capacity.metric), at.day())
        }
        None if document.capacity.iter().all(|c| c.forecast.is_empty()) => {
            "There is not enough history for a forecast yet.".to_owned()
        }
        None => "No limit is met within what can be foreseen.".to_owned(),
    }
}
