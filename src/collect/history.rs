//! Writes the history tables. Called by the worker inside its transaction; locks what INSERT, UPDATE and DELETE lock.

use std::collections::{HashMap, HashSet};

use perf_core::delta::{Delta, Pending, Written};
use perf_core::ladder::Ladder;
use perf_core::outcome::{unpack_sqlstate, Outcome, Severity};
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;
use pgrx::spi::{Spi, SpiClient};

use super::partitions::{self, spi_failed};
use super::pending::{self, Position};
use super::registry;
use crate::error::Error;
use crate::memory::slow_ring::{self, SlowSample};
use crate::memory::survey::{self, Snapshot};
use crate::pg::background::instant;
use crate::pg::names;
use crate::pg::text::DbText;

/// Statements of one run that get rows of their own, those with the most time first; the rest is summed up under
/// (other). Bounds what a server full of ever new statements writes.
const ROWS_PER_RUN_MAX: usize = 1_000;
/// Rows sent to the server at once.
const BATCH: usize = 250;
/// How exact `statement_text.seen_at` is.
const SEEN_STEP_US: i64 = 12 * 3_600 * 1_000_000;
/// The partitioned tables.
const TABLES: [&str; 2] = ["statement_history", "slow_statement"];
/// Nothing is kept longer, however small it is.
const KEEP_S: i64 = 90 * 86_400;
/// The share of the size cap that one partition may come to, so that dropping one is not dropping all.
const PARTITIONS_PER_CAP: f64 = 8.0;
/// Widths of partitions.
const STEPS_S: [i64; 4] = [86_400, 6 * 3_600, 3_600, 600];

/// What the worker remembers from run to run. Valid only as long as its runs commit.
#[derive(Default)]
pub struct Memo {
    /// As in the tables; `None`: to be read.
    written: Option<(Position, HashMap<u64, Written>)>,
    /// Statements whose text is stored, and its `seen_at`.
    texts: HashMap<i64, i64>,
    /// Bytes written per second, a moving mean.
    bytes_per_s: f64,
}

/// What a run wrote.
#[derive(Default, Debug)]
pub struct Outcomes {
    /// Slow statements that were overwritten before this run.
    pub slow_lost: u64,
    bytes: usize,
    elapsed_s: f64,
}

/// A memo change to be taken over once the transaction has committed.
pub struct Next {
    position: Position,
    written: Vec<Written>,
    gone: Vec<u64>,
    texts: Vec<(i64, i64)>,
    fresh: Option<(HashMap<u64, Written>, HashMap<i64, i64>)>,
    outcomes: Outcomes,
}

impl Memo {
    /// Takes over what a committed run wrote. Nothing here can fail.
    pub fn take_over(&mut self, next: Next) -> u64 {
        let (mut written, mut texts) = match next.fresh {
            Some(fresh) => fresh,
            None => {
                (self.written.take().map(|(_, written)| written).unwrap_or_default(), std::mem::take(&mut self.texts))
            }
        };
        for id in next.gone {
            written.remove(&id);
        }
        written.extend(next.written.into_iter().map(|written| (written.id, written)));
        texts.extend(next.texts);
        self.texts = texts;
        self.written = Some((next.position, written));
        if next.outcomes.elapsed_s > 0.0 {
            let rate = next.outcomes.bytes as f64 / next.outcomes.elapsed_s;
            self.bytes_per_s = if self.bytes_per_s == 0.0 { rate } else { 0.8 * self.bytes_per_s + 0.2 * rate };
        }
        next.outcomes.slow_lost
    }

    /// Forgets all: the next run reads the tables again.
    pub fn forget(&mut self) {
        self.written = None;
        self.texts.clear();
    }

    fn ladder(&self) -> Ladder {
        let cap = f64::from(crate::guc::history_max_mb()) * 1_048_576.0;
        let fits = |step_s: &&i64| **step_s as f64 * self.bytes_per_s <= cap / PARTITIONS_PER_CAP;
        // Not known yet: an hour.
        let step_s = if self.bytes_per_s == 0.0 { 3_600 } else { *STEPS_S.iter().find(fits).unwrap_or(&600) };
        Ladder { step_s, premake: 0, keep_s: KEEP_S }
    }
}

