//! Watches: which statements on which relations invalidate what. Called by the functions that define them, in the user's
//! transaction and with the user's rights on the relation, and by the invalidator, for partitions that have come since. Locks
//! the relation as CREATE TRIGGER and DROP TRIGGER do.

use std::ffi::CStr;

use perf_core::cache::template::{Fault, Template};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use super::outbox::texts;
use crate::act::define::check_preloaded;
use crate::collect::registry;
use crate::error::Error;
use crate::pg::query::{run_with, text, Row};
use crate::pg::text::{Document, Text};
use crate::pg::{background, ddl, depend, ident, privilege};

const WATCHES: &CStr = c"cache_watch_table";
const OPERATIONS: [&str; 3] = ["insert", "update", "delete"];
/// Fires for every watch: rows that are all gone at once leave none to be looked at.
const TRUNCATE: &str = "truncate";
const EVENT_BYTES_MAX: usize = 200;
const TEMPLATE_BYTES_MAX: usize = 1_000;
const TEMPLATES_MAX: usize = 100;

/// What a user asks for.
pub struct Request {
    pub event: String,
    pub relation: pg_sys::Oid,
    pub operations: Vec<String>,
    pub keys: Option<Vec<String>>,
    pub tags: Option<Vec<String>>,
}

fn invalid(argument: &'static str, value: &str, accepted: &str) -> Error {
    let shown: String = value.chars().take(100).collect();
    Error::InvalidArgument { argument, value: format!("\"{shown}\""), accepted: accepted.to_owned() }
}

fn describe(fault: Fault) -> String {
    match fault {
        Fault::Empty => "it is empty".to_owned(),
        Fault::Unclosed(at) => format!("the brace at byte {at} has no closing one"),
        Fault::Unopened(at) => format!("the brace at byte {at} has no opening one"),
        Fault::NoName(at) => format!("there is no name in the braces at byte {at}"),
    }
}

/// Rows of a query that sees what this transaction has done up to now.
fn rows<T>(query: &'static CStr, arguments: &[DatumWithOid], convert: impl Fn(&Row) -> Option<T>) -> Vec<T> {
    run_with(query, arguments, convert).1.into_iter().flatten().collect()
}

/// Refuses what cannot be watched. The relation's name.
fn check_relation(relation: pg_sys::Oid) -> Result<String, Error> {
    let found = rows(
        c"SELECT c.relkind::pg_catalog.text, c.relpersistence::pg_catalog.text,
                 n.nspname = 'perf' OR c.oid < 16384 OR n.nspname IN ('pg_catalog', 'pg_toast', 'information_schema'),
                 perf._cache_watch_has_foreign(c.oid)
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[relation.into()],
        |row| Some((row.string(1), row.string(2), row.get::<bool>(3)?, row.get::<bool>(4)?)),
    );
    let (Some((kind, persistence, is_system, has_foreign)), Some(name)) =
        (found.into_iter().next(), ident::relation(relation))
    else {
        return Err(Error::UndefinedObject {
            message: format!("relation with OID {} does not exist", relation.to_u32()),
            hint: "Name a table of this database.".to_owned(),
        });
    };
    let what = match (kind.as_str(), persistence.as_str()) {
        _ if is_system => "it belongs to the system or to perf_opt",
        (_, "t") => "it is temporary, and caches are for all sessions",
        ("v", _) => "it is a view: watch the tables that it reads",
        ("m", _) => "it is a materialized view: it changes with REFRESH only, which fires no triggers",
        ("f", _) => "it is a foreign table, whose changes this server does not see",
        _ if has_foreign => "it has a foreign partition or child, whose changed rows the server shows no trigger",
        ("r" | "p", _) => return Ok(name),
        _ => "it is not a table",
    };
    Err(Error::Unsupported {
        message: format!("cannot watch {name}: {what}"),
        hint: "Tables can be watched, partitioned or not, logged or not.".to_owned(),
    })
}

