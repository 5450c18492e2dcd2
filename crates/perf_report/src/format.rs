//! Numbers the way people read them: three digits that count, and a unit that fits. Called by everything that shows a
//! number; what is missing or not a number is a dash, never a zero.

/// What stands where a number is missing.
pub(crate) const MISSING: &str = "–";

const UNITS_MS: [(f64, &str); 5] =
    [(86_400_000.0, "d"), (3_600_000.0, "h"), (60_000.0, "min"), (1000.0, "s"), (1.0, "ms")];
const UNITS_BYTES: [(f64, &str); 6] = [
    (1_125_899_906_842_624.0, "PB"),
    (1_099_511_627_776.0, "TB"),
    (1_073_741_824.0, "GB"),
    (1_048_576.0, "MB"),
    (1024.0, "kB"),
    (1.0, "B"),
];
const UNITS_COUNT: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, "")];

/// What a number counts, told from the name of its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit<'a> {
    Ms,
    Bytes,
    Percent,
    /// Anything else: a plain number, with these words behind it.
    Count(&'a str),
}

impl<'a> Unit<'a> {
    /// The unit of that name, as results of functions have it: `ms`, `bytes`, `%`, `1/s`, `connections`.
    pub(crate) fn of(name: &'a str) -> Unit<'a> {
        match name {
            "ms" => Unit::Ms,
            "bytes" => Unit::Bytes,
            "%" | "pct" | "percent" => Unit::Percent,
            "1/s" => Unit::Count("/s"),
            "1/min" => Unit::Count("/min"),
            "count" => Unit::Count(""),
            // The name comes from outside: what cannot be one is left out.
            other if other.len() > 24 || !other.chars().all(|c| c.is_alphanumeric() || " /%²³°.-".contains(c)) => {
                Unit::Count("")
            }
            other => Unit::Count(other),
        }
    }

    /// The unit without the things that are counted, for where a title names them.
    pub(crate) fn short(self) -> Unit<'a> {
        match self {
            Unit::Count(words) if !words.starts_with('/') => Unit::Count(""),
            unit => unit,
        }
    }