/// Makes the partitions that a run at `now` writes to. A transaction of its own keeps its locks short.
pub fn ensure_partitions(memo: &Memo, now: i64) -> Result<(), Error> {
    let (ladder, now) = (memo.ladder(), instant(now));
    for table in TABLES {
        partitions::ensure(table, &ladder, now)?;
    }
    Ok(())
}

/// One run: everything that is in memory and not yet written. What it gives is to be taken over after the commit.
pub fn write(memo: &Memo, now: i64) -> Result<Next, Error> {
    let (fresh, position) = match &memo.written {
        Some((position, _)) => (None, *position),
        None => {
            remove_stale()?;
            (Some((pending::read_written(), read_texts()?)), pending::read_position())
        }
    };
    let empty = HashMap::new();
    let (written, texts) = match (&fresh, &memo.written) {
        (Some((written, texts)), _) => (written, texts),
        (None, Some((_, written))) => (written, &memo.texts),
        (None, None) => (&empty, &memo.texts),
    };
    let resets = registry::resets();
    let (snapshot, pending) = pending::of_current_database(&position, written, false);
    let mut next_position = Position { collected_at: now, resets, seqs: position.seqs };
    let mut outcomes = Outcomes::default();
    if position.collected_at != 0 {
        outcomes.elapsed_s = (now - position.collected_at).max(1) as f64 * 1e-6;
    }
    let mut stored = Vec::new();
    Spi::connect_mut(|client| -> Result<(), Error> {
        write_deltas(client, &snapshot, &pending, &position, now, &mut outcomes)?;
        write_texts(client, &snapshot, &pending, texts, now, &mut stored)?;
        write_slow(client, &mut next_position, texts, now, &mut stored, &mut outcomes)?;
        write_written(client, &pending, &next_position)
    })?;
    Ok(Next { position: next_position, written: pending.written, gone: pending.gone, texts: stored, fresh, outcomes })
}

/// Drops what is over the cap or too old; gives the bytes that are left. A transaction of its own.
pub fn rotate(memo: &Memo, now: i64) -> Result<i64, Error> {
    let (ladder, at) = (memo.ladder(), instant(now));
    let cap = i64::from(crate::guc::history_max_mb()) * 1_048_576;
    for table in TABLES {
        partitions::expire(table, &ladder, at)?;
    }
    let mut sizes = sizes()?;
    while sizes.total() > cap {
        let (table, other) =
            if sizes.tables[0] >= sizes.tables[1] { (TABLES[0], TABLES[1]) } else { (TABLES[1], TABLES[0]) };
        let mut changes = partitions::drop_oldest(table, at)?;
        if changes.dropped == 0 {
            changes += partitions::drop_oldest(other, at)?;
        }
        if changes.dropped == 0 {
            // One that is in use goes with a later run: rather a little over the cap than the newest history lost.
            if changes.deferred == 0 {
                trim_to_cap(&sizes, cap)?;
            }
            break;
        }
        sizes = self::sizes()?;
    }
    Ok(self::sizes()?.total())
}

struct Sizes {
    tables: [i64; 2],
    texts: i64,
    written: i64,
}

impl Sizes {
    fn total(&self) -> i64 {
        self.tables[0] + self.tables[1] + self.texts + self.written
    }
}

fn sizes() -> Result<Sizes, Error> {
    let of = |table: &str| {
        Spi::get_one_with_args::<i64>(
            "SELECT pg_catalog.pg_total_relation_size(pg_catalog.to_regclass(pg_catalog.format('perf.%I', $1)))",
            &[table.into()],
        )
        .map(|bytes| bytes.unwrap_or(0))
        .map_err(spi_failed)
    };
    Ok(Sizes {
        tables: [partitions::total_bytes(TABLES[0])?, partitions::total_bytes(TABLES[1])?],
        texts: of("statement_text")?,
        written: of("statement_written")?,
    })
}

