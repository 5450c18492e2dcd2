//! What autopilot may do, and when: the hours of its window, what is worth it, and what must fit. Pure.

/// Share of the measured time that an index must save, in per cent, for autopilot to make it.
const BENEFIT_MIN_PCT: f64 = 1.0;
const DAY_MINUTES: u32 = 24 * 60;

/// The hours of a day in which changes are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// First minute of the day.
    start: u32,
    /// First minute after it; before `start`: of the next day.
    end: u32,
    /// Name of the time zone; empty for UTC.
    pub zone: String,
}

impl Window {
    /// `22:00-05:30`, with a time zone after it if it is not UTC; nothing at all is any time.
    pub fn parse(text: &str) -> Option<Window> {
        let text = text.trim();
        if text.is_empty() {
            return Some(Window { start: 0, end: DAY_MINUTES, zone: String::new() });
        }
        let (hours, zone) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (start, end) = hours.split_once('-')?;
        let (start, end) = (minute(start)?, minute(end)?);
        (start != end).then(|| Window { start, end, zone: zone.trim().to_owned() })
    }

    /// Whether a minute of the day lies in it.
    pub fn contains(&self, minute: u32) -> bool {
        if self.start < self.end {
            (self.start..self.end).contains(&minute)
        } else {
            minute >= self.start || minute < self.end
        }
    }
}

/// The minute of the day of `HH:MM`; 24:00 is the end of it.
fn minute(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.len() == 2);
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

/// An advice as autopilot looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Advice<'a> {
    /// create, drop or reindex.
    pub action: &'a str,
    /// high, medium or low.
    pub confidence: &'a str,
    /// Of the measured time, in per cent.
    pub benefit_pct: Option<f64>,
    /// What it takes on disk.
    pub size_bytes: f64,
}

/// Whether an advice is one for autopilot, with so much of its budget left: what is measured, sure, and pays.
pub fn is_wanted(advice: &Advice, left_bytes: f64) -> bool {
    match advice.action {
        "create" => {
            advice.confidence != "low"
                && advice.benefit_pct.is_some_and(|pct| pct >= BENEFIT_MIN_PCT)
                && advice.size_bytes <= left_bytes
        }
        // What no measurement of today's statements can tell is left to people: somebody may need it once a month.
        "drop" => advice.confidence == "high",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_and_may_pass_midnight() {
        let night = Window::parse("22:00-05:30 Europe/Berlin").unwrap();
        assert_eq!(night.zone, "Europe/Berlin");
        assert!(night.contains(23 * 60) && night.contains(0) && night.contains(329));
        assert!(!night.contains(330) && !night.contains(12 * 60));
        let day = Window::parse(" 08:00-18:00 ").unwrap();
        assert!(day.zone.is_empty() && day.contains(480) && !day.contains(1080) && !day.contains(0));
        assert!((0..DAY_MINUTES).all(|minute| Window::parse("").unwrap().contains(minute)));
        assert!(Window::parse("00:00-24:00").unwrap().contains(1439));
        for wrong in
            ["8:00-9:00", "08:00", "08:00-08:00", "08:60-09:00", "24:01-05:00", "a-b", "08:00 - 09:00", "-1:00-02:00"]
        {
            assert_eq!(Window::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_is_sure_and_pays_is_wanted() {
        let create = Advice { action: "create", confidence: "high", benefit_pct: Some(12.0), size_bytes: 100.0 };
        assert!(is_wanted(&create, 100.0));
        assert!(!is_wanted(&create, 99.0));
        assert!(!is_wanted(&Advice { confidence: "low", ..create }, 1e9));
        assert!(!is_wanted(&Advice { benefit_pct: Some(0.5), ..create }, 1e9));
        assert!(!is_wanted(&Advice { benefit_pct: None, ..create }, 1e9));
        assert!(is_wanted(&Advice { action: "drop", ..create }, 0.0));
        assert!(!is_wanted(&Advice { action: "drop", confidence: "medium", ..create }, 0.0));
        assert!(!is_wanted(&Advice { action: "keep", ..create }, 1e9));
    }
}
