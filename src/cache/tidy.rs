//! Keeps the cache small: entries that nobody may be given any more, and those not read lately when there are too many, are
//! removed a part at a time; marks are forgotten once no entry and no transaction can depend on them. Called by the collector
//! after each of its runs, and by a put into a part that has grown. A part is tidied by one process at a time; rows that
//! somebody else has locked are left for the next time.

use perf_core::cache::evict::{victims, Entry};
use perf_core::cache::marks as core_marks;

use super::entries::{self, PARTS};
use super::marks;
use super::policies::OTHER;
use crate::collect::worker::News;
use crate::error::Error;
use crate::guc;
use crate::memory::cache_stats::{self, Event};
use crate::pg::key_lock::{self, Space};
use crate::pg::query::{self, run_with};
use crate::pg::{background, lock, names, privilege};

/// Entries removed at a time by the collector, and by a put.
const REMOVED_MAX: usize = 20_000;
const REMOVED_BY_PUT_MAX: usize = 500;
/// Bytes of parts looked at in one run of the collector, unless it is one part alone.
const LOOKED_AT_MAX: i64 = 64 << 20;
/// What is left when entries have to make room, of the share of a part.
const FILLED: f64 = 0.9;
/// A part whose files are so many times its share, most of it free or dead, takes no more and is written anew.
const FILE_MAX: i64 = 3;
/// A part is written anew as well when its files are so many times what is in them, from this size on; the one that has
/// outgrown its content most, one in so many runs of the collector: who gets from it waits for that.
const REWRITTEN_AT: f64 = 1.3;
const REWRITTEN_MIN: i64 = 4 << 20;
const REWRITE_EVERY: u32 = 2;
/// How often it is looked whether nobody is using the part just now, and the time between, in ms.
const REWRITE_TRIES: u32 = 25;
const REWRITE_PAUSE_MS: i64 = 20;
/// Puts of a process between two looks at the size of a part; and how long a part stays untidied by puts, in microseconds.
const LOOK_EVERY: u32 = 16;
const TIDY_AGAIN_US: i64 = 10_000_000;
/// Marks are forgotten when they are an hour old, and ten minutes after that.
const MARK_OLD_US: i64 = 3_600_000_000;
const MARK_SETTLED_US: i64 = 600_000_000;
const MARKS_EVERY_US: i64 = 300_000_000;
const MARKS_MAX: i64 = 1_000_000;
/// Marks forgotten at a time.
const FORGOTTEN_MAX: i64 = 20_000;

use std::cell::Cell;

thread_local! {
    static PUTS: Cell<u32> = const { Cell::new(0) };
    static NEXT_PART: Cell<usize> = const { Cell::new(0) };
    static RUNS: Cell<u32> = const { Cell::new(0) };
    static MARKS_AT: Cell<i64> = const { Cell::new(0) };
}

/// What a part may take.
fn share() -> i64 {
    guc::cache_max_bytes() / PARTS as i64
}

/// Size of the files of a part, and how long ago it was counted, in microseconds.
fn size_and_age(part: usize) -> (i64, Option<i64>) {
    let (_, found) = query::run_on_part(
        "SELECT pg_total_relation_size('perf.cache_entry_{part}'::regclass),
                (SELECT (EXTRACT(epoch FROM clock_timestamp() - min(counted_at)) * 1000000)::bigint
                 FROM perf.cache_usage WHERE part = {part})",
        part,
        &[],
        |row| (row.get::<i64>(1).unwrap_or(0), row.get::<i64>(2)),
    );
    found.into_iter().next().unwrap_or((0, None))
}

/// What is in a part, in bytes, as last counted.
fn counted_bytes(part: usize) -> i64 {
    let (_, found) = query::run_on_part(
        "SELECT coalesce(sum(bytes), 0)::bigint FROM perf.cache_usage WHERE part = {part}",
        part,
        &[],
        |row| row.get::<i64>(1).unwrap_or(0),
    );
    found.first().copied().unwrap_or(0)
}

