//! Lets go of the partitions whose retention is over: they are detached, and then kept, dropped or archived, as the
//! parent's settings say. Always detached first, so that whoever reads the parent never waits for what becomes of its
//! old data.
//!
//! Called by the look at a parent. Without a default partition, and outside of a transaction, a partition is detached
//! CONCURRENTLY: the parent is locked in SHARE UPDATE EXCLUSIVE, readers and writers pass. Else the parent, its default
//! partition and the expired one are locked in ACCESS EXCLUSIVE for the moment of the detach. CONCURRENTLY leaves a
//! CHECK constraint with the former bounds on the table; it is kept, since with it the table can be attached again
//! unread.
//!
//! A detach runs functions of the table's CHECK constraints, and of the tables whose foreign keys refer to it. They are to
//! have no more rights than the table's owner. CONCURRENTLY has transactions of its own, and cannot be run in somebody
//! else's name: where the job is not the owner's, it is used only for partitions that have nothing to run, which the locks
//! that it takes keep so.

use std::ffi::CStr;
use std::time::Instant;

use pgrx::pg_sys;

use super::expire_state::{self, noted, Expired, Found};
use super::ground::{self, Ground};
use super::settings::{ArchiveTo, OnExpire};
use super::{archive, archive_file, planned, tells_time, Look, Steps};
use crate::act::executor::Failure;
use crate::cache::outbox as cache_outbox;
use crate::partitions::{Parent, Partition};
use crate::pg::lock::{self, Exclusive};
use crate::pg::text::Text;
use crate::pg::{ddl, ident, privilege, query};

/// How long a detach CONCURRENTLY waits for those who use the parent: nobody waits behind it but who names the partition
/// itself. When it gives way only FINALIZE is left, which waits for every older snapshot, that of whoever waits for the run too.
const DETACH_WAIT: &CStr = c"2s";
/// SQLSTATE of rows that refer to those of the partition.
const FOREIGN_KEY_VIOLATION: &str = "23503";
/// SQLSTATE of a table that may not be read.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// All of it. Fails when nothing could be read, or when it is cancelled.
pub fn expire(look: &Look, steps: &mut Steps) -> Result<(), Failure> {
    go_on(look, steps)?;
    let (parent, plan) = look.ground.read(|| planned(look))?;
    let ranged: Vec<&Partition> = parent.partitions.iter().filter(|partition| partition.range.is_some()).collect();
    for partition in plan.expire.iter().filter_map(|at| ranged.get(*at)) {
        // One whose detach was begun is ended by the next rotation.
        if partition.is_detaching {
            continue;
        }
        match look.ground.step(&[partition.oid], || Ok(tells_time(&parent, partition))) {
            Ok(true) => let_go(look, &parent, partition, steps)?,
            Ok(false) => {}
            Err(failure) => steps.failed(partition.full_name(), "detach", failure)?,
        }
    }
    Ok(())
}

/// Goes on with what an earlier look has begun.
fn go_on(look: &Look, steps: &mut Steps) -> Result<(), Failure> {
    for expired in look.ground.read(|| Ok(noted(look.parent)?))? {
        match look.ground.read(|| Ok(expired.find()))? {
            Found::Detached if look.ground.read(|| is_kept(look, &expired))? => {
                archive_file::remove_partial(&expired);
                look.ground.step(&[], || Ok(expired.forget()?))?;
                let detail = "it is detached, but within the retention now: it is left";
                steps.skipped(expired.full_name(), step_name(look), detail)?;
            }
            Found::Detached if !expired.detach_begun => {
                look.ground.step(&[], || Ok(expired.forget()?))?;
                let detail = "it was detached after a crash that may have come before its detach: it is left";
                steps.skipped(expired.full_name(), step_name(look), detail)?;
            }
            Found::Detached => finish(look, &expired, steps)?,
            // Its detach had not begun, has not ended, or somebody has attached it again: the plan decides anew.
            Found::Attached => {
                if look.ground.read(|| Ok(!is_detaching(expired.oid)))? {
                    look.ground.step(&[], || Ok(expired.forget()?))?;
                }
            }
            Found::Other => {
                archive_file::remove_partial(&expired);
                look.ground.step(&[], || Ok(expired.forget()?))?;
                let detail = "somebody has dropped, moved or renamed it since it was detached: it is left to them";
                steps.skipped(expired.full_name(), step_name(look), detail)?;
            }
        }
    }
    Ok(())
}

