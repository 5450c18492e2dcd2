//! Predictive prewarm: before an hour of the week, loads what that hour has read in the weeks before, and runs the statements
//! that users have marked and that the hour is busy with. `learn` keeps what hours read, `statements` the marks;
//! `perf_core::prewarm` decides what is loaded, which hours are held out for comparison and when loading wins nothing.
//!
//! [`run`] is the job, which runs once an hour, as its owner; each relation is loaded in a transaction of its own under ACCESS
//! SHARE, never waiting for that lock. [`choose`] says what would be loaded, to the function that shows it as well.

mod learn;
pub mod statements;

use perf_core::prewarm::{self as decide, Decision, Use, Wanted};
use perf_core::schedule::Zone;
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::{Outcome, Write};
use crate::act::executor::{self, Failure};
use crate::act::jobs::{to_server, to_unix};
use crate::act::runs::{self, rows, timestamp, Order};
use crate::error::Error;
use crate::pg::buffers::Loaded;
use crate::pg::zone::ServerZone;
use crate::pg::{background, buffers, ident, privilege};

/// The kind of job.
pub const KIND: &str = "prewarm";
const PROFILE: &std::ffi::CStr = c"prewarm_profile";
const SECOND_US: i64 = 1_000_000;
/// Measured hours that a decision looks at.
const HISTORY: i64 = 100;
/// Blocks loaded in one transaction: no longer than a second or two, so that it holds back no VACUUM.
const PIECE_BLOCKS: u32 = 16_384;

/// What a job is asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hours are those of this zone.
    pub time_zone: String,
    /// To load at most; None for half of the buffer cache.
    pub max_bytes: Option<i64>,
    /// Stop when less of the reads is won, in percent.
    pub min_gain_pct: f64,
    /// To read at most from disk in a second.
    pub bytes_per_s: f64,
    /// Load once, by what another job has learned, for the hour that contains this time (in seconds).
    pub once: Option<(i64, i64)>,
}

impl Options {
    /// As a job keeps them.
    pub fn to_json(&self) -> Value {
        let mut options = json!({
            "time_zone": self.time_zone, "max_bytes": self.max_bytes, "min_gain_pct": self.min_gain_pct,
            "bytes_per_s": self.bytes_per_s,
        });
        if let Some((of, at)) = self.once {
            options["of"] = json!(of);
            options["at"] = json!(at);
        }
        options
    }

    /// The reverse.
    pub fn from_json(options: &Value) -> Option<Options> {
        let whole = |name: &str| options.get(name).and_then(Value::as_i64);
        Some(Options {
            time_zone: options.get("time_zone")?.as_str()?.to_owned(),
            max_bytes: whole("max_bytes"),
            min_gain_pct: options.get("min_gain_pct")?.as_f64()?,
            bytes_per_s: options.get("bytes_per_s")?.as_f64()?,
            once: whole("of").zip(whole("at")),
        })
    }

    /// The most blocks to load.
    pub fn budget_blocks(&self) -> u64 {
        // SAFETY: a plain global that is set before any backend exists.
        let buffers = u64::try_from(unsafe { pg_sys::NBuffers }).unwrap_or(0);
        match self.max_bytes {
            None => buffers / 2,
            Some(bytes) => (u64::try_from(bytes).unwrap_or(0) / u64::from(pg_sys::BLCKSZ)).min(buffers),
        }
    }
}

/// An hour, in a time zone.
#[derive(Clone, Copy, Debug)]
pub struct Hour {
    /// When it begins, in seconds.
    pub at: i64,
    /// Which of the week.
    pub of_week: i64,
    week: i64,
}

impl Hour {
    /// The hour that contains a time.
    pub fn containing(at: i64, zone: &ServerZone) -> Hour {
        let offset = i64::from(zone.offset_s(at.saturating_mul(SECOND_US)));
        let local = at + offset;
        let begin = decide::next_hour(local) - 3_600;
        Hour { at: begin - offset, of_week: decide::hour_of_week(local), week: decide::week(local) }
    }

    /// The one after that.
    pub fn after(at: i64, zone: &ServerZone) -> Hour {
        let hour = Hour::containing(at, zone);
        Hour::containing(hour.at + 3_600, zone)
    }
}

/// The clock, in seconds.
pub fn now() -> i64 {
    to_unix(background::now()).div_euclid(SECOND_US)
}

/// A relation that the hour is expected to read.
pub struct Choice {
    oid: pg_sys::Oid,
    /// Quoted and qualified.
    pub relation: String,
    /// Blocks to load; 0 to skip it.
    pub blocks: u32,
    /// Blocks expected to be read from disk in the hour.
    pub expected_reads: f64,
    /// Of the blocks to load, those that are cached already.
    pub cached: Option<u32>,
    /// Why.
    pub reason: String,
}