/// Whether a part takes another entry. Makes room where nobody has for a while; not in a transaction that goes by an old
/// snapshot, which cannot remove what others have changed since.
pub fn has_room(part: usize) -> bool {
    let looks = PUTS.with(|puts| puts.replace(puts.get().wrapping_add(1)) % LOOK_EVERY == 0);
    if !looks {
        return true;
    }
    let (size, age) = size_and_age(part);
    if size <= share() {
        return true;
    }
    if age.is_none_or(|age| !(0..TIDY_AGAIN_US).contains(&age)) && !query::keeps_one_snapshot() {
        tidy(part, REMOVED_BY_PUT_MAX);
    }
    size <= share().saturating_mul(FILE_MAX)
}

/// One run of the collector.
pub fn maintain(now: i64) -> Result<News, Error> {
    let mut news = News::default();
    if !marks::exist() {
        return Ok(news);
    }
    cache_stats::turn_over(now);
    // Before anything is removed in this transaction, which would have to be written as well.
    if RUNS.replace(RUNS.get().wrapping_add(1)).is_multiple_of(REWRITE_EVERY) {
        if let Some(part) = most_outgrown() {
            rewrite(part, REWRITE_TRIES);
        }
    }
    let mut looked_at = 0;
    for _ in 0..PARTS {
        let part = NEXT_PART.get();
        let (size, _) = size_and_age(part);
        if looked_at > 0 && looked_at + size > LOOKED_AT_MAX {
            break;
        }
        looked_at += size;
        NEXT_PART.set((part + 1) % PARTS);
        if size > share().saturating_mul(FILE_MAX) && rewrite(part, 1) {
            news.lines.push(format!(
                "perf_opt: wrote part {part} of the cache anew: its files took {} kB, and vacuum did not keep up",
                size >> 10
            ));
        }
        if has_entries(part) {
            tidy(part, REMOVED_MAX);
        }
    }
    Ok(news)
}

/// Another step of a run of the collector, in a transaction of its own: forgets marks now and then.
pub fn forget_marks(now: i64) -> Result<News, Error> {
    let mut news = News::default();
    // Where somebody marks just now, the next run is soon enough.
    if marks::exist() && (now - MARKS_AT.get()).abs() >= MARKS_EVERY_US && marks::keep() {
        MARKS_AT.set(now);
        // Entries times marks is not to be gone through pair by pair, whatever the planner takes their numbers for.
        run_with(c"SELECT pg_catalog.set_config('enable_nestloop', 'off', true)", &[], |_| ());
        news.lines.extend(prune(now));
    }
    Ok(news)
}

/// Whether there is anything in a part, or was when it was last counted.
fn has_entries(part: usize) -> bool {
    let (_, found) = query::run_on_part(
        "SELECT pg_relation_size('perf.cache_entry_{part}'::regclass) > 0
             OR EXISTS (SELECT FROM perf.cache_usage WHERE part = {part})",
        part,
        &[],
        |row| row.get::<bool>(1).unwrap_or(false),
    );
    found.first().copied().unwrap_or(false)
}

/// An entry as a part is looked through.
struct Seen {
    entry: Entry,
    policy: String,
    is_expired: bool,
}

fn look_through(part: usize) -> Vec<Seen> {
    let database = names::current_database();
    let part = part as i16;
    let (_, seen) = run_with(
        c"SELECT e.id, e.policy, e.put_at, e.expires_at + e.keep_for < clock_timestamp(),
                 e.id IN (SELECT m.id FROM perf.cache_missed AS m
                          WHERE m.part = $1 AND m.marked_at + m.keep_for < clock_timestamp()),
                 e.bytes
          FROM perf.cache_entry_sized AS e WHERE e.part = $1",
        &[part.into()],
        |row| {
            let id = row.get::<i64>(1).unwrap_or(0);
            let is_expired = row.get::<bool>(4).unwrap_or(false);
            Seen {
                entry: Entry {
                    id,
                    bytes: row.get::<i64>(6).unwrap_or(0) as u64,
                    put_at: row.get::<i64>(3).unwrap_or(0),
                    is_dead: is_expired || row.get::<bool>(5).unwrap_or(false),
                    is_used: cache_stats::was_used(database, id),
                },
                policy: row.string(2),
                is_expired,
            }
        },
    );
    seen
}

