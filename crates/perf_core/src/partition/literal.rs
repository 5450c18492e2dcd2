//! Bounds as SQL and back: `'2026-03-01 00:00:00+00'` in FOR VALUES. Called by what writes the DDL of partitions and by
//! what reads the bounds of those that exist.

use super::{At, EpochUnit, Key, Range};
use crate::calendar::Date;
use crate::schedule::{DAY_US, HOUR_US, MINUTE_US, SECOND_US};

const MINVALUE: &str = "MINVALUE";
const MAXVALUE: &str = "MAXVALUE";

const MILLISECOND_US: i64 = 1_000;
/// The milliseconds of a version 7 uuid have 48 bits.
const UUID_MILLISECONDS: i64 = 1 << 48;
/// 4714-11-24 BC, the day 0 of the Julian calendar and the first that `date` and `timestamp` have. The last ones they
/// have are beyond what a position can be.
const FIRST_DAY_US: i64 = -2_440_588 * DAY_US;

impl Key {
    /// The part of the line that values of the key can be on, without infinity.
    pub fn line(self) -> Range {
        match self {
            Key::Date | Key::Timestamp | Key::Timestamptz => Range { lower: FIRST_DAY_US, upper: At::MAX },
            Key::Uuid7 => Range { lower: 0, upper: UUID_MILLISECONDS * MILLISECOND_US },
            Key::Epoch(EpochUnit::Nanoseconds) => Range { lower: i64::MIN / 1_000, upper: i64::MAX / 1_000 },
            Key::Epoch(_) => Range { lower: At::MIN, upper: At::MAX },
        }
    }
}

/// A position as it stands in FOR VALUES FROM (...) TO (...), in quotes where needed. Those before or after all values
/// of the key are MINVALUE and MAXVALUE. A position between two values is the lower of them.
pub fn literal(key: Key, at: At) -> String {
    let line = key.line();
    if at == At::MIN || at < line.lower {
        return MINVALUE.to_owned();
    }
    if at == At::MAX || at > line.upper || (key == Key::Uuid7 && at == line.upper) {
        return MAXVALUE.to_owned();
    }
    match key {
        Key::Date => {
            let (date, era) = date(at);
            format!("'{date}{era}'")
        }
        Key::Timestamp => {
            let (date, era) = date(at);
            format!("'{date} {}{era}'", time(at))
        }
        Key::Timestamptz => {
            let (date, era) = date(at);
            format!("'{date} {}+00{era}'", time(at))
        }
        Key::Uuid7 => {
            let ms = at / MILLISECOND_US;
            format!("'{:08x}-{:04x}-0000-0000-000000000000'", ms >> 16, ms & 0xffff)
        }
        Key::Epoch(EpochUnit::Seconds) => at.div_euclid(SECOND_US).to_string(),
        Key::Epoch(EpochUnit::Milliseconds) => at.div_euclid(MILLISECOND_US).to_string(),
        Key::Epoch(EpochUnit::Microseconds) => at.to_string(),
        Key::Epoch(EpochUnit::Nanoseconds) => at.saturating_mul(1_000).to_string(),
    }
}

/// The date, and what follows the time of day when it is before the first year.
fn date(at: At) -> (String, &'static str) {
    let Date { year, month, day } = Date::of(at.div_euclid(DAY_US));
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

fn time(at: At) -> String {
    let us = at.rem_euclid(DAY_US);
    let time = format!("{:02}:{:02}:{:02}", us / HOUR_US, us % HOUR_US / MINUTE_US, us % MINUTE_US / SECOND_US);
    match us % SECOND_US {
        0 => time,
        us => format!("{time}.{us:06}"),
    }
}

/// The position of a version 7 uuid: its milliseconds. All uuids of one millisecond are at one position.
pub fn at_of_uuid(uuid: &[u8; 16]) -> At {
    uuid[..6].iter().fold(0, |ms, byte| ms << 8 | i64::from(*byte)) * MILLISECOND_US
}

/// The position of a number, rounded down to microseconds; infinity for what is too far away.
pub fn at_of_number(unit: EpochUnit, value: i64) -> At {
    match unit {
        EpochUnit::Seconds => value.saturating_mul(SECOND_US),
        EpochUnit::Milliseconds => value.saturating_mul(MILLISECOND_US),
        EpochUnit::Microseconds => value,
        EpochUnit::Nanoseconds => value.div_euclid(1_000),
    }
}

/// The positions that bounds of a partition by uuid cover, `None` for MINVALUE and MAXVALUE. A bound within a
/// millisecond takes all of it, so that nothing made beside it overlaps it.
pub fn range_of_uuids(lower: Option<&[u8; 16]>, upper: Option<&[u8; 16]>) -> Range {
    let up = |uuid: &[u8; 16]| {
        let part = uuid[6..].iter().any(|byte| *byte != 0);
        at_of_uuid(uuid) + if part { MILLISECOND_US } else { 0 }
    };
    Range { lower: lower.map_or(At::MIN, at_of_uuid), upper: upper.map_or(At::MAX, up) }
}

/// The positions that bounds of a partition by numbers cover, `None` for MINVALUE and MAXVALUE. A bound within a
/// microsecond takes all of it.
pub fn range_of_numbers(unit: EpochUnit, lower: Option<i64>, upper: Option<i64>) -> Range {
    let up = |value: i64| {
        let part = unit == EpochUnit::Nanoseconds && value.rem_euclid(1_000) != 0;
        at_of_number(unit, value) + i64::from(part)
    };
    Range { lower: lower.map_or(At::MIN, |value| at_of_number(unit, value)), upper: upper.map_or(At::MAX, up) }
}