/// Only partitions in use are left and they are over the cap (it was lowered, or a flood came): empty the larger
/// table, or the texts. TRUNCATE waits for readers as long as lock_timeout allows; the next run tries again.
fn trim_to_cap(sizes: &Sizes, cap: i64) -> Result<(), Error> {
    let command = if sizes.texts > sizes.tables[0].max(sizes.tables[1]) {
        "DELETE FROM perf.statement_text WHERE seen_at <= (SELECT pg_catalog.percentile_disc(0.5) \
         WITHIN GROUP (ORDER BY seen_at) FROM perf.statement_text)"
    } else if sizes.tables[0] >= sizes.tables[1] {
        "TRUNCATE perf.statement_history"
    } else {
        "TRUNCATE perf.slow_statement"
    };
    if sizes.total() - sizes.written <= cap / 2 {
        return Ok(());
    }
    pgrx::log!("perf_opt: history is over perf_opt.history_max_mb with its newest partitions alone; running {command}");
    Spi::run(command).map_err(spi_failed)
}

/// Texts of statements that nothing in the history refers to any more.
pub fn remove_unused_texts() -> Result<(), Error> {
    Spi::run(
        "DELETE FROM perf.statement_text WHERE seen_at < (SELECT least((SELECT min(collected_at) FROM perf.statement_history), \
         (SELECT min(collected_at) FROM perf.slow_statement)) - interval '1 day')",
    )
    .map_err(spi_failed)
}

/// What other lives of shared memory, or the database this one was copied from, left behind.
fn remove_stale() -> Result<(), Error> {
    let (boot, dbid): (i64, Oid) = (registry::boot_id(), names::current_database().into());
    for command in [
        "DELETE FROM perf.statement_written WHERE datid <> $1 OR boot_id <> $2",
        "DELETE FROM perf.collector_position WHERE datid <> $1 OR boot_id <> $2",
    ] {
        Spi::run_with_args(command, &[dbid.into(), boot.into()]).map_err(spi_failed)?;
    }
    Ok(())
}

fn read_texts() -> Result<HashMap<i64, i64>, Error> {
    Spi::connect(|client| {
        let rows = client.select("SELECT queryid, seen_at FROM perf.statement_text", None, &[]).map_err(spi_failed)?;
        let mut texts = HashMap::with_capacity(rows.len());
        for row in rows {
            let queryid = row.get::<i64>(1).map_err(spi_failed)?;
            let seen_at = row.get::<TimestampWithTimeZone>(2).map_err(spi_failed)?;
            if let (Some(queryid), Some(seen_at)) = (queryid, seen_at) {
                texts.insert(queryid, seen_at.into());
            }
        }
        Ok(texts)
    })
}

const NS_TO_MS: f64 = 1e-6;

fn write_deltas(
    client: &mut SpiClient<'_>,
    snapshot: &[Snapshot],
    pending: &Pending,
    position: &Position,
    now: i64,
    outcomes: &mut Outcomes,
) -> Result<(), Error> {
    let mut deltas: Vec<(&Snapshot, Delta)> =
        pending.deltas.iter().filter_map(|delta| snapshot.get(delta.entry).map(|item| (item, delta.clone()))).collect();
    if deltas.len() > ROWS_PER_RUN_MAX {
        deltas.sort_by_key(|(item, delta)| {
            let counters = &delta.counters;
            let keep = item.is_other || counters.slow + counters.critical + counters.emergency + counters.failures > 0;
            (std::cmp::Reverse(keep), std::cmp::Reverse(counters.total_ns + counters.planning_ns))
        });
        fold_rest(&mut deltas);
    }
    for batch in deltas.chunks(BATCH) {
        outcomes.bytes += batch.iter().map(|(_, delta)| 320 + delta.histogram.encode().len()).sum::<usize>();
        insert_deltas(client, batch, position, now)?;
    }
    Ok(())
}

/// Sums up what is beyond the limit, per role, in rows of (other).
fn fold_rest(deltas: &mut Vec<(&Snapshot, Delta)>) {
    let mut folded: HashMap<u32, (&Snapshot, Delta)> = HashMap::new();
    for (item, delta) in deltas.split_off(ROWS_PER_RUN_MAX) {
        match folded.get_mut(&item.key.userid) {
            Some((_, sum)) => {
                sum.counters.merge(&delta.counters);
                sum.histogram.merge(&delta.histogram);
            }
            None => {
                folded.insert(item.key.userid, (item, Delta { entry: usize::MAX, ..delta }));
            }
        }
    }
    deltas.extend(folded.into_values());
}

