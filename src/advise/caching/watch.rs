//! Reads the events of `memory::reads` in the collector of a database: counts reads for the candidates, and runs the
//! shadows of `perf_core::cache::shadow` that are switched on. State is private to that process and bounded; what it comes
//! to is written to `perf.cache_candidate` and `perf.cache_shadow_result` with each run of the collector.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};

use perf_core::backoff::Backoff;
use perf_core::cache::candidate::Survey;
use perf_core::cache::shadow::{Grid, Outcome, Read, Shadow, Use};
use pgrx::pg_sys;

use super::dependence::{self, Writer};
use crate::collect::worker::Watcher;
use crate::error::Error;
use crate::guc;
use crate::memory::reads::{self, Event, Reads};
use crate::pg::names::current_database;
use crate::pg::query::{run_with, select_under_snapshot, select_with, text};
use crate::pg::statement_shape::Shape;
use crate::pg::{background, catalog};
use crate::workload::shapes;

/// What the collector calls.
pub const WATCHER: Watcher = Watcher { look, write, end };

/// Until the next look, in microseconds: while something is shadowed, and otherwise.
const PAUSE_SHADOWED_US: i64 = 100_000;
const PAUSE_US: i64 = 1_000_000;
/// Keys of one shadow, and of all of them: each takes some 30 bytes for each of up to 36 caches.
const KEYS_MAX: usize = 8_192;
const ALL_KEYS_MAX: usize = 32_768;
const TELL_AGAIN_US: i64 = 60_000_000;
/// How soon a statement that could not be analysed is looked at again, and how late at most.
const RETRY_US: i64 = 1_000_000;
const RETRY_MAX_US: i64 = 300_000_000;
/// Statements that write whose texts are remembered.
const SHAPES_MAX: usize = 1_024;
/// Statements whose reads are written down, those with most time.
const CANDIDATES_MAX: usize = 200;

/// A strategy that is shadowed.
struct Active {
    name: String,
    queryids: Vec<i64>,
    grid: Grid,
    since: i64,
    shadow: Shadow,
    /// By queryid: its number in the shadow, and the places of the values of its uses' columns.
    statements: HashMap<u64, (usize, Vec<usize>)>,
    /// The tables that they read and all parts of those, with what each is a part of.
    parts: Vec<(u32, u32)>,
    /// What was counted before this process.
    base: Vec<Outcome>,
    /// Statements whose writes are not known.
    unclear: usize,
    /// Reads left out, for their values are not known.
    unknown: u64,
    /// Reads and writes that the collector was too late for.
    lost: u64,
    /// Relations, of all shadows, whose writes there is no room to look at.
    unseen: usize,
}

#[derive(Default)]
struct State {
    /// Events up to this one are counted.
    after: Option<u64>,
    /// Changes of what is to be shadowed that were seen.
    changes: Option<u64>,
    survey: Survey,
    active: Vec<Active>,
    writers: HashMap<(u64, bool), Option<Writer>>,
    /// When statements that could not be analysed are looked at again.
    retry_at: i64,
    retry: Option<Backoff>,
    /// When the log was last told of reads that were lost.
    told_at: i64,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::new(State::default());
}

/// Database whose reads this process watches.
static DATABASE: AtomicU32 = AtomicU32::new(0);

fn look(limit_ms: i32) -> Result<i64, String> {
    let Some(reads) = reads::get() else { return Ok(PAUSE_US) };
    let dbid = current_database();
    DATABASE.store(dbid, Ordering::Relaxed);
    reads.set_threshold(Some(guc::cache_survey_min_ns().unwrap_or(u64::MAX)));
    STATE.with_borrow_mut(|state| {
        let changes = reads.changes();
        let now = background::now();
        let is_unclear = state.active.iter().any(|one| one.unclear > 0);
        if state.changes != Some(changes) || is_unclear && now >= state.retry_at {
            background::transaction(limit_ms, || load(state, reads, dbid))?;
            if state.changes.replace(changes) != Some(changes) {
                state.retry = None;
            }
            // A statement is known again, or what it names, once somebody has sent it.
            let retry = state.retry.get_or_insert_with(|| Backoff::new(RETRY_US, RETRY_MAX_US));
            state.retry_at = now + retry.next();
        }
        let events = drain(state, reads, dbid);
        learn(state, reads, dbid, limit_ms, &events)?;
        count(state, &events);
        Ok(if state.active.is_empty() { PAUSE_US } else { PAUSE_SHADOWED_US })
    })
}

