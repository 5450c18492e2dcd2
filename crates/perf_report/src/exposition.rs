//! Metrics in the text format of Prometheus: what each is called there, in which base unit, and the rules that alert on them.
//! Pure; the format itself is the prometheus crate's.
//!
//! A name says whose value it is (`perf_opt_server_...`, `perf_opt_database_...`), so that no sum over a family counts
//! anything twice. Labels are bounded by what is measured: none of them comes from a query's text.

use std::collections::BTreeMap;

use perf_core::histogram;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::TextEncoder;
use serde_json::{json, Value};

/// Bytes of a label's value, at most.
const LABEL_BYTES_MAX: usize = 256;

/// What a metric is called, and how it is converted.
struct Exposed {
    /// In `perf.metrics()`.
    metric: &'static str,
    /// After the prefix of its scope; ends with the base unit.
    stem: &'static str,
    /// So many of its own units are one base unit.
    divisor: f64,
    help: &'static str,
}

const MS: f64 = 1e3;
const PCT: f64 = 1e2;
const PER_MIN: f64 = 60.0;

const fn exposed(metric: &'static str, stem: &'static str, divisor: f64, help: &'static str) -> Exposed {
    Exposed { metric, stem, divisor, help }
}

/// Every metric there is, by name.
const EXPOSED: &[Exposed] = &[
    exposed("application_cache_hit", "cache_hit_ratio", PCT, "Hit ratio of the result caches of an application."),
    exposed("application_error_rate", "error_ratio", PCT, "Share of an application's statements that failed lately."),
    exposed("application_latency_mean", "latency_mean_seconds", MS, "Mean latency of an application's statements."),
    exposed("application_latency_p95", "latency_p95_seconds", MS, "95th percentile of an application's latency."),
    exposed("application_latency_p99", "latency_p99_seconds", MS, "99th percentile of an application's latency."),
    exposed("application_throughput", "statements_per_second", 1.0, "Statements of an application lately."),
    exposed("buffer_cache_hit", "buffer_cache_hit_ratio", PCT, "Share of blocks found in shared buffers lately."),
    exposed("connections_active", "connections_active", 1.0, "Connections that run a statement."),
    exposed("connections_idle", "connections_idle", 1.0, "Connections that wait for their client."),
    exposed(
        "connections_idle_in_transaction",
        "connections_idle_in_transaction",
        1.0,
        "Connections that wait for their client in a transaction.",
    ),
    exposed("connections_total", "connections", 1.0, "Connections of clients."),
    exposed("connections_used", "connections_used_ratio", PCT, "Share of max_connections in use."),
    exposed("cpu_used", "cpu_used_ratio", PCT, "Share of the machine's or container's processors in use."),
    exposed("database_size_bytes", "size_bytes", 1.0, "Size of the database."),
    exposed("databases_size_bytes", "databases_size_bytes", 1.0, "Size of all databases."),
    exposed("disk_available_bytes", "disk_available_bytes", 1.0, "Free space of a file system that the server uses."),
    exposed("disk_used", "disk_used_ratio", PCT, "Share of a file system that is used."),
    exposed("disk_used_bytes", "disk_used_bytes", 1.0, "Used space of a file system that the server uses."),
    exposed("error_rate", "error_ratio", PCT, "Share of statements that failed lately."),
    exposed("index_utilisation", "index_utilisation_ratio", PCT, "Share of scans of tables that used an index lately."),
    exposed("latency_mean", "latency_mean_seconds", MS, "Mean latency of statements lately."),
    exposed("latency_p95", "latency_p95_seconds", MS, "95th percentile of the latency of statements lately."),
    exposed("latency_p99", "latency_p99_seconds", MS, "99th percentile of the latency of statements lately."),
    exposed("memory_available_bytes", "memory_available_bytes", 1.0, "Memory of the machine or container not in use."),
    exposed("qps", "statements_per_second", 1.0, "Statements of clients lately."),
    exposed(
        "relation_index_utilisation",
        "index_utilisation_ratio",
        PCT,
        "Share of a table's scans that used an index.",
    ),
    exposed("relation_size_bytes", "size_bytes", 1.0, "Size of one of the largest relations."),
    exposed("replica_qps", "statements_per_second", 1.0, "Statements of a standby lately."),
    exposed(
        "replica_unwell",
        "unwell_seconds",
        1.0,
        "Time since a standby was last seen to follow this server; 0 while it does.",
    ),
    exposed("replication_lag", "lag_seconds", 1.0, "Time that a standby is behind."),
    exposed("replication_lag_bytes", "lag_bytes", 1.0, "WAL that a standby is behind."),
    exposed(
        "result_cache_hit",
        "result_cache_hit_ratio",
        PCT,
        "Hit ratio of result caches, which are not the buffer cache.",
    ),
    exposed("slot_retained_bytes", "slot_retained_bytes", 1.0, "WAL that a replication slot retains."),
    exposed(
        "slow_queries_per_min",
        "slow_statements_per_second",
        PER_MIN,
        "Statements slower than perf_opt.slow_ms lately.",
    ),
    exposed("transactions_per_s", "transactions_per_second", 1.0, "Transactions lately."),
    exposed("wal_bytes_per_s", "wal_bytes_per_second", 1.0, "WAL written lately."),
    exposed("wal_size_bytes", "wal_size_bytes", 1.0, "Size of the WAL directory."),
];

