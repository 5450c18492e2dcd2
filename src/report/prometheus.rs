//! What Prometheus is told: every metric of this database and server, counters of statements, alerts, the health of perf_opt
//! itself; and thresholds as rules for its own alerting. Called with the rights of whoever asks.

use perf_core::alerts::Status;
use perf_report::exposition::{self, Exposition, Sample, Statements};

use crate::advise::{alerts, metrics};
use crate::memory;
use crate::pg::names::current_database;
use crate::pg::query::select_with;
use crate::workload::transactions;

/// A component of perf_opt, and how it is: 0 well, 1 a warning, 2 an error.
pub type Health = (String, u8);

/// The metrics, in the text format.
pub fn text(health: &[Health]) -> String {
    let database = metrics::database_name();
    let mut exposition = Exposition::new(&database);
    let measured = metrics::measure(|_| true, true);
    for row in &measured {
        if let Some(value) = row.value {
            exposition.add(&Sample { metric: row.name, value, scope: row.scope, object: &row.object });
        }
    }
    if memory::is_ready() {
        exposition.add_statements(&statements());
    }
    for alert in alerts::report(true) {
        if alert.status != Status::NoData {
            exposition.add_alert(&alert.name, &alert.severity, alert.status == Status::Firing);
        }
    }
    for (component, status) in health {
        exposition.add_health(component, *status);
    }
    exposition.text()
}

/// Everything that clients have sent to the current database, of all applications.
fn statements() -> Statements {
    let mut all = Statements::default();
    for application in transactions::applications(Some(current_database())) {
        all.latency.merge(&application.latency);
        all.seconds += application.statement_ns as f64 * 1e-9;
        all.failures += application.failures;
    }
    all
}

/// The thresholds of alerts as rules.
pub fn rules() -> String {
    let interval_s = u64::try_from(crate::guc::collect_interval_s()).unwrap_or(1);
    let rows = select_with(
        c"SELECT alert_name, metric, comparison, threshold, severity, action, fire_after
            FROM perf.alert_threshold ORDER BY alert_name",
        &[],
        |row| {
            let times = u64::try_from(row.get::<i32>(7)?).ok()?;
            let words = [row.string(1), row.string(2), row.string(3), row.string(5), row.string(6)];
            Some((words, row.get::<f64>(4)?, times.saturating_mul(interval_s)))
        },
    );
    let thresholds: Vec<exposition::Threshold> = rows
        .iter()
        .map(|([alert, metric, comparison, severity, action], threshold, for_s)| exposition::Threshold {
            alert,
            metric,
            comparison,
            threshold: *threshold,
            severity,
            action,
            for_s: *for_s,
        })
        .collect();
    exposition::rules(&thresholds)
}
