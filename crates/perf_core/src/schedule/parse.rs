//! Reads the text of a schedule. Called by [`Schedule::parse`] alone.

use super::cron::Cron;
use super::{Kind, Schedule, DAY_US, HOUR_US, MINUTE_US, SECOND_US};

/// The longest text that is looked at, in bytes.
const TEXT_LIMIT: usize = 200;
/// The longest interval, in days.
const LONGEST_DAYS: i64 = 365;

const ACCEPTED: &str = "A schedule is an interval ('30 s', '5 min', '2 hours 30 min', '1 day'), one of hourly, daily, \
     weekly and monthly, or cron with five fields: minute, hour, day of month, month, day of week \
     ('30 2 * * MON-FRI').";

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What is wrong, with the value.
    pub message: String,
    /// What is accepted.
    pub hint: String,
}

impl Error {
    pub(super) fn new(message: String, hint: String) -> Error {
        Error { message, hint }
    }

    pub(super) fn unknown(text: &str) -> Error {
        Error::new(format!("invalid schedule \"{text}\""), ACCEPTED.to_owned())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The names, and the cron that each of them is.
const NAMES: [(&str, &str); 4] =
    [("hourly", "0 * * * *"), ("daily", "0 0 * * *"), ("weekly", "0 0 * * 0"), ("monthly", "0 0 1 * *")];

pub(super) fn schedule(text: &str) -> Result<Schedule, Error> {
    if text.len() > TEXT_LIMIT {
        return Err(Error::new(
            format!("invalid schedule: {} bytes are too many, at most {TEXT_LIMIT} are read", text.len()),
            ACCEPTED.to_owned(),
        ));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    if text.is_empty() {
        return Err(Error::new("invalid schedule: it is empty".to_owned(), ACCEPTED.to_owned()));
    }
    let name = text.strip_prefix('@').unwrap_or(&text);
    if let Some((name, cron)) = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return cron_schedule((*name).to_owned(), cron);
    }
    if !text.contains('*') && is_interval(&words) {
        return interval(&text);
    }
    match words.len() {
        5 => cron_schedule(text.to_ascii_uppercase(), &text),
        6 | 7 => Err(Error::new(
            format!("invalid schedule \"{text}\": {} fields, where cron has five", words.len()),
            "Seconds and years are no fields here. For less than a minute give an interval, like '30 s'. ".to_owned()
                + ACCEPTED,
        )),
        _ => Err(Error::unknown(&text)),
    }
}

fn cron_schedule(text: String, fields: &str) -> Result<Schedule, Error> {
    let fields: Vec<&str> = fields.split(' ').collect();
    let fields: &[&str; 5] = fields.as_slice().try_into().map_err(|_| Error::unknown(&text))?;
    Ok(Schedule { kind: Kind::Cron(Cron::parse(fields)?), text })
}

/// A number and a unit come first. No field of cron that does so has letters in it, nor has the field after it.
fn is_interval(words: &[&str]) -> bool {
    let rest = words.first().map_or("", |word| word.trim_start_matches(|c: char| c.is_ascii_digit()));
    let starts_with_digit = words.first().is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let unit = if rest.is_empty() { words.get(1).copied().unwrap_or("") } else { rest };
    starts_with_digit && unit.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// What a unit counts in: days of the calendar, or microseconds of real time.
enum Unit {
    Days(i64),
    Time(i64),
}

fn unit(word: &str) -> Option<Unit> {
    Some(match word {
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Time(SECOND_US),
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Time(MINUTE_US),
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Time(HOUR_US),
        "d" | "day" | "days" => Unit::Days(1),
        "w" | "week" | "weeks" => Unit::Days(7),
        _ => return None,
    })
}

fn interval(text: &str) -> Result<Schedule, Error> {
    let wrong =
        |reason: String, hint: &str| Error::new(format!("invalid schedule \"{text}\": {reason}"), hint.to_owned());
    let too_long = || wrong("longer than a year".to_owned(), "An interval is at most 365 days.");
    let (mut time, mut days) = (None::<i64>, None::<i64>);
    let mut rest = text;
    while !rest.is_empty() {
        let letters = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(letters);
        let tail = tail.trim_start();
        let (word, tail) = tail.split_at(tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len()));
        if number.is_empty() || word.is_empty() {
            return Err(wrong(
                format!("\"{rest}\" is not a number and a unit"),
                "An interval is made of whole numbers and units, like '2 hours 30 min'.",
            ));
        }
        // A number that no integer can hold is certainly too long, but its unit may be wrong as well: that comes first.
        let number: i64 = number.parse().unwrap_or(i64::MAX);
        let (sum, size) = match unit(&word.to_ascii_lowercase()) {
            Some(Unit::Time(size)) => (&mut time, size),
            Some(Unit::Days(size)) => (&mut days, size),
            None => {
                return Err(wrong(
                    format!("unit \"{word}\" is not known"),
                    "Units are seconds, minutes, hours, days and weeks. For months use monthly or cron: \
                     '0 0 1 */3 *' is every three months.",
                ))
            }
        };
        let part = number.checked_mul(size).ok_or_else(too_long)?;
        *sum = Some(sum.unwrap_or(0).checked_add(part).ok_or_else(too_long)?);
        rest = tail.trim_start();
    }
    match (time, days) {
        (Some(_), Some(_)) => Err(wrong(
            "days and hours do not mix".to_owned(),
            "A day lasts 23 to 25 hours where clocks are changed: write '36 hours' for real time, or '2 days' for the \
             same time of day.",
        )),
        (Some(time), None) if time > LONGEST_DAYS * DAY_US => Err(too_long()),
        (None, Some(days)) if days > LONGEST_DAYS => Err(too_long()),
        (Some(time), None) if time >= SECOND_US => Ok(every(time)),
        (None, Some(days)) if days >= 1 => Ok(every_days(days)),
        _ => Err(wrong("shorter than a second".to_owned(), "An interval is at least 1 second.")),
    }
}

/// The one way an interval is written, whatever units it was given in.
fn every(time: i64) -> Schedule {
    let (hours, minutes, seconds) = (time / HOUR_US, time % HOUR_US / MINUTE_US, time % MINUTE_US / SECOND_US);
    let parts = [(hours, if hours == 1 { "hour" } else { "hours" }), (minutes, "min"), (seconds, "s")];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count} {unit}")).collect();
    Schedule { text: parts.join(" "), kind: Kind::Every(time) }
}

fn every_days(days: i64) -> Schedule {
    let unit = if days == 1 { "day" } else { "days" };
    Schedule { text: format!("{days} {unit}"), kind: Kind::Days(days) }
}
