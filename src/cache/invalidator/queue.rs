//! What Redis has to do: kept in a queue, handed to its thread, and told to listeners once it is done. Part of the invalidator,
//! called between its batches and, to queue, inside them.

use std::collections::BTreeMap;

use perf_core::cache::invalid::Invalid;
use pgrx::datum::DatumWithOid;
use serde_json::Value;

use super::{Flight, Invalidator, BATCH_LIMIT_MS, COUNT_EVERY_US};
use crate::cache::batch::{self, Watches};
use crate::cache::redis::Redis;
use crate::collect::registry::{self, Words};
use crate::pg::background;
use crate::pg::query::{run_with, select_with};
use crate::pg::text::Document;

/// Batches that Redis gets at once.
const QUEUE_AT_ONCE: i64 = 50;

impl Invalidator {
    /// Writes down what Redis has to do. Bytes of the queue, and whether it was too long and is one order now.
    pub(super) fn queue(&self, events: &BTreeMap<String, Invalid>, told: bool, watches: &Watches) -> (i64, bool) {
        let queued = self.queued.unwrap_or_else(queue_bytes);
        let events: Value = events.iter().map(|(event, invalid)| batch::to_json(event, invalid)).collect();
        let bytes = events.to_string().len() as i64;
        if queued + bytes <= crate::guc::cache_outbox_max_bytes() {
            insert(events, told, false);
            return (queued + bytes, false);
        }
        run_with(c"DELETE FROM perf.cache_redis_queue", &[], |_| ());
        let everything = Value::from(vec![batch::to_json(batch::FLUSH, &watches.all())]);
        let bytes = everything.to_string().len() as i64;
        insert(everything, told, true);
        (bytes, true)
    }

    /// Hears what Redis has done, and gives it more to do.
    pub(super) fn tend_redis(&mut self, now: i64) {
        if !self.has_redis() {
            return;
        }
        let answer = match self.redis.as_mut().map(Redis::answer) {
            Some(Ok(answer)) => answer,
            Some(Err(())) => {
                (self.redis, self.flight) = (None, None);
                None
            }
            None => None,
        };
        if let Some((answer, flight)) = answer.and_then(|answer| Some((answer, self.flight.take()?))) {
            match answer.problem {
                None => {
                    self.note_refusals(answer.refused);
                    self.landed(&flight, answer.counts);
                }
                Some(problem) => self.lost(&problem, now),
            }
        }
        if self.flight.is_none() && now >= self.retry_at {
            if let Err(message) = self.order(now) {
                self.failed(&message);
            }
        }
    }

    fn order(&mut self, now: i64) -> Result<(), String> {
        let done_until = self.done_until;
        let waiting = background::transaction(BATCH_LIMIT_MS, || {
            Ok(select_with(
                c"SELECT batch_id, events FROM perf.cache_redis_queue WHERE batch_id > $1 ORDER BY batch_id LIMIT $2",
                &[done_until.into(), QUEUE_AT_ONCE.into()],
                |row| Some((row.get::<i64>(1)?, row.get::<Document>(2)?.0)),
            ))
        })?;
        let counts = now - self.counted_at >= COUNT_EVERY_US || now < self.counted_at;
        // One that could not be reached is asked for something, to know when it can.
        if waiting.is_empty() && !counts && self.retry_at == 0 {
            return Ok(());
        }
        let mut invalid = Invalid::default();
        for (_, one) in waiting.iter().flat_map(|(_, events)| batch::queued(events)) {
            invalid.merge(one);
        }
        invalid.reduce();
        if invalid.prefixes.remove("") {
            pgrx::log!("perf_opt: a key template without a beginning of its own is not invalidated in Redis");
        }
        let redis = match self.redis.take() {
            Some(redis) => redis,
            None => Redis::start()?,
        };
        let until = waiting.last().map_or(done_until, |(id, _)| *id);
        if redis.order(&self.address, invalid, counts) {
            self.flight = Some(Flight { until, is_count: waiting.is_empty() });
            self.redis = Some(redis);
            self.counted_at = if counts { now } else { self.counted_at };
        }
        Ok(())
    }

