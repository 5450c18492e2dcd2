//! Points in time: kept as microseconds, written as RFC 3339 in JSON, shown in UTC. Called by the whole crate; no
//! clock is read here.

use perf_core::calendar::Date;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DAY_S: i64 = 86_400;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Microseconds since 1970-01-01 00:00 UTC.
///
/// JSON holds it as RFC 3339 (`2026-11-23T14:00:00Z`); what PostgreSQL writes for a timestamptz is read as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment so many seconds after 1970-01-01 00:00 UTC.
    pub fn from_unix_s(seconds: i64) -> Timestamp {
        Timestamp(seconds.saturating_mul(1_000_000))
    }

    /// Seconds since 1970-01-01 00:00 UTC, as a place on an axis.
    pub(crate) fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The whole seconds before it.
    fn whole(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// `23 Nov 2026`
    pub(crate) fn day(self) -> String {
        let date = Date::of(self.whole().div_euclid(DAY_S));
        format!("{} {} {}", date.day, month(date), date.year)
    }

    /// `23 Nov 2026 14:05`
    pub(crate) fn minute(self) -> String {
        let second = self.whole().rem_euclid(DAY_S);
        format!("{} {:02}:{:02}", self.day(), second / 3600, second / 60 % 60)
    }

    /// `23 Nov 14:05`: for tables whose year is clear.
    pub(crate) fn short(self) -> String {
        let (date, second) = (Date::of(self.whole().div_euclid(DAY_S)), self.whole().rem_euclid(DAY_S));
        format!("{} {} {:02}:{:02}", date.day, month(date), second / 3600, second / 60 % 60)
    }

    /// `2026-11-23T14:05:00Z`, with a fraction where there is one.
    fn rfc3339(self) -> String {
        let (date, second) = (Date::of(self.whole().div_euclid(DAY_S)), self.whole().rem_euclid(DAY_S));
        let Date { year, month, day } = date;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let micros = self.0.rem_euclid(1_000_000);
        let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
        // Years outside of 0000 to 9999 carry a sign, as ISO 8601 has it.
        let year = if (0..=9999).contains(&year) { format!("{year:04}") } else { format!("{year:+06}") };
        format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }

    /// Reads RFC 3339, or what PostgreSQL writes: a blank for the `T`, an offset of hours only. None: not a time.
    fn parse(text: &str) -> Option<Timestamp> {
        let text = text.trim();
        let (date, time) = text.split_once(['T', 't', ' '])?;
        let sign = if date.starts_with('-') { -1 } else { 1 };
        let mut fields = date.trim_start_matches(['-', '+']).splitn(3, '-');
        let year = sign * digits(fields.next()?, 999_999)?;
        let month = digits(fields.next()?, 12)?;
        let day = digits(fields.next()?, 31)?;
        let (time, offset) = match time.find(['Z', 'z', '+', '-']) {
            Some(at) => (time.get(..at)?, time.get(at..)?),
            None => (time, "Z"),
        };
        let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
        let mut fields = time.splitn(3, ':');
        let hour = digits(fields.next()?, 24)?;
        let minute = digits(fields.next()?, 59)?;
        let second = fields.next().map_or(Some(0), |s| digits(s, 60))?;
        let date = Date { year, month: month as u32, day: day as u32 };
        if month == 0 || day == 0 || date.day > date.month_days() {
            return None;
        }
        let micros = fraction_us(fraction)?;
        let seconds = date.days() * DAY_S + hour * 3600 + minute * 60 + second - offset_s(offset)?;
        seconds.checked_mul(1_000_000)?.checked_add(micros).map(Timestamp)
    }
}

/// The three letters of a month.
fn month(date: Date) -> &'static str {
    MONTHS.get(date.month.saturating_sub(1) as usize).copied().unwrap_or("")
}

/// A number of digits only, at most `max`.
fn digits(text: &str, max: i64) -> Option<i64> {
    let whole = !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|value| whole && *value <= max)
}

/// Microseconds of the digits behind the point; what is finer is left out.
fn fraction_us(text: &str) -> Option<i64> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.bytes().chain(std::iter::repeat(b'0')).take(6).fold(0, |sum, b| sum * 10 + i64::from(b - b'0')))
}

/// Seconds east of UTC of `Z`, `+02`, `+0200`, `-03:30` or `+05:53:28`.
fn offset_s(text: &str) -> Option<i64> {
    let (sign, text) = match text.chars().next()? {
        '+' => (1, text.get(1..)?),
        '-' => (-1, text.get(1..)?),
        _ => return (text.len() == 1).then_some(0),
    };
    let digits = text.replace(':', "");
    let part = |at: usize| digits.get(at..at + 2).map_or(Some(0), |two| self::digits(two, 59));
    let even = matches!(digits.len(), 2 | 4 | 6);
    even.then_some(())?;
    Some(sign * (part(0)? * 3600 + part(2)? * 60 + part(4)?))
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::parse(&text).ok_or_else(|| serde::de::Error::custom(format_args!("not a time: {text:?}")))
    }
}

