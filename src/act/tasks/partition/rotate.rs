//! Makes the partitions that a parent needs now and soon, moves rows that have gone to its default partition meanwhile to
//! where they belong, and ends detaches that were interrupted.
//!
//! Called by the look at a parent. A new partition is made like the others, indexes and all, before it is attached, so that
//! the parent is locked in SHARE UPDATE EXCLUSIVE only: readers and writers pass. With a default partition ATTACH locks that
//! one in ACCESS EXCLUSIVE while it makes sure that it holds no row of the range. Where it does hold some, the parent is
//! locked in ACCESS EXCLUSIVE while they are moved: anything less would let a statement that is under way miss them.

use perf_core::partition::{literal, name_nth, Range};
use pgrx::pg_sys;

use super::ground::{self, lock, Ground};
use super::{expire_state, planned, shield, snapshots, Look, Steps};
use crate::act::executor::Failure;
use crate::cache::outbox as cache_outbox;
use crate::partitions::like::{self, NewTable};
use crate::partitions::questions::{incoming_key, is_taken, stored_columns};
use crate::partitions::{Parent, Partition};
use crate::pg::{background, ddl, ident, privilege, query};

/// Names tried for a partition.
const NAMES_MAX: u32 = 100;

/// All of it. Fails when nothing could be read, or when it is cancelled.
pub fn rotate(look: &Look, steps: &mut Steps) -> Result<(), Failure> {
    let (mut parent, mut plan) = look.ground.read(|| planned(look))?;
    if parent.partitions.iter().any(|partition| partition.is_detaching) {
        finalize(look, &parent, steps)?;
        (parent, plan) = look.ground.read(|| planned(look))?;
    }
    let zone = look.settings.zone()?;
    let now = look.settings.ruler(parent.key, &zone).now(look.as_of_us);
    // Rows that come now are in more of a hurry than those that may come some time, and these than gaps in the past.
    let mut wanted = plan.create;
    wanted.sort_by_key(|range| {
        let turn = if range.contains(now) {
            0
        } else if range.lower > now {
            1
        } else {
            2
        };
        (turn, range.lower.saturating_sub(now).saturating_abs())
    });
    shield::lower(look, &parent)?;
    let is_shielded = match shield::raise(look, &parent, &wanted, now) {
        Ok(is_shielded) => is_shielded,
        Err(failure) => return steps.failed(parent.full_name(), "create", failure),
    };
    let created = create_all(look, &parent, wanted, steps);
    if !is_shielded {
        return created;
    }
    // Whatever has ended the work, a cancel among it: rows would be refused until the next run, or for good.
    background::drop_cancel();
    match (created, shield::lower(look, &parent)) {
        (Ok(()), lowered) => lowered,
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(left)) => Err(Failure { hint: left.hint, ..failure }),
    }
}

/// One after the other, until the others would fare no better.
fn create_all(look: &Look, parent: &Parent, wanted: Vec<Range>, steps: &mut Steps) -> Result<(), Failure> {
    for range in wanted {
        if !create(look, parent, range, steps)? {
            break;
        }
    }
    Ok(())
}

/// Ends concurrent detaches that were interrupted: as long as one is pending, there can be no other.
fn finalize(look: &Look, parent: &Parent, steps: &mut Steps) -> Result<(), Failure> {
    for partition in parent.partitions.iter().filter(|partition| partition.is_detaching) {
        let statement =
            format!("ALTER TABLE {} DETACH PARTITION {} FINALIZE", parent.full_name(), partition.full_name());
        let done = look.ground.step(&[parent.oid, partition.oid], || {
            privilege::as_relation_owner(parent.oid, || ddl::run(&statement));
            cache_outbox::write_all(parent.oid);
            Ok(expire_state::note_detach(partition.oid)?)
        });
        match done {
            Ok(()) => steps.done(partition.full_name(), "finalize", "its detach had been interrupted")?,
            Err(failure) if look.caller.is_some() && failure.is_of_a_lock() => {
                let message = format!(
                    "{}; it waits for all older snapshots, that of the statement that waits for this one included: it is \
                     tried again when that has ended",
                    failure.message
                );
                steps.failed(partition.full_name(), "finalize", Failure { message, ..failure })?;
            }
            Err(failure) => steps.failed(partition.full_name(), "finalize", failure)?,
        }
    }
    Ok(())
}

