//! A constraint on a large default partition that says that it holds no row of the ranges to come: with it ATTACH need not
//! read the default partition while it holds the strongest lock on it. Made before the partitions, dropped after them. It is
//! checked under SHARE UPDATE EXCLUSIVE, which readers and writers pass.
//!
//! Called by the rotation, at top level only: its steps must be committed one by one. Only for ranges of the future: a row
//! that comes meanwhile and belongs there would be refused.

use perf_core::partition::{literal, Range};

use super::ground::Ground;
use super::Look;
use crate::act::executor::{self, Failure};
use crate::partitions::{Parent, Partition};
use crate::pg::query::text;
use crate::pg::{background, ddl, ident, privilege, query};

/// The constraint's name. One that is found was left behind by a run that was killed.
const NAME: &str = "perf_opt_no_row_ahead";
/// Smaller ones are read faster than the constraint is made: some 10 ms.
const PAGES_MIN: i64 = 4_096;
/// How often it is tried to drop the constraint, each time for as long as any step tries.
const TRIES: u32 = 60;

/// Makes the constraint where it helps. Whether there is one now.
pub fn raise(look: &Look, parent: &Parent, wanted: &[Range], now: i64) -> Result<bool, Failure> {
    let Some(default) = parent.default_partition() else { return Ok(false) };
    let ahead: Vec<&Range> = wanted.iter().filter(|range| range.lower > now).collect();
    let (Some(lower), Some(upper)) =
        (ahead.iter().map(|range| range.lower).min(), ahead.iter().map(|range| range.upper).max())
    else {
        return Ok(false);
    };
    if look.ground != Ground::TopLevel || default.relkind != b'r' || default.pages < PAGES_MIN {
        return Ok(false);
    }
    let (column, full_name) = (ident::quote(&parent.column), default.full_name());
    let relations = [parent.oid, default.oid];
    let add = format!(
        "ALTER TABLE {full_name} ADD CONSTRAINT {NAME} CHECK ({column} IS NULL OR {column} < {} OR {column} >= {}) NOT VALID",
        literal(parent.key, lower),
        literal(parent.key, upper)
    );
    look.ground.step(&relations, || alter(default, &add))?;
    let validate = format!("ALTER TABLE {full_name} VALIDATE CONSTRAINT {NAME}");
    let Err(failure) = look.ground.step(&relations, || alter(default, &validate)) else { return Ok(true) };
    // It holds such rows, which are to be moved; or there is no time for it.
    background::drop_cancel();
    drop_it(look, default)?;
    match failure.sqlstate.as_str() {
        executor::QUERY_CANCELED => Err(failure),
        _ => Ok(false),
    }
}

/// Runs a statement about the default partition: names in it are the server's own, and what it runs, its owner runs.
fn alter(default: &Partition, statement: &str) -> Result<(), Failure> {
    privilege::with_own_path(|| privilege::as_relation_owner(default.oid, || ddl::run(statement)));
    Ok(())
}

/// Drops the constraint, also one of an earlier run.
pub fn lower(look: &Look, parent: &Parent) -> Result<(), Failure> {
    let Some(default) = parent.default_partition() else { return Ok(()) };
    let found = look.ground.read(|| {
        Ok(privilege::with_own_path(|| {
            query::run_with(
                c"SELECT FROM pg_constraint k WHERE k.conrelid = $1 AND k.conname = $2 AND k.contype = 'c'",
                &[default.oid.into(), text(NAME)],
                |_| (),
            )
        }))
    })?;
    if found.0 > 0 {
        drop_it(look, default)?;
    }
    Ok(())
}

/// As long as it is there, rows of the ranges ahead are refused: so it is tried for longer than anything else.
fn drop_it(look: &Look, default: &Partition) -> Result<(), Failure> {
    let statement = format!("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {NAME}", default.full_name());
    let mut tries = TRIES;
    loop {
        let outcome = look.ground.step(&[default.oid], || alter(default, &statement));
        tries -= 1;
        match outcome {
            Err(failure) if failure.is_of_a_lock() && tries > 0 => {}
            Err(failure) => {
                let hint = format!("Rows of later ranges are refused until it is gone: {statement}");
                return Err(Failure { hint: Some(hint), ..failure });
            }
            Ok(()) => return Ok(()),
        }
    }
}
