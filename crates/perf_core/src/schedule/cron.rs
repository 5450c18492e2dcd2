//! The five fields of cron as bit sets, and the walk over the wall clock times they match. Called by the schedule
//! alone; knows nothing of time zones.
//!
//! The grammar and the meaning of the day fields are croner's; what it lets pass without a meaning of its own is
//! refused here.

use croner::parser::{CronParser, Seconds, Year};
use croner::{CronPattern, Weekday};

use super::parse::Error;
use super::{DAY_US, MINUTE_US};
use crate::calendar::{weekday, Date};

/// Minutes of a day.
const DAY_MIN: i64 = 1440;
/// How many months the search goes on. The rarest day that comes at all is a leap day on a given day of the week: it
/// stays away for 40 years at most.
const SEARCH_MONTHS: u32 = 50 * 12;

/// What a field is called, and what it accepts.
struct Field {
    name: &'static str,
    accepted: &'static str,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", accepted: "0 to 59", names: &[] },
    Field { name: "hour", accepted: "0 to 23", names: &[] },
    Field {
        name: "day of month",
        accepted: "1 to 31, L (last day), LW (last weekday) or 15W (weekday nearest to the 15th)",
        names: &[],
    },
    Field {
        name: "month",
        accepted: "1 to 12 or JAN to DEC",
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    Field {
        name: "day of week",
        accepted: "0 to 7 (0 and 7 are Sunday) or SUN to SAT, 5L (last Friday of the month) or 5#2 (second Friday)",
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    },
];
const DAY_OF_MONTH: usize = 2;
const DAY_OF_WEEK: usize = 4;

/// Which wall clock minutes match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    minutes: u64,
    hours: u32,
    months: u16,
    /// The matching days of a month, by its length less 28 and by the day of the week it starts on: bit 1 is the first.
    days: [[u32; 7]; 4],
    /// Whether it follows the clock, whatever is done to the clock, instead of naming times of day.
    pub(super) cadence: bool,
}

impl Cron {
    /// Reads five fields.
    pub(super) fn parse(given: &[&str; 5]) -> Result<Cron, Error> {
        let text = given.join(" ");
        let upper = given.map(str::to_ascii_uppercase);
        let fields = &upper.each_ref().map(String::as_str);
        let malformed = fields.iter().zip(&FIELDS).position(|(value, field)| !well_formed(field, value));
        let pattern = match malformed {
            None => read(fields).ok_or_else(|| wrong_field(&text, given, refused_field(fields)))?,
            Some(field) => return Err(wrong_field(&text, given, Some(field))),
        };
        let days = days_of(&pattern).ok_or_else(|| wrong_field(&text, given, Some(DAY_OF_MONTH)))?;
        let bits = |values: Vec<u16>| values.into_iter().fold(0_u64, |bits, value| bits | 1 << (value % 64));
        let cron = Cron {
            minutes: bits(pattern.minutes.values()),
            hours: bits(pattern.hours.values()) as u32,
            months: bits(pattern.months.values()) as u16,
            days,
            cadence: fields[..2].iter().any(|value| value.contains(['*', '/'])),
        };
        if cron.comes() {
            Ok(cron)
        } else {
            Err(Error::new(
                format!("invalid schedule \"{text}\": it never comes"),
                "None of its months has a day that its day of month and day of week fields accept.".to_owned(),
            ))
        }
    }

    /// Whether any month ever has a matching day.
    fn comes(&self) -> bool {
        let lengths = |month: u32| match month {
            2 => 0..2,
            4 | 6 | 9 | 11 => 2..3,
            _ => 3..4,
        };
        (1..=12)
            .filter(|month| self.months >> month & 1 == 1)
            .flat_map(lengths)
            .any(|length| self.days[length] != [0; 7])
    }

    /// The first matching minute at or after a wall clock time.
    pub(super) fn next_from(&self, local_us: i64) -> Option<i64> {
        let minute = local_us.div_euclid(MINUTE_US) + i64::from(local_us.rem_euclid(MINUTE_US) != 0);
        let (day, time) = (minute.div_euclid(DAY_MIN), minute.rem_euclid(DAY_MIN));
        let at = |day: i64, time: i64| day * DAY_US + time * MINUTE_US;
        if self.day_from(day)? == day {
            if let Some(time) = self.time_from(time) {
                return Some(at(day, time));
            }
        }
        Some(at(self.day_from(day + 1)?, self.time_from(0)?))
    }