/// Looks through a part, removes what has to go, and counts the rest.
fn tidy(part: usize, removed_max: usize) {
    if !key_lock::try_take(Space::Tidy, part as u64) {
        return;
    }
    let seen = look_through(part);
    let gone = victims(seen.iter().map(|one| one.entry).collect(), (share() as f64 * FILLED) as u64, removed_max);
    let gone: std::collections::HashSet<i64> = if gone.is_empty() {
        Default::default()
    } else {
        let (_, removed) = query::run_on_part(
            "DELETE FROM perf.cache_entry_{part} WHERE id IN
                 (SELECT e.id FROM perf.cache_entry_{part} AS e WHERE e.id = ANY ($1) FOR UPDATE SKIP LOCKED)
             RETURNING id",
            part,
            &[gone.into()],
            |row| row.get::<i64>(1).unwrap_or(0),
        );
        removed.into_iter().collect()
    };
    let mut usage: std::collections::BTreeMap<&str, (i64, i64)> = Default::default();
    // A part without entries is known to be empty.
    usage.insert(OTHER, (0, 0));
    for one in &seen {
        if !gone.contains(&one.entry.id) {
            let (entries, bytes) = usage.entry(&one.policy).or_default();
            *entries += 1;
            *bytes += one.entry.bytes as i64;
        } else if one.is_expired {
            entries::count(&one.policy, Event::Expired, 1);
        }
    }
    query::run_on_part("DELETE FROM perf.cache_usage WHERE part = {part}", part, &[], |_| ());
    let (names, counts): (Vec<_>, Vec<_>) = usage.into_iter().map(|(name, counts)| (name.to_owned(), counts)).unzip();
    let (entries, bytes): (Vec<i64>, Vec<i64>) = counts.into_iter().unzip();
    query::run_on_part(
        "INSERT INTO perf.cache_usage (part, policy, entries, bytes, counted_at)
         SELECT {part}, p, e, b, clock_timestamp() FROM unnest($1, $2, $3) AS u (p, e, b)",
        part,
        &[names.into_iter().map(crate::pg::text::Text).collect::<Vec<_>>().into(), entries.into(), bytes.into()],
        |_| (),
    );
}

/// The part whose files are the most times what is in them, if that is too much.
fn most_outgrown() -> Option<usize> {
    let outgrown = |part| {
        let (size, _) = size_and_age(part);
        let ratio = size as f64 / counted_bytes(part).max(1) as f64;
        (size > REWRITTEN_MIN && ratio > REWRITTEN_AT).then_some((part, ratio))
    };
    (0..PARTS).filter_map(outgrown).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(part, _)| part)
}

/// Writes a part anew, without what is free and dead in it, if nobody is using it at one of so many looks: in no queue, so
/// that nobody waits for a turn that has not come.
fn rewrite(part: usize, tries: u32) -> bool {
    let name = std::ffi::CString::new(format!("cache_entry_{part}")).unwrap_or_default();
    let Some(table) = privilege::table(&name) else { return false };
    let is_mine = (0..tries).any(|number| {
        if number > 0 {
            background::pause(REWRITE_PAUSE_MS);
        }
        lock::try_lock_exclusive(table)
    });
    if is_mine {
        query::run_on_part("CLUSTER perf.cache_entry_{part} USING cache_entry_{part}_pkey", part, &[], |_| ());
    }
    is_mine
}

