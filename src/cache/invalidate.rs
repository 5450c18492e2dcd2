//! cache_invalidate(): what a user says is out of date. Reaches the namespaces of the roles that the caller has the rights of.
//! Writes marks and removes entries as the tables' owner; waits for nobody.

use perf_core::cache::marks as core_marks;
use perf_core::cache::template::{Filled, Template};

use super::policies::{self, Policy};
use super::{marks, statistics};
use crate::collect::registry;
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::query::run_with;

/// What is invalid.
#[derive(Default)]
pub struct Invalid {
    /// Keys.
    pub keys: Vec<String>,
    /// Beginnings of keys.
    pub beginnings: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Beginnings of tags.
    pub tag_beginnings: Vec<String>,
    /// Made of the templates of policies and watches.
    is_defined: bool,
}

impl Invalid {
    /// Everything that an event makes invalid, whatever the row that changed.
    pub fn by_event(event: &str) -> Result<Invalid, Error> {
        let known = policies::read()?;
        let watches = privilege::as_owner(c"cache_watch_table", || {
            Ok(run_with(c"SELECT event, keys, tags FROM perf.cache_watch_table ORDER BY event", &[], |row| {
                (row.string(1), row.get::<Vec<String>>(2), row.get::<Vec<String>>(3))
            })
            .1)
        })?;
        let has_policy = known.iter().any(|policy| policy.invalidated_by.iter().any(|one| one == event));
        let watched: Vec<_> = watches.iter().filter(|(one, _, _)| one == event).collect();
        if !has_policy && watched.is_empty() {
            return Err(unknown_event(event, &known, watches.iter().map(|(event, _, _)| event.as_str())));
        }
        let mut invalid = Invalid { is_defined: true, ..Invalid::default() };
        for policy in known.iter().filter(|policy| policy.invalidated_by.iter().any(|one| one == event)) {
            invalid.add_template(&policy.key_template);
        }
        // An entry can have the event itself as a tag.
        invalid.tags.push(event.to_owned());
        for (_, keys, tags) in watched {
            keys.iter().flatten().for_each(|template| invalid.add_template(template));
            for tag in tags.iter().flatten() {
                let Ok(template) = Template::parse(tag) else { continue };
                match template.fill(|_| None) {
                    Filled::Key(tag) => invalid.tags.push(tag),
                    Filled::Beginning(_) => invalid.tag_beginnings.push(template.literal().to_owned()),
                }
            }
        }
        Ok(invalid)
    }

    fn add_template(&mut self, template: &str) {
        match Template::parse(template).map(|template| template.fill(|_| None)) {
            Ok(Filled::Key(key)) => self.keys.push(key),
            Ok(Filled::Beginning(beginning)) => self.beginnings.push(beginning),
            // No key is made of what is no template.
            Err(_) => {}
        }
    }

    /// Whether Redis and listeners are to hear of it. What is there belongs to no role: of one key or tag that no template
    /// makes, only the database's owner may have them told.
    fn concerns_others(&self) -> Result<bool, Error> {
        if self.is_defined || owns_database() {
            return Ok(true);
        }
        let known = policies::read()?;
        let lists = |column: usize| {
            privilege::as_owner(c"cache_watch_table", || {
                Ok(run_with(c"SELECT keys, tags, ARRAY[event] FROM perf.cache_watch_table", &[], |row| {
                    row.get::<Vec<String>>(column as i32).unwrap_or_default()
                })
                .1)
            })
        };
        let makes = |template: &String, text: &String| Template::parse(template).is_ok_and(|one| one.matches(text));
        let (keys, tags, events) = (lists(1)?.concat(), lists(2)?.concat(), lists(3)?.concat());
        let is_key = |key: &String| {
            known.iter().any(|policy| policy.template.as_ref().is_some_and(|one| one.matches(key)))
                || keys.iter().any(|template| makes(template, key))
        };
        let is_tag = |tag: &String| {
            events.contains(tag)
                || known.iter().any(|policy| policy.invalidated_by.contains(tag))
                || tags.iter().any(|template| makes(template, tag))
        };
        Ok(self.keys.iter().all(is_key) && self.tags.iter().all(is_tag))
    }

    /// Makes it invalid for the caller's namespaces. How many entries that were there are gone.
    pub fn apply(&self) -> Result<u64, Error> {
        registry::note_invalidation_asked();
        let owners = owners();
        let mut all = Vec::new();
        for owner in owners {
            all.extend(self.keys.iter().map(|key| core_marks::of_key(owner, key)));
            let of_beginning = |beginning: &String| core_marks::of_beginning(owner, core_marks::beginning(beginning));
            all.extend(self.beginnings.iter().map(of_beginning));
            all.extend(self.tags.iter().map(|tag| core_marks::of_tag(owner, tag)));
            if !self.tag_beginnings.is_empty() {
                // Which entries have such a tag is not known.
                all.push(core_marks::of_beginning(owner, ""));
            }
        }
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
            super::outbox::tell(&self.keys, &self.beginnings, &self.tags, &self.tag_beginnings);
        }
        statistics::note_invalidations(self.keys.iter().chain(&self.beginnings).map(String::as_str));
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
        return vec![core_marks::EVERYBODY];
    }
    privilege::with_own_path(|| {
        run_with(c"SELECT oid FROM pg_catalog.pg_roles WHERE pg_catalog.pg_has_role(oid, 'USAGE')", &[], |row| {
            row.get::<pgrx::pg_sys::Oid>(1).map_or(core_marks::EVERYBODY, |oid| oid.to_u32())
        })
        .1
    })
    .into_iter()
    .filter(|owner| *owner != core_marks::EVERYBODY)
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

/// One key.
pub fn by_key(key: String) -> Invalid {
    Invalid { keys: vec![key], ..Invalid::default() }
}

/// Everything with a tag.
pub fn by_tag(tag: String) -> Invalid {
    Invalid { tags: vec![tag], ..Invalid::default() }
}
