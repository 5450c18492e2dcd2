//! Lets go of the partitions whose retention is over: they are detached, and then kept, dropped or archived, as the
//! parent's settings say. Always detached first, so that whoever reads the parent never waits for what becomes of its
//! old data.
//!
//! Called by the look at a parent. Without a default partition, and outside of a transaction, a partition is detached
//! CONCURRENTLY: the parent is locked in SHARE UPDATE EXCLUSIVE, readers and writers pass. Else the parent, its default
//! partition and the expired one are locked in ACCESS EXCLUSIVE for the moment of the detach. CONCURRENTLY leaves a
//! CHECK constraint with the former bounds on the table; it is kept, since with it the table can be attached again
//! unread.

use std::time::Instant;

use pgrx::pg_sys;

use super::expire_state::{noted, Expired, Found};
use super::ground::{self, Ground};
use super::settings::{ArchiveTo, OnExpire};
use super::{archive, archive_file, planned, Look, Steps};
use crate::act::executor::Failure;
use crate::partitions::{Parent, Partition};
use crate::pg::text::Text;
use crate::pg::{ddl, ident, lock, privilege, query};

/// SQLSTATE of rows that refer to those of the partition.
const FOREIGN_KEY_VIOLATION: &str = "23503";

/// All of it. Fails when nothing could be read, or when it is cancelled.
pub fn expire(look: &Look, steps: &mut Steps) -> Result<(), Failure> {
    go_on(look, steps)?;
    let (parent, plan) = look.ground.read(|| planned(look))?;
    let ranged: Vec<&Partition> = parent.partitions.iter().filter(|partition| partition.range.is_some()).collect();
    for partition in plan.expire.iter().filter_map(|at| ranged.get(*at)) {
        // One whose detach was begun is ended by the next rotation.
        if !partition.is_detaching {
            let_go(look, &parent, partition, steps)?;
        }
    }
    Ok(())
}

/// Goes on with what an earlier look has begun.
fn go_on(look: &Look, steps: &mut Steps) -> Result<(), Failure> {
    for expired in look.ground.read(|| Ok(noted(look.parent)?))? {
        match look.ground.read(|| Ok(expired.find()))? {
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
        if !lock_detached(expired, "ACCESS EXCLUSIVE") {
            return Ok(None);
        }
        let bytes = tree_bytes(expired.oid);
        ddl::run(&format!("DROP TABLE {}", expired.full_name()));
        expired.forget()?;
        Ok(Some(format!("{}; {bytes} bytes", expired.bounds)))
    })
}

/// Locks a detached table, with its partitions; false when it is not what was detached any more. Inside a transaction.
pub fn lock_detached(expired: &Expired, mode: &str) -> bool {
    if expired.find() != Found::Detached {
        return false;
    }
    ddl::run(&format!("LOCK TABLE {} IN {mode} MODE", expired.full_name()));
    expired.find() == Found::Detached
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
    let statement = format!("ALTER TABLE {} DETACH PARTITION {}", parent.full_name(), partition.full_name());
    let outcome = if look.ground == Ground::TopLevel && parent.default_partition().is_none() {
        detach_concurrently(look, partition, &relations, &statement)
    } else {
        look.ground.step(&relations, || {
            lock_parent(look);
            let expired = note(look, partition.oid)?;
            if expired.is_some() {
                ddl::run(&statement);
            }
            Ok(expired)
        })
    };
    outcome.map_err(|failure| because_of_keys(look, parent, failure))
}

/// The same at top level, with everybody passing. The lock on the parent that is taken to look what is to be detached
/// is kept until the detach has it, so that nobody attaches anything else under that name in between.
fn detach_concurrently(
    look: &Look,
    partition: &Partition,
    relations: &[pg_sys::Oid],
    statement: &str,
) -> Result<Option<Expired>, Failure> {
    let started = Instant::now();
    loop {
        let noted = look.ground.step(relations, || {
            lock_parent(look);
            let expired = note(look, partition.oid)?;
            if expired.is_some() {
                lock::hold_share_update(look.parent);
            }
            Ok(expired)
        })?;
        let Some(expired) = noted else { return Ok(None) };
        // When it fails, the abort gives back the held lock too.
        let failure = match ground::at_once(&format!("{statement} CONCURRENTLY")) {
            Ok(()) => {
                look.ground.read(|| {
                    lock::release_share_update(look.parent);
                    Ok(())
                })?;
                return Ok(Some(expired));
            }
            Err(failure) => failure,
        };
        if !ground::is_lock_failure(&failure) {
            return Err(failure);
        }
        if look.ground.read(|| Ok(is_detaching(partition.oid)))? {
            // It is invisible already, and waits for those who may still use it.
            return look.ground.step(relations, || {
                if is_detaching(partition.oid) {
                    ddl::run(&format!("{statement} FINALIZE"));
                }
                Ok(Some(expired.clone()))
            });
        }
        ground::rest(started, failure, || look.ground.read(|| Ok(ground::holders(relations))))?;
    }
}

fn lock_parent(look: &Look) {
    if let Some(name) = ident::relation(look.parent) {
        ddl::run(&format!("LOCK TABLE ONLY {name} IN SHARE UPDATE EXCLUSIVE MODE"));
    }
}

/// Looks once more, with the parent locked, whether a partition is to expire, and remembers it.
fn note(look: &Look, partition: pg_sys::Oid) -> Result<Option<Expired>, Failure> {
    let (parent, plan) = planned(look)?;
    let ranged: Vec<&Partition> = parent.partitions.iter().filter(|one| one.range.is_some()).collect();
    let found =
        plan.expire.iter().filter_map(|at| ranged.get(*at)).find(|one| one.oid == partition && !one.is_detaching);
    let Some(found) = found else { return Ok(None) };
    let expired = Expired::of(&parent, found);
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
    if failure.sqlstate != FOREIGN_KEY_VIOLATION {
        return explained(failure);
    }
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
        hint: Some("Delete the rows that refer to it first, or have them expire before it.".to_owned()),
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
