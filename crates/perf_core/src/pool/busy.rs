//! Busy backends as they are counted, once a second.

/// Numbers of backends above this are counted as this: a histogram is one row of a table.
pub const BUSY_MAX: usize = 1_000;

/// Seconds by the number of busy backends of one role, or of a database, in some span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BusySeconds {
    /// Seconds with so many busy backends, by their number.
    pub seconds: Vec<u32>,
    /// Most connections, busy or not.
    pub connected_max: u32,
    /// Busy backends, summed up over the seconds.
    pub busy_s: u64,
    /// Of these, those that waited for something that is not a core.
    pub waiting_s: u64,
}

impl BusySeconds {
    /// Counts one second.
    pub fn note(&mut self, connected: u32, busy: u32, waiting: u32) {
        let at = (busy as usize).min(BUSY_MAX);
        if self.seconds.len() <= at {
            self.seconds.resize(at + 1, 0);
        }
        self.seconds[at] = self.seconds[at].saturating_add(1);
        self.connected_max = self.connected_max.max(connected);
        self.busy_s += u64::from(busy);
        self.waiting_s += u64::from(waiting.min(busy));
    }

    /// Seconds that were counted.
    pub fn observed(&self) -> u64 {
        self.seconds.iter().map(|s| u64::from(*s)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_counted_by_busy_backends() {
        let mut busy = BusySeconds::default();
        for (connected, active, waiting) in [(5, 2, 1), (9, 0, 0), (7, 2, 9), (3, 5_000, 0)] {
            busy.note(connected, active, waiting);
        }
        assert_eq!((busy.seconds[0], busy.seconds[2], busy.seconds[BUSY_MAX], busy.seconds.len()), (1, 2, 1, 1_001));
        assert_eq!((busy.connected_max, busy.busy_s, busy.waiting_s, busy.observed()), (9, 5_004, 3, 4));
    }
}