    /// What numbers up to `max` are best divided by, and the unit that they then have.
    pub(crate) fn scale(self, max: f64) -> (f64, String) {
        let pick = |units: &[(f64, &'static str)]| {
            let last = units.last().copied().unwrap_or((1.0, ""));
            units.iter().copied().find(|(size, _)| max.abs() >= *size).unwrap_or(last)
        };
        match self {
            Unit::Ms => own(pick(&UNITS_MS)),
            Unit::Bytes => own(pick(&UNITS_BYTES)),
            Unit::Percent => (1.0, "%".to_owned()),
            Unit::Count(words) => {
                let (size, prefix) = pick(&UNITS_COUNT);
                (size, format!("{prefix}{}{words}", if prefix.is_empty() || words.is_empty() { "" } else { " " }))
            }
        }
    }

    /// The number with its unit.
    pub(crate) fn show(self, value: Option<f64>) -> String {
        let Some(value) = value.filter(|v| v.is_finite()) else { return MISSING.to_owned() };
        let (size, unit) = match self {
            // What is a minute is still told in seconds up to two of them, and an hour in minutes.
            Unit::Ms if (60_000.0..120_000.0).contains(&value.abs()) => (1000.0, "s".to_owned()),
            Unit::Ms if (3_600_000.0..7_200_000.0).contains(&value.abs()) => (60_000.0, "min".to_owned()),
            _ => self.scale(value),
        };
        let number = plain(value / size);
        match unit.as_str() {
            "" => number,
            unit if unit.starts_with('/') => format!("{number}{unit}"),
            unit => format!("{number} {unit}"),
        }
    }
}

fn own((size, unit): (f64, &str)) -> (f64, String) {
    (size, unit.to_owned())
}

/// Three digits that count; whole thousands with commas.
pub(crate) fn plain(value: f64) -> String {
    if !value.is_finite() {
        return MISSING.to_owned();
    }
    let size = value.abs();
    let text = match size {
        _ if size >= 1e15 => return format!("{value:.2e}"),
        _ if size == 0.0 => "0".to_owned(),
        _ if size < 0.0005 => return format!("{}< 0.001", if value < 0.0 { "-" } else { "" }),
        _ if size < 0.1 => format!("{value:.3}"),
        _ if size < 9.995 => format!("{value:.2}"),
        _ if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
    let mut out = sign.to_owned();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// `1.2 ms`, `3.4 s`, `2.1 h`
pub(crate) fn ms(value: Option<f64>) -> String {
    Unit::Ms.show(value)
}

/// `3.4 GB`
pub(crate) fn bytes(value: Option<f64>) -> String {
    Unit::Bytes.show(value)
}

/// `12 %`: never finer than a tenth, which is finer than anything here is measured.
pub(crate) fn percent(value: Option<f64>) -> String {
    let rounded =
        value.filter(|v| v.is_finite()).map(|v| if v.abs() < 10.0 { (v * 10.0).round() / 10.0 } else { v.round() });
    Unit::Percent.show(rounded)
}

/// `+12 %`: a change.
pub(crate) fn change(value: Option<f64>) -> String {
    let text = percent(value);
    if value.is_some_and(|v| v > 0.0 && v.is_finite()) && text != "0 %" {
        format!("+{text}")
    } else {
        text
    }
}

/// `12,345`, `1.2 M`
pub(crate) fn count(value: Option<f64>) -> String {
    Unit::Count("").show(value)
}

/// `1 statement`, `3 statements`
pub(crate) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{} {}", plain(count as f64), if count == 1 { one } else { many })
}

/// Places and labels of the ticks of an axis from zero (or below) to `max`, about `wanted` of them; the last is at or
/// above `max`, so that no mark leaves the chart.
pub(crate) fn ticks(min: f64, max: f64, wanted: usize, unit: Unit) -> Vec<(f64, String)> {
    // What is counted stands in the title of a chart; at each tick it would only take room.
    let (size, name) = unit.short().scale(max.abs().max(min.abs()));
    let (lo, hi) = (min / size, max / size);
    let raw = (hi - lo) / wanted.max(1) as f64;
    let step = nice(if raw.is_finite() && raw > 0.0 { raw } else { 1.0 });
    let (first, last) = ((lo / step).floor(), (hi / step - 1e-9).ceil());
    let steps = (last - first).clamp(1.0, 4.0 * wanted.max(1) as f64) as u32;
    let space = if name.is_empty() || name.starts_with('/') { "" } else { " " };
    (0..=steps)
        .map(|at| (first + f64::from(at)) * step)
        // Zero needs no unit, and 0.30000000000000004 is 0.3.
        .map(|v| (v * size, if v.abs() < step / 2.0 { "0".into() } else { format!("{}{space}{name}", plain(v)) }))
        .collect()
}

/// 1, 2 or 5 times a power of ten, not below `raw`.
fn nice(raw: f64) -> f64 {
    let power = 10_f64.powf(raw.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|m| m * power).find(|step| *step >= raw * 0.999_999).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_for_people() {
        let cases: [(String, &str); 20] = [
            (ms(Some(1.2)), "1.2 ms"),
            (ms(Some(0.0421)), "0.042 ms"),
            (ms(Some(0.000_01)), "< 0.001 ms"),
            (ms(Some(1234.5)), "1.23 s"),
            (ms(Some(90_000.0)), "90 s"),
            (ms(Some(600_000.0)), "10 min"),
            (ms(Some(7.3e6)), "2.03 h"),
            (ms(Some(f64::NAN)), "–"),
            (ms(Some(f64::INFINITY)), "–"),
            (ms(None), "–"),
            (bytes(Some(3.4 * 1_073_741_824.0)), "3.4 GB"),
            (bytes(Some(0.0)), "0 B"),
            (bytes(Some(-2048.0)), "-2 kB"),
            (percent(Some(12.34)), "12 %"),
            (percent(Some(1.26)), "1.3 %"),
            (percent(Some(0.01)), "0 %"),
            (change(Some(12.0)), "+12 %"),
            (count(Some(1_234_567.0)), "1.23 M"),
            (count(Some(12_345.0)), "12,345"),
            (Unit::of("1/s").show(Some(340.0)), "340/s"),
        ];
        for (shown, expected) in cases {
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn ticks_are_round_and_end_at_or_above_the_highest() {
        let labels = |max, unit| ticks(0.0, max, 4, unit).into_iter().map(|(_, l)| l).collect::<Vec<_>>();
        assert_eq!(labels(730.0, Unit::Ms), ["0", "200 ms", "400 ms", "600 ms", "800 ms"]);
        assert_eq!(labels(2.1e9, Unit::Bytes), ["0", "0.5 GB", "1 GB", "1.5 GB", "2 GB"]);
        assert_eq!(labels(0.0, Unit::Count("")), ["0", "1"]);
    }

    proptest! {
        #[test]
        fn no_number_breaks_the_words(value: f64, unit in "\\PC{0,40}") {
            prop_assert!(Unit::of(&unit).show(Some(value)).len() < 60);
            prop_assert!(!percent(Some(value)).is_empty() && !change(Some(value)).is_empty());
        }

        #[test]
        fn ticks_hold_the_range(max in 0.0..1e18_f64, wanted in 1_usize..8, unit in "ms|bytes|%|1/s") {
            let ticks = ticks(0.0, max, wanted, Unit::of(&unit));
            prop_assert!(ticks.len() >= 2 && ticks.len() <= 4 * wanted + 2);
            prop_assert!(ticks.last().unwrap().0 >= max * 0.999);
        }
    }
}