/// Whether the settings of now would keep what was detached by those of then.
fn is_kept(look: &Look, expired: &Expired) -> Result<bool, Failure> {
    let Some(retention) = &look.settings.retention else { return Ok(true) };
    let parent = Parent::read("parent", look.parent, look.settings.epoch)?;
    let zone = look.settings.zone()?;
    Ok(expired.upper > look.settings.ruler(parent.key, &zone).before(look.as_of_us, retention))
}

/// What the last step of an expiry is called.
fn step_name(look: &Look) -> &'static str {
    match look.settings.on_expire {
        OnExpire::Detach => "detach",
        OnExpire::Drop => "drop",
        OnExpire::Archive => "archive",
    }
}

fn is_to_file(look: &Look) -> bool {
    look.settings.on_expire == OnExpire::Archive && look.settings.archive_to == ArchiveTo::File
}

fn let_go(look: &Look, parent: &Parent, partition: &Partition, steps: &mut Steps) -> Result<(), Failure> {
    let name = partition.full_name();
    if is_to_file(look) {
        // Nothing is detached that could not be archived then.
        if partition.relkind == b'f' {
            return steps.skipped(name, "archive", "it is a foreign table, whose data is elsewhere: archive it there");
        }
        if let Some(leaf) = look.ground.read(|| Ok(archive_file::unreadable(partition.oid)))? {
            let detail = format!("{leaf} is a foreign table of somebody else's than the job's owner: archive it there");
            return steps.skipped(name, "archive", detail);
        }
        if look.ground == Ground::Inside {
            let detail =
                "a file cannot be taken back with a transaction: the parent's job writes it, at its next run or \
                          when perf.partition_tick is called outside of a transaction that has changed something";
            return steps.skipped(name, "archive", detail);
        }
        if let Err(failure) = look.ground.read(|| archive_file::directory().map(|_| ())) {
            return steps.failed(name, "archive", failure);
        }
    }
    match detach(look, parent, partition) {
        Ok(Some(expired)) => {
            look.ground.step(&[], || {
                cache_outbox::write_all(look.parent);
                Ok(())
            })?;
            let mut detail = expired.bounds.clone();
            if partition.relkind == b'f' && look.settings.on_expire != OnExpire::Detach {
                detail.push_str("; it is a foreign table, and only detached");
            }
            steps.done(name, "detach", detail)?;
            if partition.relkind == b'f' {
                return look.ground.step(&[], || Ok(expired.forget()?));
            }
            finish(look, &expired, steps)
        }
        Ok(None) => Ok(()),
        Err(failure) => steps.failed(name, "detach", failure),
    }
}

/// What is left to be done about a detached table.
fn finish(look: &Look, expired: &Expired, steps: &mut Steps) -> Result<(), Failure> {
    let step = step_name(look);
    let name = expired.full_name();
    let outcome = match look.settings.on_expire {
        OnExpire::Detach => return look.ground.step(&[], || Ok(expired.forget()?)),
        OnExpire::Drop => drop_table(look, expired),
        OnExpire::Archive if look.settings.archive_to == ArchiveTo::Schema => archive::to_schema(look, expired),
        OnExpire::Archive if look.ground == Ground::Inside => {
            return steps.skipped(name, step, "it is detached; the parent's job writes it to a file");
        }
        OnExpire::Archive => archive_file::to_file(look, expired),
    };
    match outcome {
        Ok(Some(detail)) => steps.done(name, step, detail),
        Ok(None) => Ok(()),
        Err(failure) => steps.failed(name, step, explained(failure)),
    }
}