/// What came of a range.
enum Made {
    /// A partition of this name; so many rows were moved into it from the default partition.
    Partition(String, u64),
    /// Somebody else has made one meanwhile.
    Exists,
    /// The default partition holds more rows of it than may be moved while others wait.
    TooMany,
    /// The default partition is a foreign table, and holds rows of it.
    Elsewhere,
}

/// False when the others would fare no better: a lock could not be had.
fn create(look: &Look, parent: &Parent, range: Range, steps: &mut Steps) -> Result<bool, Failure> {
    let mut relations = vec![parent.oid];
    relations.extend(parent.default_partition().map(|partition| partition.oid));
    let span = format!("from {} to {}", literal(parent.key, range.lower), literal(parent.key, range.upper));
    match look.ground.step(&relations, || make(look, range)) {
        Ok(Made::Partition(name, 0)) => steps.done(name, "create", span)?,
        Ok(Made::Partition(name, moved)) => {
            steps.done(name, "create", format!("{span}; {moved} rows moved out of the default partition"))?;
        }
        Ok(Made::Exists) => {}
        Ok(Made::Elsewhere) => {
            let default = parent.default_partition().map_or_else(|| parent.full_name(), Partition::full_name);
            let detail = format!(
                "it is a foreign table that holds rows {span}, which a partition of that range would hide: move them by hand"
            );
            steps.skipped(default, "move_rows", detail)?;
        }
        Ok(Made::TooMany) => {
            let limit = look.settings.max_move_rows;
            let default = parent.default_partition().map_or_else(|| parent.full_name(), Partition::full_name);
            let detail = format!(
                "it holds more than {limit} rows {span}, which would keep others waiting while they are moved; \
                 perf.partition_manage(..., max_move_rows => ...) allows more"
            );
            steps.skipped(default, "move_rows", detail)?;
        }
        Err(failure) => {
            let is_locked = failure.is_of_a_lock();
            steps.failed(parent.full_name(), "create", with_range(failure, &span))?;
            return Ok(!is_locked);
        }
    }
    Ok(true)
}

fn with_range(failure: Failure, span: &str) -> Failure {
    Failure { message: format!("{span}: {}", failure.message), ..failure }
}

