//! Names of partitions: `events_p2026_03`. Called by the jobs before they create one; whether a name is free, they ask
//! the catalogue.

use super::every::Step;
use super::{At, Every, Key, Range, Ruler};
use crate::calendar::Date;
use crate::index::name::{shortened, NAME_BYTES_MAX};
use crate::schedule::{DAY_US, HOUR_US, MINUTE_US, SECOND_US};

/// The name of a partition: the parent's, `_p`, and the beginning of its interval on the zone's wall clock, as
/// `2026`, `2026_q1`, `2026_03`, `2026_w09`, `2026_03_15` or `2026_03_15_0600`. What is not a whole interval is named by
/// the date and the time of its lower bound. A parent's name that is too long is cut and gets a hash of the whole, so
/// that the result has at most 63 bytes.
pub fn name(parent: &str, ruler: &Ruler, range: &Range) -> String {
    name_nth(parent, ruler, range, 1)
}

/// The name to try when those before it are taken: the first is [`name`], the second ends in `_2`.
pub fn name_nth(parent: &str, ruler: &Ruler, range: &Range, n: u32) -> String {
    let mut suffix = format!("_p{}", beginning(ruler, range));
    if n > 1 {
        suffix += &format!("_{n}");
    }
    shortened(parent, NAME_BYTES_MAX - suffix.len()) + &suffix
}

fn beginning(ruler: &Ruler, range: &Range) -> String {
    if range.lower == At::MIN {
        return "min".to_owned();
    }
    let tile = ruler.tile(range.lower);
    if tile.range == *range {
        interval(ruler.every, tile.wall_us)
    } else {
        piece(ruler, range.lower)
    }
}

/// What the interval stands for.
fn interval(every: Every, wall_us: i64) -> String {
    let days = wall_us.div_euclid(DAY_US);
    let date = Date::of(days);
    match (every, every.step()) {
        (Every::Week, _) => {
            // By ISO 8601, a week belongs to the year that its Thursday is in.
            let thursday = days + 3;
            let Date { year: of, .. } = Date::of(thursday);
            let week = (thursday - Date { year: of, month: 1, day: 1 }.days()) / 7 + 1;
            format!("{}_w{week:02}", year(of))
        }
        (Every::Quarter, _) => format!("{}_q{}", year(date.year), (date.month - 1) / 3 + 1),
        (_, Step::Months(step)) if step % 12 == 0 => year(date.year),
        (_, Step::Months(_)) => format!("{}_{:02}", year(date.year), date.month),
        (_, Step::Micros { step, .. }) if step % DAY_US == 0 => day(date),
        (_, Step::Micros { .. }) => format!("{}_{}", day(date), time(wall_us)),
    }
}

/// When a part of an interval begins, down to the microsecond when it must be.
fn piece(ruler: &Ruler, lower: At) -> String {
    let wall_us = ruler.wall(lower);
    let day = day(Date::of(wall_us.div_euclid(DAY_US)));
    if ruler.key == Key::Date {
        return day;
    }
    // The same time in the second pass through a repeated hour.
    let again = if ruler.on_line(wall_us) == lower { "" } else { "b" };
    format!("{day}_{}{again}", time(wall_us))
}

fn year(year: i64) -> String {
    if year > 0 {
        format!("{year:04}")
    } else {
        format!("{:04}bc", 1 - year)
    }
}

fn day(date: Date) -> String {
    format!("{}_{:02}_{:02}", year(date.year), date.month, date.day)
}

fn time(wall_us: i64) -> String {
    let us = wall_us.rem_euclid(DAY_US);
    let minutes = format!("{:02}{:02}", us / HOUR_US, us % HOUR_US / MINUTE_US);
    match (us % MINUTE_US / SECOND_US, us % SECOND_US) {
        (0, 0) => minutes,
        (seconds, 0) => format!("{minutes}{seconds:02}"),
        (seconds, us) => format!("{minutes}{seconds:02}_{us:06}"),
    }
}