/// Drops a detached table; what was in the way of others is nobody's any more. `None` when it is somebody else's by
/// now.
fn drop_table(look: &Look, expired: &Expired) -> Result<Option<String>, Failure> {
    look.ground.step(&[expired.oid], || {
        if !lock_detached(expired, "ACCESS EXCLUSIVE")? {
            return Ok(None);
        }
        let bytes = tree_bytes(expired.oid);
        ddl::run(&format!("DROP TABLE {}", expired.full_name()));
        expired.forget()?;
        Ok(Some(format!("{}; {bytes} bytes", expired.bounds)))
    })
}

/// Locks a detached table, with its partitions; false when it is not what was detached any more. Fails when a partition
/// of it is half detached: reading the table leaves it out, and dropping the table takes it along. Inside a transaction.
pub fn lock_detached(expired: &Expired, mode: &str) -> Result<bool, Failure> {
    if expired.find() != Found::Detached {
        return Ok(false);
    }
    ddl::run(&format!("LOCK TABLE {} IN {mode} MODE", expired.full_name()));
    if expired.find() != Found::Detached {
        return Ok(false);
    }
    match half_detached(expired.oid) {
        None => Ok(true),
        Some((parent, partition)) => Err(Failure {
            hint: Some(format!("ALTER TABLE {parent} DETACH PARTITION {partition} FINALIZE ends it.")),
            ..Failure::new(
                "55000",
                format!("the detach of its partition {partition} from {parent} has begun, and not ended: FINALIZE it"),
            )
        }),
    }
}

/// A partition below a table that is detached for new transactions only, after what it is a partition of.
fn half_detached(table: pg_sys::Oid) -> Option<(String, String)> {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"WITH RECURSIVE below AS (
                  SELECT inhparent, inhrelid, inhdetachpending FROM pg_inherits WHERE inhparent = $1
                  UNION ALL SELECT i.inhparent, i.inhrelid, i.inhdetachpending
                              FROM pg_inherits i JOIN below b ON i.inhparent = b.inhrelid)
              SELECT inhparent::regclass::text, inhrelid::regclass::text FROM below WHERE inhdetachpending LIMIT 1",
            &[table.into()],
            |row| (row.string(1), row.string(2)),
        )
    });
    found.1.into_iter().next()
}

/// Bytes of a table with its partitions, indexes and TOAST.
pub fn tree_bytes(relation: pg_sys::Oid) -> i64 {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"SELECT sum(pg_total_relation_size(relid))::int8
                FROM (SELECT relid FROM pg_partition_tree($1) UNION SELECT $1::oid::regclass) t",
            &[relation.into()],
            |row| row.get::<i64>(1),
        )
    });
    found.1.into_iter().flatten().next().unwrap_or(0)
}

// ---- detaching ----

/// Detaches a partition that is to expire still. What is left to be done about it; `None` when it is not to expire any
/// more.
fn detach(look: &Look, parent: &Parent, partition: &Partition) -> Result<Option<Expired>, Failure> {
    let mut relations = vec![parent.oid, partition.oid];
    relations.extend(parent.default_partition().map(|default| default.oid));
    let mut outcome = Ok(Concurrently::NotPossible);
    if look.ground == Ground::TopLevel && parent.default_partition().is_none() {
        outcome = detach_concurrently(look, partition, &relations);
        if !matches!(outcome, Ok(Concurrently::Done(_))) {
            // Its note was written before, and must not make a table ours that somebody else detaches later.
            look.ground.step(&[], || match is_detaching(partition.oid) {
                true => Ok(()),
                false => Ok(expire_state::forget(partition.oid)?),
            })?;
        }
    }
    let outcome = outcome.and_then(|concurrently| match concurrently {
        Concurrently::Done(expired) => Ok(Some(expired)),
        Concurrently::NotToExpire => Ok(None),
        Concurrently::NotPossible => look.ground.step(&relations, || {
            ground::lock(look.parent, "SHARE UPDATE EXCLUSIVE");
            let expired = note(look, partition.oid, true)?;
            if expired.is_some() {
                let detach = statement(look, partition.oid)?;
                privilege::as_relation_owner(look.parent, || ddl::run(&detach));
            }
            Ok(expired)
        }),
    });
    outcome.map_err(|failure| because_of_keys(look, parent, failure))
}

