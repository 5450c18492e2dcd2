//! Renders a report of a made-up platform, to look at: `cargo run -p perf_report --example sample > report.html`; the
//! first argument is another format, the second `empty`, `hostile` or `large`.

mod made_up;

use perf_report::{render, Format};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let format = arguments.next().unwrap_or_else(|| "html".to_owned());
    let format = Format::named(&format).ok_or_else(|| format!("no such format: {format}"))?;
    let document = match arguments.next().as_deref() {
        Some("empty") => perf_report::Document::default(),
        Some("hostile") => made_up::hostile(),
        Some("large") => made_up::large(),
        _ => made_up::platform(),
    };
    let began = std::time::Instant::now();
    let report = render(&document, format)?;
    eprintln!("{} bytes in {:?}", report.len(), began.elapsed());
    println!("{report}");
    Ok(())
}