fn find(metric: &str) -> Option<&'static Exposed> {
    EXPOSED.iter().find(|exposed| exposed.metric == metric)
}

/// Whether a metric has a name here.
pub fn is_exposed(metric: &str) -> bool {
    find(metric).is_some()
}

/// A value of `perf.metrics()`.
pub struct Sample<'a> {
    /// The metric.
    pub metric: &'a str,
    /// In the metric's own unit.
    pub value: f64,
    /// cluster, database, relation, replica or application.
    pub scope: &'a str,
    /// Which one; may be empty.
    pub object: &'a str,
}

/// What clients' statements of one database have come to since the server started or perf.reset() was called.
#[derive(Default)]
pub struct Statements {
    /// Latencies, of all of them.
    pub latency: histogram::Histogram,
    /// Their sum, in seconds.
    pub seconds: f64,
    /// Those that failed.
    pub failures: u64,
}

/// Families being put together.
pub struct Exposition<'a> {
    database: &'a str,
    families: BTreeMap<String, MetricFamily>,
}

impl<'a> Exposition<'a> {
    /// An empty one, of a database.
    pub fn new(database: &'a str) -> Exposition<'a> {
        Exposition { database, families: BTreeMap::new() }
    }

    /// The metric of a family with these labels, and whether it is new.
    fn metric(&mut self, name: &str, help: &str, kind: MetricType, labels: &[(&str, &str)]) -> (&mut Metric, bool) {
        let family = self.families.entry(name.to_owned()).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        let labels: Vec<LabelPair> = labels.iter().map(|(name, value)| label(name, value)).collect();
        let metrics = family.mut_metric();
        let known = metrics.iter().position(|metric| metric.get_label() == labels);
        let at = known.unwrap_or(metrics.len());
        if known.is_none() {
            metrics.push(Metric::from_label(labels));
        }
        (&mut metrics[at], known.is_none())
    }

    /// Of two objects of one name the larger value is told: twice the same labels are an error there.
    fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let (metric, is_new) = self.metric(name, help, MetricType::GAUGE, labels);
        let mut gauge = Gauge::default();
        gauge.set_value(if is_new { value } else { metric.get_gauge().get_value().max(value) });
        metric.set_gauge(gauge);
    }

    fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.metric(name, help, MetricType::COUNTER, labels).0.set_counter(counter);
    }

    /// Adds a measured value. One without a name here is left out.
    pub fn add(&mut self, sample: &Sample) {
        let Some(exposed) = find(sample.metric) else { return };
        let name = family_name(sample.scope, exposed.stem);
        let database = ("database", self.database);
        let object = sample.object;
        let labels: Vec<(&str, &str)> = match sample.scope {
            // That its object is the database itself goes without saying.
            "database" if object.is_empty() || object == self.database => vec![database],
            "database" => vec![database, ("object", object)],
            "relation" | "application" => vec![database, (sample.scope, object)],
            "replica" => vec![("replica", object)],
            _ if object.is_empty() => Vec::new(),
            _ if sample.metric.starts_with("disk_") => vec![("volume", object)],
            _ => vec![("object", object)],
        };
        self.gauge(&name, exposed.help, &labels, sample.value / exposed.divisor);
    }

    /// Adds the counters of statements.
    pub fn add_statements(&mut self, statements: &Statements) {
        let database = ("database", self.database);
        let mut seen = 0;
        let mut buckets = Vec::new();
        let mut bounds = LATENCY_BOUNDS_S.iter().peekable();
        let mut push = |bound: f64, seen: u64| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(seen);
            buckets.push(bucket);
        };
        for (lower_ns, _, count) in statements.latency.buckets() {
            while let Some(bound) = bounds.next_if(|bound| **bound * 1e9 <= lower_ns) {
                push(*bound, seen);
            }
            seen += count;
        }
        bounds.for_each(|bound| push(*bound, seen));
        let name = "perf_opt_database_statement_duration_seconds";
        let mut histogram = Histogram::default();
        histogram.set_sample_count(seen);
        histogram.set_sample_sum(statements.seconds);
        histogram.set_bucket(buckets);
        let help = "Latency of the statements of clients.";
        self.metric(name, help, MetricType::HISTOGRAM, &[database]).0.set_histogram(histogram);
        let name = "perf_opt_database_statement_failures_total";
        self.counter(name, "Statements of clients that failed.", &[database], statements.failures as f64);
    }

    /// Adds an alert: 1 while it fires. One that nothing is known of is left out by the caller.
    pub fn add_alert(&mut self, alert: &str, severity: &str, is_firing: bool) {
        let labels = [("database", self.database), ("alert", alert), ("severity", severity)];
        let help = "Alerts of perf.alert_threshold: 1 while firing.";
        self.gauge("perf_opt_database_alert_firing", help, &labels, f64::from(u8::from(is_firing)));
    }

    /// Adds a component of perf_opt itself: 0 is ok, 1 a warning, 2 an error.
    pub fn add_health(&mut self, component: &str, status: u8) {
        let labels = [("database", self.database), ("component", component)];
        let help = "Components of perf_opt: 0 ok, 1 warning, 2 error.";
        self.gauge("perf_opt_database_health_status", help, &labels, f64::from(status));
    }

    /// The whole text.
    pub fn text(self) -> String {
        let families: Vec<MetricFamily> = self.families.into_values().collect();
        // It refuses families without a name or a metric, which there are none of.
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }
}

