//! Completes an index of a partitioned table, and takes one away so that what was there before it stays. Called by the worker
//! of the kind `change`, between transactions; each statement has its own, but for the exchange itself, which is one. Locks
//! what its statements lock: the exchange locks the table and all its partitions, for a moment.

use std::collections::{HashMap, HashSet};

use super::change::{run_patiently, wait_for_locks};
use crate::act::change::index_state::{self, IndexState};
use crate::act::change::parts::{self, Kept, Lacking};
use crate::act::change::store::Change;
use crate::act::executor::{self, Failure};
use crate::pg::ident;

/// Partitions that are completed at most, one after the other.
const COMPLETED_MAX: usize = 10_000;

/// The index of the change's own table, among those of these schemas and names, if that table is partitioned.
pub fn whole_of<'a>(
    change: &Change,
    made: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Option<IndexState>, Failure> {
    executor::transaction(|| {
        for (schema, name) in made {
            if let Some(found) = index_state::read(schema, name)?.filter(|found| is_whole(change, found)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    })
}

/// Whether an index is the one of the change's own table, which is partitioned.
pub fn is_whole(change: &Change, found: &IndexState) -> bool {
    found.partitioned && !found.attached && found.relation == change.target
}

/// Makes the parts in partitions that have come since the change was asked for. Schema and name, unquoted, of those made.
pub fn complete(change: &Change, whole: &IndexState) -> Result<Vec<(String, String)>, Failure> {
    let mut made = Vec::new();
    while let Some(lacking) = executor::transaction(|| Ok(parts::lacking(whole.oid, whole.relation)?))? {
        if made.len() == COMPLETED_MAX {
            return Err(Failure::new("55000", format!("more than {COMPLETED_MAX} partitions have come meanwhile")));
        }
        let name = format!("perf_opt_{}_{}_idx", change.change_id, lacking.relation.to_u32());
        if !is_usable(&lacking.schema, &name)? {
            let Some(create) = part_of(whole, change, &lacking, &name) else {
                return Err(Failure::new("55000", format!("partition {} has come meanwhile", lacking.name)));
            };
            run_patiently(&create, !lacking.is_partitioned)?;
        }
        attach(&lacking.parent, &ident::qualified(&lacking.schema, &name))?;
        made.push((lacking.schema, name));
    }
    Ok(made)
}

/// Whether an earlier try has made an index; what it has left of one goes.
fn is_usable(schema: &str, name: &str) -> Result<bool, Failure> {
    let Some(found) = executor::transaction(|| Ok(index_state::read(schema, name)?))? else { return Ok(false) };
    // One of a partitioned table is valid when it has its parts.
    let is_usable = found.valid || found.partitioned;
    if !is_usable {
        executor::statement(&format!("DROP INDEX CONCURRENTLY {}", ident::qualified(schema, name)))?;
    }
    Ok(is_usable)
}

/// Makes an index a part of another; both quoted and qualified.
fn attach(whole: &str, part: &str) -> Result<(), Failure> {
    run_patiently(&format!("ALTER INDEX {whole} ATTACH PARTITION {part}"), false)
}

/// The statement that makes the part of an index in one partition: its definition, for another table.
fn part_of(whole: &IndexState, change: &Change, lacking: &Lacking, name: &str) -> Option<String> {
    let (_, rest) = whole.definition.split_once(&format!(" ON {} ", change.relation))?;
    let (how, only) = if lacking.is_partitioned { ("", "ONLY ") } else { ("CONCURRENTLY ", "") };
    let table = ident::qualified(&lacking.schema, &lacking.name);
    Some(format!("CREATE INDEX {how}{} ON {only}{table} {rest}", ident::quote(name)))
}

/// Drops the index and what came with it; what it had adopted stays, and is never missing: the same is built beside each
/// before, and takes its name in the transaction of the drop, in which `at_end` runs too.
pub fn take_away(
    change: &Change,
    whole: &IndexState,
    own: &HashSet<u32>,
    at_end: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let kept = executor::transaction(|| Ok(parts::kept(whole.oid, own)?))?;
    let by_oid: HashMap<u32, &Kept> = kept.iter().map(|one| (one.oid.to_u32(), one)).collect();
    for one in &kept {
        build(one)?;
    }
    for one in kept.iter().rev() {
        let Some(above) = one.parent.and_then(|parent| by_oid.get(&parent.to_u32())) else { continue };
        let stand_in = |kept: &Kept| ident::qualified(&kept.schema, &kept.stand_in());
        if !executor::transaction(|| Ok(index_state::read(&one.schema, &one.stand_in())?))?
            .is_some_and(|it| it.attached)
        {
            attach(&stand_in(above), &stand_in(one))?;
        }
    }
    // Statistics of expressions are an index's own: gathered while it may take its time.
    let analyzed: HashSet<&String> = kept.iter().filter_map(|one| one.state.analyze.as_ref()).collect();
    for analyze in analyzed {
        run_patiently(analyze, true)?;
    }
    let Some(name) = executor::transaction(|| Ok(ident::relation(whole.oid)))? else {
        return Err(Failure::new("55000", format!("the index of {} is gone", change.relation)));
    };
    let mut exchange = vec![format!("DROP INDEX {name}")];
    for one in &kept {
        let stand_in = ident::qualified(&one.schema, &one.stand_in());
        exchange.push(format!("ALTER INDEX {stand_in} RENAME TO {}", ident::quote(&one.name)));
        exchange.extend(one.state.extras.iter().cloned());
    }
    wait_for_locks(false);
    executor::script(&exchange.join(";\n"), at_end)
}

/// Builds what is to stand in for an index, unless an earlier try has.
fn build(kept: &Kept) -> Result<(), Failure> {
    if is_usable(&kept.schema, &kept.stand_in())? {
        return Ok(());
    }
    let Some(again) = kept.again() else {
        let name = ident::qualified(&kept.schema, &kept.name);
        return Err(Failure::new("55000", format!("index {name} would go with it: \"{}\"", kept.state.definition)));
    };
    run_patiently(&again, !kept.state.partitioned)
}
