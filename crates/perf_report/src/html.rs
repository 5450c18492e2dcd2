//! The report as one page. Called by `render`.
//!
//! What a reader's browser gets is the templates' markup and nothing else: they escape every text of the view, and
//! only the drawings of `chart`, the style sheet and the script are let through as they are. The page's
//! Content-Security-Policy knows that style and script by their checksums, so that even markup that came through
//! would neither run nor load.

use askama::Template;
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use sha2::{Digest, Sha256};

use crate::chart::{self, Chart, Screen, NARROW, WIDE};
use crate::format::Unit;
use crate::series::{self, Point};
use crate::view::{Advice, Block, Cell, Kind, Notice, Section, Table, Tile, View};
use crate::{format, Timestamp};

const STYLE: &str = include_str!("../templates/report.css");
const SCRIPT: &str = include_str!("../templates/report.js");
/// The most rows of the table below a chart.
const CHART_ROWS: usize = 60;
/// How long the text of a statement may be to stand in a cell whole; what is longer is opened by the reader.
const WHOLE: usize = 150;

/// The page.
#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    view: &'a View,
    sections: Vec<Part<'a>>,
    style: &'static str,
    script: &'static str,
    style_hash: String,
    script_hash: String,
}

/// A section of the page.
struct Part<'a> {
    section: &'a Section,
    pieces: Vec<Piece<'a>>,
}

/// A block of the page, with its charts drawn.
enum Piece<'a> {
    Tiles(&'a [Tile]),
    Notices(&'a [Notice]),
    Figures(Vec<Figure<'a>>),
    Advice(&'a [Advice]),
    Table(&'a Table),
}

/// A chart of the page.
struct Figure<'a> {
    id: String,
    chart: &'a Chart,
    drawings: Vec<Drawing>,
    /// Class and name of its measures, where there is more than one thing to tell apart.
    legend: Vec<(String, String)>,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
    remark: String,
}

/// A drawing for one kind of screen.
struct Drawing {
    screen: &'static str,
    view_box: String,
    svg: String,
}

/// The report as a page.
pub(crate) fn render(view: &View) -> Result<String, askama::Error> {
    let mut number = 0;
    let sections = view.sections.iter().map(|section| part(section, &mut number)).collect();
    let page = Page {
        view,
        sections,
        style: STYLE,
        script: SCRIPT,
        style_hash: STANDARD.encode(Sha256::digest(STYLE)),
        script_hash: STANDARD.encode(Sha256::digest(SCRIPT)),
    };
    page.render()
}

fn part<'a>(section: &'a Section, number: &mut usize) -> Part<'a> {
    let mut piece = |block: &'a Block| match block {
        Block::Tiles(tiles) => Piece::Tiles(tiles),
        Block::Notices(notices) => Piece::Notices(notices),
        Block::Advice(advice) => Piece::Advice(advice),
        Block::Table(table) => Piece::Table(table),
        Block::Charts(charts) => Piece::Figures(
            charts
                .iter()
                .map(|chart| {
                    *number += 1;
                    figure(format!("chart-{number}"), chart)
                })
                .collect(),
        ),
    };
    Part { section, pieces: section.blocks.iter().map(&mut piece).collect() }
}

fn figure(id: String, chart: &Chart) -> Figure<'_> {
    let drawing =
        |screen: Screen| Drawing { screen: screen.name, view_box: Chart::view_box(screen), svg: chart.svg(screen) };
    let mut legend: Vec<(String, String)> = Vec::new();
    if chart.lines.len() > 1 || !chart.fan.is_empty() {
        let lines = chart.lines.iter().enumerate();
        legend.extend(lines.map(|(at, line)| (format!("s{}", chart::line_class(at)), line.name.clone())));
    }
    if !chart.fan.is_empty() {
        legend.push(("s5".to_owned(), "expected, with its range".to_owned()));
    }
    if !chart.limits.is_empty() {
        legend.push(("s8".to_owned(), "limit".to_owned()));
    }
    if chart.is_banded() {
        legend.push((String::new(), "lines are means, bands reach from lowest to highest".to_owned()));
    }
    let bars = |line: &chart::Line| line.style == chart::Style::Bars && line.points.len() > NARROW.bars;
    if chart.lines.iter().any(bars) {
        legend.push((String::new(), "a bar is the highest of its time".to_owned()));
    }
    let (columns, rows, remark) = data(chart);
    Figure { id, chart, drawings: vec![drawing(WIDE), drawing(NARROW)], legend, columns, rows, remark }
}

