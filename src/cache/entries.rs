//! Entries of the cache: looked up through their index without a plan, written by statements whose plans are kept. Called by
//! the cache's functions, inside a transaction.
//!
//! Nobody waits for anybody: a put skips a row that somebody else has locked, and makes none where an open transaction has
//! made one; that nobody else does so meanwhile is seen to by a lock of the key that lasts no longer than the put. Whatever it
//! meets counts as refused.

use core::ffi::CStr;

use perf_core::cache::marks as core_marks;
use perf_core::cache::snapshot::Snapshot;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use super::lease::{self, Lease};
use super::marks::{self, Verdict};
use super::policies::{self, OTHER};
use super::tidy;
use crate::error::Error;
use crate::guc;
use crate::memory::cache_stats::{self, Event};
use crate::pg::compute::{self, Meaning};
use crate::pg::jsonb::RawJsonb;
use crate::pg::key_lock::{self, Space};
use crate::pg::query::Presence;
use crate::pg::text::{self, Text};
use crate::pg::{background, ident, names, privilege, query, snapshot};

/// Partitions of perf.cache_entry.
pub const PARTS: usize = 8;
const TABLES: [&CStr; PARTS] = [
    c"cache_entry_0",
    c"cache_entry_1",
    c"cache_entry_2",
    c"cache_entry_3",
    c"cache_entry_4",
    c"cache_entry_5",
    c"cache_entry_6",
    c"cache_entry_7",
];
const INDEXES: [&CStr; PARTS] = [
    c"cache_entry_0_pkey",
    c"cache_entry_1_pkey",
    c"cache_entry_2_pkey",
    c"cache_entry_3_pkey",
    c"cache_entry_4_pkey",
    c"cache_entry_5_pkey",
    c"cache_entry_6_pkey",
    c"cache_entry_7_pkey",
];
/// Longest key and tag, in bytes, and most tags of an entry.
const KEY_MAX: usize = 1_024;
const TAGS_MAX: usize = 32;
/// Ten years.
const TTL_MAX_US: i64 = 3_652 * 86_400 * 1_000_000;

/// Whose entry it is, and its name.
pub struct Key {
    /// The role of the namespace.
    pub owner: u32,
    /// As it was given.
    pub text: String,
    /// Hash of both.
    pub id: i64,
}

impl Key {
    /// A key of the caller's namespace.
    pub fn of(text: String) -> Result<Key, Error> {
        let accepted = || format!("Text of 1 to {KEY_MAX} bytes without braces.");
        if text.is_empty() || text.len() > KEY_MAX {
            let value = if text.is_empty() { "\"\"".to_owned() } else { format!("text of {} bytes", text.len()) };
            return Err(Error::InvalidArgument { argument: "key", value, accepted: accepted() });
        }
        if text.contains(['{', '}']) {
            let accepted = "A brace belongs to a template: put a value in the place of each placeholder.".to_owned();
            return Err(Error::InvalidArgument { argument: "key", value: format!("\"{text}\""), accepted });
        }
        check_whole("key", &text)?;
        let owner = namespace()?;
        let id = core_marks::of_key(owner, &text);
        Ok(Key { owner, text, id })
    }

    fn part(&self) -> usize {
        self.id as u64 as usize % PARTS
    }
}

/// The role whose entries are read and written: the current one, or that of perf_opt.cache_role.
pub fn namespace() -> Result<u32, Error> {
    let chosen = guc::cache_role();
    if chosen.is_empty() {
        return Ok(privilege::current_role().to_u32());
    }
    let name = ident::until_nul(&chosen);
    // SAFETY: a look-up by a NUL-terminated name.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    if role == pg_sys::InvalidOid {
        return Err(Error::UndefinedObject {
            message: format!("role \"{chosen}\" of perf_opt.cache_role does not exist"),
            hint: "Set it to a role whose entries are to be shared, or to nothing.".to_owned(),
        });
    }
    if !privilege::has_rights_of(role) {
        return Err(Error::Denied {
            message: format!("permission denied for the cache of role \"{chosen}\""),
            hint: "perf_opt.cache_role names a role that the current one is a member of, with its rights.".to_owned(),
        });
    }
    Ok(role.to_u32())
}