fn insert_deltas(
    client: &mut SpiClient<'_>,
    batch: &[(&Snapshot, Delta)],
    position: &Position,
    now: i64,
) -> Result<(), Error> {
    let big = |field: fn(&Delta) -> u64| -> Vec<i64> {
        batch.iter().map(|(_, delta)| i64::try_from(field(delta)).unwrap_or(i64::MAX)).collect()
    };
    let ms = |field: fn(&Delta) -> u64| -> Vec<f64> {
        batch.iter().map(|(_, delta)| field(delta) as f64 * NS_TO_MS).collect()
    };
    let queryids: Vec<Option<i64>> = batch
        .iter()
        .map(|(item, delta)| {
            (!item.is_other && delta.entry != usize::MAX && item.key.queryid != 0).then_some(item.key.queryid as i64)
        })
        .collect();
    let began: Vec<TimestampWithTimeZone> =
        batch.iter().map(|(_, delta)| instant(pending::began_at(position, delta.counters.first_seen, now))).collect();
    let first: Vec<TimestampWithTimeZone> = batch.iter().map(|(_, delta)| instant(delta.counters.first_seen)).collect();
    let last: Vec<TimestampWithTimeZone> = batch.iter().map(|(_, delta)| instant(delta.counters.last_seen)).collect();
    let users: Vec<Oid> = batch.iter().map(|(item, _)| Oid::from(item.key.userid)).collect();
    let toplevel: Vec<bool> = batch.iter().map(|(item, _)| item.key.toplevel).collect();
    let squares: Vec<f64> = batch.iter().map(|(_, delta)| delta.counters.sum_sq_ms2).collect();
    let waits: Vec<f64> = batch.iter().map(|(_, delta)| delta.counters.lock_wait_ms as f64).collect();
    let histograms: Vec<Vec<u8>> = batch.iter().map(|(_, delta)| delta.histogram.encode()).collect();
    let arguments: Vec<DatumWithOid<'_>> = vec![
        instant(now).into(),
        Oid::from(names::current_database()).into(),
        began.into(),
        users.into(),
        queryids.into(),
        toplevel.into(),
        big(|d| d.counters.calls).into(),
        big(|d| d.counters.failures).into(),
        big(|d| d.counters.slow).into(),
        big(|d| d.counters.critical).into(),
        big(|d| d.counters.emergency).into(),
        big(|d| d.counters.rows).into(),
        ms(|d| d.counters.total_ns).into(),
        ms(|d| d.counters.min_ns).into(),
        ms(|d| d.counters.max_ns).into(),
        squares.into(),
        big(|d| d.counters.plans).into(),
        ms(|d| d.counters.planning_ns).into(),
        big(|d| d.counters.usage.shared_blks_hit).into(),
        big(|d| d.counters.usage.shared_blks_read).into(),
        big(|d| d.counters.usage.shared_blks_dirtied).into(),
        big(|d| d.counters.usage.shared_blks_written).into(),
        big(|d| d.counters.usage.temp_blks_read).into(),
        big(|d| d.counters.usage.temp_blks_written).into(),
        ms(|d| d.counters.usage.blk_read_ns).into(),
        ms(|d| d.counters.usage.blk_write_ns).into(),
        big(|d| d.counters.usage.wal_records).into(),
        big(|d| d.counters.usage.wal_bytes).into(),
        ms(|d| d.counters.jit_ns).into(),
        waits.into(),
        first.into(),
        last.into(),
        histograms.into(),
    ];
    client
        .update(
            "INSERT INTO perf.statement_history (collected_at, datid, bucket_at, userid, queryid, toplevel, calls, failures, \
             slow, critical, emergency, rows, total_ms, min_ms, max_ms, sum_sq_ms2, plans, planning_ms, shared_blks_hit, \
             shared_blks_read, shared_blks_dirtied, shared_blks_written, temp_blks_read, temp_blks_written, blk_read_ms, \
             blk_write_ms, wal_records, wal_bytes, jit_ms, lock_wait_ms, first_seen_at, last_seen_at, histogram) \
             SELECT $1, $2, u.* FROM unnest($3::timestamptz[], $4::oid[], $5::bigint[], $6::boolean[], $7::bigint[], \
             $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::float8[], $14::float8[], \
             $15::float8[], $16::float8[], $17::bigint[], $18::float8[], $19::bigint[], $20::bigint[], $21::bigint[], \
             $22::bigint[], $23::bigint[], $24::bigint[], $25::float8[], $26::float8[], $27::bigint[], $28::bigint[], \
             $29::float8[], $30::float8[], $31::timestamptz[], $32::timestamptz[], $33::bytea[]) AS u",
            None,
            &arguments,
        )
        .map(|_| ())
        .map_err(spi_failed)
}

