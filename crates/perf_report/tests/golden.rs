//! A small report as text and as Markdown, to the letter, and what JSON holds. `ACCEPT=1 cargo test -p perf_report
//! --test golden` writes the files anew, to be read before they are committed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../examples/made_up/mod.rs"]
mod made_up;

use perf_report::document::*;
use perf_report::{render, Document, Format, Timestamp};

/// One of everything.
fn small() -> Document {
    let platform = made_up::platform();
    let hours = |values: &[Option<f64>]| {
        let at = |hour: usize| Timestamp::from_unix_s(1_795_392_000 + hour as i64 * 3600);
        values.iter().enumerate().map(|(hour, value)| Sample { at: at(hour), value: *value }).collect::<Vec<_>>()
    };
    let mut alerts = platform.alerts.clone();
    alerts.truncate(2);
    let mut capacity = platform.capacity[1].clone();
    capacity.history.truncate(20);
    Document {
        warnings: vec![Warning {
            level: Level::Error,
            message: "Capture is off.".into(),
            action: "Load perf_opt when the server starts, and restart it.".into(),
            sql: "ALTER SYSTEM SET shared_preload_libraries = 'perf_opt';".into(),
        }],
        alerts,
        load: vec![Series {
            name: "Statements a second".into(),
            unit: "1/s".into(),
            samples: hours(&[Some(10.0), Some(20.0), None, Some(40.0), Some(5.0)]),
        }],
        latency: vec![Series {
            name: "p95".into(),
            unit: "ms".into(),
            samples: hours(&[Some(1.5), Some(2.5), Some(0.0), Some(1200.0), Some(30.0)]),
        }],
        statements: vec![Statement {
            query: "SELECT a | b, `c` FROM \"t\" WHERE x < $1 -- a *comment*".into(),
            relations: vec!["public.t".into()],
            ..platform.statements[4].clone()
        }],
        recommendations: platform.recommendations[..1].to_vec(),
        capacity: vec![capacity],
        jobs: platform.jobs[1..2].to_vec(),
        partitions: platform.partitions[2..].to_vec(),
        caches: platform.caches[1..].to_vec(),
        roadmap: platform.roadmap[3..].to_vec(),
        comparison: platform.comparison.clone().map(|c| Comparison { statements: c.statements[4..6].to_vec(), ..c }),
        ..platform
    }
}

fn check(format: Format, file: &str) {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let told = render(&small(), format).unwrap();
    if std::env::var_os("ACCEPT").is_some() {
        std::fs::write(&path, &told).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (number, (told, expected)) in told.lines().zip(expected.lines()).enumerate() {
        assert_eq!(told, expected, "line {} of {file}", number + 1);
    }
    assert_eq!(told.lines().count(), expected.lines().count(), "lines of {file}");
}

#[test]
fn text_is_as_it_was() {
    check(Format::Text, "small.txt");
}

#[test]
fn markdown_is_as_it_was() {
    check(Format::Markdown, "small.md");
}

#[test]
fn json_is_the_whole_document() {
    let document = small();
    let json = render(&document, Format::Json).unwrap();
    assert_eq!(serde_json::from_str::<Document>(&json).unwrap(), document);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["generated_at"], "2026-11-23T12:00:00Z");
    assert_eq!(value["load"][0]["samples"][2]["value"], serde_json::Value::Null);
    assert_eq!(value["statements"][0]["queryid"], "4611686018427418676");
    // What a caller leaves out is empty.
    assert_eq!(serde_json::from_str::<Document>("{}").unwrap(), Document::default());
    assert!(serde_json::from_str::<Document>(r#"{"generated_at": "soon"}"#).is_err());
}

#[test]
fn formats_have_names() {
    for name in Format::NAMES {
        assert!(Format::named(name).is_some() && Format::named(name) == Format::named(&name.to_uppercase()));
    }
    assert_eq!(Format::named("pdf"), None);
}
