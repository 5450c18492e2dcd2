//! What no server should have to tell: texts that mean harm, numbers that are none, and 90 days of everything.

use perf_report::document::*;
use perf_report::{Document, Timestamp};

use super::{at, busy, capacity, platform, samples, DAY, HOUR, NOW};

/// Texts that mean harm.
pub const HOSTILE: [&str; 7] = [
    "</script></style><img src=x onerror=alert(1)>",
    "'\"><svg/onload=alert(1)>",
    "{{7*7}} {% raw %} <%= 1 %> ${1}",
    "a|b\\|c `code` [x](javascript:alert(1)) *bold* <!-- -->",
    "\u{202E}gnp.exe\u{2066}\u{200B}\0\u{1}\u{7F}\u{1B}[31m",
    "]]> --> &lt;script&gt; &#60;",
    "\n\n# heading\n- list\n| a | b |",
];

/// A document every text of which is hostile, and every number odd.
pub fn hostile() -> Document {
    let text = platform();
    let json = serde_json::to_value(&text).unwrap_or_default();
    let mut turn = 0;
    let long = "<b>".repeat(33_000);
    fn spoil(value: &mut serde_json::Value, key: &str, turn: &mut usize, long: &str) {
        match value {
            serde_json::Value::String(text) if !key.ends_with("at") && !["level", "from", "to"].contains(&key) => {
                *turn += 1;
                *text =
                    if turn.is_multiple_of(11) { long.to_owned() } else { HOSTILE[*turn % HOSTILE.len()].to_owned() };
            }
            serde_json::Value::Array(all) => all.iter_mut().for_each(|v| spoil(v, key, turn, long)),
            serde_json::Value::Object(all) => all.iter_mut().for_each(|(k, v)| spoil(v, k, turn, long)),
            _ => {}
        }
    }
    let mut json = json;
    spoil(&mut json, "", &mut turn, &long);
    let mut document: Document = serde_json::from_value(json).unwrap_or_default();
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e308, -1e308, 5e-324, 0.0];
    let mut number = 0;
    let mut next = || {
        number += 1;
        Some(odd[number % odd.len()])
    };
    for s in document.load.iter_mut().chain(&mut document.latency) {
        s.samples.iter_mut().for_each(|s| s.value = next());
    }
    for s in &mut document.statements {
        (s.calls, s.share_pct, s.mean_ms, s.trend_pct, s.total_ms) = (next(), next(), next(), next(), next());
    }
    for c in &mut document.capacity {
        c.forecast.iter_mut().for_each(|f| (f.low, f.mid, f.high) = (next(), next(), next()));
        c.triggers.iter_mut().for_each(|t| (t.value, t.crosses_at) = (next(), Some(Timestamp(i64::MAX))));
        c.history.iter_mut().step_by(3).for_each(|s| s.at = Timestamp(i64::MIN));
    }
    document
}

/// 90 days of a sample every five minutes, with 50 statements.
pub fn large() -> Document {
    let mut document = platform();
    let from = NOW - 90 * DAY;
    document.period.from = Some(at(from));
    for (i, s) in document.load.iter_mut().chain(&mut document.latency).enumerate() {
        s.samples = samples(from, 300, i as u64, 0.8, |t| 90.0 * (1 + i % 3) as f64 * busy(t));
    }
    document.capacity = capacity(1000);
    let few = document.statements.clone();
    document.statements = (0..50)
        .map(|i| {
            let mut s = few[i % few.len()].clone();
            s.query = format!("{} /* {i} */ {}", s.query, "AND x = $9 ".repeat(60));
            s.history = samples(from, HOUR, i as u64, 0.8, busy);
            s
        })
        .collect();
    let one = document.recommendations.clone();
    document.recommendations = (0..40).map(|i| one[i % one.len()].clone()).collect();
    document
}