/// Stores the texts that are not stored yet, and marks those in use.
fn write_texts(
    client: &mut SpiClient<'_>,
    snapshot: &[Snapshot],
    pending: &Pending,
    texts: &HashMap<i64, i64>,
    now: i64,
    stored: &mut Vec<(i64, i64)>,
) -> Result<(), Error> {
    let mut missing: HashSet<i64> = HashSet::new();
    let mut renewed: HashSet<i64> = HashSet::new();
    for item in pending.deltas.iter().filter_map(|delta| snapshot.get(delta.entry)) {
        let queryid = item.key.queryid as i64;
        if item.is_other || queryid == 0 {
            continue;
        }
        match texts.get(&queryid) {
            None => missing.insert(queryid),
            Some(&seen_at) => now - seen_at > SEEN_STEP_US && renewed.insert(queryid),
        };
    }
    if !missing.is_empty() {
        let mut found: HashMap<i64, DbText> = HashMap::new();
        for item in survey::snapshot(Some(names::current_database()), true) {
            let queryid = item.key.queryid as i64;
            if let (true, Some(text)) = (missing.contains(&queryid), item.text) {
                found.insert(queryid, text);
            }
        }
        insert_texts(client, found, now, stored)?;
    }
    if !renewed.is_empty() {
        let queryids: Vec<i64> = renewed.into_iter().collect();
        stored.extend(queryids.iter().map(|&queryid| (queryid, now)));
        client
            .update(
                "UPDATE perf.statement_text SET seen_at = $1 WHERE queryid = ANY ($2)",
                None,
                &[instant(now).into(), queryids.into()],
            )
            .map_err(spi_failed)?;
    }
    Ok(())
}

fn insert_texts(
    client: &mut SpiClient<'_>,
    found: HashMap<i64, DbText>,
    now: i64,
    stored: &mut Vec<(i64, i64)>,
) -> Result<(), Error> {
    let (queryids, texts): (Vec<i64>, Vec<DbText>) = found.into_iter().unzip();
    for (queryids, texts) in queryids.chunks(BATCH).zip(texts.chunks(BATCH)) {
        stored.extend(queryids.iter().map(|&queryid| (queryid, now)));
        client
            .update(
                "INSERT INTO perf.statement_text (queryid, query, first_seen_at, seen_at) \
                 SELECT u.*, $1, $1 FROM unnest($2::bigint[], $3::text[]) AS u \
                 ON CONFLICT (queryid) DO UPDATE SET seen_at = excluded.seen_at",
                None,
                &[instant(now).into(), queryids.to_vec().into(), texts.to_vec().into()],
            )
            .map_err(spi_failed)?;
    }
    Ok(())
}

fn write_slow(
    client: &mut SpiClient<'_>,
    position: &mut Position,
    texts: &HashMap<i64, i64>,
    now: i64,
    stored: &mut Vec<(i64, i64)>,
    outcomes: &mut Outcomes,
) -> Result<(), Error> {
    let dbid = names::current_database();
    let mut known: HashSet<i64> = stored.iter().map(|&(queryid, _)| queryid).collect();
    for severity in Severity::ALL {
        let seq = &mut position.seqs[severity as usize];
        let (samples, newest, lost) = slow_ring::read(severity, *seq);
        *seq = newest;
        outcomes.slow_lost += lost;
        for sample in samples.iter().filter(|sample| sample.dbid == dbid) {
            let queryid = sample.queryid as i64;
            if queryid != 0 && !texts.contains_key(&queryid) && known.insert(queryid) {
                insert_texts(client, HashMap::from([(queryid, sample.text.clone())]), now, stored)?;
            }
            outcomes.bytes += 300 + sample.plan.as_ref().map_or(0, |plan| plan.as_bytes().len());
            insert_slow(client, sample, now)?;
        }
    }
    Ok(())
}