impl Request {
    fn check(&self) -> Result<(), Error> {
        check_preloaded()?;
        background::refuse_in_recovery(c"perf.cache_watch()");
        if self.event.trim().is_empty() || self.event.len() > EVENT_BYTES_MAX {
            return Err(invalid("event", &self.event, "A name of 1 to 200 bytes, such as transaction_created."));
        }
        if let Some(other) = self.operations.iter().find(|one| !OPERATIONS.contains(&one.as_str())) {
            return Err(invalid("operations", other, "Any of insert, update, delete."));
        }
        if self.operations.is_empty() {
            return Err(invalid("operations", "{}", "Any of insert, update, delete."));
        }
        let is_empty = |templates: &Option<Vec<String>>| templates.as_ref().is_some_and(Vec::is_empty);
        if is_empty(&self.keys) && is_empty(&self.tags) {
            return Err(invalid(
                "keys",
                "{}",
                "At least one template of keys or tags, or NULL for those of the policies.",
            ));
        }
        let name = query_own(|| check_relation(self.relation))?;
        for (argument, templates, end) in [("keys", &self.keys, ":"), ("tags", &self.tags, "")] {
            let Some(templates) = templates else { continue };
            if templates.len() > TEMPLATES_MAX {
                return Err(invalid(argument, &format!("{} templates", templates.len()), "At most 100 templates."));
            }
            for template in templates {
                self.check_template(argument, template, end, &name)?;
            }
        }
        Ok(())
    }

    fn check_template(&self, argument: &'static str, text: &str, end: &str, name: &str) -> Result<(), Error> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(invalid(argument, text, "Templates of at most 1,000 bytes."));
        }
        let parsed = Template::parse(text).map_err(|fault| {
            let accepted = "A template such as cache:risk:user:{user_id}, whose placeholders are columns in braces";
            invalid(argument, text, &format!("{accepted}; here {}.", describe(fault)))
        })?;
        let mut placeholders = parsed.placeholders().peekable();
        if placeholders.peek().is_some() && (parsed.literal().is_empty() || !parsed.literal().contains(end)) {
            return Err(invalid(
                argument,
                text,
                "A template that begins with a text of its own (of keys: with a colon in it) before its first \
                 placeholder: what begins like it is invalidated where placeholders have no value.",
            ));
        }
        let columns = query_own(|| {
            Ok(rows(
                c"SELECT attname::pg_catalog.text FROM pg_catalog.pg_attribute
                  WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
                &[self.relation.into()],
                |row| Some(row.string(1)),
            ))
        })?;
        match placeholders.find(|placeholder| !columns.iter().any(|column| column == placeholder)) {
            None => Ok(()),
            Some(unknown) => Err(Error::UndefinedColumn {
                message: format!("placeholder \"{unknown}\" of template \"{text}\" is no column of {name}"),
                hint: "Placeholders are filled from columns of the changed rows.".to_owned(),
            }),
        }
    }

    /// Stores the watch and makes its triggers. Its number.
    pub fn store(&self) -> Result<i64, Error> {
        self.check()?;
        let role = privilege::current_role();
        // As whoever asks: who may not create triggers here fails now, and writers are kept away until the commit, so that
        // none of them misses the watch.
        create_trigger(self.relation, TRUNCATE, false)?;
        check_rights(&self.event, self.relation)?;
        let list = |texts: &[String]| texts.iter().map(|text| Some(Text(text.clone()))).collect::<Vec<_>>();
        let arguments: [DatumWithOid; 6] = [
            text(&self.event),
            self.relation.into(),
            list(&self.operations).into(),
            self.keys.as_deref().map(list).into(),
            self.tags.as_deref().map(list).into(),
            role.into(),
        ];
        let stored = privilege::as_owner(WATCHES, || {
            Ok(run_with(
                c"INSERT INTO perf.cache_watch_table AS w (event, relation, relation_name, operations, keys, tags, owner, owner_name)
                  VALUES ($1, $2, $2::pg_catalog.regclass::pg_catalog.text, $3, $4, $5, $6, pg_catalog.pg_get_userbyid($6))
                  ON CONFLICT (event, relation) WHERE relation <> 0 DO UPDATE
                     SET operations = excluded.operations, keys = excluded.keys, tags = excluded.tags
                  RETURNING watch_id",
                &arguments,
                |row| row.get::<i64>(1),
            ))
        })?;
        registry::note_watch_change();
        arrange_all(self.relation)?;
        Ok(stored.1.into_iter().flatten().next().unwrap_or_default())
    }
}

/// Ends a watch. False when there is none.
pub fn remove(event: &str, relation: pg_sys::Oid) -> Result<bool, Error> {
    background::refuse_in_recovery(c"perf.cache_unwatch()");
    if check_rights(event, relation)?.is_none() {
        // Triggers of a watch that is gone, or of what the relation was a part of.
        if owns(relation) {
            arrange_all(relation)?;
        }
        return Ok(false);
    }
    privilege::as_owner(WATCHES, || {
        run_with(
            c"DELETE FROM perf.cache_watch_table WHERE event = $1 AND relation = $2",
            &[text(event), relation.into()],
            |_| (),
        );
        Ok(())
    })?;
    registry::note_watch_change();
    arrange_all(relation)?;
    Ok(true)
}