    /// What Redis has refused is not asked for again: nothing but somebody's change there would make a difference.
    fn note_refusals(&mut self, (count, why): (u64, String)) {
        if count > 0 {
            pgrx::log!("perf_opt: Redis refuses to remove {count} of the keys and tags that are invalid: {why}");
            registry::note_invalidation(self.dbid, |note| {
                note.refused += count;
                note.refusal = Words::of(&why);
            });
        }
    }

    /// Redis has done what it was told: so are the listeners.
    fn landed(&mut self, flight: &Flight, counts: Option<(u64, u64)>) {
        if self.retry_at != 0 {
            pgrx::log!("perf_opt reaches Redis again");
            self.retry_at = 0;
            self.retry.reset();
        }
        if let Some(counts) = counts {
            let at = background::now();
            registry::note_invalidation(self.dbid, |note| {
                (note.counts, note.counted_at) = ([counts, note.counts[0]], at);
            });
        }
        registry::note_invalidation(self.dbid, |note| {
            note.down_since = 0;
            note.problem = Words::EMPTY;
        });
        if flight.is_count {
            return;
        }
        let (after, until) = (self.done_until, flight.until);
        let told = background::transaction(BATCH_LIMIT_MS, || {
            let done = run_with(
                c"DELETE FROM perf.cache_redis_queue WHERE batch_id > $1 AND batch_id <= $2 RETURNING events",
                &[after.into(), until.into()],
                |row| row.get::<Document>(1).unwrap_or_default().0,
            );
            let mut events: BTreeMap<String, Invalid> = BTreeMap::new();
            let bytes: i64 = done.1.iter().map(|value| value.to_string().len() as i64).sum();
            for (event, invalid) in done.1.iter().flat_map(batch::queued) {
                events.entry(event).or_default().merge(invalid);
            }
            for (event, mut invalid) in events {
                invalid.reduce();
                batch::tell(&event, invalid, false);
            }
            Ok(bytes)
        });
        match told {
            Ok(bytes) => {
                self.done_until = until;
                self.queued = self.queued.map(|queued| (queued - bytes).max(0));
            }
            Err(message) => self.failed(&message),
        }
    }

    /// Redis has not done it. Listeners are told what is invalid all the same.
    fn lost(&mut self, problem: &str, now: i64) {
        if self.retry_at == 0 {
            pgrx::log!("perf_opt cannot invalidate in Redis: {problem}. It keeps trying.");
            registry::note_invalidation(self.dbid, |note| note.down_since = now);
            let told = background::transaction(BATCH_LIMIT_MS, || {
                let untold = run_with(
                    c"UPDATE perf.cache_redis_queue SET told = true WHERE NOT told RETURNING events",
                    &[],
                    |row| row.get::<Document>(1).unwrap_or_default().0,
                );
                for (event, invalid) in untold.1.iter().flat_map(batch::queued) {
                    batch::tell(&event, invalid, true);
                }
                Ok(())
            });
            if let Err(message) = told {
                self.failed(&message);
            }
        }
        registry::note_invalidation(self.dbid, |note| note.problem = Words::of(problem));
        self.retry_at = now + self.retry.next();
    }
}

fn insert(events: Value, told: bool, flush: bool) {
    let arguments: [DatumWithOid; 3] = [Document(events).into(), told.into(), flush.into()];
    run_with(
        c"INSERT INTO perf.cache_redis_queue (events, told, flush, at)
          VALUES ($1, $2, $3, pg_catalog.clock_timestamp())",
        &arguments,
        |_| (),
    );
}

fn queue_bytes() -> i64 {
    let bytes = select_with(
        c"SELECT COALESCE(pg_catalog.sum(pg_catalog.length(events::pg_catalog.text)), 0)::pg_catalog.int8 FROM perf.cache_redis_queue",
        &[],
        |row| row.get::<i64>(1),
    );
    bytes.first().copied().unwrap_or(0)
}