/// Upper bounds of the latency histogram, in seconds.
const LATENCY_BOUNDS_S: [f64; 13] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

fn family_name(scope: &str, stem: &str) -> String {
    let scope = if scope == "cluster" { "server" } else { scope };
    format!("perf_opt_{scope}_{stem}")
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut end = value.len().min(LABEL_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value[..end].to_owned());
    pair
}

/// A row of perf.alert_threshold.
pub struct Threshold<'a> {
    /// Its name.
    pub alert: &'a str,
    /// The metric it watches.
    pub metric: &'a str,
    /// `>` or `<`.
    pub comparison: &'a str,
    /// In the metric's own unit.
    pub threshold: f64,
    /// warning or critical.
    pub severity: &'a str,
    /// What to do.
    pub action: &'a str,
    /// Seconds that it must be exceeded for.
    pub for_s: u64,
}

/// Scopes in which a metric is measured, the narrower ones where there are several: the alert tells more then.
fn scope_of(metric: &str) -> &'static str {
    match metric {
        _ if metric.starts_with("application_") => "application",
        _ if metric.starts_with("relation_") => "relation",
        _ if metric.starts_with("replica") || metric.starts_with("slot_") => "replica",
        "connections_used" | "cpu_used" | "memory_available_bytes" | "wal_size_bytes" | "wal_bytes_per_s" => "cluster",
        "databases_size_bytes" => "cluster",
        _ if metric.starts_with("disk_") || metric.starts_with("connections_") => "cluster",
        _ => "database",
    }
}

/// Rules for Prometheus' own alerting, one for each threshold whose metric has a name here; JSON, which is YAML.
pub fn rules(thresholds: &[Threshold]) -> String {
    let rules: Vec<Value> = thresholds
        .iter()
        .filter_map(|row| {
            let exposed = find(row.metric)?;
            let name = family_name(scope_of(row.metric), exposed.stem);
            let value = row.threshold / exposed.divisor;
            Some(json!({
                "alert": alert_name(row.alert),
                "expr": format!("{name} {} {value}", row.comparison),
                "for": format!("{}s", row.for_s),
                "labels": { "severity": row.severity, "perf_opt_alert": escape_template(row.alert) },
                "annotations": {
                    "summary": escape_template(row.action),
                    "description": format!("{} is {{{{ $value | humanize }}}}, threshold {value}", exposed.help.trim_end_matches('.')),
                },
            }))
        })
        .collect();
    let groups = json!({ "groups": [{ "name": "perf_opt", "rules": rules }] });
    format!("{groups:#}\n")
}

/// Labels and annotations are templates: braces of a user's text must not be.
fn escape_template(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character == '{' && escaped.ends_with('{') {
            escaped.push(' ');
        }
        escaped.push(character);
    }
    escaped
}