/// What a job's profile says to load before an hour, as the current role. Inside a transaction.
pub fn choose(job_id: i64, hour: Hour, budget_blocks: u64) -> Result<Vec<Choice>, Error> {
    let (known, basis) = profile(job_id, hour.of_week)?;
    let mut wanted = Vec::new();
    let mut choices = Vec::new();
    for (oid, used) in known {
        background::check_for_interrupts();
        let Some(relation) = ident::relation(oid) else { continue };
        let (blocks, mut reason) = match buffers::blocks(oid) {
            _ if !buffers::may_read(oid) => (0, "you may not read it".to_owned()),
            Ok(0) => (0, "it is empty".to_owned()),
            Ok(blocks) => (blocks, String::new()),
            Err(why) => (0, format!("it {}", why.describe())),
        };
        if blocks > 0 {
            reason = "there is no room for it within max_bytes".to_owned();
        }
        let is_index = is_index(oid);
        wanted.push(Wanted { blocks, touched: used.touched, is_index });
        choices.push(Choice { oid, relation, blocks: 0, expected_reads: used.reads, cached: None, reason });
    }
    let parts = decide::plan(&wanted, budget_blocks);
    for part in &parts {
        let choice = &mut choices[part.at];
        let of = wanted[part.at].blocks;
        choice.blocks = part.count;
        choice.cached = buffers::cached(choice.oid, part.count).ok();
        choice.reason = format!(
            "{:.0} blocks are touched {basis}; {}",
            wanted[part.at].touched,
            if part.count == of {
                "all of it".to_owned()
            } else {
                format!("the last {} of its {of} blocks", part.count)
            }
        );
    }
    // As it is loaded, then what is not.
    let mut order: Vec<usize> = parts.iter().map(|part| part.at).collect();
    order.extend((0..choices.len()).filter(|at| choices[*at].blocks == 0));
    let mut slots: Vec<Option<Choice>> = choices.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|at| slots[at].take()).collect())
}

fn is_index(oid: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up that finds nothing for what does not exist.
    unsafe { pg_sys::get_rel_relkind(oid) as u8 == b'i' }
}

/// Relations and what an hour uses of each.
type Known = Vec<(pg_sys::Oid, Use)>;

/// What is known of an hour of the week; of the same hour of other days while nothing is known of this one.
fn profile(job_id: i64, hour: i64) -> Result<(Known, &'static str), Error> {
    let read = |query: &'static std::ffi::CStr| {
        privilege::as_owner(PROFILE, || {
            let found = rows(query, &[job_id.into(), hour.into()], |row| {
                let used = Use { touched: row.get(2).unwrap_or(0.0), reads: row.get(3).unwrap_or(0.0) };
                row.get::<pg_sys::Oid>(1).map(|oid| (oid, used))
            });
            Ok(found.into_iter().flatten().collect::<Known>())
        })
    };
    let known = read(
        c"SELECT relid, touched, reads FROM perf.prewarm_profile WHERE job_id = $1 AND hour = $2
         ORDER BY touched DESC, relid",
    )?;
    if !known.is_empty() {
        return Ok((known, "in this hour of the week"));
    }
    let other = read(
        c"SELECT relid, sum(touched) / days, sum(reads) / days
         FROM perf.prewarm_profile,
              (SELECT count(DISTINCT hour) AS days FROM perf.prewarm_profile WHERE job_id = $1 AND hour % 24 = $2 % 24) d
         WHERE job_id = $1 AND hour % 24 = $2 % 24
         GROUP BY relid, days ORDER BY 2 DESC, relid LIMIT 200",
    )?;
    Ok((other, "in this hour of other days"))
}

// ---- the job ----

