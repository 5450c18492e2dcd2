//! Which statements a cache would pay for: what is counted of their reads, the hit rate to expect from it, how long entries
//! should live, and what it would save.
//!
//! A key that is read L times a second and whose rows are written m times a second, both at random, is stored for
//! E = (1 - e^(-mT)) / m seconds at a time with a time to live of T, and L*E of the 1 + L*E reads around a stay find it:
//! LT / (1 + LT) without writes, L / (L + m) without a limit. Keys are not read equally often, and the rate of a mean key
//! is nobody's: the rates of single keys are weighted by their reads.

use std::collections::HashMap;

/// Statements counted at the same time, and keys of one of them.
const STATEMENTS_MAX: usize = 256;
const KEYS_MAX: usize = 2_048;
/// Keys that are kept because they are read most, and the share of reads that makes one such a key.
const HOT_MAX: usize = 64;
const HOT_SHARE: f64 = 0.002;
/// What was counted counts half after so long, in microseconds.
const HALF_LIFE_US: i64 = 3_600_000_000;
/// Classes of keys by how often they were read: by powers of two.
pub const CLASSES: usize = 32;

/// What a get costs from the embedded store, in ms, and what a put does.
pub const GET_MS: f64 = 0.1;
/// See [`GET_MS`].
pub const PUT_MS: f64 = 0.2;
/// A statement that is faster gains nothing from a cache.
pub const MEAN_MS_MIN: f64 = 2.0;
/// Fewer reads tell nothing.
pub const READS_MIN: f64 = 30.0;
/// Less time saved in a minute is not worth anybody's effort.
pub const SAVED_MS_PER_MIN_MIN: f64 = 6.0;
/// Share of the time of the reads that is saved at least.
pub const SAVED_SHARE_MIN: f64 = 0.25;
/// Reads whose values are not known, at most, as a share.
pub const UNKNOWN_SHARE_MAX: f64 = 0.1;

/// Times to live that are recommended, in seconds.
pub const TTLS_S: [f64; 11] = [10.0, 30.0, 60.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 43_200.0, 86_400.0];
/// Where the answer depends on the clock.
pub const CLOCK_TTL_S: f64 = 300.0;
/// A longer time to live that brings fewer points is not worth the staler answers.
const POINTS_MIN: f64 = 1.0;

/// What was counted of one statement.
#[derive(Clone, Debug, Default)]
struct Tally {
    since: i64,
    reads: f64,
    unknown: f64,
    total_ms: f64,
    bytes: f64,
    keys: HashMap<u64, Seen>,
    shift: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    reads: f64,
    hot: bool,
}

/// Reads of statements, by key. Bounded: half of a statement's keys are left out when there are too many, and statements
/// that took least time give way.
#[derive(Debug, Default)]
pub struct Survey {
    statements: HashMap<u64, Tally>,
    halved_at: i64,
}

/// What is known of a statement's reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Over how long.
    pub window_s: f64,
    /// Reads whose values are known.
    pub reads: f64,
    /// Reads whose values are not.
    pub unknown: f64,
    /// Time of all of them.
    pub total_ms: f64,
    /// Size of what one gives, in the mean.
    pub bytes: f64,
    /// Keys, and reads of them, by how often each was read: class n has those with 2^n reads or more, and fewer than twice
    /// that many.
    pub keys: Vec<f64>,
    /// See `keys`.
    pub key_reads: Vec<f64>,
}

impl Survey {
    /// A read was executed, at a time in microseconds; `key` is the hash of its values, where they are known. `shift`: of reads
    /// with known values, those of one of two to this power keys come here.
    pub fn read(&mut self, at: i64, queryid: u64, key: Option<u64>, shift: u32, ms: f64, bytes: f64) {
        if at - self.halved_at > HALF_LIFE_US {
            self.halve(at);
        }
        if !self.statements.contains_key(&queryid) && self.statements.len() >= STATEMENTS_MAX {
            // By the time a second: one that is new has not had the time of the others yet.
            let least = self.statements.iter().min_by(|a, b| a.1.ms_per_s(at).total_cmp(&b.1.ms_per_s(at)));
            if let Some(queryid) = least.map(|(queryid, _)| *queryid) {
                self.statements.remove(&queryid);
            }
        }
        let tally = self.statements.entry(queryid).or_insert_with(|| Tally { since: at, ..Tally::default() });
        tally.since = tally.since.min(at);
        let weight = if key.is_some() { 2f64.powi(shift as i32) } else { 1.0 };
        tally.total_ms += ms * weight;
        tally.bytes += bytes * weight;
        let Some(key) = key else {
            tally.unknown += 1.0;
            return;
        };
        tally.reads += weight;
        tally.follow(shift);
        tally.count(key);
    }

