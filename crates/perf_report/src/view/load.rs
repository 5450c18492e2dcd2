//! Load and latency over time, and the statements behind them.

use super::{chip, finite, plain, statement, words, Block, Cell, Kind, Section, Table};
use crate::chart::{Chart, Line, Style};
use crate::clean;
use crate::document::{Document, Series, Statement};
use crate::format::{self, Unit};
use crate::series;

/// The most series of a document that become charts.
const CHARTS: usize = 12;

/// How much work there was, and how long it took.
pub(super) fn section(document: &Document) -> Section {
    let mut charts = Vec::new();
    let latency: Vec<Line> = document.latency.iter().take(4).map(|s| line(s, Style::Line)).collect();
    let unit = document.latency.first().map_or("ms", |s| if s.unit.is_empty() { "ms" } else { s.unit.as_str() });
    match latency.as_slice() {
        [] => {}
        [alone] => charts.push(chart(&format!("Latency of statements, {}", alone.name), unit, latency)),
        _ => charts.push(chart("Latency of statements", unit, latency)),
    }
    for series in document.load.iter().take(CHARTS) {
        // What is counted in a stretch of time is a bar, what is there all the time an area.
        let style = if matches!(series.unit.as_str(), "count" | "1/min") { Style::Bars } else { Style::Area };
        charts.push(chart(&clean::line(&series.name, clean::NAME), &series.unit, vec![line(series, style)]));
    }
    charts.retain(|chart| !chart.is_empty());
    let takeaway = match charts.as_slice() {
        [] => "No load was recorded in this period. Capture works once perf_opt is in shared_preload_libraries and \
               perf_opt.capture is on."
            .to_owned(),
        charts => charts.iter().take(2).map(|chart| sentence(chart) + ".").collect::<Vec<_>>().join(" "),
    };
    let blocks = if charts.is_empty() { Vec::new() } else { vec![Block::Charts(charts)] };
    Section { id: "load", title: "Load and latency", takeaway, blocks }
}

fn line(series: &Series, style: Style) -> Line {
    Line { name: clean::line(&series.name, clean::NAME), points: series::points(&series.samples), style }
}

/// What a chart comes down to: of latencies p95 speaks for all.
fn sentence(chart: &Chart) -> String {
    let line = chart.lines.iter().find(|line| line.name.contains("95")).or(chart.lines.first());
    let Some(line) = line else { return chart.title.clone() };
    let name = if chart.lines.len() > 1 { format!("{}, {}", chart.title, line.name) } else { chart.title.clone() };
    match series::extent(line.points.iter().filter_map(|p| p.1)) {
        Some((low, high)) => {
            let unit = Unit::of(&chart.unit).short();
            format!("{name}: {} to {}", unit.show(Some(low)), unit.show(Some(high)))
        }
        None => name,
    }
}

/// A chart, with the sentence that tells it.
fn chart(title: &str, unit: &str, lines: Vec<Line>) -> Chart {
    let shown = Unit::of(unit);
    let mut told = Vec::new();
    for line in &lines {
        let Some((low, high)) = series::extent(line.points.iter().filter_map(|p| p.1)) else { continue };
        let (low, high, last) = (shown.show(Some(low)), shown.show(Some(high)), shown.show(series::last(&line.points)));
        let what = if lines.len() > 1 { format!("{} ", line.name) } else { String::new() };
        told.push(format!("{what}between {low} and {high}, {last} at the end"));
    }
    let summary = format!("{title}: {}.", told.join("; "));
    Chart { title: title.to_owned(), summary, unit: unit.to_owned(), lines, ..Chart::default() }
}

/// The statements that take the time.
pub(super) fn statements(document: &Document) -> Section {
    let mut all: Vec<&Statement> = document.statements.iter().collect();
    all.sort_by(|a, b| {
        let by = |s: &Statement| (finite(s.share_pct).unwrap_or(-1.0), finite(s.total_ms).unwrap_or(-1.0));
        by(b).partial_cmp(&by(a)).unwrap_or(std::cmp::Ordering::Equal)
    });
    let takeaway = takeaway(&all);
    let columns = ["Statement", ">Share", ">Calls", ">Total", ">Mean", ">p95", "Mean over time+", "Trend", "Cause"];
    let mut table = Table::new("Statements by their share of database time", &columns);
    for s in &all {
        let trend = match finite(s.trend_pct) {
            Some(pct) if s.trend != "steady" && s.trend != "new" && !s.trend.is_empty() => {
                let text = format!("{} {}", words(&s.trend), format::change(Some(pct)));
                Cell { text, ..chip(&s.trend) }
            }
            _ => chip(&s.trend),
        };
        let share = finite(s.share_pct).map_or(Kind::Text, |share| Kind::Share(share.clamp(0.0, 100.0)));
        let history = series::points(&s.history);
        table.push(vec![
            Cell { note: note(s), ..statement(&s.query) },
            Cell { text: format::percent(s.share_pct), kind: share, ..Cell::default() },
            plain(format::count(s.calls)),
            plain(format::ms(s.total_ms)),
            plain(format::ms(s.mean_ms)),
            plain(format::ms(s.p95_ms)),
            Cell { text: series::blocks(&history, 12), kind: Kind::Spark(history), ..Cell::default() },
            trend,
            plain(words(&s.cause)),
        ]);
    }
    let blocks = if all.is_empty() { Vec::new() } else { vec![Block::Table(table)] };
    Section { id: "statements", title: "Top statements", takeaway, blocks }
}

/// Who runs it, what it touches, how often it failed.
fn note(statement: &Statement) -> String {
    let mut parts = Vec::new();
    let (role, application) = (clean::line(&statement.username, 60), clean::line(&statement.application_name, 60));
    match (role.is_empty(), application.is_empty()) {
        (false, false) => parts.push(format!("{role} via {application}")),
        (true, true) => {}
        _ => parts.push(format!("{role}{application}")),
    }
    if !statement.relations.is_empty() {
        let relations: Vec<String> = statement.relations.iter().take(5).map(|r| clean::line(r, 60)).collect();
        parts.push(format!("on {}", relations.join(", ")));
    }
    if let Some(failures) = finite(statement.failures).filter(|f| *f > 0.0) {
        parts.push(format!("{} failed", format::count(Some(failures))));
    }
    parts.join("; ")
}

fn takeaway(statements: &[&Statement]) -> String {
    if statements.is_empty() {
        return "No statement has been captured yet. What runs from now on appears here.".to_owned();
    }
    let top: f64 = statements.iter().take(3).filter_map(|s| finite(s.share_pct)).sum();
    let rising = statements.iter().filter(|s| s.trend == "rising").count();
    let mut text = match statements.len() {
        _ if top <= 0.0 => format!("{}.", format::plural(statements.len(), "statement", "statements")),
        1 => format!("The only statement takes {} of all database time.", format::percent(Some(top))),
        count => {
            let top = format::percent(Some(top.min(100.0)));
            format!("The first {} of {count} statements take {top} of all database time.", count.min(3))
        }
    };
    if rising > 0 {
        text.push_str(&format!(" {} slower than before.", format::plural(rising, "is getting", "are getting")));
    }
    text
}