/// One run: learns from the hour that ends, and loads for the next one.
pub fn run(order: &Order, write: Write) -> Result<(), Failure> {
    let unknown = || Failure::new("22023", "the job's options are not those of a prewarm job");
    let options = Options::from_json(&order.options).ok_or_else(unknown)?;
    let zone = ServerZone::named("time_zone", &options.time_zone)?;
    // What the job reads itself says nothing of what others will.
    crate::capture::hooks::exclude_this_process();
    let started = background::now();
    if let Some((of, at)) = options.once {
        let hour = Hour::containing(at, &zone);
        let choices = executor::transaction(|| Ok(choose(of, hour, options.budget_blocks())?))?;
        let mut detail = warm(order, &options, &choices, hour, started)?;
        detail["hour_at"] = json!(iso(hour));
        return executor::transaction(|| {
            learn::begin(of)?;
            write(Outcome { detail, ..Outcome::plain() })
        });
    }
    let job_id = order.job_id;
    let run_count = executor::transaction(|| Ok(learn::read(job_id, now(), &zone)?))?;
    let hour = Hour::after(now(), &zone);
    let (choices, due, history) = executor::transaction(|| {
        Ok((
            choose(job_id, hour, options.budget_blocks())?,
            statements::due(&options.time_zone, hour.of_week)?,
            learn::history(job_id, HISTORY)?,
        ))
    })?;
    let won_pct = decide::won_pct(&history);
    let about = json!({ "hour_at": iso(hour), "won_pct": won_pct });
    if due.is_empty() && choices.iter().all(|choice| choice.blocks == 0) {
        let reason = "nothing that could be loaded is known of the next hour".to_owned();
        return executor::transaction(|| write(Outcome::skipped(reason, about)));
    }
    match decide::decide(&history, options.min_gain_pct, hour.week, hour.of_week, run_count) {
        Decision::Stop(reason) => executor::transaction(|| write(Outcome::skipped(reason, about))),
        Decision::Control => executor::transaction(|| {
            store_hour(job_id, hour, false, &choices, &json!({}))?;
            write(Outcome::skipped("held out: to compare warmed hours with".to_owned(), about))
        }),
        Decision::Warm => {
            let mut detail = warm(order, &options, &choices, hour, started)?;
            detail["won_pct"] = json!(won_pct);
            detail["hour_at"] = json!(iso(hour));
            executor::transaction(|| {
                store_hour(job_id, hour, true, &choices, &detail)?;
                learn::begin(job_id)?;
                write(Outcome { detail, ..Outcome::plain() })
            })
        }
    }
}

fn iso(hour: Hour) -> String {
    runs::iso(to_server(hour.at.saturating_mul(SECOND_US)))
}

/// Loads what was chosen and runs the statements that are due. What it came to.
fn warm(order: &Order, options: &Options, choices: &[Choice], hour: Hour, started: i64) -> Result<Value, Failure> {
    let (mut loaded, mut read) = (0u64, 0u64);
    let mut relations = Vec::new();
    for choice in choices {
        if choice.blocks == 0 {
            relations.push(json!({ "relation": choice.relation, "skipped": choice.reason }));
            continue;
        }
        match load(choice, options.bytes_per_s)? {
            Ok(part) => {
                loaded += u64::from(part.blocks);
                read += u64::from(part.read);
                relations.push(json!({ "relation": choice.relation, "blocks": part.blocks, "read": part.read }));
            }
            Err(why) => relations.push(json!({ "relation": choice.relation, "skipped": why })),
        }
    }
    let due = executor::transaction(|| Ok(statements::due(&options.time_zone, hour.of_week)?))?;
    let statements = statements::run(&due, order, started)?;
    Ok(json!({
        "loaded_blocks": loaded, "read_blocks": read, "relations": relations, "statements": statements,
        "ms": (background::now() - started) / 1_000,
    }))
}

/// Loads a part of a relation, in transactions that are short; the reason when it cannot be.
fn load(choice: &Choice, bytes_per_s: f64) -> Result<Result<Loaded, &'static str>, Failure> {
    let mut sum = Loaded::default();
    let mut left = choice.blocks;
    while left > 0 {
        let piece = executor::transaction(|| {
            if !buffers::may_read(choice.oid) {
                return Ok(Err("you may not read it"));
            }
            Ok(buffers::load(choice.oid, left, PIECE_BLOCKS, bytes_per_s).map_err(buffers::Unusable::describe))
        })?;
        match piece {
            Ok(piece) => {
                sum.blocks += piece.blocks;
                sum.read += piece.read;
            }
            Err(why) if sum.blocks == 0 => return Ok(Err(why)),
            Err(_) => break,
        }
        left = left.saturating_sub(PIECE_BLOCKS);
    }
    Ok(Ok(sum))
}

/// Writes down what is to be compared when the hour is over.
fn store_hour(job_id: i64, hour: Hour, warmed: bool, choices: &[Choice], detail: &Value) -> Result<(), Error> {
    let relids: Vec<pg_sys::Oid> = choices.iter().filter(|choice| choice.blocks > 0).map(|choice| choice.oid).collect();
    let blocks = |name: &str| detail.get(name).and_then(Value::as_i64).unwrap_or(0);
    let at = timestamp(to_server(hour.at.saturating_mul(SECOND_US)));
    privilege::as_owner(PROFILE, || {
        privilege::writable(|| {
            runs::run(
                c"INSERT INTO perf.prewarm_hour AS h (job_id, hour_at, warmed, relids, loaded_blocks, read_blocks)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (job_id, hour_at) DO UPDATE
                 SET warmed = h.warmed OR excluded.warmed, relids = excluded.relids,
                     loaded_blocks = h.loaded_blocks + excluded.loaded_blocks,
                     read_blocks = h.read_blocks + excluded.read_blocks",
                &[
                    job_id.into(),
                    at.into(),
                    warmed.into(),
                    relids.into(),
                    blocks("loaded_blocks").into(),
                    blocks("read_blocks").into(),
                ],
            );
            Ok(())
        })
    })
}