/// How far apart the ticks of a time axis are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Seconds(i64),
    Months(i64),
}

const STEPS: [Step; 26] = [
    Step::Seconds(1),
    Step::Seconds(5),
    Step::Seconds(15),
    Step::Seconds(30),
    Step::Seconds(60),
    Step::Seconds(300),
    Step::Seconds(600),
    Step::Seconds(900),
    Step::Seconds(1800),
    Step::Seconds(3600),
    Step::Seconds(2 * 3600),
    Step::Seconds(3 * 3600),
    Step::Seconds(6 * 3600),
    Step::Seconds(12 * 3600),
    Step::Seconds(DAY_S),
    Step::Seconds(2 * DAY_S),
    Step::Seconds(7 * DAY_S),
    Step::Seconds(14 * DAY_S),
    Step::Months(1),
    Step::Months(2),
    Step::Months(3),
    Step::Months(6),
    Step::Months(12),
    Step::Months(24),
    Step::Months(60),
    Step::Months(120),
];

/// Where a time axis from `lo` to `hi` (seconds since 1970) has its ticks, at most `max` of them, and what they say.
pub(crate) fn ticks(lo: f64, hi: f64, max: usize) -> Vec<(f64, String)> {
    // Beyond these years no label would be true to life, and every sum below stays far from the ends of i64.
    let (lo, hi) = (lo.clamp(-6e10, 2.5e11), hi.clamp(-6e10, 2.5e11));
    let fits = |step: &&Step| {
        let length = match step {
            Step::Seconds(s) => *s as f64,
            Step::Months(m) => *m as f64 * 30.4 * DAY_S as f64,
        };
        (hi - lo) / length <= max as f64
    };
    let step = STEPS.iter().find(fits).copied().unwrap_or_else(|| {
        let years = ((hi - lo) / (365.2 * DAY_S as f64) / max.max(1) as f64).ceil();
        Step::Months(12 * (years as i64).max(10))
    });
    let mut ticks = Vec::new();
    match step {
        Step::Seconds(step) => {
            let mut at = (lo / step as f64).ceil() as i64 * step;
            while at as f64 <= hi {
                ticks.push((at as f64, tick_label(at, step)));
                at += step;
            }
        }
        Step::Months(step) => {
            let date = Date::of((lo as i64).div_euclid(DAY_S));
            let mut index = (date.year * 12 + i64::from(date.month) - 1).div_euclid(step) * step;
            loop {
                let (year, month) = (index.div_euclid(12), index.rem_euclid(12) as u32 + 1);
                let date = Date { year, month, day: 1 };
                let at = (date.days() * DAY_S) as f64;
                if at > hi {
                    break;
                }
                if at >= lo {
                    let label = if step >= 12 { year.to_string() } else { format!("{} {year}", self::month(date)) };
                    ticks.push((at, label));
                }
                index += step;
            }
        }
    }
    ticks
}

/// `14:00`, or the day where a day begins.
fn tick_label(at: i64, step: i64) -> String {
    let (date, second) = (Date::of(at.div_euclid(DAY_S)), at.rem_euclid(DAY_S));
    if second == 0 {
        format!("{} {}", date.day, month(date))
    } else if step < 60 {
        format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
    } else {
        format!("{:02}:{:02}", second / 3600, second / 60 % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_read_as_postgresql_writes_them() {
        let same =
            ["2026-11-23T14:05:06Z", "2026-11-23 14:05:06+00", "2026-11-23T19:35:06+05:30", "2026-11-23T14:05:06"];
        for text in same {
            assert_eq!(Timestamp::parse(text), Some(Timestamp::from_unix_s(1_795_442_706)), "{text}");
        }
        assert_eq!(Timestamp::parse("2026-11-23T14:05:06.25Z"), Some(Timestamp(1_795_442_706_250_000)));
        for text in ["", "now", "infinity", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-11-23T14:05:06+1"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_day_has_ticks_at_its_hours() {
        let day = 1_795_392_000.0;
        let labels: Vec<_> = ticks(day, day + 86_400.0, 8).into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["23 Nov", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00", "24 Nov"]);
        let labels: Vec<_> = ticks(day, day + 365.0 * 86_400.0, 6).into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["Jan 2027", "Apr 2027", "Jul 2027", "Oct 2027"]);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(micros in -60_000_000_000_000_000_i64..250_000_000_000_000_000) {
            let time = Timestamp(micros);
            prop_assert_eq!(Timestamp::parse(&time.rfc3339()), Some(time));
        }

        #[test]
        fn ticks_are_few_and_inside(lo in -1e12..1e12_f64, length in 0.0..1e12_f64, max in 2_usize..12) {
            let ticks = ticks(lo, lo + length, max);
            prop_assert!(ticks.len() <= max + 2);
            prop_assert!(ticks.windows(2).all(|w| w[0].0 < w[1].0));
        }

        #[test]
        fn no_time_breaks_the_words(micros: i64) {
            let time = Timestamp(micros);
            prop_assert!(!time.minute().is_empty() && !time.short().is_empty() && !time.rfc3339().is_empty());
        }
    }
}
