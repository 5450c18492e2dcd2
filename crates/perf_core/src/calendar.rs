//! Days and dates of the proleptic Gregorian calendar. Called by what shows a date, the schedules and the partitions.

/// A date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// The year; 0 is 1 BC.
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
}

impl Date {
    /// The date of a number of days since 1970-01-01.
    pub fn of(days: i64) -> Date {
        // Counted in 400-year cycles of 146,097 days from 2000-03-01, so that the leap day is the last of its year.
        let days = days.saturating_sub(11_017);
        let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (year, month, day) = (2000 + 400 * cycle + year, month, day - (153 * month + 2) / 5 + 1);
        let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
        Date { year, month: month as u32, day: day as u32 }
    }

    /// The number of days since 1970-01-01: what [`Date::of`] was given.
    pub fn days(self) -> i64 {
        // Years that begin in March of 2000, as above.
        let (year, month) = if self.month > 2 { (self.year, self.month - 3) } else { (self.year - 1, self.month + 9) };
        let (cycle, year) = ((year - 2000).div_euclid(400), (year - 2000).rem_euclid(400));
        let day = i64::from((153 * month + 2) / 5 + self.day) - 1;
        11_017 + 146_097 * cycle + 365 * year + year / 4 - year / 100 + day
    }

    /// How many days its month has.
    pub fn month_days(self) -> u32 {
        match self.month {
            4 | 6 | 9 | 11 => 30,
            2 if self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0) => 29,
            2 => 28,
            _ => 31,
        }
    }
}

/// The day of the week of a number of days since 1970-01-01: 0 is Sunday.
pub fn weekday(days: i64) -> u32 {
    // 1970-01-01 was a Thursday.
    (days.rem_euclid(7) as u32 + 4) % 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_another_calendar() {
        let epoch = jiff::civil::date(1970, 1, 1);
        for days in (-700_000..2_900_000).step_by(17).chain(-800..800).chain(10_900..11_500) {
            let date = epoch.checked_add(jiff::Span::new().days(days)).unwrap();
            let expected = Date { year: date.year().into(), month: date.month() as u32, day: date.day() as u32 };
            assert_eq!(Date::of(days), expected);
            assert_eq!(expected.days(), days);
            assert_eq!(expected.month_days(), date.days_in_month() as u32);
            assert_eq!(weekday(days), date.weekday().to_sunday_zero_offset() as u32);
        }
    }
}
