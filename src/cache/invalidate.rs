//! cache_invalidate(): what a user says is out of date. Reaches the namespaces of the roles that the caller has the rights of.
//! Writes marks and removes entries as the tables' owner; waits for nobody.

use perf_core::cache::invalid::{Invalid, Values};
use perf_core::cache::marks::EVERYBODY;
use perf_core::cache::template::Template;

use super::policies::{self, Policy};
use super::{marks, statistics};
use crate::collect::registry;
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::query::run_with;

/// What is invalid.
pub struct Request {
    invalid: Invalid,
    /// Made of the templates of policies and watches.
    is_defined: bool,
}

/// A watch: its event, and its own templates of keys and of tags.
struct Watch {
    event: String,
    keys: Vec<Template>,
    tags: Vec<Template>,
}

fn watches() -> Result<Vec<Watch>, Error> {
    // No key or tag is made of what is no template.
    let parsed = |texts: Option<Vec<String>>| {
        texts.unwrap_or_default().iter().filter_map(|text| Template::parse(text).ok()).collect()
    };
    privilege::as_owner(c"cache_watch_table", || {
        Ok(run_with(c"SELECT event, keys, tags FROM perf.cache_watch_table ORDER BY event", &[], |row| Watch {
            event: row.string(1),
            keys: parsed(row.get(2)),
            tags: parsed(row.get(3)),
        })
        .1)
    })
}

impl Request {
    /// One key.
    pub fn by_key(key: String) -> Request {
        Request { invalid: Invalid { keys: [key].into(), ..Invalid::default() }, is_defined: false }
    }

    /// Everything with a tag.
    pub fn by_tag(tag: String) -> Request {
        Request { invalid: Invalid { tags: [tag].into(), ..Invalid::default() }, is_defined: false }
    }

    /// Everything that an event makes invalid, whatever the row that changed.
    pub fn by_event(event: &str) -> Result<Request, Error> {
        let known = policies::read()?;
        let watches = watches()?;
        let policies: Vec<&Policy> =
            known.iter().filter(|policy| policy.invalidated_by.iter().any(|one| one == event)).collect();
        let watched: Vec<&Watch> = watches.iter().filter(|watch| watch.event == event).collect();
        if policies.is_empty() && watched.is_empty() {
            return Err(unknown_event(event, &known, watches.iter().map(|watch| watch.event.as_str())));
        }
        let mut invalid = Invalid::default();
        let any_row = Values { columns: &[], rows: None };
        let keys: Vec<Template> = policies.into_iter().filter_map(|policy| policy.template.clone()).collect();
        invalid.add(&keys, &[], any_row);
        // An entry can have the event itself as a tag.
        invalid.tags.insert(event.to_owned());
        watched.iter().for_each(|watch| invalid.add(&watch.keys, &watch.tags, any_row));
        Ok(Request { invalid, is_defined: true })
    }

    /// Whether Redis and listeners are to hear of it. What is there belongs to no role: of one key or tag that no template
    /// makes, only the database's owner may have them told.
    fn concerns_others(&self) -> Result<bool, Error> {
        if self.is_defined || owns_database() {
            return Ok(true);
        }
        let known = policies::read()?;
        let watches = watches()?;
        let is_key = |key: &String| {
            known.iter().any(|policy| policy.template.as_ref().is_some_and(|one| one.matches(key)))
                || watches.iter().flat_map(|watch| &watch.keys).any(|template| template.matches(key))
        };
        let is_tag = |tag: &String| {
            watches.iter().any(|watch| watch.event == *tag)
                || known.iter().any(|policy| policy.invalidated_by.contains(tag))
                || watches.iter().flat_map(|watch| &watch.tags).any(|template| template.matches(tag))
        };
        Ok(self.invalid.keys.iter().all(is_key) && self.invalid.tags.iter().all(is_tag))
    }

    /// Makes it invalid for the caller's namespaces. How many entries that were there are gone.
    pub fn apply(&self) -> Result<u64, Error> {
        registry::note_invalidation_asked();
        let all: Vec<i64> = owners().into_iter().flat_map(|owner| self.invalid.marks(owner)).collect();
        let removed = privilege::as_owner(c"cache_entry", || {
            marks::mark_invalid_by_user(&all);
            let (removed, _) = run_with(
                c"DELETE FROM perf.cache_entry WHERE (part, id) IN
                      (SELECT e.part, e.id FROM perf.cache_entry AS e WHERE e.depends && $1 FOR UPDATE SKIP LOCKED)",
                &[all.clone().into()],
                |_| (),
            );
            Ok(removed)
        })?;
        if self.concerns_others()? {
            super::outbox::tell(&self.invalid);
        }
        statistics::note_invalidations(&self.invalid);
        Ok(removed)
    }
}

fn owns_database() -> bool {
    let owns = privilege::with_own_path(|| {
        run_with(
            c"SELECT pg_catalog.pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database
               WHERE datname = pg_catalog.current_database()",
            &[],
            |row| row.get::<bool>(1).unwrap_or(false),
        )
    });
    owns.1.contains(&true)
}

/// The namespaces that the caller may change.
fn owners() -> Vec<u32> {
    if privilege::is_superuser(privilege::current_role()) {
        return vec![EVERYBODY];
    }
    privilege::with_own_path(|| {
        run_with(c"SELECT oid FROM pg_catalog.pg_roles WHERE pg_catalog.pg_has_role(oid, 'USAGE')", &[], |row| {
            row.get::<pgrx::pg_sys::Oid>(1).map_or(EVERYBODY, |oid| oid.to_u32())
        })
        .1
    })
    .into_iter()
    .filter(|owner| *owner != EVERYBODY)
    .collect()
}

fn unknown_event<'a>(event: &str, known: &'a [Policy], watched: impl Iterator<Item = &'a str>) -> Error {
    let mut events: Vec<&str> =
        known.iter().flat_map(|policy| policy.invalidated_by.iter().map(String::as_str)).chain(watched).collect();
    events.sort_unstable();
    events.dedup();
    let hint = match events.as_slice() {
        [] => "No policy in perf.cache_policy and no watch names an event.".to_owned(),
        events => format!("There are {}.", events.join(", ")),
    };
    Error::UndefinedObject { message: format!("event \"{event}\" does not exist"), hint }
}