fn end() {
    if let (Some(reads), dbid) = (reads::get(), DATABASE.load(Ordering::Relaxed)) {
        if dbid != 0 {
            reads.set(dbid, &[], &[]);
            // Collectors of other databases set it again.
            reads.set_threshold(Some(u64::MAX));
        }
    }
}

/// New events of this database, in their order.
fn drain(state: &mut State, reads: &Reads, dbid: u32) -> Vec<Event> {
    let after = state.after.unwrap_or_else(|| reads.newest());
    let (mut events, mut shadowed, mut surveyed, mut written) = (Vec::new(), 0u64, 0u64, 0u64);
    let newest = reads.read(after, |event| {
        shadowed += u64::from(event.has(reads::SHADOWED));
        surveyed += u64::from(event.has(reads::SURVEYED));
        written += u64::from(event.has(reads::WRITE));
        if event.dbid == dbid {
            events.push(*event);
        }
    });
    state.after = Some(newest);
    let lost = (newest - after).saturating_sub(reads::EVENTS as u64);
    let now = background::now();
    if lost > 0 {
        // Writes among them are in nobody's entries.
        for one in &mut state.active {
            one.shadow.empty();
            one.lost += lost;
        }
        if now - state.told_at > TELL_AGAIN_US {
            state.told_at = now;
            pgrx::log!(
                "perf_opt: the collector was late: {lost} reads and writes that concern caches were not counted"
            );
        }
        // Fewer reads would not help where it is writes.
        if written <= shadowed + surveyed {
            reads.halve(shadowed >= surveyed, newest - reads::EVENTS as u64, now);
        }
    } else {
        reads.relax(now);
    }
    events
}

/// Looks at the texts of statements that write and were not known.
fn learn(state: &mut State, reads: &Reads, dbid: u32, limit_ms: i32, events: &[Event]) -> Result<(), String> {
    let is_new = |event: &&Event| {
        let id = (event.queryid, event.has(reads::TOPLEVEL));
        event.has(reads::WRITE) && !event.has(reads::BY_LOCK) && !state.writers.contains_key(&id)
    };
    let wanted: HashSet<(u64, bool)> =
        events.iter().filter(is_new).map(|event| (event.queryid, event.has(reads::TOPLEVEL))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    // Names mean what they meant where the statement wrote what it did.
    let fits = |id: (u64, bool), shape: &Shape| {
        let root_of = |place: &usize| reads.root_of(dbid, shape.tables.get(*place)?.to_u32());
        let written: Vec<u32> = shape.writes.iter().filter_map(root_of).collect();
        let is_of = |event: &&Event| (event.queryid, event.has(reads::TOPLEVEL)) == id && event.has(reads::WRITE);
        events.iter().filter(is_of).all(|event| written.contains(&event.relation))
    };
    let found = background::transaction(limit_ms, || {
        let shapes = shapes::of_statements(&wanted, fits);
        let tables = shapes.values().flatten().flat_map(|shape| shape.tables.iter().copied()).collect();
        Ok((shapes, Roots::read(tables)?))
    });
    // A role or a table that is gone must not stop everything: such writes count as writes of all rows.
    let (mut shapes, roots) = match found {
        Ok(found) => found,
        Err(_) if !background::must_end() => (HashMap::new(), Roots::default()),
        Err(message) => return Err(message),
    };
    if state.writers.len() + wanted.len() > SHAPES_MAX {
        state.writers.clear();
    }
    for id in wanted {
        let shape = shapes.remove(&id).flatten();
        state.writers.insert(id, shape.map(|shape| Writer::of(&shape, |table| roots.of(table))));
    }
    Ok(())
}

/// Tables that partitions belong to, and the partitions of tables.
#[derive(Default)]
struct Roots {
    roots: HashMap<u32, u32>,
    /// All parts of the tables asked for, themselves included, with what they are parts of.
    parts: Vec<(u32, u32)>,
}

impl Roots {
    fn read(tables: HashSet<pg_sys::Oid>) -> Result<Roots, Error> {
        let asked: Vec<pg_sys::Oid> = tables.into_iter().collect();
        let parts = catalog::rows(
            "WITH RECURSIVE up (asked, oid) AS (
                 SELECT o, o FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS o
                 UNION ALL
                 SELECT u.asked, i.inhparent FROM up u
                   JOIN pg_catalog.pg_inherits i ON i.inhrelid OPERATOR(pg_catalog.=) u.oid
                   JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) u.oid AND c.relispartition),
             roots AS (
                 SELECT DISTINCT u.asked, u.oid FROM up u
                   JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) u.oid AND NOT c.relispartition),
             tree (root, oid) AS (
                 SELECT DISTINCT r.oid, r.oid FROM roots r
                 UNION
                 SELECT t.root, i.inhrelid FROM tree t
                   JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) t.oid)
             SELECT t.oid, t.root FROM tree t",
            &[asked.into()],
            |row| Ok(row.get::<pg_sys::Oid>(1)?.zip(row.get::<pg_sys::Oid>(2)?)),
        )
        .map_err(super::failed)?;
        let parts: Vec<(u32, u32)> = parts.into_iter().map(|(part, root)| (part.to_u32(), root.to_u32())).collect();
        Ok(Roots { roots: parts.iter().copied().collect(), parts })
    }

    fn of(&self, table: pg_sys::Oid) -> u32 {
        self.roots.get(&table.to_u32()).copied().unwrap_or(table.to_u32())
    }
}