    fn halve(&mut self, at: i64) {
        // The first time there is nothing to halve yet.
        if self.halved_at != 0 {
            for tally in self.statements.values_mut() {
                tally.since = at - (at - tally.since) / 2;
                for sum in [&mut tally.reads, &mut tally.unknown, &mut tally.total_ms, &mut tally.bytes] {
                    *sum /= 2.0;
                }
                tally.keys.values_mut().for_each(|seen| seen.reads /= 2.0);
                tally.keys.retain(|_, seen| seen.reads >= 0.2);
            }
            self.statements.retain(|_, tally| tally.reads + tally.unknown >= 1.0);
        }
        self.halved_at = at;
    }

    /// What is known by now, of each statement.
    pub fn summaries(&self, now: i64) -> Vec<(u64, Summary)> {
        let mut all: Vec<_> = self.statements.iter().map(|(queryid, tally)| (*queryid, tally.summary(now))).collect();
        all.sort_by_key(|(queryid, _)| *queryid);
        all
    }
}

impl Tally {
    fn ms_per_s(&self, now: i64) -> f64 {
        self.total_ms / ((now - self.since) as f64 * 1e-6).max(60.0)
    }

    /// Reads of fewer keys come here: those that are read most are not among them, unless by chance.
    fn follow(&mut self, shift: u32) {
        if shift > self.shift {
            self.shift = shift;
            self.keys.retain(|key, seen| {
                seen.hot = false;
                super::shadow::is_sampled(*key, shift)
            });
        }
    }

    fn count(&mut self, key: u64) {
        if let Some(seen) = self.keys.get_mut(&key) {
            seen.reads += 1.0;
            return;
        }
        if !super::shadow::is_sampled(key, self.shift) {
            return;
        }
        self.keys.insert(key, Seen { reads: 1.0, hot: false });
        while self.keys.len() > KEYS_MAX {
            self.thin();
        }
    }

    fn thin(&mut self) {
        self.shift += 1;
        let mut most: Vec<(f64, u64)> = (self.keys.iter())
            .filter(|(_, seen)| seen.reads >= HOT_SHARE * self.reads)
            .map(|(key, seen)| (seen.reads, *key))
            .collect();
        most.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        most.truncate(HOT_MAX);
        for (key, seen) in &mut self.keys {
            seen.hot = most.iter().any(|(_, hot)| hot == key);
        }
        let shift = self.shift;
        self.keys.retain(|key, seen| seen.hot || super::shadow::is_sampled(*key, shift));
    }

    fn summary(&self, now: i64) -> Summary {
        let all = self.reads + self.unknown;
        let mut summary = Summary {
            window_s: ((now - self.since) as f64 * 1e-6).max(0.0),
            reads: self.reads,
            unknown: self.unknown,
            total_ms: self.total_ms,
            bytes: if all > 0.0 { self.bytes / all } else { 0.0 },
            keys: vec![0.0; CLASSES],
            key_reads: vec![0.0; CLASSES],
        };
        for seen in self.keys.values() {
            let weight = if seen.hot { 1.0 } else { 2f64.powi(self.shift as i32) };
            let class = (seen.reads.max(1.0).log2() as usize).min(CLASSES - 1);
            summary.keys[class] += weight;
            summary.key_reads[class] += weight * seen.reads;
        }
        summary
    }
}

/// How the rows that a statement reads are written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Writes {
    /// Writes a second that may change any of them.
    pub of_all: f64,
    /// Writes a second that change those of one key: keys are taken to be written as often as they are read, in proportion.
    pub of_one: f64,
}

impl Summary {
    /// Different keys.
    pub fn distinct(&self) -> f64 {
        self.keys.iter().sum()
    }

    /// Reads a minute.
    pub fn reads_per_min(&self) -> f64 {
        if self.window_s > 0.0 {
            60.0 * (self.reads + self.unknown) / self.window_s
        } else {
            0.0
        }
    }

    /// Time of one.
    pub fn mean_ms(&self) -> f64 {
        let all = self.reads + self.unknown;
        if all > 0.0 {
            self.total_ms / all
        } else {
            0.0
        }
    }