/// An entry that is there.
pub struct Stored {
    /// Its value, a copy.
    pub value: RawJsonb,
    /// Under which name it is counted.
    pub policy: String,
    /// It may be served as it is.
    pub is_fresh: bool,
    /// It is too old, and may be served while somebody computes another.
    pub is_tolerable: bool,
}

/// What is stored under a key now, if it is fresh, or if stale values are wanted as well. An entry that has expired is
/// counted. What perf_opt has computed is only for those who mean the same: by the statement, if they have one, else by what
/// names stand for in the session.
pub fn look(key: &Key, meaning: Option<Meaning>, wants_stale: bool) -> Option<Stored> {
    if background::in_recovery() {
        return None;
    }
    let part = key.part();
    query::under_latest_snapshot(|| {
        query::row_by_key(TABLES[part], INDEXES[part], key.id, |row| {
            // Columns: id, owner, key, value, tags, depends, seen_below, not_seen, policy, value_bytes, put_at, expires_at,
            // keep_for, part, meaning, surroundings.
            let owner = row.get::<pg_sys::Oid>(2)?.to_u32();
            if owner != key.owner || row.string(3) != key.text {
                return None;
            }
            let is_meant = match (row.get::<i64>(15)?, meaning) {
                (0, _) => true,
                (stored, Some(asked)) => stored == asked.statement,
                (_, None) => row.get::<i64>(16)? == compute::surroundings(),
            };
            if !is_meant {
                return None;
            }
            let not_seen = row.get::<Vec<i64>>(8)?.into_iter().map(|xid| xid as u64).collect();
            let computed_with = Snapshot::new(row.get::<i64>(7)? as u64, not_seen);
            let expires_at = row.get::<i64>(12)?;
            let now = background::now();
            let stale_since = match marks::verdict(row.array(6)?, &computed_with) {
                Verdict::Valid if expires_at > now => None,
                Verdict::Valid => Some(expires_at),
                Verdict::Invalid(at) => Some(at.min(expires_at)),
            };
            let policy = row.string(9);
            if expires_at <= now {
                count(&policy, Event::Expired, 1);
            }
            let keep_for = row.get::<pgrx::datum::Interval>(13).map_or(0, |interval| interval.as_micros() as i64);
            let is_tolerable = stale_since.is_some_and(|since| now - since <= keep_for && keep_for > 0);
            if stale_since.is_some() && !(wants_stale && is_tolerable) {
                return None;
            }
            let value = row.get::<RawJsonb>(4)?.copied();
            Some(Stored { value, policy, is_fresh: stale_since.is_none(), is_tolerable })
        })
    })
    .flatten()
}

/// Whether another transaction has put the key and is not over.
pub fn is_being_put(key: &Key) -> bool {
    let part = key.part();
    query::presence_by_key(TABLES[part], INDEXES[part], key.id) == Presence::Pending
}

/// The value of a key, if there is one.
pub fn get(key: &Key) -> Option<RawJsonb> {
    let found = look(key, None, false);
    match &found {
        Some(stored) => {
            note_hit(key, &stored.policy);
        }
        None => {
            if cache_stats::is_ready() && !background::in_recovery() {
                count(&policies::counted_as(&key.text), Event::Get, 1);
            }
            lease::give(key.id);
        }
    }
    found.map(|stored| stored.value)
}

/// A value was served.
pub fn note_hit(key: &Key, policy: &str) {
    count(policy, Event::Get, 1);
    count(policy, Event::Hit, 1);
    cache_stats::mark_used(names::current_database(), key.id);
}

/// Counts something under the name of a policy.
pub fn count(policy: &str, event: Event, times: u64) {
    cache_stats::count(names::current_database(), policy, event, times);
}

/// What is to be stored.
pub struct Put {
    /// Under which key.
    pub key: Key,
    /// The value.
    pub value: RawJsonb,
    /// How long it lives; `None`: as its policy says.
    pub ttl_us: Option<i64>,
    /// What it can be invalidated by besides its key.
    pub tags: Vec<String>,
    /// What it was computed with; `None`: by the session's lease.
    pub computed_with: Option<Origin>,
}

