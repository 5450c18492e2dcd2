//! Standbys of this server: a job for each asks it every minute how far it is behind, what it does and which indexes it
//! uses. `define` makes and removes the jobs, `link` is the way to the standby, `store` keeps the answers;
//! `perf_core::standby` says what they mean.
//!
//! [`run`] works in a session of the job's owner, so it can do no more than its owner by hand. A process of its own waits
//! for the standby: one that hangs holds up nobody. Holds no transaction open while it waits, and no lock.

pub mod define;
mod link;
mod store;

use std::collections::BTreeMap;
use std::time::Instant;

use perf_core::standby::{self, Identity, Mark, Reading, Status};
use serde_json::{json, Value};

use self::link::{Link, Silence};
use super::{Outcome, Write};
use crate::act::executor::{self, Failure};
use crate::act::runs::Order;
use crate::collect::partitions::spi_failed;
use crate::pg::background::random_u64;
use crate::pg::text::Text;
use crate::pg::{catalog, privilege};

/// The kind of job.
pub const KIND: &str = "fleet";

/// A standby as its job's options have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What users call it.
    pub name: String,
    /// How it is reached.
    pub target: Target,
}

/// How a standby is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A connection string without secrets.
    Conninfo(String),
    /// A foreign server.
    Server(String),
}

impl Target {
    /// As dblink takes it. What begins like the name of a foreign server, as far as names go, would be that server to it,
    /// and anybody may have made one: a connection string begins with what nobody can know.
    fn text(&self) -> String {
        match self {
            Target::Conninfo(text) => {
                let unknown: String = (0..4).map(|_| format!("{:016x}", random_u64())).collect();
                format!("fallback_application_name='{unknown}' {text} application_name='{}'", link::NAME)
            }
            Target::Server(name) => name.clone(),
        }
    }
}

impl Node {
    /// As a job keeps it.
    pub fn to_options(&self) -> Value {
        match &self.target {
            Target::Conninfo(conninfo) => json!({ "node": self.name, "conninfo": conninfo }),
            Target::Server(server) => json!({ "node": self.name, "server": server }),
        }
    }

    fn from_options(options: &Value) -> Option<Node> {
        let text = |name: &str| Some(options.get(name)?.as_str()?.to_owned());
        let target = text("conninfo").map(Target::Conninfo).or_else(|| text("server").map(Target::Server))?;
        Some(Node { name: text("node")?, target })
    }
}

/// What this server is, and where it is in WAL.
struct Here {
    identity: Identity,
    database: String,
    now: Mark,
}

/// What a standby said, or why it did not.
struct Answer {
    status: Status,
    message: Option<String>,
    facts: Option<Facts>,
}

/// What a standby that follows this server said.
struct Facts {
    replayed: f64,
    replayed_at_s: Option<f64>,
    reading: Option<Reading>,
    basis: &'static str,
    /// Indexes and how often they were scanned; None when it was asked in another database.
    index_scans: Option<Vec<(u32, i64)>>,
}

impl Answer {
    fn of(status: Status, message: impl Into<String>) -> Answer {
        Answer { status, message: Some(message.into()), facts: None }
    }
}

/// Asks the standby, and stores what it said. Skipped, with the reason, when it is no standby that answers: that it was
/// asked is what the job is for.
pub fn run(order: &Order, write: Write) -> Result<(), Failure> {
    let unknown = || Failure::new("22023", "the job's options name no node; add it again with perf.fleet_node_add()");
    let node = Node::from_options(&order.options).ok_or_else(unknown)?;
    let started = Instant::now();
    let left_ms = || order.timeout_ms.map(|limit_ms| limit_ms - started.elapsed().as_millis() as i64);
    let here = executor::transaction(here)?;
    let answer = match executor::transaction(|| Ok(define::may_use(&node.target)))? {
        Ok(schema) => ask(&node, &schema, &here, left_ms)?,
        Err(error) => Answer::of(Status::Failed, error.message()),
    };
    executor::transaction(|| {
        let lag = store::store(order.job_id, &node.name, &here, &answer)?;
        let detail = json!({
            "node": node.name, "status": answer.status.name(), "lag_bytes": lag.as_ref().map(|lag| lag.bytes as i64),
            "lag_s": lag.as_ref().and_then(|lag| lag.seconds),
        });
        write(match answer.status {
            Status::Ok => Outcome { detail, ..Outcome::plain() },
            status => {
                let message = answer.message.as_deref().unwrap_or_default();
                Outcome::skipped(format!("node {} is {}: {message}", node.name, status.name()), detail)
            }
        })
    })
}

