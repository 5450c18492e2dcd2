//! What a collector has yet to write: the totals in memory less what is already in the history, entry by entry, so
//! that the sum over history and what is pending equals the sum over memory plus what was reset. The worker writes
//! these deltas; a reader shows them: both call [`pending`], so neither can disagree with the other.
//!
//! An entry that was evicted is folded into the `(other)` entry of its role, its part that is already in the history
//! included: that part is taken off the growth of `(other)`, now or when `(other)` has grown enough.

use std::collections::HashMap;

use crate::counters::{Counters, Usage};
use crate::histogram::{lower_ns, Histogram, BUCKETS};

/// An entry of the statement table in memory.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Identifies it for as long as shared memory lives, also across eviction and return.
    pub id: u64,
    /// Role.
    pub owner: u32,
    /// It gathers what was evicted of its role.
    pub is_other: bool,
    /// Totals since `first_seen`.
    pub counters: Counters,
    /// Latencies since `first_seen`.
    pub histogram: Histogram,
}

/// How much of an entry is in the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// As in [`Entry`].
    pub id: u64,
    /// As in [`Entry`].
    pub owner: u32,
    /// As in [`Entry`].
    pub is_other: bool,
    /// Totals that are in the history.
    pub counters: Counters,
    /// Latencies that are in the history, encoded.
    pub histogram: Vec<u8>,
}

/// What is to be added to the history for an entry.
#[derive(Clone, Debug)]
pub struct Delta {
    /// Index of the entry in the slice given to [`pending`].
    pub entry: usize,
    /// What came in addition. `first_seen` and `last_seen` are those of the entry; `min_ns` and `max_ns` are those of
    /// the added executions, within the width of a histogram bucket.
    pub counters: Counters,
    /// Latencies that came in addition.
    pub histogram: Histogram,
}

/// The outcome of [`pending`].
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// Rows for the history.
    pub deltas: Vec<Delta>,
    /// What [`Written`] is to be for these entries once the deltas are in the history.
    pub written: Vec<Written>,
    /// Ids whose [`Written`] is void.
    pub gone: Vec<u64>,
}

/// Compares memory with what is written. `was_reset` says that entries were removed on purpose since `written` was
/// taken, so that what is missing was not evicted.
pub fn pending(entries: &[Entry], written: &HashMap<u64, Written>, was_reset: bool) -> Pending {
    let mut outcome = Pending::default();
    let mut seen: HashMap<u64, usize> = HashMap::with_capacity(entries.len());
    let mut evicted: HashMap<u32, Written> = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        seen.insert(entry.id, index);
    }
    for known in written.values() {
        let replaced = match seen.get(&known.id) {
            None => {
                outcome.gone.push(known.id);
                true
            }
            Some(&index) => entries.get(index).is_some_and(|entry| was_replaced(entry, known, was_reset)),
        };
        if replaced && !known.is_other && !was_reset {
            fold(evicted.entry(known.owner).or_insert_with(|| nothing_written(0, known.owner, true)), known);
        }
    }
    for (index, entry) in entries.iter().enumerate() {
        let known = written.get(&entry.id).filter(|known| !was_replaced(entry, known, was_reset));
        let folded = if entry.is_other { evicted.get(&entry.owner) } else { None };
        if let (Some(known), None) = (known, folded) {
            if words(&known.counters) == words(&entry.counters) {
                continue;
            }
        }
        let mut base = known.cloned().unwrap_or_else(|| nothing_written(entry.id, entry.owner, entry.is_other));
        if let Some(folded) = folded {
            fold(&mut base, folded);
        }
        let base_histogram = decoded(&base.histogram);
        let mut histogram = entry.histogram;
        histogram.subtract(&base_histogram);
        let mut counters = subtracted(&entry.counters, &base.counters);
        bound_extremes(&mut counters, &entry.counters, &base.counters, &histogram);
        let mut written_histogram = base_histogram;
        written_histogram.merge(&histogram);
        outcome.written.push(Written {
            id: entry.id,
            owner: entry.owner,
            is_other: entry.is_other,
            counters: highest(&entry.counters, &base.counters),
            histogram: written_histogram.encode(),
        });
        if has_anything(&counters) {
            outcome.deltas.push(Delta { entry: index, counters, histogram });
        }
    }
    outcome
}

