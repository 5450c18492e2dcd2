//! The way back: the first partition becomes the plain table again that it was, with the rows of all others and the keys it
//! had. Before the swap only what was prepared is taken away. Called by the job, outside of any transaction.

use perf_core::partition_convert::free_name;
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::super::snapshots;
use super::facts::{self, Table};
use super::keys::Key;
use super::plan::{Step, BOUND_CHECK, NOT_NULL_CHECK};
use super::record::{Conversion, State};
use super::{moved, obstacles, swap, Job};
use crate::act::executor::{self, Failure};
use crate::pg::lock::{self, Exclusive};
use crate::pg::privilege;

/// All of it.
pub fn run(job: &mut Job, relation: pg_sys::Oid) -> Result<Value, Failure> {
    let found = executor::transaction(|| Ok(Conversion::find(relation)?))?;
    let Some(mut conversion) = found else {
        return Err(Failure::new("55000", "the table was not converted by perf.partition_convert"));
    };
    let rows = match (conversion.state, conversion.parent) {
        (State::Converted, Some(parent)) => swap_back(job, &mut conversion, parent)?,
        _ => 0,
    };
    executor::transaction(|| {
        conversion.state = State::Undoing;
        conversion.parent = None;
        Ok(conversion.save(Step::Start)?)
    })?;
    let table = executor::transaction(|| table(conversion.relation))?;
    for check in [BOUND_CHECK, NOT_NULL_CHECK] {
        if executor::transaction(|| Ok(facts::check_validity(&table, check)))?.is_some() {
            job.alter(&table, &[format!("ALTER TABLE {} DROP CONSTRAINT {check}", table.full)], || Ok(()))?;
        }
    }
    for key in conversion.keys.clone() {
        restore(job, &conversion, &table, &key)?;
    }
    let control = executor::transaction(|| Ok(facts::control(&table, &conversion.request.control)))?;
    let nullable = control.filter(|control| conversion.was_nullable && control.not_null);
    if let Some(control) = nullable {
        let statement = format!("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL", table.full, control.name);
        job.alter(&table, &[statement], || Ok(()))?;
    }
    executor::transaction(|| Ok(Conversion::forget(conversion.relation)?))?;
    job.lines.push(format!("{} is a plain table again; {rows} rows were moved back into it", table.full));
    Ok(json!({ "relation": table.full, "moved_rows": rows }))
}

fn table(relation: pg_sys::Oid) -> Result<Table, Failure> {
    facts::table(relation).ok_or_else(|| Failure::new("42P01", "the table is gone"))
}

/// The swap, backwards. The number of rows that came from other partitions.
fn swap_back(job: &mut Job, conversion: &mut Conversion, parent: pg_sys::Oid) -> Result<u64, Failure> {
    let (limit_ms, quiet_ms) = (job.patience.lock_ms(), job.patience.quiet_lock_ms());
    let announced = executor::transaction(|| {
        let (whole, first) = (table(parent)?, table(conversion.relation)?);
        Ok(privilege::with_lock_timeout(quiet_ms, || moved::announcement(&whole, &first)))
    });
    match announced {
        Ok(line) => job.lines.extend(line),
        // The swap back waits for such locks with more patience.
        Err(failure) if failure.sqlstate == "55P03" => {}
        Err(failure) => return Err(failure),
    }
    job.quickly("the swap back", parent, || {
        privilege::with_lock_timeout(quiet_ms, || {
            lock::take(parent, Exclusive::ShareUpdate);
            lock::take(conversion.relation, Exclusive::ShareUpdate);
        });
        let (whole, first) = (table(parent)?, table(conversion.relation)?);
        if let Some(obstacle) = obstacles::dependents(&whole).into_iter().find(|one| one.step != Step::Bound) {
            return Err(Failure { hint: Some(obstacle.hint), ..Failure::new(obstacle.sqlstate, obstacle.message) });
        }
        let undone = swap::undo(&whole, &first, &conversion.renamed, i64::from(limit_ms))?;
        conversion.parent = None;
        conversion.state = State::Undoing;
        conversion.save(Step::Swap)?;
        if undone.rows > 0 {
            snapshots::seal(conversion.relation, None, i64::from(limit_ms))?;
        }
        Ok((undone.rows, undone.locked))
    })
}

/// Gives a key its old columns back.
fn restore(job: &mut Job, conversion: &Conversion, table: &Table, key: &Key) -> Result<(), Failure> {
    let wide = |table: &Table| {
        let control = facts::control(table, &conversion.request.control);
        control.is_some_and(|control| facts::constraint_has(table, &key.unique.name, &control))
    };
    let is_wide = key.unique.constraint.is_some() && executor::transaction(|| Ok(wide(table)))?;
    let validity = executor::transaction(|| Ok(facts::index_validity(table, &key.new)))?;
    if !is_wide {
        return match validity {
            Some(_) => job.slowly(table.oid, &key.drop(table)),
            None => Ok(()),
        };
    }
    // The index may be the one that the conversion built and never used: what is wanted now has fewer columns.
    let back = Key { new: free_back(key, table)?, ..key.clone() };
    match executor::transaction(|| Ok(facts::index_validity(table, &back.new)))? {
        Some(true) => {}
        Some(false) => {
            job.slowly(table.oid, &back.drop(table))?;
            job.slowly(table.oid, &back.build_back(table))?;
        }
        None => job.slowly(table.oid, &back.build_back(table))?,
    }
    job.alter(table, &back.swap(table), || Ok(()))
}

/// The name for the index that is built on the way back: one of ours if it is there already.
fn free_back(key: &Key, table: &Table) -> Result<String, Failure> {
    executor::transaction(|| {
        let ours = |name: &str| facts::index_validity(table, name).is_some() && name.contains("_unpartitioned");
        Ok(free_name(&key.unique.name, "unpartitioned", |name| facts::is_name_used(table, name) && !ours(name)))
    })
}
