//! SQL: `report`, `prometheus_metrics`, `prometheus_rules`.

use perf_report::Format;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::{health, or_raise, required};
use crate::baselines;
use crate::error::Error;
use crate::pg::background;
use crate::pg::text::Text;
use crate::report::document::{fill, Wish};
use crate::report::prometheus;

/// Everything that perf_opt knows of this database and server, as a text for a terminal, Markdown, a page or JSON.
#[pg_extern(volatile, parallel_unsafe)]
fn report(
    format: default!(Option<&str>, "'text'"),
    since: default!(Option<TimestampWithTimeZone>, "now() - interval '24 hours'"),
    compare_to: default!(Option<&str>, "NULL"),
) -> Text {
    let format = or_raise(required("format", format).and_then(named));
    or_raise(check_since(since));
    or_raise(compare_to.map_or(Ok(()), baselines::require));
    let document = fill(&Wish { since, compare_to: compare_to.map(str::to_owned) });
    Text(or_raise(
        perf_report::render(&document, format)
            .map_err(|error| Error::WrongState { message: error.to_string(), hint: "Try another format.".to_owned() }),
    ))
}

fn named(format: &str) -> Result<Format, Error> {
    Format::named(format).ok_or_else(|| Error::InvalidArgument {
        argument: "format",
        value: format!("\"{format}\""),
        accepted: format!("Accepted are {}.", Format::NAMES.join(", ")),
    })
}

fn check_since(since: Option<TimestampWithTimeZone>) -> Result<(), Error> {
    match since.map(i64::from) {
        Some(at) if at >= background::now() => Err(Error::InvalidArgument {
            argument: "since",
            value: if at == i64::MAX { "infinity" } else { "a time in the future" }.to_owned(),
            accepted: "A time in the past, or NULL for as long as history reaches.".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The metrics of this server and database in the text format of Prometheus, version 0.0.4: names `perf_opt_*` with base units,
/// labels from what exists (databases, volumes, relations, replicas, applications, alerts, components), never a query's text.
#[pg_extern(volatile, parallel_restricted)]
fn prometheus_metrics() -> Text {
    let health: Vec<prometheus::Health> =
        health::rows().into_iter().map(|(component, status, ..)| (component, status.number())).collect();
    Text(prometheus::text(&health))
}

/// Alerting rules for Prometheus, one for each row of perf.alert_threshold whose metric is exposed; JSON, which is YAML.
#[pg_extern(stable, parallel_restricted)]
fn prometheus_rules() -> Text {
    Text(prometheus::rules())
}
