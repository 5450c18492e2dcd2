//! The time that planning may take: a deadline for all planner runs of a call ([`Deadline`]), and the clock that ends one
//! run ([`Clock`]), whatever a user function in it does. Owns one of the server's timeouts, registered by the first run of a
//! backend that has a deadline. Called by [`super::plan`] and by whoever sets the deadline. Locks nothing.
//!
//! A run that takes too long is ended as a cancel request would end it. The clock therefore tells its own doing from a
//! cancel of the user and from `statement_timeout`, which go on to the user, and takes back its own request when the run
//! ended before anybody noticed it, so that it cancels nothing else. Only a cancel that comes after the clock went off and
//! before the server looks is not told apart: the call is about to end then anyway.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

/// A run may always take this long: a deadline in the past must not make every statement fail.
const GRACE: Duration = Duration::from_millis(50);
/// One run may take this part of what is left, so that one statement does not starve the others.
const SHARE: u32 = 2;

/// STATEMENT_TIMEOUT of the server's `TimeoutId`; the same number from version 15 to 18.
const STATEMENT_TIMEOUT: c_int = 3;
/// Anything from USER_TIMEOUT on asks for the next free id. That one's number differs between versions; this is above all.
const ANY_FREE: c_int = 64;
/// What the clock leaves in `QueryCancelPending`: as good as the 1 of everybody else, and known from it.
const OWN_REQUEST: c_int = 2;

extern "C" {
    // None of them raises an ERROR.
    fn RegisterTimeout(id: c_int, handler: extern "C" fn()) -> c_int;
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
    fn get_timeout_active(id: c_int) -> bool;
    fn get_timeout_indicator(id: c_int, reset_indicator: bool) -> bool;
}

/// The clock of the run in progress went off and requested its end.
static WENT_OFF: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The deadline of the call in progress.
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
    /// When the clock of the run in progress goes off.
    static GOES_OFF_AT: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The timeout registered for it.
    static TIMEOUT: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// While this lives, planner runs of this backend end soon after a deadline.
pub struct Deadline {
    before: Option<Instant>,
}

impl Deadline {
    /// Sets the deadline; one that is set already and earlier stays.
    pub fn set(until: Instant) -> Deadline {
        let before = UNTIL.get();
        UNTIL.set(Some(before.map_or(until, |outer| outer.min(until))));
        Deadline { before }
    }

    /// Whether the deadline of the call in progress, if it has one, has passed.
    pub fn has_passed() -> bool {
        UNTIL.get().is_some_and(|until| Instant::now() >= until)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        UNTIL.set(self.before);
    }
}

/// Ends one run in time. Stops when dropped, on the error path too, which must be before the error is caught: from then on
/// nothing may interrupt.
pub struct Clock<'a> {
    timeout: c_int,
    /// The clock of the run around this one: a user function may call us while it is planned.
    outer: Option<Instant>,
    under_statement_timeout: bool,
    /// Set when a cancel raised during the run was the clock's doing.
    ended_run: &'a Cell<bool>,
}

impl<'a> Clock<'a> {
    /// Starts it, if a deadline is set.
    pub fn start(ended_run: &'a Cell<bool>) -> Option<Clock<'a>> {
        let until = UNTIL.get()?;
        let now = Instant::now();
        let own = now + (until.saturating_duration_since(now) / SHARE).max(GRACE);
        let outer = GOES_OFF_AT.get();
        let at = outer.map_or(own, |outer| outer.min(own));
        // SAFETY: registers at most once in a backend; asks only for what is in the backend's own list of timeouts.
        let (timeout, under_statement_timeout) = unsafe {
            let timeout = TIMEOUT.get().unwrap_or_else(|| RegisterTimeout(ANY_FREE, go_off));
            (timeout, get_timeout_active(STATEMENT_TIMEOUT))
        };
        TIMEOUT.set(Some(timeout));
        let clock = Clock { timeout, outer, under_statement_timeout, ended_run };
        clock.wind(Some(at));
        Some(clock)
    }

    /// Lets the clock go off at another time, or never.
    fn wind(&self, at: Option<Instant>) {
        GOES_OFF_AT.set(at);
        // SAFETY: the timeout is registered. Enabling one that is enabled sets it anew.
        unsafe {
            match at {
                Some(at) => {
                    let ms = at.saturating_duration_since(Instant::now()).as_millis().max(1);
                    enable_timeout_after(self.timeout, c_int::try_from(ms).unwrap_or(c_int::MAX));
                }
                None => disable_timeout(self.timeout, false),
            }
        }
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        self.wind(None);
        if WENT_OFF.swap(false, Ordering::SeqCst) {
            // SAFETY: a flag that only signal handlers of this process set, and a look at its list of timeouts.
            unsafe {
                let pending = &raw mut pg_sys::QueryCancelPending;
                if pending.read_volatile() == OWN_REQUEST {
                    pending.write_volatile(0);
                }
                // One that was noticed together with ours: the error is the user's. One that came later is still pending.
                let statement_timeout_came = self.under_statement_timeout
                    && !get_timeout_active(STATEMENT_TIMEOUT)
                    && !get_timeout_indicator(STATEMENT_TIMEOUT, false);
                self.ended_run.set(!statement_timeout_came);
            }
        }
        if self.outer.is_some() {
            self.wind(self.outer);
        }
    }
}

/// The timeout's handler: as the server's own handler of a cancel request. Runs in a signal handler, so it only sets flags;
/// the server sets the latch of the process for it.
extern "C" fn go_off() {
    // SAFETY: flags of this process, made to be written by signal handlers.
    unsafe {
        let pending = &raw mut pg_sys::QueryCancelPending;
        // A cancel that somebody else requested ends the run as well, and is not ours to swallow.
        if pending.read_volatile() == 0 {
            pending.write_volatile(OWN_REQUEST);
            WENT_OFF.store(true, Ordering::SeqCst);
            (&raw mut pg_sys::InterruptPending).write_volatile(1);
        }
    }
}
