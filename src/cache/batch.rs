//! One batch of changes, from shared memory and from the outbox: finds out what they make invalid, marks it, and leaves to
//! Redis and to listeners what is theirs. Called by the invalidator inside a transaction of its own; what is remembered from
//! one batch to the next is handed back and counts once that is committed. Locks the rows that it removes, which nobody else
//! does.

use std::collections::{BTreeMap, HashMap};

use perf_core::cache::change::Change;
use perf_core::cache::invalid::{json_bytes, Invalid, Values};
use perf_core::cache::marks::EVERYBODY;
use perf_core::cache::template::Template;
use serde_json::{json, Value};

use super::outbox::texts;
use super::{marks, statistics};
use crate::collect::registry;
use crate::error::Error;
use crate::memory::changes::{self, Missing};
use crate::pg::query::{run_with, select_with, text, under_latest_snapshot};
use crate::pg::text::{is_whole, DbText, Document, Text};

/// Changes taken at once.
const ROWS_MAX: i64 = 500;
/// Keys and tags that they may become; the first row always goes, with its values unknown where it alone becomes more.
const KEYS_MAX: usize = 50_000;
/// The channel that listeners hear.
const CHANNEL: &str = "perf_cache";
/// The event of what is invalid because nobody knows what has changed.
pub const FLUSH: &str = "flush";
/// A notice holds less than 8,000 bytes.
const NOTICE_BYTES: usize = 7_800;

/// Up to where the outbox has been worked off, so that dead rows are not looked at again, however long they stay: changes
/// that were not seen yet are of transactions from `next` on, or of one of those that ran.
#[derive(Clone, Debug, Default)]
pub struct Position {
    next: u64,
    running: Vec<u64>,
}

/// How much a batch may take. One that fails is tried again with less, so that a change that cannot be worked off as it is
/// keeps no other waiting for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    rows: i64,
    /// Values are left aside: all that the templates can name is invalid.
    is_wide: bool,
}

impl Portion {
    /// What is taken when nothing is wrong.
    pub const WHOLE: Portion = Portion { rows: ROWS_MAX, is_wide: false };

    /// For the time after a batch that failed.
    pub fn smaller(self) -> Portion {
        Portion { rows: (self.rows / 8).max(1), is_wide: self.rows == 1 }
    }

    /// For the time after one that did not.
    pub fn larger(self) -> Portion {
        Portion { rows: (self.rows * 2).min(ROWS_MAX), is_wide: false }
    }
}

/// A watch with the templates that count now.
struct Watch {
    event: String,
    /// Since before the server's start, or so it may be.
    was_there: bool,
    keys: Vec<Template>,
    tags: Vec<Template>,
}

/// The watches.
#[derive(Default)]
pub struct Watches {
    by_id: HashMap<i64, Watch>,
}

impl Watch {
    fn templates(&self) -> usize {
        self.keys.len() + self.tags.len()
    }
}

fn templates(value: Option<&Value>) -> Vec<Template> {
    texts(value).iter().filter_map(|text| Template::parse(text).ok()).collect()
}

impl Watches {
    /// Reads them, and the policies that they follow, as they are at this moment: not older than any change that was seen
    /// before.
    pub fn read() -> Watches {
        let read = || {
            select_with(
                c"SELECT w.watch_id, w.event, pg_catalog.jsonb_build_object(
                     'keys', COALESCE(w.keys, (SELECT pg_catalog.array_agg(p.key_template) FROM perf.cache_policy AS p
                                                WHERE w.event = ANY (p.invalidated_by))),
                     'tags', w.tags,
                     'was_there', NOT w.created_at BETWEEN pg_catalog.pg_postmaster_start_time() AND pg_catalog.clock_timestamp())
              FROM perf.cache_watch_table AS w",
                &[],
                |row| Some((row.get::<i64>(1)?, row.string(2), row.get::<Document>(3)?.0)),
            )
        };
        let by_id = under_latest_snapshot(read).into_iter().map(|(id, event, about)| {
            let tags = match about.get("tags") {
                // The name of the event, in which braces mean nothing.
                Some(Value::Null) | None => vec![Template::literal_of(&event)],
                tags => templates(tags),
            };
            let was_there = about.get("was_there").and_then(Value::as_bool).unwrap_or(true);
            (id, Watch { event, was_there, keys: templates(about.get("keys")), tags })
        });
        Watches { by_id: by_id.collect() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The most templates that one of them fills.
    fn templates_max(&self) -> usize {
        self.by_id.values().map(Watch::templates).max().unwrap_or(0).max(1)
    }

    /// All that the templates of some of them can name.
    fn everything(&self, of: impl Fn(&Watch) -> bool) -> Invalid {
        let mut all = Invalid::default();
        for watch in self.by_id.values().filter(|watch| of(watch)) {
            all.add(&watch.keys, &watch.tags, Values { columns: &[], rows: None });
        }
        all.reduce();
        all
    }

    /// All that their templates can name.
    pub fn all(&self) -> Invalid {
        self.everything(|_| true)
    }
}

/// Where a batch is taken from.
pub struct Source<'a> {
    /// The database of this process.
    pub dbid: u32,
    /// Up to where the table has been worked off; `None`: it is left alone, nobody has written to it.
    pub table: Option<&'a Position>,
    pub portion: Portion,
    /// The watches as last read, and of which generation; by them it is told how much the changes become.
    pub watches: &'a Watches,
    pub generation: Option<u64>,
}