fn count(state: &mut State, events: &[Event]) {
    let State { survey, active, writers, .. } = state;
    for event in events {
        if event.has(reads::WRITE) {
            let pins = pins_of(writers, event);
            active.iter_mut().for_each(|one| one.shadow.write(event.relation, &pins));
            continue;
        }
        let bytes = (u64::from(event.rows) * u64::from(event.width)).max(1);
        let known = !event.has(reads::UNKNOWN);
        if event.has(reads::SURVEYED) {
            let key = known.then_some(event.key);
            let shift = u32::from(event.survey_shift);
            survey.read(event.at, event.queryid, key, shift, f64::from(event.elapsed_us) * 1e-3, bytes as f64);
        }
        if event.has(reads::SHADOWED) {
            for one in active.iter_mut() {
                let Some((statement, slots)) = one.statements.get(&event.queryid) else { continue };
                if !known {
                    one.unknown += 1;
                    continue;
                }
                let shift = u32::from(event.shadow_shift);
                if shift > one.shadow.shift() {
                    one.shadow.thin(shift, false);
                }
                let value = |slot: &usize| event.values.get(*slot).copied().filter(|hash| *hash != 0);
                let values: Vec<Option<u32>> = slots.iter().map(value).collect();
                one.shadow.read(&Read { at: event.at, statement: *statement, key: event.key, bytes, values: &values });
            }
        }
    }
    // Where all of them together are too many, the largest gives up half.
    while active.iter().map(|one| one.shadow.keys()).sum::<usize>() > ALL_KEYS_MAX {
        let Some(largest) = active.iter_mut().max_by_key(|one| one.shadow.keys()) else { break };
        let next = largest.shadow.shift() + 1;
        largest.shadow.thin(next, true);
    }
}

/// What a write says of the rows that it changes.
fn pins_of(writers: &HashMap<(u64, bool), Option<Writer>>, event: &Event) -> Vec<(i16, Vec<u32>)> {
    let writer = writers.get(&(event.queryid, event.has(reads::TOPLEVEL))).and_then(Option::as_ref);
    let Some(writer) = writer.filter(|_| !event.has(reads::BY_LOCK)) else { return Vec::new() };
    let mut of_relation =
        (writer.writes.iter()).filter(|(place, _)| writer.statement.tables.get(*place) == Some(&event.relation));
    // One that writes a table in two places says nothing of both at once.
    let (Some((place, updated)), None) = (of_relation.next(), of_relation.next()) else { return Vec::new() };
    let values = usize::from(event.values_len).min(reads::VALUES);
    let columns = writer.statement.written(*place, updated, values).into_iter();
    columns
        .filter_map(|(column, slots)| {
            let hashes: Vec<u32> = slots.iter().filter_map(|slot| event.values.get(*slot).copied()).collect();
            (!hashes.contains(&0)).then_some((column, hashes))
        })
        .collect()
}

/// A row of perf.cache_shadow_switch.
struct Switch {
    name: String,
    queryids: Vec<i64>,
    grid: Grid,
    /// When it was switched on.
    since: i64,
}

