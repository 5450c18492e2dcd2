//! What watched relations have changed and the invalidator has not worked off. Writers come here by the trigger function, once
//! a statement, in whatever session changes a watched relation and with whatever rights. What they have changed waits for
//! their commit ([`super::changed`]), or is a row of the outbox, written without SQL. Owns what each process remembers of the
//! watches. Locks nothing but the table, as any INSERT does.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::rc::Rc;

use perf_core::cache::change::Change;
use perf_core::cache::invalid::Invalid;
use perf_core::cache::template::Template;
use pgrx::{pg_guard, pg_sys};

use super::changed;
use crate::collect::registry;
use crate::error::Error;
use crate::pg::changes::{self, Changed, Limits, Operation, Statement, Value};
use crate::pg::text::{DbText, Document};
use crate::pg::{background, privilege, query, snapshot};

/// One statement says no more than that: beyond, all rows may have changed.
const LIMITS: Limits = Limits { tuples: 1_000, bytes: 65_536 };
/// The event of what perf.cache_invalidate() was asked for.
const ASKED: &str = "cache_invalidate";
/// How long a relation is remembered: nobody tells when it becomes a partition of a watched one.
const REMEMBERED_US: i64 = 60_000_000;
/// Relations that a process remembers.
const REMEMBERED_MAX: usize = 1_000;

/// What a process has to know of a relation to write down what changes on it.
struct Watched {
    /// That the templates of its watches name.
    columns: Vec<CString>,
    /// Number and operations of each.
    watches: Vec<(i64, Vec<String>)>,
    read_at: i64,
}

#[derive(Default)]
struct Memory {
    generation: u64,
    relations: HashMap<u32, Rc<Watched>>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Word for an operation in watches; `None` for one that concerns all of them.
fn word(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::Insert => Some("insert"),
        Operation::Update => Some("update"),
        Operation::Delete => Some("delete"),
        Operation::Truncate => None,
    }
}

/// What the server looks for to call the next function.
#[no_mangle]
pub extern "C" fn pg_finfo_perf_opt_cache_changed() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// The trigger function of watched relations, perf._cache_changed().
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn perf_opt_cache_changed(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    match changes::statement_of_call(fcinfo) {
        Some(statement) => write(&statement),
        None => not_a_trigger("perf._cache_changed"),
    }
    pg_sys::Datum::from(0)
}

/// As above.
#[no_mangle]
pub extern "C" fn pg_finfo_perf_opt_cache_policy_changed() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// The trigger function of perf.cache_policy, perf._cache_policy_changed(): whoever has read the policies reads them anew.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn perf_opt_cache_policy_changed(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    if changes::statement_of_call(fcinfo).is_none() {
        not_a_trigger("perf._cache_policy_changed");
    }
    registry::note_watch_change();
    pg_sys::Datum::from(0)
}

fn not_a_trigger(name: &str) -> ! {
    Error::Unsupported {
        message: format!("function {name} can only be called as a trigger after each statement"),
        hint: "perf.cache_watch() makes such triggers.".to_owned(),
    }
    .raise()
}

/// Writes down what a statement has changed, if somebody wants to know.
fn write(statement: &Statement) {
    let watched = remembered(statement.relation());
    let operation = word(statement.operation());
    let concerned = |operations: &[String]| operation.is_none_or(|word| operations.iter().any(|one| one == word));
    let watches: Vec<i64> =
        watched.watches.iter().filter(|(_, operations)| concerned(operations)).map(|(id, _)| *id).collect();
    if watches.is_empty() {
        return;
    }
    let present = statement.present(&watched.columns);
    let places: Vec<usize> = present.iter().map(|(_, place)| *place).collect();
    let changed = match operation {
        Some(_) => statement.values(&places, &LIMITS),
        None => Changed::Some,
    };
    let values = match &changed {
        Changed::Nothing => return,
        Changed::Some => None,
        Changed::Values(values) => Some(values.iter().map(Option::as_deref).collect::<Vec<_>>()),
    };
    let columns = match values {
        Some(_) => present.iter().map(|(name, _)| name.as_bytes()).collect(),
        None => Vec::new(),
    };
    note(&Change { watches, columns, values });
}

fn note(change: &Change) {
    if !changed::note(change) {
        insert_change(change);
    }
}

/// Writes a change to the table.
pub fn insert_change(change: &Change) {
    let Some(outbox) = privilege::table(c"cache_outbox") else { return };
    let names: Vec<Option<&[u8]>> = change.columns.iter().copied().map(Some).collect();
    let (columns, vals) = match &change.values {
        Some(values) => (Value::Texts(&names), Value::Texts(values)),
        None => (Value::Null, Value::Null),
    };
    // In the order of the columns of perf.cache_outbox.
    let row = [
        Value::Plain(snapshot::assigned() as i64),
        Value::Plain(background::now()),
        Value::Numbers(&change.watches),
        columns,
        vals,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
    ];
    changes::insert(outbox, &row);
    registry::note_outbox();
}