/// The triggers of a relation, its partitions and its children.
fn arrange_all(relation: pg_sys::Oid) -> Result<(), Error> {
    with_children(relation)?.into_iter().try_for_each(arrange_triggers)
}

/// The number of a watch; refuses whoever neither made it nor has the rights of the relation's owner.
fn check_rights(event: &str, relation: pg_sys::Oid) -> Result<Option<i64>, Error> {
    let found = privilege::as_owner(WATCHES, || {
        Ok(rows(
            c"SELECT watch_id, owner FROM perf.cache_watch_table WHERE event = $1 AND relation = $2",
            &[text(event), relation.into()],
            |row| Some((row.get::<i64>(1)?, row.get::<pg_sys::Oid>(2)?)),
        ))
    })?;
    match found.first() {
        None => Ok(None),
        Some((id, owner)) if privilege::has_rights_of(*owner) || owns(relation) => Ok(Some(*id)),
        Some(_) => Err(Error::Denied {
            message: format!("the watch of this relation for event \"{event}\" was made by somebody else"),
            hint: "Whoever made it may change it, and the relation's owner.".to_owned(),
        }),
    }
}

fn owns(relation: pg_sys::Oid) -> bool {
    let owner = privilege::relation_owner(relation);
    owner != pg_sys::InvalidOid && privilege::has_rights_of(owner)
}

/// Looks into catalogs, whatever the caller's search_path is.
fn query_own<T>(body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    privilege::with_own_path(body)
}

/// A relation, its partitions and its children, as far as they can have triggers.
fn with_children(relation: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>, Error> {
    query_own(|| {
        Ok(rows(
            c"WITH RECURSIVE down (relation) AS (
                  SELECT $1
                  UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN down ON i.inhparent = down.relation)
              SELECT c.oid FROM down JOIN pg_catalog.pg_class AS c ON c.oid = down.relation
              WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' ORDER BY c.oid",
            &[relation.into()],
            |row| row.get::<pg_sys::Oid>(1),
        ))
    })
}

/// Makes the triggers that the watches of a relation and of its parents need, and removes those that none needs, as the
/// relation's owner: that somebody wants them was checked.
pub fn arrange_triggers(relation: pg_sys::Oid) -> Result<(), Error> {
    let needed = privilege::as_owner(WATCHES, || {
        Ok(rows(
            c"WITH RECURSIVE up (relation) AS (
                  SELECT $1
                  UNION SELECT i.inhparent FROM pg_catalog.pg_inherits AS i JOIN up ON i.inhrelid = up.relation)
              SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                         'operations', w.operations,
                         'rows', perf._cache_watch_fills(w.event, w.keys, w.tags)
                                 AND NOT perf._cache_watch_has_foreign($1))), '[]')
                FROM perf.cache_watch_table AS w JOIN up ON w.relation = up.relation",
            &[relation.into()],
            |row| row.get::<Document>(1),
        ))
    })?;
    let lists = needed.into_iter().next().unwrap_or_default().0;
    let is_watched = lists.as_array().is_some_and(|lists| !lists.is_empty());
    // Whether an operation needs a trigger, and whether that collects the rows.
    let wants = |operation: &str| {
        let lists = lists.as_array().into_iter().flatten();
        let mut of_it =
            lists.filter(|watch| texts(watch.get("operations")).iter().any(|one| one == operation)).peekable();
        (of_it.peek().is_some(), of_it.any(|watch| watch["rows"].as_bool() == Some(true)))
    };
    let existing = query_own(|| {
        Ok(rows(c"SELECT operation, is_on, has_rows FROM perf._cache_watch_triggers($1)", &[relation.into()], |row| {
            Some((row.string(1), row.get::<bool>(2)?, row.get::<bool>(3)?))
        }))
    })?;
    for operation in OPERATIONS.into_iter().chain([TRUNCATE]) {
        let (needed, rows) = if operation == TRUNCATE { (is_watched, false) } else { wants(operation) };
        let found = existing.iter().find(|(name, ..)| name == operation);
        let found = found.map(|(_, is_on, has_rows)| *is_on && *has_rows == rows);
        match (needed, found) {
            (true, Some(true)) | (false, None) => {}
            (true, _) => {
                let owner = privilege::relation_owner(relation);
                privilege::as_role(owner, || create_trigger(relation, operation, rows))?;
            }
            (false, Some(_)) => {
                let Some(name) = ident::relation(relation) else { return Ok(()) };
                let owner = privilege::relation_owner(relation);
                privilege::as_role(owner, || ddl::run(&format!("DROP TRIGGER perf_cache_watch_{operation} ON {name}")));
            }
        }
    }
    Ok(())
}