/// Where a snapshot comes from.
pub enum Origin {
    /// The caller says so.
    Said(Snapshot),
    /// perf_opt has computed the value, for those who mean the same.
    Known(Snapshot, Meaning),
}

impl Put {
    /// Checks what can be checked before anything is read.
    pub fn check(&self) -> Result<(), Error> {
        let bytes = self.value.bytes();
        let limit = guc::cache_max_value_bytes();
        if bytes > limit {
            return Err(Error::InvalidArgument {
                argument: "value",
                value: format!("{bytes} bytes"),
                accepted: format!("At most {limit} bytes: perf_opt.cache_max_value_bytes."),
            });
        }
        if let Some(ttl_us) = self.ttl_us.filter(|ttl| !(1..=TTL_MAX_US).contains(ttl)) {
            return Err(Error::InvalidArgument {
                argument: "ttl",
                value: format!("{} seconds", ttl_us as f64 / 1e6),
                accepted: "More than 0, at most 10 years.".to_owned(),
            });
        }
        if self.tags.len() > TAGS_MAX {
            return Err(Error::InvalidArgument {
                argument: "tags",
                value: format!("{} tags", self.tags.len()),
                accepted: format!("At most {TAGS_MAX} tags."),
            });
        }
        self.tags.iter().try_for_each(|tag| check_tag("tags", tag))
    }
}

/// Checks a tag.
pub fn check_tag(argument: &'static str, tag: &str) -> Result<(), Error> {
    if tag.is_empty() || tag.len() > KEY_MAX || tag.contains(['{', '}']) {
        let value = if tag.len() > KEY_MAX { format!("text of {} bytes", tag.len()) } else { format!("\"{tag}\"") };
        let accepted = format!("Text of 1 to {KEY_MAX} bytes without braces.");
        return Err(Error::InvalidArgument { argument, value, accepted });
    }
    check_whole(argument, tag)
}

/// Two texts of which not all could be read must not be one key.
fn check_whole(argument: &'static str, text: &str) -> Result<(), Error> {
    if text::is_whole(text) {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        argument,
        value: "text whose bytes mean no characters".to_owned(),
        accepted: "Text that can be converted to UTF-8; in a database with encoding SQL_ASCII, UTF-8 itself."
            .to_owned(),
    })
}

/// Says why nothing can be written here.
pub fn check_writable(function: &str) -> Result<(), Error> {
    if background::in_recovery() {
        return Err(Error::ReadOnly {
            message: format!("cannot execute {function}() on a standby"),
            hint: "The cache is kept on the primary; here perf.cache_get() finds nothing.".to_owned(),
        });
    }
    // SAFETY: a plain read of a process global.
    if unsafe { pg_sys::XactReadOnly } {
        return Err(Error::ReadOnly {
            message: format!("cannot execute {function}() in a read-only transaction"),
            hint: "perf.cache_get() and perf.cached() work there; what they do not find is not stored.".to_owned(),
        });
    }
    Ok(())
}

/// Stores a value; false when it was refused: it may be out of date, or the cache is full, or somebody else is at it.
pub fn put(put: Put) -> Result<bool, Error> {
    let known = policies::read()?;
    let policy = policies::of_key(&known, &put.key.text);
    let name = policy.map_or(OTHER, |policy| &policy.name);
    let stored = privilege::as_owner(c"cache_entry", || {
        store(&put, policy.map(|policy| (policy.ttl_us, policy.max_stale_us)), name)
    })?;
    count(name, if stored { Event::Put } else { Event::Refused }, 1);
    Ok(stored)
}