/// What came of a try to detach CONCURRENTLY.
enum Concurrently {
    /// It is detached.
    Done(Expired),
    /// It is not to expire any more.
    NotToExpire,
    /// It would run somebody else's functions with the rights of the job's owner.
    NotPossible,
}

/// Whether to detach a partition runs nobody's functions but the server's and the current role's own. Lasting while both
/// tables are locked in SHARE UPDATE EXCLUSIVE: none of what is asked for can be added to them then.
fn runs_nothing_of_others(parent: pg_sys::Oid, partition: pg_sys::Oid) -> bool {
    let role = privilege::current_role();
    if [parent, partition].iter().all(|table| privilege::relation_owner(*table) == role) {
        return true;
    }
    let found = privilege::with_own_path(|| {
        query::run_with(
            // What is above a parent, or below a partition, has keys and constraints that these locks do not keep. An
            // expression that calls but the server's own functions depends on the columns of its table alone.
            c"SELECT NOT p.relispartition AND c.relkind = 'r'
                     AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid IN (p.oid, c.oid))
                     AND NOT EXISTS (SELECT FROM pg_partitioned_table t WHERE t.partrelid = p.oid AND t.partexprs IS NOT NULL)
                     AND NOT EXISTS (SELECT FROM pg_constraint k
                                       JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
                                      WHERE k.contype = 'c' AND k.conrelid = c.oid AND d.refclassid <> 'pg_class'::regclass)
                     AND NOT EXISTS (SELECT FROM pg_index x
                                       JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
                                      WHERE x.indrelid = c.oid AND (x.indexprs IS NOT NULL OR x.indpred IS NOT NULL)
                                        AND d.refclassid NOT IN ('pg_class'::regclass, 'pg_constraint'::regclass))
                FROM pg_class p, pg_class c WHERE p.oid = $1 AND c.oid = $2",
            &[parent.into(), partition.into()],
            |row| row.get::<bool>(1).unwrap_or(false),
        )
    });
    found.1 == [true]
}

/// What detaches a partition, by the names that both have now.
fn statement(look: &Look, partition: pg_sys::Oid) -> Result<String, Failure> {
    match (ident::relation(look.parent), ident::relation(partition)) {
        (Some(parent), Some(partition)) => Ok(format!("ALTER TABLE {parent} DETACH PARTITION {partition}")),
        _ => Err(Failure::new("42P01", "the parent or its partition is gone")),
    }
}

