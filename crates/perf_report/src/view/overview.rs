//! The first section: what is wrong, what to do first, and the few numbers that matter.

use super::{chip, finite, name, notice, plain, sentence, when, Block, Notice, Section, Table, Tile, Tone};
use crate::clean;
use crate::document::{Document, Level, Statement};
use crate::format::{self, Unit};
use crate::series;

/// Warnings, numbers, alerts.
pub(super) fn section(document: &Document) -> Section {
    let firing = document.alerts.iter().filter(|a| a.status == "firing").count();
    let mut blocks = Vec::new();
    let notices = notices(document);
    if !notices.is_empty() {
        blocks.push(Block::Notices(notices));
    }
    let tiles = tiles(document, firing);
    if !tiles.is_empty() {
        blocks.push(Block::Tiles(tiles));
    }
    if let Some(table) = alerts(document) {
        blocks.push(Block::Table(table));
    }
    Section { id: "overview", title: "Overview", takeaway: takeaway(document, firing), blocks }
}

/// Whether nothing at all has been measured.
fn nothing(document: &Document) -> bool {
    let empty = Document {
        title: document.title.clone(),
        generated_at: document.generated_at,
        server: document.server.clone(),
        period: document.period.clone(),
        warnings: document.warnings.clone(),
        health: document.health.clone(),
        ..Document::default()
    };
    *document == empty
}

fn takeaway(document: &Document, firing: usize) -> String {
    if nothing(document) {
        return "Nothing has been measured yet.".to_owned();
    }
    let mut parts = Vec::new();
    parts.push(match (firing, document.alerts.len()) {
        (0, 0) => String::new(),
        (0, _) => "No alert fires.".to_owned(),
        (firing, _) => format!("{} firing.", format::plural(firing, "alert is", "alerts are")),
    });
    let heaviest = document.statements.iter().max_by(|a, b| share(a).total_cmp(&share(b)));
    if let Some(heaviest) = heaviest.filter(|s| share(s) > 0.0) {
        let share = format::percent(heaviest.share_pct);
        parts.push(format!("One statement takes {share} of the database's time."));
    }
    if let Some(best) = super::advice::best(document) {
        let title = clean::line(&best.title, clean::NAME);
        parts.push(match format::percent(best.predicted_gain_pct) {
            gain if finite(best.predicted_gain_pct).is_some() => {
                format!("The change that promises most: {title} ({gain} of the workload's time).")
            }
            _ => format!("The first change to make: {title}."),
        });
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() {
        "Nothing stands out in this period.".to_owned()
    } else {
        parts.join(" ")
    }
}

fn share(statement: &Statement) -> f64 {
    finite(statement.share_pct).unwrap_or(0.0)
}

fn notices(document: &Document) -> Vec<Notice> {
    let mut notices: Vec<Notice> =
        document.warnings.iter().take(20).map(|w| notice(w.level, &w.message, &w.action, &w.sql)).collect();
    if nothing(document) && notices.is_empty() {
        notices.push(notice(
            Level::Warning,
            "There is nothing to report yet.",
            "Load perf_opt when the server starts, restart it, let your application run for an hour, and ask for this \
             report again.",
            "ALTER SYSTEM SET shared_preload_libraries = 'perf_opt';",
        ));
    }
    notices
}

fn tiles(document: &Document, firing: usize) -> Vec<Tile> {
    let mut tiles = Vec::new();
    if !document.alerts.is_empty() {
        let tone = if firing == 0 { Tone::Good } else { Tone::Bad };
        let note = format!("of {}", document.alerts.len());
        tiles.push(Tile { label: "Alerts firing".to_owned(), value: format::plain(firing as f64), note, tone });
    }
    // Of a chart that has p95 and others, p95 is the one to quote.
    let latency = document.latency.iter().find(|s| s.name.contains("95")).or(document.latency.first());
    let latency = latency.map(|s| (format!("Latency, {}", clean::line(&s.name, 20)), s));
    let load = document.load.iter().take(2).map(|s| (clean::line(&s.name, 40), s));
    for (label, series) in latency.into_iter().chain(load) {
        let points = series::points(&series.samples);
        let Some(last) = series::last(&points) else { continue };
        let unit = Unit::of(&series.unit).short();
        let peak = series::extent(points.iter().filter_map(|p| p.1)).map(|e| e.1);
        let note = format!("at most {}", unit.show(peak));
        tiles.push(Tile { label, value: unit.show(Some(last)), note, tone: Tone::Neutral });
    }
    let open = document.recommendations.iter().filter(|r| super::advice::open(r));
    let high = open.clone().filter(|r| r.priority == "high").count();
    if !document.recommendations.is_empty() {
        let value = format::plain(open.count() as f64);
        let tone = if high > 0 { Tone::Warn } else { Tone::Neutral };
        tiles.push(Tile { label: "Recommendations".to_owned(), value, note: format!("{high} of high priority"), tone });
    }
    let crossings = document.capacity.iter().flat_map(|c| c.triggers.iter().map(move |t| (c, t)));
    let next = crossings.filter_map(|(c, t)| Some((t.crosses_at?, c, t))).min_by_key(|(at, ..)| *at);
    if let Some((at, capacity, trigger)) = next {
        let unit = Unit::of(&capacity.unit);
        let note = format!("{} reaches {}", super::words(&capacity.metric), unit.show(trigger.value));
        tiles.push(Tile { label: "Next limit".to_owned(), value: at.day(), note, tone: Tone::Neutral });
    }
    if let Some(total) = document.comparison.as_ref().and_then(|c| finite(c.total_change_pct)) {
        let tone = if total < -1.0 {
            Tone::Good
        } else if total > 1.0 {
            Tone::Bad
        } else {
            Tone::Neutral
        };
        let before = document.comparison.as_ref().map_or("", |c| c.before.as_str());
        let note = format!("of database time against {}", clean::line(before, 40));
        tiles.push(Tile { label: "Change".to_owned(), value: format::change(Some(total)), note, tone });
    }
    tiles
}

/// The alerts, those that fire first.
fn alerts(document: &Document) -> Option<Table> {
    let mut alerts: Vec<_> = document.alerts.iter().collect();
    alerts.sort_by_key(|a| match a.status.as_str() {
        "firing" => 0,
        "no_data" => 2,
        _ => 1,
    });
    let columns = ["Alert", "Status", "Severity", ">Value", ">Threshold", "Since+", "What to do"];
    let mut table = Table::new("Alerts", &columns);
    for alert in &alerts {
        let unit = Unit::of(&alert.unit);
        // Only what fires is severe.
        let severity =
            if alert.status == "firing" { chip(&alert.severity) } else { plain(super::words(&alert.severity)) };
        table.push(vec![
            name(&alert.name),
            chip(&alert.status),
            severity,
            plain(unit.show(alert.value)),
            plain(unit.show(alert.threshold)),
            when(alert.since_at),
            sentence(&alert.action),
        ]);
    }
    (!alerts.is_empty()).then_some(table)
}
