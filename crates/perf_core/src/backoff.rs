//! How long to wait before the next try of something that keeps failing: twice as long each time, up to a limit.

/// Waits that double from `first` to `limit`, in the caller's unit.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: i64,
    limit: i64,
    next: i64,
}

impl Backoff {
    /// Starts with `first`, which must be positive.
    pub fn new(first: i64, limit: i64) -> Backoff {
        let first = first.max(1);
        Backoff { first, limit: limit.max(first), next: first }
    }

    /// The wait after one more failure.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> i64 {
        let wait = self.next;
        self.next = self.next.saturating_mul(2).min(self.limit);
        wait
    }

    /// It worked: the next failure starts from the beginning.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// From one second to one minute, in microseconds.
    fn default() -> Backoff {
        Backoff::new(1_000_000, 60_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_starts_again() {
        let mut backoff = Backoff::new(1, 10);
        assert_eq!([1, 2, 4, 8, 10, 10], std::array::from_fn(|_| backoff.next()));
        backoff.reset();
        assert_eq!(backoff.next(), 1);
        assert_eq!(Backoff::new(0, 0).next(), 1);
    }
}
