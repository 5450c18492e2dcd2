//! How long the intervals of a table are: `month`, `6 hours`. Called by what reads the options of a partition job, and
//! by the ruler for the step on the wall clock.

use super::Key;
use crate::calendar::Date;
use crate::schedule::{DAY_US, HOUR_US, MINUTE_US, SECOND_US};

/// A length of time that only the calendar can measure, like an `interval`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Months, of 28 to 31 days.
    pub months: i32,
    /// Days, of 23 to 25 hours.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

/// How long an interval is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From its first day.
    Month,
    /// From January, April, July or October.
    Quarter,
    /// From January.
    Year,
    /// Anything else, as [`Every::custom`] allows it.
    Custom(Span),
}

/// The longest text that is looked at, in bytes.
const TEXT_LIMIT: usize = 200;
/// The longest interval or age, in years.
const YEARS_MAX: i64 = 1_000;
const MONTHS_MAX: i64 = YEARS_MAX * 12;
const DAYS_MAX: i64 = YEARS_MAX * 365 + 250;

const ACCEPTED: &str = "accepted are day, week, month, quarter, year, and a number with a unit from minutes to years, \
                        like '6 hours', '10 days' or '2 months'";

struct Unit {
    words: &'static [&'static str],
    span: Span,
    /// The interval that one of them is.
    named: Option<Every>,
}

const fn months(months: i32) -> Span {
    Span { months, days: 0, micros: 0 }
}

const fn days(days: i32) -> Span {
    Span { months: 0, days, micros: 0 }
}

const fn micros(micros: i64) -> Span {
    Span { months: 0, days: 0, micros }
}

const SECOND: Unit = Unit { words: &["s", "sec", "secs", "second", "seconds"], span: micros(SECOND_US), named: None };
const UNITS: [Unit; 8] = [
    SECOND,
    Unit { words: &["min", "mins", "minute", "minutes"], span: micros(MINUTE_US), named: None },
    Unit { words: &["hour", "hours", "h", "hr", "hrs"], span: micros(HOUR_US), named: None },
    Unit { words: &["day", "days", "d"], span: days(1), named: Some(Every::Day) },
    Unit { words: &["week", "weeks", "w"], span: days(7), named: Some(Every::Week) },
    Unit { words: &["month", "months", "mon", "mons"], span: months(1), named: Some(Every::Month) },
    Unit { words: &["quarter", "quarters"], span: months(3), named: Some(Every::Quarter) },
    Unit { words: &["year", "years", "y", "yr", "yrs"], span: months(12), named: Some(Every::Year) },
];

const NAMES: [(&str, Every); 11] = [
    ("day", Every::Day),
    ("daily", Every::Day),
    ("week", Every::Week),
    ("weekly", Every::Week),
    ("month", Every::Month),
    ("monthly", Every::Month),
    ("quarter", Every::Quarter),
    ("quarterly", Every::Quarter),
    ("year", Every::Year),
    ("yearly", Every::Year),
    ("annually", Every::Year),
];

/// Splits `1 day 06:30:00` into numbers and their units. The text is in lower case.
fn terms(text: &str) -> Result<Vec<(i64, &'static Unit)>, String> {
    let mut terms = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let word = rest.split_whitespace().next().unwrap_or(rest);
        if let Some(seconds) = clock_seconds(word) {
            terms.push((seconds, &SECOND));
            rest = rest[word.len()..].trim_start();
            continue;
        }
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let tail = tail.trim_start();
        let (word, tail) = tail.split_at(tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len()));
        if number.is_empty() || word.is_empty() {
            return Err(format!("\"{rest}\" is not a whole number and a unit"));
        }
        let unit = UNITS.iter().find(|unit| unit.words.contains(&word));
        let unit = unit.ok_or_else(|| format!("unit \"{word}\" is not known"))?;
        // What no integer can hold is certainly too long.
        terms.push((number.parse().unwrap_or(i64::MAX), unit));
        rest = tail.trim_start();
    }
    if terms.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(terms)
}

/// The seconds of `06:00` or `06:00:00`, as the server shows hours of an interval.
fn clock_seconds(word: &str) -> Option<i64> {
    let mut parts = word.split(':');
    let mut part = |limit: i64| {
        let part = parts.next()?;
        let value: i64 = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
        (value < limit).then_some(value)
    };
    let (hours, minutes) = (part(YEARS_MAX * 366 * 24)?, part(60)?);
    let seconds = if word.matches(':').count() == 2 { part(60)? } else { 0 };
    parts.next().is_none().then_some(hours * 3_600 + minutes * 60 + seconds)
}