/// Takes over what is switched on now. Shadows that go on keep what they have.
fn load(state: &mut State, reads: &Reads, dbid: u32) -> Result<(), Error> {
    if !background::extension_installed() {
        return Ok(());
    }
    let switches = select_under_snapshot(
        c"SELECT strategy, queryids, sizes, ttls_s, (EXTRACT(epoch FROM since) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8
            FROM perf.cache_shadow_switch ORDER BY strategy",
        |row| {
            let ttls: Vec<f64> = row.get::<Vec<f64>>(4)?;
            let ttl = |seconds: f64| if seconds.is_finite() { (seconds * 1e6) as i64 } else { i64::MAX };
            Some(Switch {
                name: row.string(1),
                queryids: row.get::<Vec<i64>>(2)?,
                grid: Grid {
                    sizes: row.get::<Vec<i64>>(3)?.into_iter().map(|size| size.max(1) as u64).collect(),
                    ttls_us: ttls.into_iter().map(ttl).collect(),
                    keys_max: KEYS_MAX,
                },
                since: row.get::<i64>(5)?,
            })
        },
    );
    let wanted: HashSet<(u64, bool)> =
        switches.iter().flat_map(|switch| &switch.queryids).map(|queryid| (*queryid as u64, true)).collect();
    let shapes = if wanted.is_empty() { HashMap::new() } else { shapes::of_statements(&wanted, |_, _| true) };
    let tables = shapes.values().flatten().flat_map(|shape| shape.tables.iter().copied()).collect();
    let roots = Roots::read(tables)?;
    // Those that are begun anew go on from what was counted.
    let goes_on = |one: &&Active| switches.iter().any(|switch| (&switch.name, switch.since) == (&one.name, one.since));
    state.active.iter().filter(goes_on).for_each(store);
    let mut before = std::mem::take(&mut state.active);
    for switch in switches {
        let known = |queryid: &&i64| shapes.get(&(**queryid as u64, true)).is_some_and(Option::is_some);
        let known = switch.queryids.iter().filter(known).count();
        let same = |one: &Active| {
            let is_same = (&one.name, one.since) == (&switch.name, switch.since);
            is_same && one.queryids == switch.queryids && one.grid == switch.grid && known <= one.statements.len()
        };
        match before.iter().position(same) {
            Some(place) => state.active.push(before.swap_remove(place)),
            None => state.active.push(activate(switch, &shapes, &roots)),
        }
    }
    let queryids: Vec<u64> = state.active.iter().flat_map(|one| one.statements.keys().copied()).collect();
    let mut parts: Vec<(u32, u32)> = state.active.iter().flat_map(|one| &one.parts).copied().collect();
    parts.sort_unstable();
    parts.dedup();
    let (statements, relations) = reads.set(dbid, &queryids, &parts);
    if statements + relations > 0 && state.active.iter().all(|one| one.unseen == 0) {
        pgrx::log!("perf_opt: no room to shadow {statements} more statements and {relations} more relations");
    }
    state.active.iter_mut().for_each(|one| one.unseen = relations);
    // What was written before now is nobody's entry yet.
    state.after.get_or_insert_with(|| reads.newest());
    state.active.iter().for_each(store);
    Ok(())
}

fn activate(switch: Switch, shapes: &HashMap<(u64, bool), Option<Shape>>, roots: &Roots) -> Active {
    let mut shadow = Shadow::new(switch.grid.clone());
    let (mut statements, mut parts) = (HashMap::new(), Vec::new());
    let mut unclear = 0;
    for queryid in &switch.queryids {
        // Reads are not counted before it is known what their rows' writes are.
        let Some(shape) = shapes.get(&(*queryid as u64, true)).and_then(Option::as_ref) else {
            unclear += 1;
            continue;
        };
        let (uses, slots): (Vec<Use>, Vec<usize>) =
            dependence::statement(shape, |table| roots.of(table)).uses(reads::VALUES);
        let of_uses = roots.parts.iter().filter(|(_, root)| uses.iter().any(|one| one.relation == *root));
        parts.extend(of_uses.copied());
        statements.insert(*queryid as u64, (shadow.add_statement(uses), slots));
    }
    let base = select_with(
        c"SELECT size_bytes, ttl_s, gets, hits, evicted, expired, invalidated FROM perf.cache_shadow_result WHERE strategy = $1",
        &[text(&switch.name)],
        |row| {
            let number = |column| row.get::<f64>(column).unwrap_or(0.0);
            let seconds = number(2);
            Some(Outcome {
                size_bytes: row.get::<i64>(1)?.max(1) as u64,
                ttl_us: if seconds.is_finite() { (seconds * 1e6) as i64 } else { i64::MAX },
                gets: number(3),
                hits: number(4),
                entries: 0.0,
                bytes: 0.0,
                evicted: number(5),
                expired: number(6),
                invalidated: number(7),
            })
        },
    );
    Active {
        name: switch.name,
        queryids: switch.queryids,
        grid: switch.grid,
        since: switch.since,
        shadow,
        statements,
        parts,
        base,
        unclear,
        unknown: 0,
        lost: 0,
        unseen: 0,
    }
}

