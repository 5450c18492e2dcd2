//! SQL: `prometheus_metrics`, `prometheus_rules`.

use pgrx::prelude::*;

use super::health;
use crate::pg::text::Text;
use crate::report::prometheus;

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
