//! A document as it is told: sections with a sentence on top and blocks below, the same for every way of telling it.
//! Built from a [`Document`] by the modules below, read by the renderers. Whatever came from outside is clean and
//! bounded here already; escaping is left to the renderers, who know their language.

use crate::chart::Chart;
use crate::clean::{self, Sql};
use crate::document::{Document, Level};
use crate::format;
use crate::series::Point;

mod advice;
mod capacity;
mod load;
mod operations;
mod overview;
mod plans;

/// The most rows of a table; what is left out is counted.
const ROWS: usize = 100;

/// A report as it is told.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// What stands on top.
    pub title: String,
    /// Server, database, period: name and value.
    pub facts: Vec<(&'static str, String)>,
    /// What it tells, in order.
    pub sections: Vec<Section>,
}

/// A part of a report.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Its address in a page.
    pub id: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// What it comes down to, in a sentence or two; of an empty section, what to do to fill it.
    pub takeaway: String,
    /// What it shows.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug)]
pub(crate) enum Block {
    /// The few numbers that matter.
    Tiles(Vec<Tile>),
    /// Things to know or do first.
    Notices(Vec<Notice>),
    /// Charts, side by side where there is room.
    Charts(Vec<Chart>),
    /// Changes that are recommended.
    Advice(Vec<Advice>),
    /// A table.
    Table(Table),
}

/// How good or bad something is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Tone {
    #[default]
    Neutral,
    Good,
    Info,
    Warn,
    Bad,
}

impl Tone {
    /// Its class in the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Tone::Neutral => "neutral",
            Tone::Good => "good",
            Tone::Info => "info",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
        }
    }

    /// The tone of a status, a verdict, a priority or a severity: those of all functions, in one table.
    pub(crate) fn of(word: &str) -> Tone {
        match word {
            "ok" | "done" | "verified" | "faster" | "falling" | "succeeded" | "active" | "passed" | "exists" => {
                Tone::Good
            }
            "high" | "warning" | "rising" | "crashed" | "blocked" | "no_gain" | "slow" | "timeout" => Tone::Warn,
            "error" | "critical" | "emergency" | "firing" | "failed" | "regressed" | "slower" => Tone::Bad,
            "recommended" | "ready" | "in_progress" | "building" | "applied" | "running" | "queued" | "new" => {
                Tone::Info
            }
            _ => Tone::Neutral,
        }
    }
}

/// A number that matters.
#[derive(Debug, Default)]
pub(crate) struct Tile {
    pub label: String,
    pub value: String,
    pub note: String,
    pub tone: Tone,
}

/// Something to know or do first.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    pub tone: Tone,
    /// `Error`, `Warning`, `Note`: what the colour says, for who does not see it.
    pub word: &'static str,
    pub message: String,
    pub action: String,
    pub sql: Sql,
}

/// A change that is recommended.
#[derive(Debug, Default)]
pub(crate) struct Advice {
    pub id: String,
    pub title: String,
    /// Priority, kind, status.
    pub chips: Vec<(String, Tone)>,
    /// `31 %` and where it comes from; empty: no gain is known.
    pub gain: String,
    pub gain_basis: String,
    pub reason: String,
    pub facts: Vec<(&'static str, String)>,
    pub sql: Sql,
    pub undo: Sql,
}

/// A table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub caption: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
    /// How many rows more there would be.
    pub left_out: usize,
}

/// A column of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Column {
    pub title: &'static str,
    /// Numbers stand at the right.
    pub right: bool,
    /// Only where there is room for it: not in a terminal.
    pub wide: bool,
}

/// A cell of a table.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    pub text: String,
    pub kind: Kind,
    /// What else there is to say, where there is room for it.
    pub note: String,
}

/// What a cell holds.
#[derive(Debug, Default)]
pub(crate) enum Kind {
    #[default]
    Text,
    /// The text of a statement, or a name.
    Code,
    /// A status.
    Chip(Tone),
    /// A share, 0 to 100, told as a bar as well.
    Share(f64),
    /// A measure over time.
    Spark(Vec<Point>),
    /// SQL to copy.
    Sql(Sql),
}

impl Table {
    /// A table with those columns: a title that begins with `>` stands for numbers, one that ends with `+` for a column
    /// that needs room.
    fn new(caption: impl Into<String>, columns: &[&'static str]) -> Table {
        let column = |title: &&'static str| Column {
            title: title.trim_start_matches('>').trim_end_matches('+'),
            right: title.starts_with('>'),
            wide: title.ends_with('+'),
        };
        Table { caption: caption.into(), columns: columns.iter().map(column).collect(), ..Table::default() }
    }

