//! Slow executions, one by one, in three rings, so that a flood of slow ones cannot push out an emergency. No lock; see
//! `ring`. Those that had to be dropped are counted.

use super::ring::Ring;
use super::{get_ref, Memory};
use crate::pg::text::DbText;
use core::sync::atomic::Ordering;
use perf_core::outcome::Severity;

/// Slots of each ring, by severity.
const SLOTS: [usize; 3] = [256, 128, 128];
const TEXT: usize = 4096;
const PLAN: usize = 4096;
const NAME: usize = 64;
pub const RELATIONS: usize = 16;

/// One slow execution as it lies in shared memory. Texts are in the database's encoding.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Record {
    pub captured_at: i64,
    pub duration_ns: u64,
    pub planning_ns: u64,
    pub rows: u64,
    pub estimated_rows: f64,
    pub queryid: u64,
    pub dbid: u32,
    pub userid: u32,
    pub shared_blks_hit: u64,
    pub shared_blks_read: u64,
    pub temp_blks_written: u64,
    pub wal_bytes: u64,
    pub sqlstate: i32,
    pub encoding: i32,
    pub relations: [u32; RELATIONS],
    pub toplevel: bool,
    pub outcome: u8,
    pub relations_len: u16,
    pub text_len: u16,
    pub plan_len: u16,
    pub application_name_len: u16,
    pub client_addr_len: u16,
    pub application_name: [u8; NAME],
    pub client_addr: [u8; NAME],
    pub text: [u8; TEXT],
    pub plan: [u8; PLAN],
}

impl Record {
    pub const EMPTY: Record = Record {
        captured_at: 0,
        duration_ns: 0,
        planning_ns: 0,
        rows: 0,
        estimated_rows: 0.0,
        queryid: 0,
        dbid: 0,
        userid: 0,
        shared_blks_hit: 0,
        shared_blks_read: 0,
        temp_blks_written: 0,
        wal_bytes: 0,
        sqlstate: 0,
        encoding: 0,
        relations: [0; RELATIONS],
        toplevel: false,
        outcome: 0,
        relations_len: 0,
        text_len: 0,
        plan_len: 0,
        application_name_len: 0,
        client_addr_len: 0,
        application_name: [0; NAME],
        client_addr: [0; NAME],
        text: [0; TEXT],
        plan: [0; PLAN],
    };
}

/// Where the rings are.
#[derive(Clone, Copy)]
pub struct Rings([Ring<Record>; 3]);

impl Rings {
    pub fn bytes() -> usize {
        SLOTS.iter().map(|&slots| Ring::<Record>::bytes(slots)).sum()
    }

    /// # Safety
    /// `base` has [`bytes`](Self::bytes) bytes, aligned to 64.
    pub unsafe fn at(base: *mut u8) -> Rings {
        let mut place = base;
        Rings(SLOTS.map(|slots| {
            // SAFETY: one ring follows the other inside the area.
            unsafe {
                let ring = Ring::at(place, slots);
                place = place.add(Ring::<Record>::bytes(slots));
                ring
            }
        }))
    }

    fn of(&self, severity: Severity) -> &Ring<Record> {
        &self.0[severity as usize]
    }
}

/// Keeps a slow execution.
pub fn push(memory: &Memory, severity: Severity, record: &Record) {
    if !memory.rings.of(severity).push(record) {
        memory.header().slow_dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A slow execution as readers get it.
pub struct SlowSample {
    pub severity: Severity,
    /// Rises by one with each slow execution of this severity since the server started; from 1.
    pub seq: u64,
    pub captured_at: i64,
    pub duration_ns: u64,
    pub planning_ns: u64,
    pub rows: u64,
    pub estimated_rows: f64,
    pub outcome: u8,
    pub sqlstate: i32,
    pub queryid: u64,
    pub dbid: u32,
    pub userid: u32,
    pub toplevel: bool,
    pub shared_blks_hit: u64,
    pub shared_blks_read: u64,
    pub temp_blks_written: u64,
    pub wal_bytes: u64,
    pub application_name: DbText,
    pub client_addr: DbText,
    pub text: DbText,
    pub plan: Option<DbText>,
    pub relations: Vec<u32>,
}

/// The executions of a severity that came after number `after_seq`, the newest number given out, and how many of those
/// after `after_seq` are lost (pushed out, dropped, or still being written).
pub fn read(severity: Severity, after_seq: u64) -> (Vec<SlowSample>, u64, u64) {
    let Some(memory) = get_ref() else { return (Vec::new(), 0, 0) };
    let mut samples = Vec::new();
    let newest = memory.rings.of(severity).read(after_seq, |seq, record| samples.push(sample(severity, seq, record)));
    let lost = (newest - after_seq.min(newest)) - samples.len() as u64;
    (samples, newest, lost)
}

fn sample(severity: Severity, seq: u64, record: &Record) -> SlowSample {
    let text = |bytes: &[u8], len: u16| {
        let len = usize::from(len).min(bytes.len());
        DbText::convert(bytes[..len].to_vec(), record.encoding)
    };
    SlowSample {
        severity,
        seq,
        captured_at: record.captured_at,
        duration_ns: record.duration_ns,
        planning_ns: record.planning_ns,
        rows: record.rows,
        estimated_rows: record.estimated_rows,
        outcome: record.outcome,
        sqlstate: record.sqlstate,
        queryid: record.queryid,
        dbid: record.dbid,
        userid: record.userid,
        toplevel: record.toplevel,
        shared_blks_hit: record.shared_blks_hit,
        shared_blks_read: record.shared_blks_read,
        temp_blks_written: record.temp_blks_written,
        wal_bytes: record.wal_bytes,
        application_name: text(&record.application_name, record.application_name_len),
        client_addr: text(&record.client_addr, record.client_addr_len),
        text: text(&record.text, record.text_len),
        plan: (record.plan_len > 0).then(|| text(&record.plan, record.plan_len)),
        relations: record.relations[..usize::from(record.relations_len).min(RELATIONS)].to_vec(),
    }
}
