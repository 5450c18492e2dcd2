//! The page as a browser reads it: whatever the document holds, nothing of it becomes markup, and the page keeps its
//! structure, its size and its promises to readers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../examples/made_up/mod.rs"]
mod made_up;

use std::collections::BTreeSet;

use perf_report::document::*;
use perf_report::{render, Document, Format, Timestamp};
use proptest::prelude::*;
use scraper::{Html, Selector};

fn page(document: &Document) -> String {
    render(document, Format::Html).unwrap()
}

fn select<'a>(html: &'a Html, selector: &str) -> Vec<scraper::ElementRef<'a>> {
    let selector = Selector::parse(selector).unwrap();
    html.select(&selector).collect()
}

/// Every element and attribute that the page's own templates and charts make.
const ELEMENTS: &str =
    "html head meta link title style body a header div h1 button dl dt dd nav ul li main section h2 p \
    b strong span pre code figure figcaption h3 svg line polyline polygon circle rect text desc details summary table \
    caption thead tbody tr th td ol footer script";

/// That nothing but the templates made elements or attributes, and that the page is what it promises to be.
fn check(text: &str) {
    let html = Html::parse_document(text);
    assert!(html.errors.is_empty(), "{:?}", html.errors);
    let known: BTreeSet<&str> = ELEMENTS.split_whitespace().collect();
    let mut ids = BTreeSet::new();
    let mut level = 0;
    for element in html.root_element().descendent_elements() {
        let name = element.value().name();
        assert!(known.contains(name), "<{name}> is none of ours");
        for (attribute, value) in element.value().attrs() {
            assert!(!attribute.starts_with("on") && attribute != "style" && attribute != "src", "{attribute}={value}");
            assert!(attribute != "href" || value.starts_with('#') || value == "data:,", "{attribute}={value}");
        }
        if let Some(id) = element.value().id() {
            assert!(ids.insert(id), "two elements are called {id}");
        }
        if let Some(heading) = name.strip_prefix('h').and_then(|h| h.parse::<u32>().ok()) {
            assert!(heading <= level + 1, "a heading of level {heading} follows one of {level}");
            level = heading;
        }
    }
    for (selector, count) in
        [("h1", 1), ("main", 1), ("header", 1), ("nav", 1), ("footer", 1), ("script", 1), ("style", 1)]
    {
        assert_eq!(select(&html, selector).len(), count, "{selector}");
    }
    for label in select(&html, "[aria-labelledby]") {
        for id in label.attr("aria-labelledby").unwrap().split(' ') {
            assert!(ids.contains(id), "nothing is called {id}");
        }
    }
    for link in select(&html, "a[href]") {
        assert!(ids.contains(&link.attr("href").unwrap()[1..]));
    }
    for svg in select(&html, "svg") {
        let named = svg.attr("aria-label").is_some() || svg.attr("aria-labelledby").is_some();
        assert!(svg.attr("aria-hidden") == Some("true") || (svg.attr("role") == Some("img") && named));
    }
    for chart in select(&html, "svg.chart") {
        let marks = Selector::parse("polyline, polygon, circle, rect").unwrap();
        assert!(chart.select(&marks).next().is_some(), "a chart has no marks");
        assert!(!chart.html().contains("NaN"));
    }
    for cell in select(&html, "th") {
        assert!(cell.attr("scope").is_some());
    }
    for figure in select(&html, "figure") {
        let table = Selector::parse("details table tbody tr").unwrap();
        assert!(figure.select(&table).next().is_some(), "a chart without its numbers");
    }
    assert!(!text.contains('\u{202E}') && !text.contains('\u{200B}') && !text.contains('\0'));
}

#[test]
fn the_page_of_a_platform_is_whole() {
    let text = page(&made_up::platform());
    check(&text);
    let html = Html::parse_document(&text);
    assert_eq!(select(&html, "main > section").len(), 12);
    assert_eq!(select(&html, "section.empty").len(), 0);
    assert_eq!(select(&html, "svg.chart.wide").len(), 8);
    assert_eq!(select(&html, "svg.spark").len(), 9);
    let code = select(&html, ".advice .sql code")[0].text().collect::<String>();
    assert_eq!(code, made_up::platform().recommendations[0].sql);
}