/// p99_latency as PerfOptP99Latency; what is neither letter nor digit separates words.
fn alert_name(alert: &str) -> String {
    let words = alert.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    "PerfOpt".to_owned() + &words.map(capital).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample<'a>(metric: &'a str, value: f64, scope: &'a str, object: &'a str) -> Sample<'a> {
        Sample { metric, value, scope, object }
    }

    #[test]
    fn names_units_and_labels() {
        let mut exposition = Exposition::new("shop");
        exposition.add(&sample("latency_p99", 250.0, "database", "shop"));
        exposition.add(&sample("disk_used", 81.5, "cluster", "data"));
        exposition.add(&sample("connections_total", 7.0, "cluster", ""));
        exposition.add(&sample("connections_total", 3.0, "database", "shop"));
        exposition.add(&sample("application_latency_p95", 4.0, "application", "a\"b\\c\nd"));
        exposition.add(&sample("unheard_of", 1.0, "cluster", ""));
        let text = exposition.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                r#"perf_opt_application_latency_p95_seconds{database="shop",application="a\"b\\c\nd"} 0.004"#,
                r#"perf_opt_database_connections{database="shop"} 3"#,
                r#"perf_opt_database_latency_p99_seconds{database="shop"} 0.25"#,
                "perf_opt_server_connections 7",
                r#"perf_opt_server_disk_used_ratio{volume="data"} 0.815"#,
            ]
        );
        assert_eq!(text.lines().filter(|line| line.starts_with("# TYPE")).count(), lines.len());
    }

    #[test]
    fn a_histogram_counts_every_statement_once() {
        let mut statements = Statements { seconds: 1.5, failures: 2, ..Statements::default() };
        for ns in [50_000, 2_000_000, 2_100_000, 30_000_000_000] {
            statements.latency.record_ns(ns);
        }
        let mut exposition = Exposition::new("shop");
        exposition.add_statements(&statements);
        let text = exposition.text();
        for line in [
            r#"perf_opt_database_statement_duration_seconds_bucket{database="shop",le="0.0001"} 1"#,
            r#"perf_opt_database_statement_duration_seconds_bucket{database="shop",le="0.001"} 1"#,
            r#"perf_opt_database_statement_duration_seconds_bucket{database="shop",le="0.0025"} 3"#,
            r#"perf_opt_database_statement_duration_seconds_bucket{database="shop",le="10"} 3"#,
            r#"perf_opt_database_statement_duration_seconds_bucket{database="shop",le="+Inf"} 4"#,
            r#"perf_opt_database_statement_duration_seconds_count{database="shop"} 4"#,
            r#"perf_opt_database_statement_failures_total{database="shop"} 2"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn objects_of_one_name_are_told_once() {
        let mut exposition = Exposition::new("shop");
        for lag in [3.0, 7.0, 5.0] {
            exposition.add(&sample("replication_lag", lag, "replica", "walreceiver"));
        }
        let text = exposition.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, [r#"perf_opt_replica_lag_seconds{replica="walreceiver"} 7"#]);
    }

    #[test]
    fn no_braces_make_a_template() {
        for text in ["{{", "{{{", "{{{{ $x }}", "a {{b}} {{{c}}}"] {
            assert!(!escape_template(text).contains("{{"), "{text}");
        }
    }

    #[test]
    fn empty_statements() {
        let mut exposition = Exposition::new("shop");
        exposition.add_statements(&Statements::default());
        assert!(exposition.text().contains(r#"le="+Inf"} 0"#));
    }

    #[test]
    fn rules_of_thresholds() {
        let threshold = |alert, metric, comparison, threshold| Threshold {
            alert,
            metric,
            comparison,
            threshold,
            severity: "warning",
            action: "Do {{ this }}: \"now\"",
            for_s: 30,
        };
        let text = rules(&[
            threshold("p99_latency", "latency_p99", ">", 500.0),
            threshold("slow-query rate", "slow_queries_per_min", ">", 30.0),
            threshold("nothing", "unheard_of", ">", 1.0),
        ]);
        let parsed: Value = serde_json::from_str(&text).unwrap();
        let rules = parsed["groups"][0]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0]["alert"], "PerfOptP99Latency");
        assert_eq!(rules[0]["expr"], "perf_opt_database_latency_p99_seconds > 0.5");
        assert_eq!(rules[0]["annotations"]["summary"], "Do { { this }}: \"now\"");
        assert_eq!(rules[1]["expr"], "perf_opt_database_slow_statements_per_second > 0.5");
    }

    #[test]
    fn names_are_sorted_and_end_with_their_unit() {
        assert!(EXPOSED.windows(2).all(|pair| pair[0].metric < pair[1].metric));
        for exposed in EXPOSED {
            let unit = match exposed.divisor {
                MS => "_seconds",
                PCT => "_ratio",
                PER_MIN => "_per_second",
                _ => continue,
            };
            assert!(exposed.stem.ends_with(unit), "{}", exposed.stem);
        }
    }

    proptest! {
        #[test]
        fn one_line_for_each_sample_whatever_it_is_called(objects in prop::collection::vec(".{0,300}", 1..20)) {
            let mut exposition = Exposition::new("d\"b");
            objects.iter().for_each(|object| exposition.add(&sample("replication_lag", 1.0, "replica", object)));
            let text = exposition.text();
            let distinct: std::collections::BTreeSet<_> = objects.iter().map(|object| label("replica", object).value().to_owned()).collect();
            prop_assert_eq!(text.split('\n').filter(|line| line.starts_with("perf_opt_")).count(), distinct.len());
        }
    }
}