fn store(put: &Put, policy: Option<(i64, i64)>, name: &str) -> Result<bool, Error> {
    let Put { key, .. } = put;
    // With a number of its own from here on: whoever forgets marks waits for the end of transactions that may have missed one.
    snapshot::assigned();
    let said = matches!(put.computed_with, Some(Origin::Said(_)));
    let computed_with = match &put.computed_with {
        Some(Origin::Said(snapshot) | Origin::Known(snapshot, _)) => snapshot.clone().without(snapshot::own()),
        None => {
            let Some(Lease { snapshot, .. }) = lease::take(key.id) else { return Ok(false) };
            snapshot.without(snapshot::own())
        }
    };
    if said {
        let newest = snapshot::latest().seen_below;
        if computed_with.seen_below > newest {
            return Err(Error::InvalidArgument {
                argument: "snapshot",
                value: computed_with.to_string(),
                accepted: format!(
                    "A snapshot of this server, taken before: transactions from {newest} on are yet to come."
                ),
            });
        }
    }
    let depends = core_marks::of_entry(key.owner, &key.text, put.tags.iter().map(String::as_str));
    let mut looked_at = depends.clone();
    looked_at.push(marks::FLOOR);
    let is_valid = query::under_latest_snapshot(|| {
        if said && !marks::has_floor() {
            // After a crash nobody knows what a snapshot from before it has missed.
            marks::raise_floor();
            return false;
        }
        query::Array::of(looked_at).is_some_and(|marks| marks::verdict(marks, &computed_with) == Verdict::Valid)
    });
    // The lock comes last: a put that is refused for something else is in nobody's way.
    if !is_valid || !tidy::has_room(key.part()) || !key_lock::try_take(Space::Put, key.id as u64) {
        return Ok(false);
    }
    let stored = write(put, policy, name, &computed_with, depends);
    key_lock::release(Space::Put, key.id as u64);
    Ok(stored)
}

/// Writes an entry; false where somebody else is at it.
fn write(put: &Put, policy: Option<(i64, i64)>, name: &str, computed_with: &Snapshot, depends: Vec<i64>) -> bool {
    let Put { key, .. } = put;
    let (ttl_us, keep_us) = policy.unwrap_or((guc::cache_default_ttl_s().saturating_mul(1_000_000), 0));
    let now = background::now();
    let expires_at = now.saturating_add(put.ttl_us.unwrap_or(ttl_us).clamp(1, TTL_MAX_US));
    let (meaning, surroundings) = match &put.computed_with {
        Some(Origin::Known(_, meaning)) => (meaning.statement, meaning.surroundings),
        _ => (0, 0),
    };
    let arguments = [
        key.id.into(),
        pg_sys::Oid::from(key.owner).into(),
        query::text(&key.text),
        put.value.into(),
        put.tags.iter().map(|tag| Text(tag.clone())).collect::<Vec<_>>().into(),
        depends.into(),
        (computed_with.seen_below as i64).into(),
        computed_with.not_seen.iter().map(|xid| *xid as i64).collect::<Vec<_>>().into(),
        query::text(name),
        i32::try_from(put.value.bytes()).unwrap_or(i32::MAX).into(),
        instant(now).into(),
        instant(expires_at).into(),
        keep_us.into(),
        meaning.into(),
        surroundings.into(),
    ];
    let part = key.part();
    let (updated, _) = query::run_on_part(
        "UPDATE perf.cache_entry_{part}
         SET owner = $2, key = $3, value = $4, tags = $5, depends = $6, seen_below = $7, not_seen = $8, policy = $9,
             value_bytes = $10, put_at = $11, expires_at = $12, keep_for = $13 * interval '1 microsecond',
             meaning = $14, surroundings = $15
         WHERE id = (SELECT e.id FROM perf.cache_entry_{part} AS e WHERE e.id = $1 FOR UPDATE SKIP LOCKED)",
        part,
        &arguments,
        |_| (),
    );
    if updated > 0 {
        return true;
    }
    // A row that is there is locked, or not committed: its index would have us wait.
    if query::presence_by_key(TABLES[part], INDEXES[part], key.id) != Presence::None {
        return false;
    }
    query::run_on_part(
        "INSERT INTO perf.cache_entry_{part} (id, owner, key, value, tags, depends, seen_below, not_seen, policy, value_bytes,
                                              put_at, expires_at, keep_for, part, meaning, surroundings)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13 * interval '1 microsecond', {part}, $14, $15)",
        part,
        &arguments,
        |_| (),
    );
    true
}

fn instant(at: i64) -> TimestampWithTimeZone {
    background::instant(at)
}