#[test]
fn a_forecast_without_samples_has_its_numbers() {
    let forecast = vec![Forecast { mid: Some(1.0), low: Some(1.0), high: Some(2.0), ..Forecast::default() }];
    let document = Document {
        capacity: vec![Capacity { metric: "disk".into(), forecast, ..Capacity::default() }],
        ..Document::default()
    };
    let text = page(&document);
    check(&text);
    assert_eq!(select(&Html::parse_document(&text), "svg.chart.wide circle").len(), 1);
}

#[test]
fn an_empty_document_says_what_to_do_first() {
    let text = page(&Document::default());
    check(&text);
    assert!(text.contains("Nothing has been measured yet") && text.contains("shared_preload_libraries"));
    let html = Html::parse_document(&text);
    for section in select(&html, "main > section") {
        let takeaway = Selector::parse("p.takeaway").unwrap();
        let said = section.select(&takeaway).next().unwrap().text().collect::<String>();
        assert!(said.len() > 20, "{said}");
    }
    for format in [Format::Text, Format::Markdown] {
        assert!(render(&Document::default(), format).unwrap().contains("shared_preload_libraries"));
    }
}

#[test]
fn hostile_texts_stay_texts() {
    let document = made_up::hostile();
    let text = page(&document);
    check(&text);
    // The script is ours, to the letter.
    let html = Html::parse_document(&text);
    let script = select(&html, "script")[0].text().collect::<String>();
    assert_eq!(script.trim(), include_str!("../templates/report.js").trim());
    assert!(text.len() < 2_000_000, "{}", text.len());
    // What is not what it seems is not for copying.
    for sql in select(&html, ".sql") {
        let copy = Selector::parse("button").unwrap();
        let code = Selector::parse("code").unwrap();
        let shown = sql.select(&code).next().unwrap().text().collect::<String>();
        let odd = shown.contains('\u{FFFD}') || shown.ends_with('…');
        assert_eq!(sql.select(&copy).next().is_none(), odd, "{shown}");
    }
}

#[test]
fn ninety_days_of_everything_stay_small_and_quick() {
    let document = made_up::large();
    let text = page(&document);
    check(&text);
    // The best of three: others may be at work on the machine.
    let timed = |_| {
        let began = std::time::Instant::now();
        page(&document);
        began.elapsed()
    };
    let took = (0..3).map(timed).min().unwrap();
    assert!(text.len() < 2_000_000, "{} bytes", text.len());
    // 300 ms is promised of a release; what is not optimised gets more.
    let allowed = if cfg!(debug_assertions) { 6000 } else { 300 };
    assert!(took.as_millis() < allowed, "{took:?}");
}

#[test]
fn the_worst_of_documents_is_bounded() {
    let mut document = made_up::hostile();
    let long = "<".repeat(100_000);
    fn many<T: Clone>(all: &mut Vec<T>, change: impl Fn(&mut T)) {
        let mut one = all[0].clone();
        change(&mut one);
        *all = vec![one; 300];
    }
    many(&mut document.warnings, |w| (w.message, w.sql) = (long.clone(), long.clone()));
    many(&mut document.alerts, |a| (a.name, a.action) = (long.clone(), long.clone()));
    many(&mut document.load, |s| s.name = long.clone());
    many(&mut document.statements, |s| s.query = long.clone());
    many(&mut document.recommendations, |r| (r.reason, r.sql, r.undo_sql) = (long.clone(), long.clone(), long.clone()));
    many(&mut document.capacity, |c| c.metric = long.clone());
    many(&mut document.partitions, |p| (p.problem, p.fix_sql) = (long.clone(), long.clone()));
    many(&mut document.roadmap, |t| (t.reason, t.ddl) = (long.clone(), long.clone()));
    many(&mut document.health, |h| h.detail = long.clone());
    let text = page(&document);
    assert!(text.len() < 8_000_000, "{} bytes", text.len());
    // As many phases as tasks are still one table's rows.
    document.roadmap.iter_mut().enumerate().for_each(|(at, task)| task.phase = at as i32);
    assert!(page(&document).len() < 8_000_000);
}