/// Writes down that rows of a relation have come or gone without a statement that fires triggers: any of them may be others
/// now. For whoever detaches partitions.
pub fn write_all(relation: pg_sys::Oid) {
    let watched = remembered(relation);
    let watches: Vec<i64> = watched.watches.iter().map(|(id, _)| *id).collect();
    if watches.is_empty() {
        return;
    }
    note(&Change { watches, columns: Vec::new(), values: None });
}

/// Tells Redis and listeners of what a user has made invalid in the embedded cache, once that is committed. Where the library
/// is not preloaded, nobody would.
pub fn tell(invalid: &Invalid) {
    let table = privilege::table(c"cache_outbox");
    let Some(outbox) = table.filter(|_| crate::memory::is_ready()) else { return };
    let in_database = |texts: &BTreeSet<String>| texts.iter().map(|text| DbText::from_utf8(text)).collect::<Vec<_>>();
    let Invalid { keys, prefixes, tags, tag_prefixes } = invalid;
    let lists = [keys, prefixes, tags, tag_prefixes].map(in_database);
    let lists: Vec<Vec<Option<&[u8]>>> =
        lists.iter().map(|list| list.iter().map(|text| Some(text.as_bytes())).collect()).collect();
    let row = [
        Value::Plain(snapshot::assigned() as i64),
        Value::Plain(background::now()),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Text(ASKED.as_bytes()),
        Value::Texts(&lists[0]),
        Value::Texts(&lists[1]),
        Value::Texts(&lists[2]),
        Value::Texts(&lists[3]),
    ];
    changes::insert(outbox, &row);
    registry::note_outbox();
}

/// What this process knows of a relation, read anew after any change of watches or policies.
fn remembered(relation: pg_sys::Oid) -> Rc<Watched> {
    // Before the tables are read: a change that comes in between is read now, or makes the next call read again.
    let generation = registry::watch_generation();
    let known = MEMORY.with_borrow(|memory| {
        (memory.generation == generation && !registry::changes_watches())
            .then(|| memory.relations.get(&relation.to_u32()).cloned())
            .flatten()
    });
    let is_fresh = |known: &Rc<Watched>| (0..REMEMBERED_US).contains(&(background::now() - known.read_at));
    if let Some(known) = known.filter(is_fresh) {
        return known;
    }
    let watched = Rc::new(read(relation));
    // Without shared memory nobody would tell of changes.
    if generation > 0 && !registry::changes_watches() {
        MEMORY.with_borrow_mut(|memory| {
            if memory.generation != generation || memory.relations.len() >= REMEMBERED_MAX {
                memory.relations.clear();
                memory.generation = generation;
            }
            memory.relations.insert(relation.to_u32(), watched.clone());
        });
    }
    watched
}

/// Texts of a JSON array.
pub fn texts(value: Option<&serde_json::Value>) -> Vec<String> {
    let elements = value.and_then(serde_json::Value::as_array);
    elements.map_or_else(Vec::new, |texts| texts.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect())
}

/// Watches of a relation, and of those that it is a partition or child of: statements that name a child alone fire no
/// triggers of its parent.
fn read(relation: pg_sys::Oid) -> Watched {
    let rows = privilege::as_owner_of(c"cache_watch_table", || {
        query::under_latest_snapshot(|| {
            query::select_with(
                c"WITH RECURSIVE up (relation) AS (
                      SELECT $1
                      UNION SELECT i.inhparent FROM pg_catalog.pg_inherits AS i JOIN up ON i.inhrelid = up.relation)
                  SELECT w.watch_id, pg_catalog.jsonb_build_object(
                             'operations', w.operations,
                             'templates', COALESCE(w.keys, (SELECT pg_catalog.array_agg(p.key_template)
                                                              FROM perf.cache_policy AS p
                                                             WHERE w.event = ANY (p.invalidated_by)), '{}')
                                          || COALESCE(w.tags, '{}'))
                    FROM perf.cache_watch_table AS w JOIN up ON w.relation = up.relation ORDER BY 1",
                &[relation.into()],
                |row| Some((row.get::<i64>(1)?, row.get::<Document>(2)?.0)),
            )
        })
    });
    let mut columns: BTreeSet<String> = BTreeSet::new();
    let mut watches = Vec::new();
    for (id, about) in rows.unwrap_or_default() {
        for template in texts(about.get("templates")) {
            if let Ok(template) = Template::parse(&template) {
                columns.extend(template.placeholders().map(str::to_owned));
            }
        }
        watches.push((id, texts(about.get("operations"))));
    }
    let in_database = |name: &String| CString::new(DbText::from_utf8(name).as_bytes()).ok();
    Watched { columns: columns.iter().filter_map(in_database).collect(), watches, read_at: background::now() }
}
