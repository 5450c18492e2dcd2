//! How an execution ended, and how slow is slow.

/// How an execution ended.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It returned.
    Ok = 0,
    /// It raised an error other than those below.
    Error = 1,
    /// A user cancelled it, or a conflict with recovery did.
    Cancelled = 2,
    /// statement_timeout, lock_timeout or transaction_timeout ended it.
    Timeout = 3,
    /// It was the victim of a deadlock.
    Deadlock = 4,
    /// Its backend ended while it ran.
    Terminated = 5,
}

/// What tells one kind of failure from another.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// SQLSTATE, packed as the server packs it.
    pub sqlstate: i32,
    /// The backend is exiting.
    pub fatal: bool,
    /// statement_timeout was set and its time had come.
    pub statement_timeout_reached: bool,
    /// lock_timeout was set and a wait for a lock in this statement had lasted that long.
    pub lock_timeout_reached: bool,
}

/// Packs a five-character SQLSTATE the way the server's `MAKE_SQLSTATE` does: six bits a character.
pub const fn pack_sqlstate(code: &[u8; 5]) -> i32 {
    let mut packed = 0;
    let mut i = 0;
    while i < 5 {
        packed |= ((code[i].wrapping_sub(b'0') & 0x3f) as i32) << (6 * i);
        i += 1;
    }
    packed
}

/// The five characters of a packed SQLSTATE.
pub fn unpack_sqlstate(packed: i32) -> String {
    (0..5).map(|i| char::from(((packed >> (6 * i)) & 0x3f) as u8 + b'0')).collect()
}

const QUERY_CANCELED: i32 = pack_sqlstate(b"57014");
const LOCK_NOT_AVAILABLE: i32 = pack_sqlstate(b"55P03");
const TRANSACTION_TIMEOUT: i32 = pack_sqlstate(b"25P04");
const DEADLOCK_DETECTED: i32 = pack_sqlstate(b"40P01");

impl Outcome {
    /// All of them, by number.
    pub const ALL: [Outcome; 6] =
        [Outcome::Ok, Outcome::Error, Outcome::Cancelled, Outcome::Timeout, Outcome::Deadlock, Outcome::Terminated];

    /// Reads a stored number; what is not one counts as an error.
    pub fn from_u8(value: u8) -> Outcome {
        Outcome::ALL.get(usize::from(value)).copied().unwrap_or(Outcome::Error)
    }

    /// The word shown to users.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Error => "error",
            Outcome::Cancelled => "cancelled",
            Outcome::Timeout => "timeout",
            Outcome::Deadlock => "deadlock",
            Outcome::Terminated => "terminated",
        }
    }

    /// Classifies a failure. The server uses one SQLSTATE for a user's cancel and for statement_timeout, and one for
    /// lock_timeout and NOWAIT: only whether the time was up tells them apart.
    pub fn of(failure: Failure) -> Outcome {
        match failure.sqlstate {
            TRANSACTION_TIMEOUT => Outcome::Timeout,
            _ if failure.fatal => Outcome::Terminated,
            QUERY_CANCELED if failure.statement_timeout_reached => Outcome::Timeout,
            QUERY_CANCELED => Outcome::Cancelled,
            LOCK_NOT_AVAILABLE if failure.lock_timeout_reached => Outcome::Timeout,
            DEADLOCK_DETECTED => Outcome::Deadlock,
            _ => Outcome::Error,
        }
    }
}

/// How slow an execution was, by the three thresholds.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Above `perf_opt.slow_ms`.
    Slow = 0,
    /// Above `perf_opt.critical_ms`.
    Critical = 1,
    /// Above `perf_opt.emergency_ms`.
    Emergency = 2,
}

impl Severity {
    /// All of them, mildest first.
    pub const ALL: [Severity; 3] = [Severity::Slow, Severity::Critical, Severity::Emergency];

    /// The word shown to users.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Slow => "slow",
            Severity::Critical => "critical",
            Severity::Emergency => "emergency",
        }
    }

    /// Reads the word.
    pub fn from_name(name: &str) -> Option<Severity> {
        Severity::ALL.into_iter().find(|severity| severity.name() == name)
    }

    /// The severity of a duration, `None` when it is below all thresholds. Thresholds out of order are taken as they
    /// are: the highest one reached counts.
    #[inline]
    pub fn of_ns(elapsed_ns: u64, thresholds_ns: &[u64; 3]) -> Option<Severity> {
        Severity::ALL.into_iter().rev().find(|&severity| elapsed_ns > thresholds_ns[severity as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstate_round_trips() {
        for code in ["57014", "XX000", "40P01", "00000"] {
            let bytes: [u8; 5] = code.as_bytes().try_into().unwrap();
            assert_eq!(unpack_sqlstate(pack_sqlstate(&bytes)), code);
        }
    }

    #[test]
    fn one_sqlstate_two_outcomes() {
        let cancel = Failure {
            sqlstate: QUERY_CANCELED,
            fatal: false,
            statement_timeout_reached: false,
            lock_timeout_reached: false,
        };
        assert_eq!(Outcome::of(cancel), Outcome::Cancelled);
        assert_eq!(Outcome::of(Failure { statement_timeout_reached: true, ..cancel }), Outcome::Timeout);
        let lock = Failure { sqlstate: LOCK_NOT_AVAILABLE, ..cancel };
        assert_eq!(Outcome::of(lock), Outcome::Error);
        assert_eq!(Outcome::of(Failure { lock_timeout_reached: true, ..lock }), Outcome::Timeout);
        assert_eq!(Outcome::of(Failure { fatal: true, ..cancel }), Outcome::Terminated);
        assert_eq!(Outcome::of(Failure { sqlstate: DEADLOCK_DETECTED, ..cancel }), Outcome::Deadlock);
    }

    #[test]
    fn thresholds_are_exclusive() {
        let thresholds = [1_000, 5_000, 10_000];
        assert_eq!(Severity::of_ns(1_000, &thresholds), None);
        assert_eq!(Severity::of_ns(1_001, &thresholds), Some(Severity::Slow));
        assert_eq!(Severity::of_ns(10_001, &thresholds), Some(Severity::Emergency));
    }
}