/// Makes the partition for a range, inside a (sub)transaction.
fn make(look: &Look, range: Range) -> Result<Made, Failure> {
    // Two managers of one parent take turns, and what is read from here on stays so.
    lock(look.parent, "SHARE UPDATE EXCLUSIVE");
    let parent = Parent::read("parent", look.parent, look.settings.epoch)?;
    if parent.partitions.iter().any(|one| one.range.is_some_and(|other| other.overlaps(&range))) {
        return Ok(Made::Exists);
    }
    let model = parent.newest();
    let schema = model.map_or(&parent.schema, |model| &model.schema);
    let name = free_name(look, &parent, schema, &range)?;
    let bounds = Bounds::of(&parent, &range);
    let held = |default| (default, count(default, &bounds, look.settings.max_move_rows));
    let in_default = parent.default_partition().map(held);
    let full_name = ident::qualified(schema, &name);
    let attach = format!(
        "ALTER TABLE {} ATTACH PARTITION {full_name} FOR VALUES FROM ({}) TO ({})",
        parent.full_name(),
        bounds.lower,
        bounds.upper
    );
    let new = NewTable { schema, name: &name };
    let model = model.map(|model| model.oid);
    let to_move = match in_default {
        // The server does not look into a foreign table when it attaches another partition.
        Some((default, rows)) if rows > 0 && default.relkind == b'f' => return Ok(Made::Elsewhere),
        Some((_, rows)) if rows > look.settings.max_move_rows => return Ok(Made::TooMany),
        Some((default, rows)) if rows > 0 => Some(default),
        _ => None,
    };
    let limit_ms = i64::from(ground::LOCK_WAIT_MS);
    if to_move.is_some() {
        // Before anybody has to wait, and once more when nobody comes to have such a snapshot by reading the table.
        snapshots::give_way(look.caller, limit_ms)?;
        lock(look.parent, "ACCESS EXCLUSIVE");
        snapshots::give_way(look.caller, limit_ms)?;
        if look.ground == Ground::TopLevel {
            // What waits for the end of the transaction would run as somebody else than the owner.
            ddl::run("SET CONSTRAINTS ALL IMMEDIATE");
        }
    }
    // As the table's owner: to build an index, to attach a table or to write rows is to run functions of the table's.
    let (created, moved) = privilege::as_relation_owner_unforced(look.parent, || {
        let created = like::create(parent.oid, model, &new)?;
        let moved = match to_move {
            Some(default) => move_rows(&parent, default, &bounds, created, &full_name, &attach)?,
            None => {
                ddl::run(&attach);
                0
            }
        };
        Ok::<_, Failure>((created, moved))
    })?;
    // What takes rights beyond the owner's: a publication is somebody else's.
    like::finish(parent.oid, model, created);
    if to_move.is_some() {
        snapshots::seal(look.parent, look.caller, limit_ms)?;
    }
    Ok(Made::Partition(full_name, moved))
}

/// A range as SQL.
struct Bounds {
    column: String,
    lower: String,
    upper: String,
}

impl Bounds {
    fn of(parent: &Parent, range: &Range) -> Bounds {
        Bounds {
            column: ident::quote(&parent.column),
            lower: literal(parent.key, range.lower),
            upper: literal(parent.key, range.upper),
        }
    }

    /// The rows of the range: the new one lies between two finite bounds, or reaches as far as the key goes.
    fn condition(&self) -> String {
        let lower = (self.lower != "MINVALUE").then(|| format!("{} >= {}", self.column, self.lower));
        let upper = (self.upper != "MAXVALUE").then(|| format!("{} < {}", self.column, self.upper));
        let known = [Some(format!("{} IS NOT NULL", self.column)), lower, upper];
        known.into_iter().flatten().collect::<Vec<_>>().join(" AND ")
    }
}

/// Rows of a range in the default partition, counted up to one more than `limit`.
fn count(default: &Partition, bounds: &Bounds, limit: i64) -> i64 {
    let statement = format!(
        "SELECT pg_catalog.count(*) FROM (SELECT FROM {} WHERE {} LIMIT {}) AS found",
        default.full_name(),
        bounds.condition(),
        limit.saturating_add(1)
    );
    // As its owner: to plan a query is to run functions of the table's indexes already.
    let count = || privilege::as_relation_owner_unforced(default.oid, || ddl::value::<i64>(&statement));
    privilege::with_own_path(count).unwrap_or(0)
}