    /// Share of reads that a cache with a time to live would answer, 0..1. A key was read once before anything could be
    /// known of its rate, so that one read tells of none; no stay is longer than what was watched.
    pub fn hit_share(&self, ttl_s: f64, writes: Writes) -> f64 {
        let total: f64 = self.key_reads.iter().sum();
        if total <= 0.0 || self.window_s <= 0.0 {
            return 0.0;
        }
        let ttl_s = ttl_s.min(self.window_s);
        let hits = self.keys.iter().zip(&self.key_reads).filter(|(keys, _)| **keys > 0.0).map(|(keys, reads)| {
            let of_one = reads / keys;
            let rate = (of_one - 1.0).max(0.0) / self.window_s;
            let written = writes.of_all + writes.of_one * of_one / total;
            let found = rate * stay_s(ttl_s, written);
            reads * found / (1.0 + found)
        });
        (hits.sum::<f64>() / total).clamp(0.0, 1.0)
    }

    /// The time to live from which on the next longer one brings less than a point.
    pub fn recommended_ttl_s(&self, writes: Writes, longest_s: f64) -> f64 {
        let mut best = TTLS_S[0];
        for ttl in TTLS_S.into_iter().filter(|ttl| *ttl <= longest_s) {
            if 100.0 * (self.hit_share(ttl, writes) - self.hit_share(best, writes)) >= POINTS_MIN {
                best = ttl;
            }
        }
        best
    }
}

/// How long an entry stays in the mean.
fn stay_s(ttl_s: f64, written_per_s: f64) -> f64 {
    let expected = written_per_s * ttl_s;
    if expected < 1e-9 {
        ttl_s
    } else {
        -(-expected).exp_m1() / written_per_s
    }
}

/// Time that a cache saves in a minute: what hits do not take, less the gets of all reads and the puts of misses.
pub fn saved_ms_per_min(reads_per_min: f64, mean_ms: f64, hit_share: f64) -> f64 {
    reads_per_min * (hit_share * mean_ms - GET_MS - (1.0 - hit_share) * PUT_MS)
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A cache pays.
    Recommended,
    /// It does not.
    NotWorthIt,
    /// Nobody can tell yet.
    InsufficientData,
}

/// What is said of one strategy.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// In a word.
    pub verdict: Verdict,
    /// In a sentence, without a full stop.
    pub reason: String,
}

/// Whether a cache with that hit rate pays. `measured`: the rate is a shadow's or a store's.
pub fn judge(summary: &Summary, hit_share: f64, measured: bool) -> Judgement {
    let is = |verdict, reason| Judgement { verdict, reason };
    let all = summary.reads + summary.unknown;
    let mean = summary.mean_ms();
    let per_min = summary.reads_per_min();
    if all > 0.0 && mean < MEAN_MS_MIN {
        let reason = format!("it takes {mean:.2} ms in the mean: a cached read pays from {MEAN_MS_MIN} ms on");
        return is(Verdict::NotWorthIt, reason);
    }
    if all < READS_MIN {
        let reason = format!("{all:.0} reads were seen: {READS_MIN} are needed to tell how often the same is asked");
        return is(Verdict::InsufficientData, reason);
    }
    if summary.unknown > UNKNOWN_SHARE_MAX * all {
        let share = 100.0 * summary.unknown / all;
        let reason =
            format!("the values of {share:.0} % of its reads are not known: too long, or not of built-in types");
        return is(Verdict::InsufficientData, reason);
    }
    let distinct = summary.distinct();
    let saved = saved_ms_per_min(per_min, mean, hit_share);
    let how = if measured { "measured" } else { "to be expected" };
    let rate = format!("{:.0} % hits {how}", 100.0 * hit_share);
    let numbers = format!("{per_min:.1} reads a minute of {mean:.1} ms each, {distinct:.0} different ones");
    if saved < SAVED_SHARE_MIN * per_min * mean {
        let reason = if distinct > 0.5 * summary.reads {
            format!("{numbers}: hardly anything is asked twice, {rate}")
        } else {
            format!("{numbers}: {rate}, for what is read is written too often")
        };
        return is(Verdict::NotWorthIt, reason);
    }
    if saved < SAVED_MS_PER_MIN_MIN {
        let reason = format!("{numbers}, {rate}: that saves {saved:.1} ms a minute, too little to be worth it");
        return is(Verdict::NotWorthIt, reason);
    }
    is(Verdict::Recommended, format!("{numbers}; {rate}, which saves {saved:.0} ms a minute"))
}

#[cfg(test)]
mod tests;