fn sum(terms: &[(i64, &Unit)]) -> Result<Span, String> {
    let (mut months, mut days, mut micros) = (0i64, 0i64, 0i64);
    for (count, unit) in terms {
        months = months.saturating_add(count.saturating_mul(unit.span.months.into()));
        days = days.saturating_add(count.saturating_mul(unit.span.days.into()));
        micros = micros.saturating_add(count.saturating_mul(unit.span.micros));
    }
    let too_long = || format!("longer than {YEARS_MAX} years");
    if months > MONTHS_MAX || days > DAYS_MAX || micros > DAYS_MAX * DAY_US {
        return Err(too_long());
    }
    let months = i32::try_from(months).map_err(|_| too_long())?;
    Ok(Span { months, days: i32::try_from(days).map_err(|_| too_long())?, micros })
}

/// In lower case with single blanks, or why it is not looked at.
fn normal(text: &str) -> Result<String, String> {
    if text.len() > TEXT_LIMIT {
        return Err(format!("{} bytes are too many, at most {TEXT_LIMIT} are read", text.len()));
    }
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase())
}

impl Span {
    /// Reads an age: whole numbers with units from seconds to years, `1 year 6 months`, `90 days`, `2 days 06:00:00`.
    /// At most 1,000 years of each.
    pub fn parse(text: &str) -> Result<Span, String> {
        normal(text).and_then(|text| sum(&terms(&text)?)).map_err(|reason| {
            format!(
                "invalid age \"{}\": {reason}; accepted are whole numbers with units from seconds to years, like \
                 '90 days' or '1 year 6 months'",
                shown(text)
            )
        })
    }

    /// Whether any part of it is below zero.
    pub fn is_negative(&self) -> bool {
        self.months < 0 || self.days < 0 || self.micros < 0
    }

    /// The wall clock so long before a time. A day that the month does not have is its last.
    pub(super) fn before(&self, wall_us: i64) -> i64 {
        let (day, time) = (wall_us.div_euclid(DAY_US), wall_us.rem_euclid(DAY_US));
        let date = Date::of(day);
        let month = date.year * 12 + i64::from(date.month) - 1 - i64::from(self.months);
        let mut date = Date { year: month.div_euclid(12), month: month.rem_euclid(12) as u32 + 1, day: 1 };
        date.day = Date::of(day).day.min(date.month_days());
        let day = date.days() - i64::from(self.days);
        day.saturating_mul(DAY_US).saturating_add(time).saturating_sub(self.micros)
    }
}

/// As much of a refused text as a message should hold.
fn shown(text: &str) -> &str {
    text.char_indices().nth(60).map_or(text, |(end, _)| &text[..end])
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let months = i64::from(self.months);
        let parts = [
            counted(months / 12, "year"),
            counted(months % 12, "month"),
            counted(self.days.into(), "day"),
            counted(self.micros / HOUR_US, "hour"),
            some(self.micros % HOUR_US / MINUTE_US, "min"),
            some(self.micros % MINUTE_US / SECOND_US, "s"),
            some(self.micros % SECOND_US, "us"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }.as_str())
    }
}

fn some(count: i64, unit: &str) -> Option<String> {
    (count != 0).then(|| format!("{count} {unit}"))
}

fn counted(count: i64, unit: &str) -> Option<String> {
    some(count, &if count == 1 { unit.to_owned() } else { format!("{unit}s") })
}

/// The step of an interval on the wall clock.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// Months, from January of the year 0.
    Months(i64),
    /// Microseconds, from an origin.
    Micros { step: i64, origin: i64 },
}

const WEEK_US: i64 = 7 * DAY_US;
/// 1970-01-05.
const A_MONDAY_US: i64 = 4 * DAY_US;

impl Step {
    /// Which interval a time lies in, as a number.
    pub(super) fn index(self, wall_us: i64) -> i64 {
        match self {
            Step::Months(step) => {
                let date = Date::of(wall_us.div_euclid(DAY_US));
                (date.year * 12 + i64::from(date.month) - 1).div_euclid(step)
            }
            Step::Micros { step, origin } => wall_us.saturating_sub(origin).div_euclid(step),
        }
    }

