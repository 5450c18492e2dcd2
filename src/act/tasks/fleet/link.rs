//! A connection to a standby through the server's own dblink, which brings libpq and keeps credentials in password files
//! and user mappings. Used by a job's worker, outside of any transaction; each step is a short one of its own, so that
//! waiting for a standby holds no snapshot. Locks nothing.
//!
//! Nothing waits without end: the connection has a connect_timeout (which dblink obeys up to 15) and a limit of our own
//! (which ends its wait from 16 on), statements are sent and asked after, and the standby is told to give up before we do.
//! One that does not answer at all is left without a word: a cancel would be another connection to it, and libpq waits for
//! the answer to that.
//!
//! A pooler may be in between, and the session behind it somebody else's before and after: nothing is set beyond the
//! transaction of a statement.

use std::time::{Duration, Instant};

use crate::act::board;
use crate::act::executor::{self, Failure, QUERY_CANCELED};
use crate::collect::partitions::spi_failed;
use crate::pg::query::text;
use crate::pg::text::Text;
use crate::pg::{background, catalog, ident, privilege};
use pgrx::datum::DatumWithOid;

/// What the standby may take for one statement, and for a connection.
pub const LIMIT_S: u64 = 4;
/// What we wait for an answer: longer than the standby may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(LIMIT_S + 2);
/// A failure to connect that took this long was a wait for an answer.
const CONNECT_LIMIT: Duration = Duration::from_millis(LIMIT_S * 1_000 - 500);
/// What a wait sleeps between two looks, in milliseconds: at first, and at most.
const LOOK_MS: i64 = 2;
const LOOK_MAX_MS: i64 = 50;
/// Of the connection, in this process.
pub const NAME: &str = "perf_opt fleet";

/// Why there is no answer.
pub enum Silence {
    /// No connection.
    Refused(String),
    /// No answer in time.
    TimedOut(String),
    /// It said no.
    Error(String),
    /// The run was to end.
    Cancelled(Failure),
}

impl Silence {
    pub fn of(failure: Failure) -> Silence {
        if failure.sqlstate == QUERY_CANCELED && board::is_cancelled(background::my_pid()) {
            Silence::Cancelled(failure)
        } else {
            Silence::Error(failure.detail.unwrap_or(failure.message))
        }
    }
}

/// An open connection.
pub struct Link {
    schema: String,
}

/// Sets, for the transaction of a statement, that it reads only and gives up in time.
fn settings() -> String {
    let limit = LIMIT_S * 1_000;
    let set = [
        ("transaction_read_only", "on".to_owned()),
        ("statement_timeout", limit.to_string()),
        ("lock_timeout", limit.to_string()),
        ("search_path", "pg_catalog, pg_temp".to_owned()),
        ("application_name", NAME.to_owned()),
        ("jit", "off".to_owned()),
    ];
    let calls: Vec<String> = set
        .iter()
        .map(|(name, value)| {
            format!("pg_catalog.set_config({}, {}, true)", ident::literal(name), ident::literal(value))
        })
        .collect();
    format!("SELECT pg_catalog.concat({})", calls.join(", "))
}

impl Link {
    /// Connects, by a connection string or the name of a foreign server; `schema` is that of dblink, `left_ms` what the run
    /// has left of its own limit then.
    pub fn open(schema: &str, target: &str, left_ms: impl Fn() -> Option<i64>) -> Result<Link, Silence> {
        let link = Link { schema: ident::quote(schema) };
        let started = Instant::now();
        let connect = format!("SELECT {}.dblink_connect($1, $2)", link.schema);
        background::set_deadline(Some(LIMIT_S as i64 * 1_000));
        let connected = link.call(&connect, &[text(NAME), text(target)]);
        background::set_deadline(left_ms());
        if !board::is_cancelled(background::my_pid()) {
            // The limit may have been reached at the same time as the server's own: it is not for what follows.
            background::drop_cancel();
        }
        connected.map_err(|failure| match Silence::of(failure) {
            Silence::Error(_) if started.elapsed() >= CONNECT_LIMIT => {
                Silence::TimedOut(format!("no connection within {LIMIT_S} s"))
            }
            Silence::Error(message) => Silence::Refused(message),
            other => other,
        })?;
        Ok(link)
    }

    /// Ends the connection.
    pub fn close(&self) {
        // One that is broken is gone already.
        let _ = self.call(&format!("SELECT {}.dblink_disconnect($1)", self.schema), &[text(NAME)]);
    }

    /// The one value that a statement gives. It is sent together with its settings, in one message: that is one
    /// transaction, and it leaves nothing behind whichever way it ends.
    pub fn ask(&self, statement: &str) -> Result<String, Silence> {
        let send = format!("SELECT {}.dblink_send_query($1, $2)::pg_catalog.text", self.schema);
        let both = format!("{}; {statement}", settings());
        let sent = self.call(&send, &[text(NAME), text(&both)]).map_err(Silence::of)?;
        if sent.as_deref() != Some("1") {
            return Err(Silence::Refused("the connection is broken".to_owned()));
        }
        let deadline = Instant::now() + ANSWER_LIMIT;
        self.result(deadline)?;
        let answer = self.result(deadline)?;
        // The connection is free for the next statement after an answer without any row.
        self.result(deadline)?;
        answer.ok_or_else(|| Silence::Error("it gave no answer".to_owned()))
    }

    /// Waits for the next answer of those that one message gets; its value.
    fn result(&self, deadline: Instant) -> Result<Option<String>, Silence> {
        let is_busy = format!("SELECT {}.dblink_is_busy($1)::pg_catalog.text", self.schema);
        let mut pause_ms = LOOK_MS;
        while self.call(&is_busy, &[text(NAME)]).map_err(Silence::of)?.as_deref() == Some("1") {
            if Instant::now() >= deadline {
                return Err(Silence::TimedOut(format!("no answer within {} s", ANSWER_LIMIT.as_secs())));
            }
            // A cancel is raised as an error, which must meet a transaction.
            executor::transaction(|| {
                background::pause(pause_ms);
                Ok(())
            })
            .map_err(Silence::of)?;
            pause_ms = (pause_ms * 2).min(LOOK_MAX_MS);
        }
        let result =
            format!("SELECT r.value FROM {}.dblink_get_result($1, true) AS r (value pg_catalog.text)", self.schema);
        self.call(&result, &[text(NAME)]).map_err(Silence::of)
    }

    /// One call of dblink in a transaction of its own.
    fn call(&self, statement: &str, arguments: &[DatumWithOid]) -> Result<Option<String>, Failure> {
        executor::transaction(|| {
            let value =
                privilege::with_own_path(|| catalog::value::<Text>(statement, arguments)).map_err(spi_failed)?;
            Ok(value.map(|value| value.0))
        })
    }
}