    /// The first matching minute of the day at or after one.
    fn time_from(&self, time: i64) -> Option<i64> {
        let first = |hour: i64, minute: i64| {
            let minutes = self.minutes >> minute << minute;
            (self.hours >> hour & 1 == 1 && minutes != 0).then(|| hour * 60 + i64::from(minutes.trailing_zeros()))
        };
        let hour = time / 60;
        first(hour, time % 60).or_else(|| (hour + 1..24).find_map(|hour| first(hour, 0)))
    }

    /// The first matching day at or after one, in days since 1970-01-01.
    fn day_from(&self, day: i64) -> Option<i64> {
        let mut day = day;
        for _ in 0..=SEARCH_MONTHS {
            let date = Date::of(day);
            let length = date.month_days();
            if self.months >> date.month & 1 == 1 {
                let starts_on = weekday(day - i64::from(date.day) + 1);
                let days = self.days[length as usize - 28][starts_on as usize] >> date.day;
                if days != 0 {
                    return Some(day + i64::from(days.trailing_zeros()));
                }
            }
            day += i64::from(length - date.day) + 1;
        }
        None
    }
}

/// Has croner read the fields. When one of the two day fields starts with a star, a day must match both, otherwise
/// either is enough: so has cron done since Vixie's.
fn read(fields: &[&str; 5]) -> Option<CronPattern> {
    let both = fields[DAY_OF_MONTH].starts_with('*') || fields[DAY_OF_WEEK].starts_with('*');
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).dom_and_dow(both).build();
    parser.parse(&fields.join(" ")).ok().map(|cron| cron.pattern)
}

/// The first field that is refused even with all others set to `*`.
fn refused_field(fields: &[&str; 5]) -> Option<usize> {
    (0..fields.len()).find(|&field| {
        let mut alone = ["*"; 5];
        alone[field] = fields[field];
        read(&alone).is_none()
    })
}

/// The matching days of every kind of month.
fn days_of(pattern: &CronPattern) -> Option<[[u32; 7]; 4]> {
    let mut days = [[0_u32; 7]; 4];
    // One month of every length: which days match depends on nothing else but the day of the week it starts on.
    for (kind, (year, month, length)) in
        [(2023, 2, 28), (2024, 2, 29), (2024, 4, 30), (2024, 1, 31)].into_iter().enumerate()
    {
        for starts_on in 0..7 {
            for day in 1..=length {
                let weekday = Weekday::from_days_from_sunday(starts_on + day - 1);
                if pattern.day_match(year, month, day, weekday).ok()? {
                    days[kind][starts_on as usize] |= 1 << day;
                }
            }
        }
    }
    Some(days)
}

/// Whether every item of a field's list has a shape that means something; what the numbers may be is left to croner.
fn well_formed(field: &Field, value: &str) -> bool {
    value.split(',').all(|item| {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        step.is_none_or(digits) && (range == "*" || range.split('-').all(|bound| is_bound(field, bound)))
    })
}

fn is_bound(field: &Field, bound: &str) -> bool {
    let plain = |text: &str| digits(text) || field.names.contains(&text);
    match field.name {
        "day of month" => matches!(bound, "L" | "LW") || plain(bound.strip_suffix('W').unwrap_or(bound)),
        "day of week" => match bound.split_once('#') {
            Some((day, nth)) => plain(day) && matches!(nth, "1" | "2" | "3" | "4" | "5"),
            None => plain(bound) || bound.strip_suffix('L').is_some_and(plain),
        },
        _ => plain(bound),
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn wrong_field(text: &str, fields: &[&str; 5], field: Option<usize>) -> Error {
    match field {
        Some(index) => Error::new(
            format!("invalid schedule \"{text}\": {} \"{}\" is not valid", FIELDS[index].name, fields[index]),
            format!(
                "A {} is *, or {}; lists (1,5), ranges (1-5) and steps (*/5, 1-10/2) of it.",
                FIELDS[index].name, FIELDS[index].accepted
            ),
        ),
        None => Error::unknown(text),
    }
}