fn insert_slow(client: &mut SpiClient<'_>, sample: &SlowSample, now: i64) -> Result<(), Error> {
    let queryid = (sample.queryid != 0).then_some(sample.queryid as i64);
    let text = (sample.queryid == 0).then(|| sample.text.clone());
    let sqlstate = (sample.sqlstate != 0).then(|| unpack_sqlstate(sample.sqlstate));
    let relations: Vec<Oid> = sample.relations.iter().map(|&relation| Oid::from(relation)).collect();
    let arguments: Vec<DatumWithOid<'_>> = vec![
        instant(now).into(),
        registry::boot_id().into(),
        (sample.severity as i16).into(),
        (sample.seq as i64).into(),
        instant(sample.captured_at).into(),
        Oid::from(sample.dbid).into(),
        Oid::from(sample.userid).into(),
        queryid.into(),
        text.into(),
        sample.toplevel.into(),
        (sample.duration_ns as f64 * NS_TO_MS).into(),
        (sample.rows as i64).into(),
        sample.estimated_rows.into(),
        Outcome::from_u8(sample.outcome).name().into(),
        sqlstate.into(),
        sample.application_name.clone().into(),
        sample.client_addr.clone().into(),
        (sample.planning_ns as f64 * NS_TO_MS).into(),
        (sample.shared_blks_hit as i64).into(),
        (sample.shared_blks_read as i64).into(),
        (sample.temp_blks_written as i64).into(),
        (sample.wal_bytes as i64).into(),
        relations.into(),
        sample.plan.clone().into(),
    ];
    client
        .update(
            "INSERT INTO perf.slow_statement (collected_at, boot_id, severity, seq, captured_at, datid, userid, queryid, query, \
             toplevel, duration_ms, rows, estimated_rows, outcome, sqlstate, application_name, client_addr, planning_ms, \
             shared_blks_hit, shared_blks_read, temp_blks_written, wal_bytes, relations, plan) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, nullif($16, ''), nullif($17, ''), $18, \
             $19, $20, $21, $22, perf._relation_names($23), $24",
            None,
            &arguments,
        )
        .map(|_| ())
        .map_err(spi_failed)
}

fn write_written(client: &mut SpiClient<'_>, pending: &Pending, position: &Position) -> Result<(), Error> {
    let (boot, dbid) = (registry::boot_id(), Oid::from(names::current_database()));
    for batch in pending.written.chunks(BATCH) {
        let ids: Vec<i64> = batch.iter().map(|written| written.id as i64).collect();
        let states: Vec<Vec<u8>> = batch.iter().map(Written::encode).collect();
        client
            .update(
                "INSERT INTO perf.statement_written (entry, datid, boot_id, state) \
                 SELECT u.entry, $1, $2, u.state FROM unnest($3::bigint[], $4::bytea[]) AS u (entry, state) \
                 ON CONFLICT (entry) DO UPDATE SET state = excluded.state",
                None,
                &[dbid.into(), boot.into(), ids.into(), states.into()],
            )
            .map_err(spi_failed)?;
    }
    if !pending.gone.is_empty() {
        let gone: Vec<i64> = pending.gone.iter().map(|&id| id as i64).collect();
        client
            .update("DELETE FROM perf.statement_written WHERE entry = ANY ($1)", None, &[gone.into()])
            .map_err(spi_failed)?;
    }
    let [slow, critical, emergency] = position.seqs.map(|seq| seq as i64);
    client
        .update(
            "INSERT INTO perf.collector_position (datid, boot_id, collected_at, resets, slow_seq, critical_seq, emergency_seq) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (datid) DO UPDATE SET boot_id = excluded.boot_id, \
             collected_at = excluded.collected_at, resets = excluded.resets, slow_seq = excluded.slow_seq, \
             critical_seq = excluded.critical_seq, emergency_seq = excluded.emergency_seq",
            None,
            &[
                dbid.into(),
                boot.into(),
                instant(position.collected_at).into(),
                (position.resets as i64).into(),
                slow.into(),
                critical.into(),
                emergency.into(),
            ],
        )
        .map(|_| ())
        .map_err(spi_failed)
}
