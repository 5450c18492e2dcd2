//! Sleeping until a point of the wall clock, without waking up in between, and waking when somebody sets the clock. Called
//! by the scheduler only. Locks nothing.

use super::background;

/// Microseconds from 1970, which the system's clock counts from, to 2000, which the server's does.
pub const UNIX_TO_SERVER_US: i64 = 946_684_800_000_000;
/// Longest sleep where the system cannot tell that its clock was set.
#[cfg(not(target_os = "linux"))]
const UNWATCHED_MS: i64 = 60_000;

/// The alarm of a process.
pub struct Alarm {
    #[cfg(target_os = "linux")]
    timer: i32,
}

#[cfg(target_os = "linux")]
impl Alarm {
    /// Without a timer of the system it still works, a minute at a time.
    pub fn new() -> Alarm {
        // SAFETY: a plain system call; the descriptor belongs to this process until it ends.
        let timer = unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        Alarm { timer }
    }

    /// Sleeps until the latch is set, the wall clock says `until` (the server's time; `None`: no limit), or the clock is
    /// set. Handles interrupts and SIGHUP as [`background::wait`] does.
    pub fn wait(&self, until: Option<i64>) {
        if self.timer < 0 {
            let limit_ms = until.map_or(60_000, |at| ((at - background::now()) / 1_000 + 1).clamp(0, 60_000));
            return background::wait(limit_ms);
        }
        // A timer in the far future still tells that the clock was set.
        let at = until.unwrap_or(i64::MAX / 4).saturating_add(UNIX_TO_SERVER_US).max(1);
        let value = libc::timespec { tv_sec: at / 1_000_000, tv_nsec: (at % 1_000_000) * 1_000 };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        // SAFETY: our own descriptor and a valid setting; the former setting is not asked for.
        let armed = unsafe { libc::timerfd_settime(self.timer, flags, &raw const setting, std::ptr::null_mut()) } == 0;
        if !armed {
            return background::wait(1_000);
        }
        background::wait_with(Some(self.timer), None);
        let mut expirations = 0u64;
        // SAFETY: reads at most eight bytes into a variable of eight; it fails when the clock was set, or nothing is there.
        unsafe { libc::read(self.timer, (&raw mut expirations).cast(), size_of::<u64>()) };
    }
}

#[cfg(not(target_os = "linux"))]
impl Alarm {
    /// Nothing is needed.
    pub fn new() -> Alarm {
        Alarm {}
    }

    /// Sleeps until the latch is set or the wall clock says `until` (the server's time), at most a minute.
    pub fn wait(&self, until: Option<i64>) {
        background::wait(
            until.map_or(UNWATCHED_MS, |at| ((at - background::now()) / 1_000 + 1).clamp(0, UNWATCHED_MS)),
        );
    }
}