    /// Adds a row, or counts it.
    fn push(&mut self, row: Vec<Cell>) {
        if self.rows.len() < ROWS {
            self.rows.push(row);
        } else {
            self.left_out += 1;
        }
    }

    /// What is said of rows that are left out.
    pub(crate) fn remark(&self) -> String {
        match self.left_out {
            0 => String::new(),
            more => format!("… and {more} more, which the report as JSON has."),
        }
    }
}

/// A cell with a number, or whatever is ours and clean.
fn plain(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), kind: Kind::Text, note: String::new() }
}

/// A cell with a sentence from outside.
fn sentence(text: &str) -> Cell {
    Cell { text: clean::line(text, clean::SENTENCE), kind: Kind::Text, note: String::new() }
}

/// A cell with a name from outside.
fn name(text: &str) -> Cell {
    Cell { text: clean::line(text, clean::NAME), kind: Kind::Code, note: String::new() }
}

/// A cell with the text of a statement.
fn statement(text: &str) -> Cell {
    Cell { text: clean::line(text, clean::STATEMENT), kind: Kind::Code, note: String::new() }
}

/// A cell with a status; empty stays empty.
fn chip(word: &str) -> Cell {
    Cell { text: words(word), kind: Kind::Chip(Tone::of(word)), note: String::new() }
}

/// A cell with SQL to copy.
fn sql(text: &str) -> Cell {
    let sql = Sql::of(text, clean::CELL_SQL);
    Cell { text: clean::line(text, clean::STATEMENT), kind: Kind::Sql(sql), note: String::new() }
}

/// `not_needed` as people write it.
fn words(word: &str) -> String {
    clean::line(&word.replace('_', " "), clean::NAME)
}

/// A time, or a dash.
fn when(at: Option<crate::Timestamp>) -> Cell {
    plain(at.map_or_else(|| format::MISSING.to_owned(), crate::Timestamp::short))
}

/// A day, or a dash.
fn day(at: Option<crate::Timestamp>) -> Cell {
    plain(at.map_or_else(|| format::MISSING.to_owned(), crate::Timestamp::day))
}

/// A notice, of what is the matter and what to do.
fn notice(level: Level, message: &str, action: &str, sql: &str) -> Notice {
    let (tone, word) = match level {
        Level::Info => (Tone::Info, "Note"),
        Level::Warning => (Tone::Warn, "Warning"),
        Level::Error => (Tone::Bad, "Error"),
    };
    Notice {
        tone,
        word,
        message: clean::line(message, clean::SENTENCE),
        action: clean::line(action, clean::SENTENCE),
        sql: Sql::of(sql, clean::SQL),
    }
}

/// A number with a finite value.
fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|v| v.is_finite())
}

/// The document as it is told.
pub(crate) fn build(document: &Document) -> View {
    let server = &document.server;
    let database = clean::line(&server.database, clean::NAME);
    let title = match clean::line(&document.title, clean::NAME) {
        title if !title.is_empty() => title,
        _ if database.is_empty() => "Performance report".to_owned(),
        _ => format!("Performance of {database}"),
    };
    let mut facts = Vec::new();
    let mut fact = |what, value: String| {
        if !value.is_empty() {
            facts.push((what, value));
        }
    };
    fact("Server", clean::line(&server.name, clean::NAME));
    fact("Database", database);
    let period = &document.period;
    fact(
        "Period",
        match (period.from, period.to) {
            (Some(from), Some(to)) => format!("{} to {} UTC", from.minute(), to.minute()),
            (Some(from), None) => format!("since {} UTC", from.minute()),
            (None, Some(to)) => format!("all that is kept, up to {} UTC", to.minute()),
            (None, None) => String::new(),
        },
    );
    fact("Made", document.generated_at.map_or_else(String::new, |at| format!("{} UTC", at.minute())));
    fact("PostgreSQL", clean::line(&server.version, clean::NAME));
    fact("perf_opt", clean::line(&server.extension_version, clean::NAME));
    let sections = vec![
        overview::section(document),
        advice::section(document),
        load::section(document),
        load::statements(document),
        capacity::section(document),
        plans::comparison(document),
        plans::roadmap(document),
        operations::jobs(document),
        operations::partitions(document),
        operations::caches(document),
        plans::cost(document),
        operations::health(document),
    ];
    View { title, facts, sections }
}