/// The same at top level, with everybody passing. The locks that are taken to look what is to be detached are kept until
/// the detach has them, so that nobody attaches anything else under that name in between, nor adds what it would run.
fn detach_concurrently(look: &Look, partition: &Partition, relations: &[pg_sys::Oid]) -> Result<Concurrently, Failure> {
    let started = Instant::now();
    let tables = [look.parent, partition.oid];
    loop {
        let noted = look.ground.step(relations, || {
            ground::lock(look.parent, "SHARE UPDATE EXCLUSIVE");
            lock::take(partition.oid, Exclusive::ShareUpdate);
            let Some(expired) = note(look, partition.oid, false)? else { return Ok(Err(Concurrently::NotToExpire)) };
            if !runs_nothing_of_others(look.parent, partition.oid) {
                expired.forget()?;
                return Ok(Err(Concurrently::NotPossible));
            }
            let detach = statement(look, partition.oid)?;
            for table in tables {
                lock::hold_share_update(table);
            }
            Ok(Ok((expired, detach)))
        })?;
        let (expired, detach) = match noted {
            Ok(noted) => noted,
            Err(otherwise) => return Ok(otherwise),
        };
        // When it fails, the abort gives back the held locks too.
        let failure = match ground::at_once(&format!("{detach} CONCURRENTLY"), DETACH_WAIT) {
            Ok(()) => {
                look.ground.read(|| {
                    for table in tables {
                        lock::release_share_update(table);
                    }
                    Ok(())
                })?;
                look.ground.step(&[], || Ok(expire_state::note_detach(partition.oid)?))?;
                return Ok(Concurrently::Done(expired));
            }
            Err(failure) => failure,
        };
        if !failure.is_of_a_lock() {
            return Err(failure);
        }
        if look.ground.read(|| Ok(is_detaching(partition.oid)))? {
            // It is invisible already, and waits for those who may still use it.
            return look.ground.step(relations, || {
                if is_detaching(partition.oid) {
                    let finalize = format!("{} FINALIZE", statement(look, partition.oid)?);
                    privilege::as_relation_owner(look.parent, || ddl::run(&finalize));
                }
                expire_state::note_detach(partition.oid)?;
                Ok(Concurrently::Done(expired.clone()))
            });
        }
        look.ground.rest(started, failure, || look.ground.read(|| Ok(ground::holders(relations))))?;
    }
}

/// Looks once more, with the parent locked, whether a partition is to expire, and remembers it; `is_at_once`: it is detached
/// in the same transaction.
fn note(look: &Look, partition: pg_sys::Oid, is_at_once: bool) -> Result<Option<Expired>, Failure> {
    let (parent, plan) = planned(look)?;
    let ranged: Vec<&Partition> = parent.partitions.iter().filter(|one| one.range.is_some()).collect();
    let found =
        plan.expire.iter().filter_map(|at| ranged.get(*at)).find(|one| one.oid == partition && !one.is_detaching);
    let Some(found) = found.filter(|one| tells_time(&parent, one)) else { return Ok(None) };
    let mut expired = Expired::of(&parent, found);
    expired.detach_begun = is_at_once;
    expired.note(look.parent)?;
    Ok(Some(expired))
}

fn is_detaching(partition: pg_sys::Oid) -> bool {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"SELECT FROM pg_inherits WHERE inhrelid = $1 AND inhdetachpending",
            &[partition.into()],
            |_| (),
        )
    });
    found.0 > 0
}

/// The server says that a foreign key stands in the way; where it is, and what can be done about it, is said here.
fn because_of_keys(look: &Look, parent: &Parent, failure: Failure) -> Failure {
    let hint = match failure.sqlstate.as_str() {
        FOREIGN_KEY_VIOLATION => "Delete the rows that refer to it first, or have them expire before it.",
        // It is detached in the owner's name.
        INSUFFICIENT_PRIVILEGE => "The owner of the parent must be able to read tables whose foreign keys refer to it.",
        _ => return explained(failure),
    };
    let keys = look.ground.read(|| {
        Ok(privilege::with_own_path(|| {
            query::run_with(
                c"SELECT format('%I of %s', k.conname, k.conrelid::regclass) FROM pg_constraint k
                   WHERE k.contype = 'f' AND k.confrelid = $1 AND k.conparentid = 0 ORDER BY 1",
                &[parent.oid.into()],
                |row| row.get::<Text>(1).unwrap_or_default().0,
            )
            .1
        }))
    });
    let keys = keys.unwrap_or_default().join(", ");
    let failure = explained(failure);
    Failure {
        message: format!("{} (foreign keys that refer to {}: {keys})", failure.message, parent.full_name()),
        hint: Some(hint.to_owned()),
        ..failure
    }
}

/// A failure as one line: what the server says in detail is often what matters.
pub fn explained(failure: Failure) -> Failure {
    match &failure.detail {
        Some(detail) => Failure { message: format!("{}: {}", failure.message, detail.replace('\n', "; ")), ..failure },
        None => failure,
    }
}