/// Moves the rows of a range from the default partition to `created`, and attaches that. The rows pass through another
/// table: a change of a table that is attached already is what subscribers of a publication hear of.
fn move_rows(
    parent: &Parent,
    default: &Partition,
    bounds: &Bounds,
    created: pg_sys::Oid,
    full_name: &str,
    attach: &str,
) -> Result<u64, Failure> {
    if let Some(key) = incoming_key(parent.oid, default.oid) {
        return Err(Failure {
            hint: Some("Move the rows by hand, with the foreign key dropped for that time.".to_owned()),
            ..Failure::new(
                "0A000",
                format!(
                    "{} holds rows of that range, and the foreign key {key} may not let them be moved",
                    default.full_name()
                ),
            )
        });
    }
    privilege::with_own_path(|| {
        let columns = stored_columns(parent.oid).join(", ");
        let source = default.full_name();
        let staging = staging_table(parent, &source)?;
        let triggers = triggers_off(default.oid, &source);
        let moved = ddl::run(&format!(
            "WITH moved AS (DELETE FROM {source} WHERE {} RETURNING {columns})
             INSERT INTO {staging} ({columns}) SELECT {columns} FROM moved",
            bounds.condition()
        ));
        for statement in &triggers {
            ddl::run(statement);
        }
        ddl::run(attach);
        let triggers = triggers_off(created, full_name);
        // In somebody else's name nothing can be left for the end of the transaction.
        let deferred = if privilege::is_restricted() { deferred(created) } else { String::new() };
        if !deferred.is_empty() {
            ddl::run(&format!("SET CONSTRAINTS {deferred} IMMEDIATE"));
        }
        let arrived = ddl::run(&format!(
            "INSERT INTO {full_name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {staging}"
        ));
        if !deferred.is_empty() {
            ddl::run(&format!("SET CONSTRAINTS {deferred} DEFERRED"));
        }
        for statement in &triggers {
            ddl::run(statement);
        }
        ddl::run(&format!("DROP TABLE {staging}"));
        if arrived != moved {
            return Err(Failure::new("XX000", format!("{moved} rows left {source}, and {arrived} arrived")));
        }
        Ok(moved)
    })
}

/// The constraints of a table that are checked at the end of a transaction, as SET CONSTRAINTS takes them.
fn deferred(relation: pg_sys::Oid) -> String {
    let found = query::run_with(
        c"SELECT format('%I.%I', n.nspname, k.conname) FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
           WHERE k.conrelid = $1 AND k.condeferred ORDER BY 1",
        &[relation.into()],
        |row| row.string(1),
    );
    found.1.join(", ")
}

/// Makes a table for rows on their way, which nobody else ever sees; its quoted name.
fn staging_table(parent: &Parent, source: &str) -> Result<String, Failure> {
    let name = (1..=NAMES_MAX).map(|n| format!("perf_opt_moved_{n}")).find(|name| !is_taken(&parent.schema, name));
    let Some(name) = name else {
        return Err(Failure::new("42P07", "all names for a table of rows on their way are taken"));
    };
    let staging = ident::qualified(&parent.schema, &name);
    ddl::run(&format!("CREATE UNLOGGED TABLE {staging} (LIKE {source})"));
    Ok(staging)
}

/// Switches the users' triggers of a partition off: rows that move have not changed. What switches them on again, each as it
/// was.
fn triggers_off(relation: pg_sys::Oid, full_name: &str) -> Vec<String> {
    let found = query::run_with(
        c"SELECT t.tgname::text, t.tgenabled::text FROM pg_trigger t
           WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgenabled <> 'D'",
        &[relation.into()],
        |row| (row.string(1), row.string(2)),
    )
    .1;
    found
        .into_iter()
        .map(|(name, enabled)| {
            let name = ident::quote(&name);
            ddl::run(&format!("ALTER TABLE {full_name} DISABLE TRIGGER {name}"));
            let when = match enabled.as_str() {
                "R" => "REPLICA ",
                "A" => "ALWAYS ",
                _ => "",
            };
            format!("ALTER TABLE {full_name} ENABLE {when}TRIGGER {name}")
        })
        .collect()
}

/// A name for the partition of a range that no relation of the schema has.
fn free_name(look: &Look, parent: &Parent, schema: &str, range: &Range) -> Result<String, Failure> {
    let zone = look.settings.zone()?;
    let ruler = look.settings.ruler(parent.key, &zone);
    for n in 1..=NAMES_MAX {
        let name = name_nth(&parent.name, &ruler, range, n);
        if !is_taken(schema, &name) {
            return Ok(name);
        }
    }
    Err(Failure::new("42P07", format!("{NAMES_MAX} names for a partition of {} are taken", parent.full_name())))
}
