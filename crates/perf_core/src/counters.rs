//! What is counted for a statement: one [`Execution`] after another is added to [`Counters`], and counters add up, so
//! that they can be kept in parts (a backend's, the table's, what was evicted) without losing anything.

/// Blocks, I/O time and WAL of one or many executions.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Shared blocks found in the buffer cache.
    pub shared_blks_hit: u64,
    /// Shared blocks read.
    pub shared_blks_read: u64,
    /// Shared blocks dirtied.
    pub shared_blks_dirtied: u64,
    /// Shared blocks written by the backend itself.
    pub shared_blks_written: u64,
    /// Temporary blocks read.
    pub temp_blks_read: u64,
    /// Temporary blocks written.
    pub temp_blks_written: u64,
    /// Time to read data blocks (track_io_timing), nanoseconds.
    pub blk_read_ns: u64,
    /// Time to write data blocks (track_io_timing), nanoseconds.
    pub blk_write_ns: u64,
    /// WAL records.
    pub wal_records: u64,
    /// WAL bytes.
    pub wal_bytes: u64,
}

impl Usage {
    /// Nothing used.
    pub const NONE: Usage = Usage {
        shared_blks_hit: 0,
        shared_blks_read: 0,
        shared_blks_dirtied: 0,
        shared_blks_written: 0,
        temp_blks_read: 0,
        temp_blks_written: 0,
        blk_read_ns: 0,
        blk_write_ns: 0,
        wal_records: 0,
        wal_bytes: 0,
    };

    /// Adds `other`.
    #[inline]
    pub fn add(&mut self, other: &Usage) {
        self.shared_blks_hit += other.shared_blks_hit;
        self.shared_blks_read += other.shared_blks_read;
        self.shared_blks_dirtied += other.shared_blks_dirtied;
        self.shared_blks_written += other.shared_blks_written;
        self.temp_blks_read += other.temp_blks_read;
        self.temp_blks_written += other.temp_blks_written;
        self.blk_read_ns += other.blk_read_ns;
        self.blk_write_ns += other.blk_write_ns;
        self.wal_records += other.wal_records;
        self.wal_bytes += other.wal_bytes;
    }
}

/// One finished execution of a statement, or a planning that no execution followed (`calls` 0).
#[derive(Clone, Copy, Default, Debug)]
pub struct Execution {
    /// 1; or 0 when only planning, another part or the late failure of an execution already counted is added.
    pub calls: u64,
    /// It raised an error or its backend ended.
    pub failed: bool,
    /// SQLSTATE of the failure, packed.
    pub sqlstate: i32,
    /// 0 when not slow, else 1 + severity.
    pub slowness: u8,
    /// Rows returned or affected.
    pub rows: u64,
    /// Execution time.
    pub elapsed_ns: u64,
    /// Plannings.
    pub plans: u64,
    /// Planning time.
    pub planning_ns: u64,
    /// JIT compilation time.
    pub jit_ns: u64,
    /// Blocks, I/O time, WAL.
    pub usage: Usage,
    /// When, as the server's TimestampTz (microseconds since 2000-01-01).
    pub at: i64,
}

impl Execution {
    /// Nothing executed.
    pub const NONE: Execution = Execution {
        calls: 0,
        failed: false,
        sqlstate: 0,
        slowness: 0,
        rows: 0,
        elapsed_ns: 0,
        plans: 0,
        planning_ns: 0,
        jit_ns: 0,
        usage: Usage::NONE,
        at: 0,
    };
}

/// Totals of a statement since `first_seen`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Counters {
    /// Finished executions, failed ones included.
    pub calls: u64,
    /// Executions that failed.
    pub failures: u64,
    /// Executions above the slow threshold but not the critical one.
    pub slow: u64,
    /// Executions above the critical threshold but not the emergency one.
    pub critical: u64,
    /// Executions above the emergency threshold.
    pub emergency: u64,
    /// Rows returned or affected.
    pub rows: u64,
    /// Execution time.
    pub total_ns: u64,
    /// Fastest execution. Meaningless while `calls` is 0.
    pub min_ns: u64,
    /// Slowest execution.
    pub max_ns: u64,
    /// Sum of the squared execution times in ms, for the standard deviation.
    pub sum_sq_ms2: f64,
    /// Plannings.
    pub plans: u64,
    /// Planning time.
    pub planning_ns: u64,
    /// Blocks, I/O time, WAL.
    pub usage: Usage,
    /// JIT compilation time.
    pub jit_ns: u64,
    /// Time seen waiting for heavyweight locks, by sampling.
    pub lock_wait_ms: u64,
    /// First execution, TimestampTz.
    pub first_seen: i64,
    /// Latest execution, TimestampTz.
    pub last_seen: i64,
    /// SQLSTATE of the latest failure, packed; 0 when none failed.
    pub last_sqlstate: i32,
}