/// Writes what a shadow has counted.
fn store(one: &Active) {
    let mut notes = Vec::new();
    if one.unclear > 0 {
        notes.push(format!("{} statements could not be analysed yet: their reads are not counted", one.unclear));
    }
    if one.unknown > 0 {
        notes.push(format!("{} reads were left out: their values are too long, or not of built-in types", one.unknown));
    }
    if one.lost > 0 {
        notes.push(format!("{} reads and writes came too fast for the collector: entries were taken out", one.lost));
    }
    if one.unseen > 0 {
        notes.push(format!("there is no room to look at writes of {} relations", one.unseen));
    }
    let sampled = 100.0 / 2f64.powi(one.shadow.shift() as i32);
    for now in one.shadow.outcomes() {
        let before = one.base.iter().find(|base| base.size_bytes == now.size_bytes && base.ttl_us == now.ttl_us);
        let sum = |of: fn(&Outcome) -> f64| of(&now) + before.map_or(0.0, of);
        let ttl_s = if now.ttl_us == i64::MAX { f64::INFINITY } else { now.ttl_us as f64 * 1e-6 };
        run_with(
            c"INSERT INTO perf.cache_shadow_result AS r (strategy, size_bytes, ttl_s, gets, hits, entries, bytes, evicted,
                     expired, invalidated, sampled_pct, note, measured_at)
              SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, NULLIF($12, ''), pg_catalog.clock_timestamp()
               WHERE EXISTS (SELECT FROM perf.cache_shadow_switch AS s WHERE s.strategy = $1)
              ON CONFLICT (strategy, size_bytes, ttl_s) DO UPDATE
                 SET gets = excluded.gets, hits = excluded.hits, entries = excluded.entries, bytes = excluded.bytes,
                     evicted = excluded.evicted, expired = excluded.expired, invalidated = excluded.invalidated,
                     sampled_pct = excluded.sampled_pct, note = excluded.note, measured_at = excluded.measured_at",
            &[
                text(&one.name),
                (now.size_bytes as i64).into(),
                ttl_s.into(),
                sum(|outcome| outcome.gets).into(),
                sum(|outcome| outcome.hits).into(),
                now.entries.into(),
                now.bytes.into(),
                sum(|outcome| outcome.evicted).into(),
                sum(|outcome| outcome.expired).into(),
                sum(|outcome| outcome.invalidated).into(),
                sampled.into(),
                text(&notes.join("; ")),
            ],
            |_| (),
        );
    }
}

fn write() -> Result<(), Error> {
    if reads::get().is_none() || !background::extension_installed() {
        return Ok(());
    }
    STATE.with_borrow_mut(|state| {
        state.active.iter().for_each(store);
        let mut summaries = state.survey.summaries(background::now());
        summaries.sort_by(|a, b| b.1.total_ms.total_cmp(&a.1.total_ms));
        for (queryid, summary) in summaries.into_iter().take(CANDIDATES_MAX) {
            // What was counted for long is not given up for the first minutes of a new process.
            run_with(
                c"INSERT INTO perf.cache_candidate AS c (queryid, window_s, reads, unknown_reads, total_ms, mean_bytes, keys,
                         key_reads, updated_at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp())
                  ON CONFLICT (queryid) DO UPDATE
                     SET window_s = excluded.window_s, reads = excluded.reads, unknown_reads = excluded.unknown_reads,
                         total_ms = excluded.total_ms, mean_bytes = excluded.mean_bytes, keys = excluded.keys,
                         key_reads = excluded.key_reads, updated_at = excluded.updated_at
                   WHERE excluded.window_s >= LEAST(c.window_s, 600) OR excluded.reads >= c.reads
                      OR c.updated_at < pg_catalog.clock_timestamp() - interval '1 day'",
                &[
                    (queryid as i64).into(),
                    summary.window_s.into(),
                    summary.reads.into(),
                    summary.unknown.into(),
                    summary.total_ms.into(),
                    summary.bytes.into(),
                    summary.keys.into(),
                    summary.key_reads.into(),
                ],
                |_| (),
            );
        }
        run_with(
            c"DELETE FROM perf.cache_candidate WHERE updated_at < pg_catalog.clock_timestamp() - interval '14 days'",
            &[],
            |_| (),
        );
        Ok(())
    })
}