    /// The time at which a numbered interval begins.
    pub(super) fn wall(self, index: i64) -> i64 {
        match self {
            Step::Months(step) => {
                let month = index.saturating_mul(step);
                let first = Date { year: month.div_euclid(12), month: month.rem_euclid(12) as u32 + 1, day: 1 };
                first.days().saturating_mul(DAY_US)
            }
            Step::Micros { step, origin } => index.saturating_mul(step).saturating_add(origin),
        }
    }
}

impl Every {
    /// Reads `month`, `monthly`, `6 hours`, `2 weeks` and the like. Says what is accepted when it refuses.
    pub fn parse(text: &str) -> Result<Every, String> {
        Every::read(text).map_err(|reason| format!("invalid interval \"{}\": {reason}; {ACCEPTED}", shown(text)))
    }

    fn read(text: &str) -> Result<Every, String> {
        let text = normal(text)?;
        if let Some((_, every)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*every);
        }
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(if text.is_empty() { "it is empty" } else { "it is not known" }.to_owned());
        }
        let terms = terms(&text)?;
        match terms.as_slice() {
            [(1, Unit { named: Some(every), .. })] => Ok(*every),
            terms => Every::custom(sum(terms)?),
        }
    }

    /// An interval of any length from 1 minute to 1,000 years, in whole minutes; months mix with nothing. Hours on top
    /// of days are hours alone, since a day on the wall clock has 24 of them. One day and one month have their names.
    pub fn custom(span: Span) -> Result<Every, String> {
        if span.is_negative() {
            return Err("shorter than 1 minute".to_owned());
        }
        let time = i64::from(span.days) * DAY_US;
        let time = time.checked_add(span.micros).filter(|time| *time <= DAYS_MAX * DAY_US);
        let time = time.filter(|_| i64::from(span.months) <= MONTHS_MAX);
        let time = time.ok_or_else(|| format!("longer than {YEARS_MAX} years"))?;
        match span {
            Span { months: 1.., .. } if time != 0 => Err("months do not mix with days or hours".to_owned()),
            Span { months: 1, .. } => Ok(Every::Month),
            Span { months: 2.., .. } => Ok(Every::Custom(span)),
            _ if time < MINUTE_US => Err("shorter than 1 minute".to_owned()),
            _ if time % MINUTE_US != 0 => Err("not a number of whole minutes".to_owned()),
            Span { micros: 0, days: 1, .. } => Ok(Every::Day),
            Span { micros: 0, .. } => Ok(Every::Custom(span)),
            _ => Ok(Every::Custom(micros(time))),
        }
    }

    /// How long it is.
    pub fn span(self) -> Span {
        match self {
            Every::Day => days(1),
            Every::Week => days(7),
            Every::Month => months(1),
            Every::Quarter => months(3),
            Every::Year => months(12),
            Every::Custom(span) => span,
        }
    }

    /// Whether a key can be cut so finely: a `date` has no parts of a day.
    pub fn fits(&self, key: Key) -> Result<(), String> {
        let span = self.span();
        if key == Key::Date && span.micros % DAY_US != 0 {
            return Err(format!("an interval of {self} does not fit a key of type date, which needs whole days"));
        }
        Ok(())
    }

    pub(super) fn step(self) -> Step {
        let span = self.span();
        if span.months > 0 {
            return Step::Months(span.months.into());
        }
        let step = (i64::from(span.days) * DAY_US).saturating_add(span.micros).max(MINUTE_US);
        Step::Micros { step, origin: if step % WEEK_US == 0 { A_MONDAY_US } else { 0 } }
    }
}

impl std::fmt::Display for Every {
    /// As [`Every::parse`] reads it back.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let span = match self {
            Every::Day => return f.write_str("day"),
            Every::Week => return f.write_str("week"),
            Every::Month => return f.write_str("month"),
            Every::Quarter => return f.write_str("quarter"),
            Every::Year => return f.write_str("year"),
            Every::Custom(span) => span,
        };
        // One week and one year would read back as the named ones.
        match *span {
            Span { months: 13.., .. } if span.months % 12 == 0 => write!(f, "{} years", span.months / 12),
            Span { months: 1.., .. } => write!(f, "{} months", span.months),
            Span { days: 8.., micros: 0, .. } if span.days % 7 == 0 => write!(f, "{} weeks", span.days / 7),
            _ => span.fmt(f),
        }
    }
}