/// Makes one trigger as the current role, and lets it fire whatever session_replication_role says, which only the owner may.
/// `rows`: it collects those that change.
fn create_trigger(relation: pg_sys::Oid, operation: &str, rows: bool) -> Result<(), Error> {
    let Some(name) = ident::relation(relation) else {
        return Err(Error::UndefinedObject {
            message: format!("relation with OID {} does not exist", relation.to_u32()),
            hint: "It was dropped meanwhile.".to_owned(),
        });
    };
    let transition = match operation {
        _ if !rows => "",
        "insert" => "REFERENCING NEW TABLE AS perf_new ",
        "update" => "REFERENCING OLD TABLE AS perf_old NEW TABLE AS perf_new ",
        "delete" => "REFERENCING OLD TABLE AS perf_old ",
        _ => "",
    };
    let trigger = format!("perf_cache_watch_{operation}");
    ddl::run(&format!(
        "CREATE OR REPLACE TRIGGER {trigger} AFTER {} ON {name} {transition}FOR EACH STATEMENT EXECUTE FUNCTION perf._cache_changed()",
        operation.to_uppercase()
    ));
    let owner = privilege::relation_owner(relation);
    privilege::as_role(owner, || ddl::run(&format!("ALTER TABLE ONLY {name} ENABLE ALWAYS TRIGGER {trigger}")));
    depend::trigger_on_extension(relation, &trigger);
    Ok(())
}

/// Relations whose triggers are not as their watches need them: partitions that have come or gone since, foreign ones among
/// them, and those whose policies have other templates now.
pub fn incomplete() -> Vec<pg_sys::Oid> {
    rows(
        c"WITH RECURSIVE down (relation, operation, fills) AS (
              SELECT w.relation, o.operation, perf._cache_watch_fills(w.event, w.keys, w.tags)
                FROM perf.cache_watch_table AS w, pg_catalog.unnest(w.operations || 'truncate'::pg_catalog.text) AS o (operation)
              UNION SELECT i.inhrelid, down.operation, down.fills
                      FROM pg_catalog.pg_inherits AS i JOIN down ON i.inhparent = down.relation),
          -- Those above a foreign table.
          up (relation) AS (
              SELECT f.oid FROM pg_catalog.pg_class AS f WHERE f.relkind = 'f'
              UNION SELECT i.inhparent FROM pg_catalog.pg_inherits AS i JOIN up ON i.inhrelid = up.relation),
          needed AS (
              SELECT n.relation, n.operation, n.operation <> 'truncate' AND pg_catalog.bool_or(n.fills) AND NOT EXISTS (
                         SELECT FROM up WHERE up.relation = n.relation) AS rows
                FROM down AS n GROUP BY n.relation, n.operation)
          SELECT DISTINCT c.oid FROM needed JOIN pg_catalog.pg_class AS c ON c.oid = needed.relation
           WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t
                              WHERE t.tgrelid = c.oid AND t.tgname = 'perf_cache_watch_' || needed.operation
                                AND (t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL) = needed.rows)
          UNION
          -- What was detached. Where there is no watch at all, they may have been lost, and perf.health() tells of it.
          SELECT t.tgrelid FROM pg_catalog.pg_trigger AS t
           WHERE t.tgfoid = 'perf._cache_changed()'::pg_catalog.regprocedure AND NOT t.tgisinternal
             AND t.tgrelid NOT IN (SELECT down.relation FROM down) AND EXISTS (SELECT FROM perf.cache_watch_table)",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )
}

/// Removes watches whose relation is gone, and takes up those whose relation has come since they were restored.
pub fn follow_relations() {
    let changed = run_with(c"SELECT perf._cache_watch_tend()", &[], |row| row.get::<i64>(1).unwrap_or(0)).1;
    if changed.iter().any(|changed| *changed > 0) {
        registry::note_watch_change();
    }
}