/// Forgets old marks. A mark goes in two steps: a transaction notes that it is old, and when all that began before that one
/// are over, the entries that it makes invalid are all to be seen; with them gone, nothing depends on it. Snapshots that do
/// not see that transaction are not believed any more.
fn prune(now: i64) -> Option<String> {
    let at = |us: i64| background::instant(us);
    let (_, count) = run_with(c"SELECT count(*) FROM perf.cache_mark", &[], |row| row.get::<i64>(1).unwrap_or(0));
    let count = count.first().copied().unwrap_or(0);
    if count > MARKS_MAX {
        // All that is older than this transaction depends on one mark instead, and so is invalid.
        let all = core_marks::of_beginning(core_marks::EVERYBODY, "");
        marks::mark_invalid(&[all]).ok()?;
        run_with(
            c"DELETE FROM perf.cache_mark WHERE (mark, source) IN
                  (SELECT m.mark, m.source FROM perf.cache_mark AS m
                   WHERE NOT (m.mark = $1 AND m.source = 0) AND m.mark <> $2 FOR UPDATE SKIP LOCKED)",
            &[all.into(), marks::FLOOR.into()],
            |_| (),
        );
        return Some(format!(
            "perf_opt: emptied the cache: {count} keys, beginnings and tags were invalidated in an hour"
        ));
    }
    run_with(
        // Whatever has looked at marks by now has a lower number than the next one.
        c"UPDATE perf.cache_mark SET settled = pg_snapshot_xmax(pg_current_snapshot())::text::bigint, settled_at = $1
          WHERE (mark, source) IN (SELECT m.mark, m.source FROM perf.cache_mark AS m
                                   WHERE m.settled IS NULL AND m.mark <> $2 AND m.marked_at < $3 FOR UPDATE SKIP LOCKED)",
        &[at(now).into(), marks::FLOOR.into(), at(now.saturating_sub(MARK_OLD_US)).into()],
        |_| (),
    );
    let settled_before = at(now.saturating_sub(MARK_SETTLED_US));
    let (_, settled) = run_with(
        c"SELECT mark, source, settled FROM perf.cache_mark
          WHERE settled < pg_snapshot_xmin(pg_current_snapshot())::text::bigint AND settled_at < $1
          LIMIT $2 FOR UPDATE SKIP LOCKED",
        &[settled_before.into(), FORGOTTEN_MAX.into()],
        |row| (row.get::<i64>(1).unwrap_or(0), row.get::<i64>(2).unwrap_or(0), row.get::<i64>(3).unwrap_or(0)),
    );
    if settled.len() as i64 >= FORGOTTEN_MAX {
        // There are more of them.
        MARKS_AT.set(0);
    }
    let newest = settled.iter().map(|(_, _, settled)| *settled).max()?;
    let (marks, sources): (Vec<i64>, Vec<i64>) = settled.into_iter().map(|(mark, source, _)| (mark, source)).unzip();
    let arguments = [marks.into(), sources.into(), newest.into(), marks::FLOOR.into()];
    run_with(
        c"DELETE FROM perf.cache_entry WHERE (part, id) IN
              (SELECT e.part, e.id FROM perf.cache_entry AS e
               WHERE (e.part, e.id) IN (SELECT m.part, m.id FROM perf.cache_missed AS m
                                        JOIN unnest($1, $2) AS k (mark, source) USING (mark, source))
               FOR UPDATE SKIP LOCKED)",
        &arguments[..2],
        |_| (),
    );
    // What somebody else has locked may come back.
    run_with(
        c"WITH gone AS (
              DELETE FROM perf.cache_mark AS m USING unnest($1, $2) AS k (mark, source)
              WHERE m.mark = k.mark AND m.source = k.source
                AND NOT EXISTS (SELECT FROM perf.cache_missed AS e WHERE e.mark = m.mark AND e.source = m.source)
              RETURNING m.mark)
          INSERT INTO perf.cache_mark AS f (mark, source, xid, marked_at)
          SELECT $4, 0, $3, clock_timestamp() FROM gone HAVING count(*) > 0
          ON CONFLICT (mark, source) DO UPDATE SET xid = greatest(f.xid, excluded.xid), marked_at = excluded.marked_at",
        &arguments,
        |_| (),
    );
    None
}