impl Counters {
    /// Adds one execution.
    #[inline]
    pub fn record(&mut self, execution: &Execution) {
        if self.first_seen == 0 {
            self.first_seen = execution.at;
        }
        self.last_seen = execution.at;
        self.plans += execution.plans;
        self.planning_ns += execution.planning_ns;
        self.rows += execution.rows;
        self.total_ns += execution.elapsed_ns;
        self.jit_ns += execution.jit_ns;
        self.usage.add(&execution.usage);
        if execution.failed {
            self.failures += 1;
            self.last_sqlstate = execution.sqlstate;
        }
        if execution.calls == 0 {
            return;
        }
        if self.calls == 0 || execution.elapsed_ns < self.min_ns {
            self.min_ns = execution.elapsed_ns;
        }
        if execution.elapsed_ns > self.max_ns {
            self.max_ns = execution.elapsed_ns;
        }
        self.calls += execution.calls;
        let ms = execution.elapsed_ns as f64 * 1e-6;
        self.sum_sq_ms2 += ms * ms;
        match execution.slowness {
            0 => {}
            1 => self.slow += 1,
            2 => self.critical += 1,
            _ => self.emergency += 1,
        }
    }

    /// Adds the totals of another part of the same statement (or, for what was evicted, of another statement).
    pub fn merge(&mut self, other: &Counters) {
        if other.calls > 0 {
            self.min_ns = if self.calls == 0 { other.min_ns } else { self.min_ns.min(other.min_ns) };
            self.max_ns = self.max_ns.max(other.max_ns);
        }
        if other.last_sqlstate != 0 && (self.last_sqlstate == 0 || other.last_seen >= self.last_seen) {
            self.last_sqlstate = other.last_sqlstate;
        }
        if other.first_seen != 0 && (self.first_seen == 0 || other.first_seen < self.first_seen) {
            self.first_seen = other.first_seen;
        }
        self.last_seen = self.last_seen.max(other.last_seen);
        self.calls += other.calls;
        self.failures += other.failures;
        self.slow += other.slow;
        self.critical += other.critical;
        self.emergency += other.emergency;
        self.rows += other.rows;
        self.total_ns += other.total_ns;
        self.sum_sq_ms2 += other.sum_sq_ms2;
        self.plans += other.plans;
        self.planning_ns += other.planning_ns;
        self.usage.add(&other.usage);
        self.jit_ns += other.jit_ns;
        self.lock_wait_ms += other.lock_wait_ms;
    }

    /// Mean execution time in ms; 0 without calls.
    pub fn mean_ms(&self) -> f64 {
        if self.calls == 0 {
            0.0
        } else {
            self.total_ns as f64 * 1e-6 / self.calls as f64
        }
    }

    /// Population standard deviation of the execution time in ms.
    pub fn stddev_ms(&self) -> f64 {
        if self.calls == 0 {
            return 0.0;
        }
        let mean = self.mean_ms();
        (self.sum_sq_ms2 / self.calls as f64 - mean * mean).max(0.0).sqrt()
    }

    /// What an entry is worth keeping when room is needed: its time, less the longer it has not been seen.
    /// The entry with the least is evicted.
    pub fn keep_score(&self, now: i64) -> u64 {
        const MINUTE_US: i64 = 60_000_000;
        let idle_minutes = ((now - self.last_seen) / MINUTE_US).max(0) as u64;
        (self.total_ns + self.planning_ns) / (1 + idle_minutes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn execution(elapsed_ns: u64, failed: bool, at: i64) -> Execution {
        Execution {
            calls: 1,
            elapsed_ns,
            failed,
            sqlstate: if failed { 7 } else { 0 },
            rows: 2,
            at,
            ..Execution::default()
        }
    }

    proptest! {
        #[test]
        fn parts_add_up(values in prop::collection::vec((1u64..1_000_000_000, any::<bool>()), 1..100), cut in 0usize..100) {
            let cut = cut.min(values.len());
            let (mut whole, mut first, mut second) = (Counters::default(), Counters::default(), Counters::default());
            for (i, &(ns, failed)) in values.iter().enumerate() {
                let execution = execution(ns, failed, i as i64 + 1);
                whole.record(&execution);
                if i < cut { first.record(&execution) } else { second.record(&execution) }
            }
            first.merge(&second);
            prop_assert!((first.sum_sq_ms2 - whole.sum_sq_ms2).abs() <= 1e-9 * whole.sum_sq_ms2);
            first.sum_sq_ms2 = whole.sum_sq_ms2;
            prop_assert_eq!(first, whole);
        }

        #[test]
        fn deviation_is_right(values in prop::collection::vec(1_000u64..10_000_000, 1..100)) {
            let mut counters = Counters::default();
            values.iter().for_each(|&ns| counters.record(&execution(ns, false, 1)));
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| v as f64 * 1e-6).sum::<f64>() / n;
            let variance = values.iter().map(|&v| (v as f64 * 1e-6 - mean).powi(2)).sum::<f64>() / n;
            prop_assert!((counters.mean_ms() - mean).abs() < 1e-9);
            prop_assert!((counters.stddev_ms() - variance.sqrt()).abs() < 1e-5);
        }
    }

    #[test]
    fn planning_alone_is_no_call() {
        let mut counters = Counters::default();
        counters.record(&Execution { plans: 1, planning_ns: 5, at: 1, ..Execution::default() });
        assert_eq!((counters.calls, counters.plans, counters.min_ns), (0, 1, 0));
        counters.record(&execution(10, false, 2));
        assert_eq!((counters.calls, counters.min_ns, counters.max_ns), (1, 10, 10));
    }

    #[test]
    fn idle_entries_lose_their_worth() {
        let mut counters = Counters::default();
        counters.record(&execution(1_000, false, 1));
        assert!(counters.keep_score(1) > counters.keep_score(600_000_001));
    }
}