#[test]
fn the_policy_of_the_page_knows_its_style_and_script() {
    use base64::Engine;
    use sha2::Digest;
    let text = page(&Document::default());
    let html = Html::parse_document(&text);
    let policy = select(&html, "meta[http-equiv=Content-Security-Policy]")[0].attr("content").unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
    for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
        let inner = select(&html, element)[0].text().collect::<String>();
        let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(inner));
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{policy}");
    }
}

/// The colours of the style sheet, in the order of its themes.
fn themes() -> Vec<std::collections::BTreeMap<String, [f64; 3]>> {
    let css = include_str!("../templates/report.css");
    css.split("--bg:")
        .skip(1)
        .map(|theme| {
            let theme = format!("--bg:{}", theme.split('}').next().unwrap());
            theme
                .split(';')
                .filter_map(|rule| rule.trim().strip_prefix("--")?.split_once(": #"))
                .map(|(name, hex)| {
                    let part = |at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
                    (name.to_owned(), [part(0), part(2), part(4)])
                })
                .collect()
        })
        .collect()
}

/// The contrast of two colours, as WCAG 2 defines it.
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let luminance = |color: [f64; 3]| {
        let linear = color.map(|c| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    };
    let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
    a.max(b) / a.min(b)
}

#[test]
fn texts_and_lines_stand_out_in_every_theme() {
    let themes = themes();
    // Light, dark by wish of the system, dark by the button, print.
    assert_eq!(themes.len(), 4);
    assert_eq!(themes[1], themes[2]);
    for theme in &themes {
        let ratio = |a: &str, b: &str| contrast(theme[a], theme[b]);
        let mut texts = vec![("limit".to_owned(), "panel".to_owned())];
        for text in ["text", "muted", "accent"] {
            texts.extend(["bg", "panel", "code"].map(|ground| (text.to_owned(), ground.to_owned())));
        }
        for tone in ["good", "info", "warn", "bad", "neutral"] {
            texts.push((tone.to_owned(), format!("{tone}-bg")));
            texts.push((tone.to_owned(), "panel".to_owned()));
            texts.push(("text".to_owned(), format!("{tone}-bg")));
        }
        for (text, ground) in texts {
            assert!(ratio(&text, &ground) >= 4.5, "{text} on {ground}: {}", ratio(&text, &ground));
        }
        for line in ["s1", "s2", "s3", "s4"] {
            assert!(ratio(line, "panel") >= 3.0, "{line}: {}", ratio(line, "panel"));
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(made_up::HOSTILE.to_vec()).prop_map(str::to_owned),
        "[<>&\"'`|a-z/= \\PC\n\0]{0,40}",
        Just("<p onclick=x>".repeat(800)),
    ]
}

fn number() -> impl Strategy<Value = Option<f64>> {
    proptest::option::of(prop_oneof![proptest::num::f64::ANY, 0.0..1e6_f64])
}

prop_compose! {
    fn samples()(samples in proptest::collection::vec((any::<i64>(), number()), 0..40)) -> Vec<Sample> {
        samples.into_iter().map(|(at, value)| Sample { at: Timestamp(at), value }).collect()
    }
}

prop_compose! {
    fn documents()(
        words in proptest::collection::vec(text(), 24),
        numbers in proptest::collection::vec(number(), 24),
        samples in proptest::collection::vec(samples(), 4),
        times in proptest::collection::vec(proptest::option::of(any::<i64>().prop_map(Timestamp)), 6),
        phase: i32,
    ) -> Document {
        filled(&words, &numbers, &samples, &times, phase)
    }
}

/// A document with those words, numbers, samples and times everywhere.
fn filled(
    words: &[String],
    numbers: &[Option<f64>],
    samples: &[Vec<Sample>],
    times: &[Option<Timestamp>],
    phase: i32,
) -> Document {
    let word = |at: usize| words[at].clone();
    let series = |at: usize| Series { name: word(at), unit: word(at + 1), samples: samples[at % 4].clone() };
    Document {
        title: word(0),
        generated_at: times[0],
        server: Server { name: word(1), version: word(2), database: word(3), extension_version: word(4) },
        period: Period { from: times[1], to: times[2] },
        warnings: vec![Warning { level: Level::Error, message: word(5), action: word(6), sql: word(7) }],
        alerts: vec![Alert {
            name: word(8),
            status: word(9),
            value: numbers[0],
            threshold: numbers[1],
            unit: word(10),
            ..Alert::default()
        }],
        load: vec![series(11), series(12)],
        latency: vec![series(13), series(14), series(15)],
        statements: vec![Statement {
            query: word(16),
            username: word(17),
            application_name: word(18),
            relations: vec![word(19)],
            share_pct: numbers[2],
            calls: numbers[3],
            mean_ms: numbers[4],
            trend: word(20),
            trend_pct: numbers[5],
            history: samples[0].clone(),
            ..Statement::default()
        }],
        recommendations: vec![Recommendation {
            id: word(0),
            title: word(1),
            priority: word(2),
            status: word(3),
            relation: word(4),
            reason: word(5),
            sql: word(6),
            undo_sql: word(7),
            predicted_gain_pct: numbers[6],
            achieved_gain_pct: numbers[7],
            ..Recommendation::default()
        }],
        capacity: vec![Capacity {
            metric: word(8),
            unit: word(9),
            history: samples[1].clone(),
            forecast: samples[2]
                .iter()
                .map(|s| Forecast { label: word(10), at: s.at, low: numbers[8], mid: s.value, high: numbers[9] })
                .collect(),
            triggers: vec![Trigger {
                name: word(11),
                value: numbers[10],
                crosses_at: times[3],
                action: word(12),
                ..Trigger::default()
            }],
            ..Capacity::default()
        }],
        jobs: vec![Job {
            name: word(13),
            message: word(14),
            last_run_at: times[4],
            last_duration_ms: numbers[11],
            ..Job::default()
        }],
        partitions: vec![Partitioned {
            parent: word(15),
            problem: word(16),
            fix_sql: word(17),
            size_bytes: numbers[12],
            ..Partitioned::default()
        }],
        caches: vec![Cache { name: word(18), status: word(19), hit_pct: numbers[13], ..Cache::default() }],
        roadmap: vec![RoadmapTask {
            phase,
            phase_name: word(20),
            task: word(21),
            ddl: word(22),
            ..RoadmapTask::default()
        }],
        comparison: Some(Comparison {
            before: word(23),
            after: word(0),
            total_change_pct: numbers[14],
            statements: vec![Compared { query: word(1), change_pct: numbers[15], ..Compared::default() }],
        }),
        cost: vec![CostItem { item: word(2), currency: word(3), monthly_cost_low: numbers[16], ..CostItem::default() }],
        health: vec![Health { component: word(4), status: word(5), detail: word(6) }],
    }
}

proptest! {
    // What fails is printed; kept in a file it would be hundreds of kilobytes.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_document_holds_the_page_is_whole(document in documents()) {
        let text = page(&document);
        check(&text);
        prop_assert!(text.len() < 1_000_000, "{}", text.len());
        let text = render(&document, Format::Text).unwrap();
        for line in text.lines() {
            let width = unicode_width::UnicodeWidthStr::width(line);
            prop_assert!(width <= 100, "{} columns: {}", width, line);
            prop_assert!(!line.chars().any(char::is_control));
        }
        let markdown = render(&document, Format::Markdown).unwrap();
        prop_assert!(markdown.len() < 300_000);
        // JSON reads back, but for what is not a number.
        let json = render(&document, Format::Json).unwrap();
        let again: Document = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(render(&again, Format::Json).unwrap(), json);
    }
}