/// What tells a server apart, where it is in WAL and what it counts, as a JSON object.
const FACTS: &str = "SELECT pg_catalog.json_build_object(
    'system', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c)::pg_catalog.text,
    'started', pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::pg_catalog.text,
    'in_recovery', pg_catalog.pg_is_in_recovery(),
    'timeline', (SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() AS c),
    'now_s', pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()),
    'position', pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                                                ELSE pg_catalog.pg_current_wal_lsn() END, '0/0')::pg_catalog.float8,
    'replayed_at_s', pg_catalog.date_part('epoch', pg_catalog.pg_last_xact_replay_timestamp()),
    'paused', CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_is_wal_replay_paused() END,
    'database', (SELECT d.oid FROM pg_catalog.pg_database AS d
                  WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())::pg_catalog.text,
    'transactions', (SELECT pg_catalog.sum(s.xact_commit OPERATOR(pg_catalog.+) s.xact_rollback)::pg_catalog.float8
                       FROM pg_catalog.pg_stat_database AS s),
    'reset', (SELECT pg_catalog.max(s.stats_reset) FROM pg_catalog.pg_stat_database AS s)::pg_catalog.text,
    'counts', pg_catalog.current_setting('perf_opt.max_statements', true) IS NOT NULL
              AND EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname OPERATOR(pg_catalog.=) 'perf_opt')
)::pg_catalog.text";

/// Statements that clients of a server with perf_opt have run, in all databases.
const STATEMENTS: &str = "SELECT coalesce(pg_catalog.sum(s.calls), 0)::pg_catalog.float8::pg_catalog.text
    FROM perf.statements(true) AS s WHERE s.toplevel";

/// Indexes of users that were scanned.
const INDEXES: &str =
    "SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(i.indexrelid::pg_catalog.int8, i.idx_scan)),
                                       '[]')::pg_catalog.text
    FROM (SELECT u.indexrelid, u.idx_scan FROM pg_catalog.pg_stat_user_indexes AS u
           WHERE u.idx_scan OPERATOR(pg_catalog.>) 0 ORDER BY u.idx_scan DESC LIMIT 10000) AS i";

fn here() -> Result<Here, Failure> {
    let printed = privilege::with_own_path(|| catalog::value::<Text>(FACTS, &[])).map_err(spi_failed)?;
    let unknown = || Failure::new("55000", "this server does not say what it is");
    let facts = printed.and_then(|text| parse(&text.0)).ok_or_else(unknown)?;
    Ok(Here {
        identity: identity(&facts).ok_or_else(unknown)?,
        database: facts.get("database").and_then(Value::as_str).unwrap_or_default().to_owned(),
        now: Mark {
            position: facts.get("position").and_then(Value::as_f64).ok_or_else(unknown)?,
            at_s: facts.get("now_s").and_then(Value::as_f64).ok_or_else(unknown)?,
        },
    })
}

fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// Longest text of an answer that is kept.
const WORD_MAX: usize = 64;