/// What a batch came to.
pub struct Batch {
    /// Changes taken.
    pub changes: usize,
    /// Those of them that were rows of the table.
    pub rows: usize,
    /// There may be more.
    pub is_full: bool,
    /// What became invalid, by event.
    pub events: BTreeMap<String, Invalid>,
    /// Bytes of the pipe that this was, for when it is committed.
    pub bytes: usize,
    /// Up to where the table is worked off now, where it was looked at.
    pub position: Option<Position>,
    /// The watches, read anew, and their generation, where what was known of them did not do.
    pub watches: Option<(Watches, u64)>,
}

/// What one statement has changed, in this process's encoding.
struct Taken {
    watches: Vec<i64>,
    columns: Vec<String>,
    values: Option<Vec<Option<String>>>,
}

impl Taken {
    /// How many rows of values there are.
    fn rows(&self) -> usize {
        self.values.as_ref().map_or(0, |values| values.len() / self.columns.len().max(1))
    }
}

/// Takes changes and marks in the embedded cache what they make invalid.
pub fn take(source: &Source) -> Result<Batch, Error> {
    let portion = source.portion;
    let weight_max = (KEYS_MAX / source.watches.templates_max()).max(1);
    let mut taken = Vec::new();
    let mut asked: BTreeMap<String, Invalid> = BTreeMap::new();
    let table = source.table.map(|position| from_table(position, portion, weight_max, &mut taken, &mut asked));
    let (position, rows, table_is_full) = match table {
        Some((position, rows, is_full)) => (Some(position), rows, is_full),
        None => (None, 0, false),
    };
    let found = changes::look(source.dbid);
    let Some((bytes, pipe_is_full)) = from_pipe(&found, portion, weight_max, &mut taken) else {
        return Ok(Batch { bytes: found.len(), ..take_all(Missing::Some)? });
    };
    let mut batch = Batch {
        changes: taken.len(),
        rows,
        is_full: table_is_full || pipe_is_full,
        events: BTreeMap::new(),
        bytes,
        position,
        watches: None,
    };
    // Not before: a change may be of a watch that is newer than the beginning of this.
    let generation = registry::watch_generation();
    let knows = |change: &Taken| change.watches.iter().all(|id| source.watches.by_id.contains_key(id));
    if source.generation != Some(generation) || !taken.iter().all(knows) {
        batch.watches = Some((Watches::read(), generation));
    }
    let watches = batch.watches.as_ref().map_or(source.watches, |(watches, _)| watches);
    for change in &taken {
        let concerned: Vec<&Watch> = change.watches.iter().filter_map(|id| watches.by_id.get(id)).collect();
        let becomes = change.rows() * concerned.iter().map(|watch| watch.templates()).sum::<usize>();
        let rows = change.values.as_deref().filter(|_| !portion.is_wide && becomes <= KEYS_MAX);
        for watch in concerned {
            let invalid = batch.events.entry(watch.event.clone()).or_default();
            invalid.add(&watch.keys, &watch.tags, Values { columns: &change.columns, rows });
        }
    }
    finish(&mut batch.events)?;
    // What a user asked for is marked by the asking, for whom it concerns.
    for (event, mut invalid) in asked {
        invalid.reduce();
        batch.events.entry(event).or_default().merge(invalid);
    }
    batch.events.retain(|_, invalid| !invalid.is_empty());
    Ok(batch)
}

