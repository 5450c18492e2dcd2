//! The report of perf_opt: a [`Document`] of plain data, told in four ways by [`render`].
//!
//! - `html`: one page that needs nothing else: style, script and charts (SVG) are in it, and its
//!   Content-Security-Policy forbids it to load or run anything more. It reads well on a phone, on a desk and on
//!   paper, in light and in dark, by eye and by screen reader.
//! - `text`: for a terminal, at most 100 columns wide.
//! - `markdown`: for chats and tickets.
//! - `json`: the document itself, complete, for programs; it can be read back.
//!
//! [`exposition`] tells metrics to Prometheus.
//!
//! The first three are told from one view of the document (`view`), so they say the same. What a document holds may
//! be missing, endless, not a number or hostile: texts are bounded and escaped, series thinned to what a chart can
//! show, and an empty section says what to do to fill it. Nothing here does I/O, reads a clock, locks or panics on
//! data; who asks the server and fills the document is the caller's affair, and so is whose texts the reader may see.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::fmt;

mod chart;
mod clean;
pub mod document;
pub mod exposition;
mod format;
mod html;
mod markdown;
mod series;
mod text;
mod time;
mod view;

pub use document::Document;
pub use time::Timestamp;

/// A way to tell a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Text,
    /// For chats.
    Markdown,
    /// A page.
    Html,
    /// For programs.
    Json,
}

impl Format {
    /// The names of all, in the order of their description.
    pub const NAMES: [&'static str; 4] = ["text", "markdown", "html", "json"];

    /// The one of that name, in any case; None: there is none.
    pub fn named(name: &str) -> Option<Format> {
        match name.to_ascii_lowercase().as_str() {
            "text" => Some(Format::Text),
            "markdown" => Some(Format::Markdown),
            "html" => Some(Format::Html),
            "json" => Some(Format::Json),
            _ => None,
        }
    }
}

/// Why a report could not be told. No document is known to cause one: it is here so that none has to panic.
#[derive(Debug)]
pub enum Error {
    /// The page's template failed.
    Page(askama::Error),
    /// The document could not be written as JSON.
    Json(serde_json::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Page(e) => write!(f, "could not render the page of the report: {e}"),
            Error::Json(e) => write!(f, "could not write the report as JSON: {e}"),
        }
    }
}

impl std::error::Error for Error {}

/// Tells a document.
///
/// A page of 90 days of history with 50 statements takes less than 0.5 MB. Rows, texts and marks are bounded, so that
/// it stays below 8 MB even of a document all of whose characters have to be escaped. JSON is as long as the document
/// is.
pub fn render(document: &Document, format: Format) -> Result<String, Error> {
    match format {
        Format::Text => Ok(text::render(&view::build(document))),
        Format::Markdown => Ok(markdown::render(&view::build(document))),
        Format::Html => html::render(&view::build(document)).map_err(Error::Page),
        Format::Json => serde_json::to_string(document).map_err(Error::Json),
    }
}