/// The entry is not the one that was written: it was evicted (or reset) and came back. First seen may move to an
/// earlier time when a backend hands over late what it had kept, never to a later one. `(other)` may be behind what is
/// written, when an entry was read both before and after its eviction.
fn was_replaced(entry: &Entry, known: &Written, was_reset: bool) -> bool {
    entry.counters.calls < known.counters.calls && (!entry.is_other || was_reset)
        || entry.counters.first_seen > known.counters.first_seen && known.counters.first_seen != 0
}

fn nothing_written(id: u64, owner: u32, is_other: bool) -> Written {
    Written { id, owner, is_other, counters: Counters::default(), histogram: Vec::new() }
}

fn decoded(bytes: &[u8]) -> Histogram {
    Histogram::decode(bytes).unwrap_or_default()
}

fn fold(into: &mut Written, more: &Written) {
    let first_seen = into.counters.first_seen;
    into.counters.merge(&more.counters);
    if first_seen != 0 {
        into.counters.first_seen = first_seen;
    }
    let mut histogram = decoded(&into.histogram);
    histogram.merge(&decoded(&more.histogram));
    into.histogram = histogram.encode();
}

fn has_anything(counters: &Counters) -> bool {
    let nothing = Counters {
        min_ns: counters.min_ns,
        max_ns: counters.max_ns,
        sum_sq_ms2: counters.sum_sq_ms2,
        first_seen: counters.first_seen,
        last_seen: counters.last_seen,
        last_sqlstate: counters.last_sqlstate,
        ..Counters::default()
    };
    *counters != nothing
}

/// Field by field, for the fields that add up.
fn combine(a: &Counters, b: &Counters, op: fn(u64, u64) -> u64, op_f: fn(f64, f64) -> f64) -> Counters {
    Counters {
        calls: op(a.calls, b.calls),
        failures: op(a.failures, b.failures),
        slow: op(a.slow, b.slow),
        critical: op(a.critical, b.critical),
        emergency: op(a.emergency, b.emergency),
        rows: op(a.rows, b.rows),
        total_ns: op(a.total_ns, b.total_ns),
        sum_sq_ms2: op_f(a.sum_sq_ms2, b.sum_sq_ms2),
        plans: op(a.plans, b.plans),
        planning_ns: op(a.planning_ns, b.planning_ns),
        usage: Usage {
            shared_blks_hit: op(a.usage.shared_blks_hit, b.usage.shared_blks_hit),
            shared_blks_read: op(a.usage.shared_blks_read, b.usage.shared_blks_read),
            shared_blks_dirtied: op(a.usage.shared_blks_dirtied, b.usage.shared_blks_dirtied),
            shared_blks_written: op(a.usage.shared_blks_written, b.usage.shared_blks_written),
            temp_blks_read: op(a.usage.temp_blks_read, b.usage.temp_blks_read),
            temp_blks_written: op(a.usage.temp_blks_written, b.usage.temp_blks_written),
            blk_read_ns: op(a.usage.blk_read_ns, b.usage.blk_read_ns),
            blk_write_ns: op(a.usage.blk_write_ns, b.usage.blk_write_ns),
            wal_records: op(a.usage.wal_records, b.usage.wal_records),
            wal_bytes: op(a.usage.wal_bytes, b.usage.wal_bytes),
        },
        jit_ns: op(a.jit_ns, b.jit_ns),
        lock_wait_ms: op(a.lock_wait_ms, b.lock_wait_ms),
        min_ns: a.min_ns,
        max_ns: a.max_ns,
        first_seen: a.first_seen,
        last_seen: a.last_seen,
        last_sqlstate: a.last_sqlstate,
    }
}

fn subtracted(now: &Counters, base: &Counters) -> Counters {
    combine(now, base, u64::saturating_sub, |a, b| (a - b).max(0.0))
}

fn highest(now: &Counters, base: &Counters) -> Counters {
    combine(now, base, u64::max, f64::max)
}

/// Fastest and slowest of the added executions: known exactly when the entry's own extreme moved, else from the
/// buckets they fell in.
fn bound_extremes(delta: &mut Counters, now: &Counters, base: &Counters, histogram: &Histogram) {
    if base.calls == 0 {
        return;
    }
    if delta.calls == 0 {
        (delta.min_ns, delta.max_ns) = (0, 0);
        return;
    }
    let mut used = histogram.buckets();
    let first = used.next();
    let last = used.last().or(first);
    if let (Some((lower, _, _)), true) = (first, now.min_ns >= base.min_ns) {
        delta.min_ns = (lower as u64).clamp(now.min_ns, now.max_ns);
    }
    if let (Some((_, upper, _)), true) = (last, now.max_ns <= base.max_ns) {
        delta.max_ns = (upper.min(lower_ns(BUCKETS)) as u64).clamp(now.min_ns, now.max_ns);
    }
}