/// Makes all invalid that the templates of watches can name, of those at least that may miss something: nobody knows what has
/// changed. What is in the pipe is looked at again.
pub fn take_all(missing: Missing) -> Result<Batch, Error> {
    let generation = registry::watch_generation();
    let watches = Watches::read();
    let mut events = BTreeMap::new();
    let everything = watches.everything(|watch| watch.was_there || missing == Missing::Some);
    if !everything.is_empty() {
        events.insert(FLUSH.to_owned(), everything);
        finish(&mut events)?;
    }
    let changes = events.len();
    Ok(Batch {
        changes,
        rows: 0,
        is_full: true,
        events,
        bytes: 0,
        position: None,
        watches: Some((watches, generation)),
    })
}

/// Marks what has become invalid, for everybody.
fn finish(events: &mut BTreeMap<String, Invalid>) -> Result<(), Error> {
    events.values_mut().for_each(Invalid::reduce);
    let mut marked: Vec<i64> = events.values().flat_map(|invalid| invalid.marks(EVERYBODY)).collect();
    marked.sort_unstable();
    marked.dedup();
    marks::mark_invalid(&marked)?;
    events.values().for_each(statistics::note_invalidations);
    Ok(())
}

/// Takes changes of what was in shared memory: the bytes they are, and whether there may be more. `None`: they cannot be read.
fn from_pipe(found: &[u8], portion: Portion, weight_max: usize, taken: &mut Vec<Taken>) -> Option<(usize, bool)> {
    let mut rest = found;
    let (mut count, mut weight) = (0, 0);
    while !rest.is_empty() && count < portion.rows && weight < weight_max {
        let before = rest;
        let change = Change::decode(&mut rest)?;
        let text = |bytes: &[u8]| DbText::from_bytes(bytes.to_vec()).to_utf8();
        let whole = |bytes: &[u8]| Some(text(bytes)).filter(|text| is_whole(text));
        let change = Taken {
            columns: change.columns.iter().map(|name| text(name)).collect(),
            values: change.values.map(|values| values.into_iter().map(|value| value.and_then(whole)).collect()),
            watches: change.watches,
        };
        let adds = change.rows() * change.watches.len();
        if count > 0 && weight + adds > weight_max {
            rest = before;
            break;
        }
        weight += adds;
        count += 1;
        taken.push(change);
    }
    Some((found.len() - rest.len(), !rest.is_empty()))
}

/// Takes rows from the table: up to where it is worked off then, how many there were, and whether there may be more.
fn from_table(
    position: &Position,
    portion: Portion,
    weight_max: usize,
    taken: &mut Vec<Taken>,
    asked: &mut BTreeMap<String, Invalid>,
) -> (Position, usize, bool) {
    let running = position.running.iter().map(|xid| Some(Text(xid.to_string()))).collect::<Vec<_>>();
    let rows = run_with(
        c"DELETE FROM perf.cache_outbox AS o
           WHERE o.ctid = ANY (ARRAY(
                     SELECT s.place
                       FROM (SELECT u.place, pg_catalog.row_number() OVER (ORDER BY u.xid, u.place) AS number,
                                    pg_catalog.sum(u.weight) OVER (ORDER BY u.xid, u.place) - u.weight AS before
                               FROM (SELECT b.xid, b.place,
                                            COALESCE(pg_catalog.cardinality(b.vals) / NULLIF(pg_catalog.cardinality(b.columns), 0)
                                                     * pg_catalog.cardinality(b.watches), 0)::pg_catalog.int8 AS weight
                                       FROM ((SELECT c.ctid AS place, c.xid, c.watches, c.columns, c.vals
                                                FROM perf.cache_outbox AS c
                                               WHERE c.xid = ANY ($2::xid8[]) ORDER BY c.xid LIMIT $3)
                                             UNION ALL
                                             (SELECT c.ctid, c.xid, c.watches, c.columns, c.vals
                                                FROM perf.cache_outbox AS c
                                               WHERE c.xid >= $1::xid8 ORDER BY c.xid LIMIT $3)) AS b) AS u) AS s
                      WHERE s.number <= $3 AND s.before < $4))
           RETURNING o.xid::text::bigint, pg_catalog.pg_current_snapshot()::text,
                     pg_catalog.jsonb_build_object('watches', o.watches, 'columns', o.columns, 'vals', o.vals,
                                                   'event', o.event, 'keys', o.keys, 'prefixes', o.prefixes, 'tags', o.tags,
                                                   'tag_prefixes', o.tag_prefixes)",
        &[text(&position.next.to_string()), running.into(), portion.rows.into(), (weight_max as i64).into()],
        |row| (row.get::<i64>(1).unwrap_or(0) as u64, row.string(2), row.get::<Document>(3).unwrap_or_default().0),
    )
    .1;
    let Some((_, snapshot, _)) = rows.first() else { return (position.clone(), 0, false) };
    let mut weight: usize = 0;
    for (_, _, row) in &rows {
        let vals = row.get("vals").and_then(Value::as_array);
        let change = Taken {
            watches: row
                .get("watches")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_i64)
                .collect(),
            columns: texts(row.get("columns")),
            values: vals.map(|vals| {
                vals.iter().map(|one| one.as_str().filter(|text| is_whole(text)).map(str::to_owned)).collect()
            }),
        };
        weight += change.rows() * change.watches.len();
        taken.push(change);
        if row.get("event").is_some_and(Value::is_string) {
            let (event, invalid) = from_json(row);
            asked.entry(event).or_default().merge(invalid);
        }
    }
    // It took as much as it may: there may be more.
    let is_full = rows.len() as i64 >= portion.rows || weight >= weight_max;
    let last = rows.iter().map(|(xid, ..)| *xid).max().unwrap_or(0);
    (position_after(snapshot, is_full.then_some(last)), rows.len(), is_full)
}

