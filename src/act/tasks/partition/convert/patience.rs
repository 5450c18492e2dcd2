//! How long a conversion waits for locks. One that others queue behind is waited for as long as the caller allows, given up,
//! and tried again after a pause, for as long as the caller has patience; then the failure says who was in the way. Called by
//! the steps of the job, outside of any transaction; locks nothing itself.

use std::time::{Duration, Instant};

use perf_core::partition_convert::pause_ms;
use pgrx::pg_sys;
use serde_json::Value;

use super::super::ground::holders;
use super::super::snapshots;
use crate::act::executor::{self, Failure};
use crate::pg::background;

/// How often whoever waits is told who is in the way.
const TELL: Duration = Duration::from_secs(1);

/// Limits to waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    lock_ms: i32,
    give_up: Duration,
}

impl Patience {
    /// As the job was told.
    pub fn of(options: &Value) -> Result<Patience, Failure> {
        let number = |name: &str| {
            let missing = || Failure::new("22023", format!("the job's options have no number \"{name}\""));
            options.get(name).and_then(Value::as_i64).ok_or_else(missing)
        };
        let lock_ms = i32::try_from(number("max_lock_ms")?).unwrap_or(i32::MAX).max(1);
        let give_up = Duration::from_millis(number("give_up_ms")?.max(1).unsigned_abs());
        Ok(Patience { lock_ms, give_up })
    }

    /// The same for so long.
    pub fn lasting(self, give_up: Duration) -> Patience {
        Patience { give_up, ..self }
    }

    /// Longest wait for a lock that others queue behind.
    pub fn lock_ms(&self) -> i32 {
        self.lock_ms
    }

    /// Longest wait for a lock that only other DDL and VACUUM queue behind. Autovacuum gives way to whoever has waited for
    /// deadlock_timeout, so it is longer than that usually is.
    pub fn quiet_lock_ms(&self) -> i32 {
        const QUIET_MS: u128 = 5_000;
        i32::try_from(self.give_up.as_millis().min(QUIET_MS)).unwrap_or(i32::MAX).max(self.lock_ms)
    }

    /// Runs `body` in a transaction, again and again until it has its locks; how many times it had not. `tell` is called now
    /// and then with who is in the way.
    pub fn transaction<T>(
        &self,
        what: &str,
        relation: pg_sys::Oid,
        tell: impl Fn(&str) -> Result<(), Failure>,
        body: &mut dyn FnMut() -> Result<T, Failure>,
    ) -> Result<(T, u32), Failure> {
        let started = Instant::now();
        let mut told = started;
        let mut tries = 0u32;
        let mut last = String::new();
        loop {
            let failure = match executor::transaction(&mut *body) {
                Err(failure) if failure.is_of_a_lock() => failure,
                outcome => return outcome.map(|value| (value, tries)),
            };
            tries += 1;
            let found = executor::transaction(|| Ok(holders(&[relation])))?;
            if snapshots::is_in_the_way(&failure) {
                last.clone_from(&failure.message);
            } else if !found.is_empty() {
                last = found;
            }
            if started.elapsed() >= self.give_up {
                return Err(self.gave_up(what, tries, &last, failure));
            }
            if told.elapsed() >= TELL {
                executor::transaction(|| tell(&last))?;
                told = Instant::now();
            }
            let pause = pause_ms(tries, background::random_u64());
            executor::transaction(|| {
                background::pause(pause);
                Ok(())
            })?;
        }
    }

    fn gave_up(&self, what: &str, tries: u32, holders: &str, failure: Failure) -> Failure {
        let holders = if holders.is_empty() { &failure.message } else { holders };
        let seconds = self.give_up.as_secs_f64();
        Failure {
            sqlstate: "55P03".to_owned(),
            message: format!("the lock for {what} could not be had in {tries} tries within {seconds} s: {holders}"),
            detail: failure.detail,
            hint: Some(
                "Call it again when the transaction in the way has ended: it goes on where it stopped. give_up_after => \
                 and max_lock => allow more patience."
                    .to_owned(),
            ),
        }
    }

    /// Runs a statement at top level that nobody queues behind but other DDL. It waits for locks and old transactions as long
    /// as patience lasts.
    pub fn statement(&self, relation: pg_sys::Oid, statement: &str) -> Result<(), Failure> {
        let limit = i32::try_from(self.give_up.as_millis()).unwrap_or(i32::MAX);
        background::set_session(c"lock_timeout", &std::ffi::CString::new(limit.to_string()).unwrap_or_default());
        let outcome = executor::statement(statement);
        background::set_session(c"lock_timeout", c"0");
        match outcome {
            Err(failure) if failure.is_of_a_lock() => {
                let found = executor::transaction(|| Ok(holders(&[relation])))?;
                Err(self.gave_up(statement, 1, &found, failure))
            }
            outcome => outcome,
        }
    }
}