const WORDS: usize = 25;
const HEADER: usize = 8 + 4 + 1;

impl Written {
    /// For storage.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + WORDS * 8 + self.histogram.len());
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&self.owner.to_le_bytes());
        bytes.push(u8::from(self.is_other));
        for word in words(&self.counters) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.histogram);
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` when the bytes are not of that form.
    pub fn decode(bytes: &[u8]) -> Option<Written> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let (fixed, histogram) = rest.split_at_checked(WORDS * 8)?;
        let mut numbers = [0u64; WORDS];
        for (number, chunk) in numbers.iter_mut().zip(fixed.chunks_exact(8)) {
            *number = u64::from_le_bytes(chunk.try_into().ok()?);
        }
        Histogram::decode(histogram)?;
        Some(Written {
            id: u64::from_le_bytes(header.get(..8)?.try_into().ok()?),
            owner: u32::from_le_bytes(header.get(8..12)?.try_into().ok()?),
            is_other: *header.get(12)? != 0,
            counters: from_words(&numbers),
            histogram: histogram.to_vec(),
        })
    }
}

fn words(c: &Counters) -> [u64; WORDS] {
    [
        c.calls,
        c.failures,
        c.slow,
        c.critical,
        c.emergency,
        c.rows,
        c.total_ns,
        c.min_ns,
        c.max_ns,
        c.sum_sq_ms2.to_bits(),
        c.plans,
        c.planning_ns,
        c.usage.shared_blks_hit,
        c.usage.shared_blks_read,
        c.usage.shared_blks_dirtied,
        c.usage.shared_blks_written,
        c.usage.temp_blks_read,
        c.usage.temp_blks_written,
        c.usage.blk_read_ns,
        c.usage.blk_write_ns,
        c.usage.wal_records,
        c.usage.wal_bytes,
        c.jit_ns,
        c.lock_wait_ms,
        c.first_seen as u64,
    ]
}

/// `last_seen` and `last_sqlstate` are not compared with anything and are not stored.
fn from_words(w: &[u64; WORDS]) -> Counters {
    let [calls, failures, slow, critical, emergency, rows, total_ns, min_ns, max_ns, sum_sq, plans, planning_ns, shared_blks_hit, shared_blks_read, shared_blks_dirtied, shared_blks_written, temp_blks_read, temp_blks_written, blk_read_ns, blk_write_ns, wal_records, wal_bytes, jit_ns, lock_wait_ms, first_seen] =
        *w;
    Counters {
        calls,
        failures,
        slow,
        critical,
        emergency,
        rows,
        total_ns,
        min_ns,
        max_ns,
        sum_sq_ms2: f64::from_bits(sum_sq),
        plans,
        planning_ns,
        usage: Usage {
            shared_blks_hit,
            shared_blks_read,
            shared_blks_dirtied,
            shared_blks_written,
            temp_blks_read,
            temp_blks_written,
            blk_read_ns,
            blk_write_ns,
            wal_records,
            wal_bytes,
        },
        jit_ns,
        lock_wait_ms,
        first_seen: first_seen as i64,
        last_seen: 0,
        last_sqlstate: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Execution;
    use proptest::prelude::*;

    /// A statement table with room for few entries, and a history fed by `pending`.
    #[derive(Default)]
    struct Server {
        entries: Vec<Entry>,
        written: HashMap<u64, Written>,
        in_history: Counters,
        histogram: Histogram,
        executed: u64,
        executed_ns: u64,
        clock: i64,
        was_reset: bool,
    }

    const OWNER: u32 = 10;
    const OTHER: u64 = u64::MAX;

    impl Server {
        fn entry(&mut self, id: u64) -> &mut Entry {
            if let Some(at) = self.entries.iter().position(|entry| entry.id == id) {
                return &mut self.entries[at];
            }
            self.entries.push(Entry {
                id,
                owner: OWNER,
                is_other: id == OTHER,
                counters: Counters::default(),
                histogram: Histogram::default(),
            });
            self.entries.last_mut().unwrap()
        }

        fn run(&mut self, id: u64, ns: u64) {
            self.clock += 1;
            let at = self.clock;
            let entry = self.entry(id);
            entry.counters.record(&Execution { calls: 1, elapsed_ns: ns, rows: 1, at, ..Execution::default() });
            entry.histogram.record_ns(ns);
            self.executed += 1;
            self.executed_ns += ns;
        }

        fn evict(&mut self, id: u64) {
            if let Some(at) = self.entries.iter().position(|entry| entry.id == id && id != OTHER) {
                let gone = self.entries.swap_remove(at);
                let other = self.entry(OTHER);
                other.counters.merge(&gone.counters);
                other.histogram.merge(&gone.histogram);
            }
        }

        fn pending_calls(&self) -> u64 {
            pending(&self.entries, &self.written, self.was_reset).deltas.iter().map(|d| d.counters.calls).sum()
        }

        fn tick(&mut self) {
            let outcome = pending(&self.entries, &self.written, self.was_reset);
            for delta in &outcome.deltas {
                self.in_history.merge(&delta.counters);
                self.histogram.merge(&delta.histogram);
            }
            for id in &outcome.gone {
                self.written.remove(id);
            }
            for written in outcome.written {
                let stored = Written::decode(&written.encode()).unwrap();
                self.written.insert(stored.id, stored);
            }
            self.was_reset = false;
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Run(u64, u64),
        Evict(u64),
        Tick,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u64..6, 1_000u64..2_000_000_000).prop_map(|(id, ns)| Step::Run(id, ns)),
            2 => (0u64..6).prop_map(Step::Evict),
            2 => Just(Step::Tick),
        ]
    }

    proptest! {
        #[test]
        fn history_and_pending_hold_every_execution_once(steps in prop::collection::vec(step(), 1..200)) {
            let mut server = Server::default();
            for step in steps {
                match step {
                    Step::Run(id, ns) => server.run(id, ns),
                    Step::Evict(id) => server.evict(id),
                    Step::Tick => server.tick(),
                }
                prop_assert_eq!(server.in_history.calls + server.pending_calls(), server.executed);
            }
            server.tick();
            prop_assert_eq!(server.in_history.calls, server.executed);
            prop_assert_eq!(server.in_history.rows, server.executed);
            prop_assert_eq!(server.in_history.total_ns, server.executed_ns);
            prop_assert_eq!(server.histogram.total(), server.executed);
            prop_assert_eq!(server.pending_calls(), 0);
        }
    }

    #[test]
    fn an_entry_read_before_and_after_its_eviction_is_not_counted_twice() {
        let mut server = Server::default();
        server.run(1, 5_000);
        server.run(1, 5_000);
        // The reader saw the entry, and then saw it in (other) as well.
        let before = server.entries.clone();
        server.evict(1);
        let torn: Vec<Entry> = before.into_iter().chain(server.entries.clone()).collect();
        let whole = std::mem::replace(&mut server.entries, torn);
        server.tick();
        server.entries = whole;
        server.tick();
        // Two too many were written once; growth of (other) makes up for them.
        server.run(2, 1_000);
        server.run(3, 1_000);
        server.run(3, 1_000);
        server.evict(2);
        server.evict(3);
        server.tick();
        assert_eq!(server.in_history.calls, server.executed);
    }

    #[test]
    fn a_reset_takes_nothing_off_later_growth() {
        let mut server = Server::default();
        server.run(2, 1_000);
        server.evict(2);
        (0..10).for_each(|_| server.run(1, 1_000));
        server.tick();
        server.entries.retain(|entry| entry.id != 1);
        server.was_reset = true;
        server.tick();
        server.run(3, 1_000);
        server.evict(3);
        server.tick();
        assert_eq!(server.in_history.calls, 12);
    }

    #[test]
    fn the_slowest_of_an_interval_is_not_the_slowest_ever() {
        let mut server = Server::default();
        server.run(1, 1_000_000_000);
        server.tick();
        server.run(1, 1_000_000);
        let outcome = pending(&server.entries, &server.written, false);
        let max_ns = outcome.deltas[0].counters.max_ns;
        assert!((1_000_000..1_100_000).contains(&max_ns), "{max_ns}");
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let written = nothing_written(7, 8, true);
        let bytes = written.encode();
        assert_eq!(Written::decode(&bytes), Some(written));
        assert_eq!(Written::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Written::decode(&[]), None);
    }
}