/// `last`: rows of later transactions may have been left, and of this one.
fn position_after(snapshot: &str, last: Option<u64>) -> Position {
    let mut parts = snapshot.split(':').skip(1);
    let end: u64 = parts.next().and_then(|xmax| xmax.parse().ok()).unwrap_or(0);
    let next = last.map_or(end, |last| last.min(end));
    let running = parts.next().unwrap_or_default().split(',').filter_map(|xid| xid.parse().ok());
    Position { next, running: running.filter(|xid| *xid < next).collect() }
}

fn list(texts: &std::collections::BTreeSet<String>) -> Value {
    texts.iter().map(String::as_str).collect()
}

/// An event as it is stored and told.
pub fn to_json(event: &str, invalid: &Invalid) -> Value {
    let mut value = json!({
        "event": event,
        "keys": list(&invalid.keys),
        "prefixes": list(&invalid.prefixes),
        "tags": list(&invalid.tags),
    });
    if !invalid.tag_prefixes.is_empty() {
        value["tag_prefixes"] = list(&invalid.tag_prefixes);
    }
    value
}

/// The reverse of [`to_json`].
fn from_json(value: &Value) -> (String, Invalid) {
    let set = |name: &str| texts(value.get(name)).into_iter().collect();
    let invalid =
        Invalid { keys: set("keys"), prefixes: set("prefixes"), tags: set("tags"), tag_prefixes: set("tag_prefixes") };
    (value.get("event").and_then(Value::as_str).unwrap_or_default().to_owned(), invalid)
}

/// The events of a row of perf.cache_redis_queue.
pub fn queued(events: &Value) -> impl Iterator<Item = (String, Invalid)> + '_ {
    events.as_array().into_iter().flatten().map(from_json)
}

/// Tells listeners. `pending`: Redis does not know yet, and they are told again when it does.
pub fn tell(event: &str, invalid: Invalid, pending: bool) {
    for part in invalid.split(NOTICE_BYTES - json_bytes(event).min(NOTICE_BYTES / 2) - 100) {
        let mut notice = to_json(event, &part);
        if pending {
            notice["pending"] = json!(true);
        }
        let notice = match notice.to_string() {
            notice if notice.len() < 8_000 => notice,
            // One key alone is longer than a notice can be.
            _ => json!({"event": event, "keys": [], "prefixes": [""], "tags": []}).to_string(),
        };
        run_with(c"SELECT pg_catalog.pg_notify($1, $2)", &[text(CHANNEL), text(&notice)], |_| ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_leaves_out_what_was_seen() {
        let position = position_after("10:20:12,15", None);
        assert_eq!((position.next, position.running), (20, vec![12, 15]));
        let position = position_after("10:20:12,15", Some(14));
        assert_eq!((position.next, position.running), (14, vec![12]));
        let position = position_after("20:20:", None);
        assert_eq!((position.next, position.running), (20, vec![]));
    }
}