/// The numbers of a chart as a table: titles, rows, and what there is to say of them.
fn data(chart: &Chart) -> (Vec<String>, Vec<Vec<String>>, String) {
    let unit = Unit::of(&chart.unit);
    let time = |at: f64| Timestamp::from_unix_s(at as i64).minute();
    // Lines are thinned alike only if they share their times: the times of all decide.
    let mut times: Vec<f64> = chart.lines.iter().flat_map(|line| line.points.iter().map(|p| p.0)).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    let count = times.len();
    let begins: Vec<Point> = times.iter().map(|at| (*at, None)).collect();
    let begins: Vec<f64> = series::highest(&begins, CHART_ROWS).into_iter().map(|p| p.0).collect();
    let mut rows: Vec<Vec<String>> = begins.iter().map(|at| vec![time(*at)]).collect();
    for line in &chart.lines {
        for (at, row) in rows.iter_mut().enumerate() {
            let from = begins.get(at).copied().unwrap_or(f64::NEG_INFINITY);
            let to = begins.get(at + 1).copied().unwrap_or(f64::INFINITY);
            let first = line.points.partition_point(|p| p.0 < from);
            let values = line.points.iter().skip(first).take_while(|p| p.0 < to).filter_map(|p| p.1);
            row.push(unit.show(series::extent(values).map(|e| e.1)));
        }
    }
    let mut columns = vec!["Time (UTC)".to_owned()];
    columns.extend(chart.lines.iter().map(|line| line.name.clone()));
    if !chart.fan.is_empty() {
        columns.extend(["expected", "at least", "at most"].map(str::to_owned));
        for row in &mut rows {
            row.extend(std::iter::repeat_n(format::MISSING.to_owned(), 3));
        }
        let every = chart.fan.len().div_ceil(CHART_ROWS).max(1);
        let measured = usize::from(chart.opens_at_the_last_sample());
        for (at, low, mid, high) in chart.fan.iter().skip(measured).step_by(every) {
            let mut row = vec![time(*at)];
            row.extend(std::iter::repeat_n(format::MISSING.to_owned(), chart.lines.len()));
            row.extend([mid, low, high].map(|value| unit.show(Some(*value))));
            rows.push(row);
        }
    }
    let remark = match count > begins.len() {
        true => format!("Each row tells the highest value until the next; the chart rests on {count} samples."),
        false => String::new(),
    };
    (columns, rows, remark)
}

impl Cell {
    /// The drawing of a measure over time; empty: there is none.
    fn spark(&self) -> String {
        match &self.kind {
            Kind::Spark(points) => chart::spark(points),
            _ => String::new(),
        }
    }

    /// What a cell shows before a reader opens it; None: it is short enough to be shown whole.
    fn lead(&self) -> Option<String> {
        (self.text.chars().count() > WHOLE).then(|| crate::clean::line(&self.text, WHOLE - 30))
    }

    /// Its class: `w` and `c` want the whole width of a phone, `k` stands beside another and is not broken.
    fn class(&self) -> &'static str {
        let length = self.text.chars().count();
        match self.kind {
            Kind::Sql(_) => "w",
            Kind::Spark(_) => "c",
            Kind::Chip(_) if length > 10 => "c",
            // Longer than a day with its time.
            Kind::Text | Kind::Code if length > 12 => "w",
            _ => "k",
        }
    }

    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

impl Table {
    /// Its class: what has many columns is stacked on a phone; what begins with long texts gives them room.
    fn class(&self) -> &'static str {
        let long = |row: &Vec<Cell>| row.first().is_some_and(|cell| cell.text.chars().count() > 40);
        match (self.columns.len() > 4, self.rows.iter().any(long)) {
            (true, true) => "stack broad",
            (true, false) => "stack",
            (false, _) => "",
        }
    }

    /// The cells of a row with their columns.
    fn cells<'a>(&'a self, row: &'a [Cell]) -> impl Iterator<Item = (&'a crate::view::Column, &'a Cell)> {
        self.columns.iter().zip(row)
    }
}
