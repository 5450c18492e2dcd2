//! Latency, throughput and errors by application, in the current database: of the last minutes where the collector has
//! read the counters, else since the server started.

use std::collections::HashMap;

use perf_core::activity::{growth, Totals};

use super::{readings, Sheet, APPLICATION, HIDDEN, NOTHING_RAN, NOT_PRELOADED};
use crate::collect::registry;
use crate::memory;
use crate::pg::names::{self, Visibility};
use crate::workload::transactions;

/// Applications shown by name, those with the most statements; the others are summed up.
const NAMED_MAX: usize = 50;
const OTHER: &str = transactions::OTHER;
const UNNAMED: &str = "(unnamed)";
const NAMES: [&str; 6] = [
    "application_latency_mean",
    "application_latency_p95",
    "application_latency_p99",
    "application_throughput",
    "application_error_rate",
    "application_cache_hit",
];
const NO_CACHE: &str = "result caches do not say which application asked";

pub(super) fn measure(sheet: &mut Sheet) {
    let found = transactions::applications(Some(names::current_database()));
    if found.is_empty() {
        let why = if memory::is_ready() { "no application was seen in this database" } else { NOT_PRELOADED };
        for name in NAMES {
            sheet.put(name, APPLICATION, "", Err(why));
        }
        return;
    }
    let baseline = sheet.baseline();
    let span_us = (sheet.now - baseline.map_or(registry::boot_id(), |b| b.read_at)).max(1);
    let viewer = Visibility::of_current_role();
    let (mut ever, mut recent): (HashMap<&str, f64>, HashMap<&str, Totals>) = Default::default();
    let entries: Vec<(i64, Totals)> =
        found.iter().map(|app| (readings::entry_of(app), readings::totals_of(app))).collect();
    let none = HashMap::new();
    let earlier = baseline.map_or(&none, |b| &b.applications);
    let is_full = baseline.is_some_and(|b| b.is_full());
    let (mut grown, rest) = growth(&entries, earlier, readings::entry_of_rest(), is_full);
    for (app, (entry, totals)) in found.iter().zip(&entries) {
        let name = match app.name.as_str() {
            _ if !viewer.covers(app.userid) => HIDDEN,
            "" => UNNAMED,
            name => name,
        };
        *ever.entry(name).or_default() += totals.statements;
        recent.entry(name).or_default().add(&grown.remove(entry).unwrap_or_default());
    }
    if rest.statements > 0.0 {
        let name = if viewer.covers(transactions::OTHER_ROLE) { OTHER } else { HIDDEN };
        ever.entry(name).or_default();
        recent.entry(name).or_default().add(&rest);
    }
    let mut by_use: Vec<(&str, f64)> = ever.into_iter().collect();
    by_use.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    let mut shown: Vec<(String, Totals)> = Vec::new();
    let mut rest: Option<Totals> = None;
    for (n, (name, _)) in by_use.into_iter().enumerate() {
        let Some(totals) = recent.remove(name) else { continue };
        if n < NAMED_MAX && name != OTHER {
            shown.push((name.to_owned(), totals));
        } else {
            rest.get_or_insert_with(Totals::default).add(&totals);
        }
    }
    shown.extend(rest.map(|totals| (OTHER.to_owned(), totals)));
    for (object, totals) in shown {
        let values = [
            totals.mean_ms().ok_or(NOTHING_RAN),
            totals.quantile_ms(0.95).ok_or(NOTHING_RAN),
            totals.quantile_ms(0.99).ok_or(NOTHING_RAN),
            totals.per_s(span_us).ok_or(NOTHING_RAN),
            totals.error_pct().ok_or(NOTHING_RAN),
            Err(NO_CACHE),
        ];
        for (name, value) in NAMES.into_iter().zip(values) {
            sheet.put_over(name, APPLICATION, &object, Some(span_us), value);
        }
    }
}