/// A short text of an answer. Whoever owns the server asked may have it say anything.
fn word(facts: &Value, name: &str) -> Option<String> {
    let text = facts.get(name)?.as_str()?;
    (text.len() <= WORD_MAX && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// A number of an answer, where it can be one.
fn number(facts: &Value, name: &str, max: f64) -> Option<f64> {
    facts.get(name).and_then(Value::as_f64).filter(|value| (0.0..=max).contains(value))
}

/// Seconds since 1970 that a timestamp can hold.
const TIME_MAX_S: f64 = 9e12;
/// Past the last position of WAL.
const POSITION_MAX: f64 = 1.9e19;
/// More than a counter comes to.
const COUNTER_MAX: f64 = 1e18;
/// Indexes that a node may tell of.
const INDEXES_MAX: usize = 10_000;

fn identity(facts: &Value) -> Option<Identity> {
    Some(Identity {
        system: word(facts, "system")?,
        started: word(facts, "started")?,
        in_recovery: facts.get("in_recovery")?.as_bool()?,
        timeline: u32::try_from(facts.get("timeline")?.as_u64()?).ok()?,
        position: number(facts, "position", POSITION_MAX)?,
    })
}

/// Asks over a connection of its own, which is closed again whatever happens.
fn ask(node: &Node, schema: &str, here: &Here, left_ms: impl Fn() -> Option<i64>) -> Result<Answer, Failure> {
    let link = match Link::open(schema, &node.target.text(), left_ms) {
        Ok(link) => link,
        Err(silence) => return silence.answer(),
    };
    let answer = ask_over(&link, here);
    link.close();
    answer.or_else(Silence::answer)
}

impl Silence {
    /// What it says of the standby; a run that was cancelled ends.
    fn answer(self) -> Result<Answer, Failure> {
        match self {
            Silence::Refused(message) => Ok(Answer::of(Status::Unreachable, message)),
            Silence::TimedOut(message) => Ok(Answer::of(Status::Hanging, message)),
            Silence::Error(message) => Ok(Answer::of(Status::Failed, message)),
            Silence::Cancelled(failure) => Err(failure),
        }
    }
}

fn ask_over(link: &Link, here: &Here) -> Result<Answer, Silence> {
    let unreadable = || Silence::Error("its answer cannot be read".to_owned());
    let facts = parse(&link.ask(FACTS)?).ok_or_else(unreadable)?;
    let asked = identity(&facts).ok_or_else(unreadable)?;
    // What was written here until now.
    let after = executor::transaction(self::here).map_err(Silence::of)?;
    let status = standby::status(&after.identity, &asked);
    let message = match status {
        Status::OtherCluster if asked.system == here.identity.system => {
            "it is ahead of this server: it is of the same origin, and follows another one".to_owned()
        }
        Status::OtherCluster => {
            format!("its system identifier is {}, this server's is {}", asked.system, here.identity.system)
        }
        Status::Promoted => "it is no standby any more: it takes writes itself".to_owned(),
        Status::Itself => "the connection leads to this server itself".to_owned(),
        _ => String::new(),
    };
    if status != Status::Ok {
        return Ok(Answer::of(status, message));
    }
    let says = |name: &str| facts.get(name).and_then(Value::as_bool).unwrap_or(false);
    let counts = says("counts");
    let value = if counts { link.ask(STATEMENTS)?.parse().ok() } else { number(&facts, "transactions", COUNTER_MAX) };
    let value = value.filter(|value| (0.0..=COUNTER_MAX).contains(value));
    let reset = word(&facts, "reset").unwrap_or_default();
    let basis = if counts { "statements" } else { "transactions" };
    let is_here = facts.get("database").and_then(Value::as_str) == Some(here.database.as_str());
    let index_scans = if is_here { Some(scans(&link.ask(INDEXES)?).ok_or_else(unreadable)?) } else { None };
    let mut notes = Vec::new();
    if says("paused") {
        notes.push("its replay is paused");
    }
    if !is_here {
        notes.push("index use is not read: the connection leads to another database");
    }
    Ok(Answer {
        status,
        message: (!notes.is_empty()).then(|| notes.join("; ")),
        facts: Some(Facts {
            replayed: asked.position,
            replayed_at_s: number(&facts, "replayed_at_s", TIME_MAX_S),
            reading: value.zip(number(&facts, "now_s", TIME_MAX_S)).map(|(value, at_s)| Reading {
                value,
                at_s,
                life: format!("{basis} {} {reset}", asked.started),
            }),
            basis,
            index_scans,
        }),
    })
}

fn scans(text: &str) -> Option<Vec<(u32, i64)>> {
    let pair = |pair: &Value| {
        let scans = pair.get(1)?.as_i64().filter(|scans| (0..=COUNTER_MAX as i64).contains(scans))?;
        Some((u32::try_from(pair.get(0)?.as_u64()?).ok()?, scans))
    };
    // Each index once, whatever was said.
    let found: Option<BTreeMap<u32, i64>> = parse(text)?.as_array()?.iter().take(INDEXES_MAX).map(pair).collect();
    Some(found?.into_iter().collect())
}
