//! Compresses partitions that are old enough: written anew with full pages, lz4 in TOAST where the server has it, and
//! the rows in the order of the index that is used most; indexes likewise. The table stays the same one: it exchanges
//! its files with those of a second table ([`rewrite`]), so that its name, whatever refers to it, and its place in the
//! parent are not touched, and what a default partition holds does not matter.
//!
//! Called by the look at a parent; only the worker of a run does it. The parent is locked in ACCESS SHARE to look whether
//! a partition is old enough, for a moment before it is copied and for the moment of the exchange. The partition is locked in SHARE UPDATE EXCLUSIVE
//! while it is copied, so that readers and writers pass, and in ACCESS EXCLUSIVE for the moment of the exchange. What
//! was written to it meanwhile makes the copy void: nothing is changed then, and a later run tries again. All of it is
//! one transaction, so that a crash leaves the partition as it was.

use std::cell::Cell;

use perf_core::partition::compression::{best_order, is_worth_it, room_needed};
use pgrx::pg_sys;

use super::compress_facts::{
    columns, facts, has_columnar, has_lz4, indexes, leaves, orders, toast_of, Copied, Facts, Index,
};
use super::compress_state::{done, forget_gone, note, Became};
use super::expire::explained;
use super::ground::{self, Ground};
use super::{planned, Look, Steps};
use crate::act::executor::{self, Failure};
use crate::partitions::{Parent, Partition};
use crate::pg::{background, ddl, filesystem, ident, privilege, rewrite};

/// Tries to have all pages marked, and what is waited between them.
const VACUUMS: u32 = 4;
const VACUUM_PAUSE_MS: i64 = 1_000;

/// All of it. Fails when nothing could be read, or when it is cancelled.
pub fn compress(look: &Look, steps: &mut Steps) -> Result<(), Failure> {
    if look.settings.compress_after.is_none() {
        return Ok(());
    }
    let (parent, tables) = look.ground.read(|| {
        let (parent, plan) = planned(look)?;
        let tables = due(&parent, &plan.compress);
        let done = done(&tables)?;
        Ok((parent, tables.into_iter().filter(|table| !done.contains(table)).collect::<Vec<_>>()))
    })?;
    if look.ground == Ground::TopLevel && !tables.is_empty() {
        look.ground.step(&[], || Ok(forget_gone()?))?;
    }
    for table in tables {
        one(look, &parent, table, steps)?;
    }
    Ok(())
}

/// The tables of the partitions that are old enough, by their places among those with a range.
fn due(parent: &Parent, places: &[usize]) -> Vec<pg_sys::Oid> {
    let ranged: Vec<&Partition> = parent.partitions.iter().filter(|partition| partition.range.is_some()).collect();
    let found = places.iter().filter_map(|at| ranged.get(*at)).filter(|partition| !partition.is_detaching);
    found.flat_map(|partition| leaves(partition.oid)).collect()
}

fn one(look: &Look, parent: &Parent, table: pg_sys::Oid, steps: &mut Steps) -> Result<(), Failure> {
    let facts = match look.ground.read(|| Ok(facts(table))) {
        Ok(Some(facts)) => facts,
        Ok(None) => return Ok(()),
        Err(failure) if failure.is_of_a_lock() => {
            let (name, holders) = look.ground.read(|| Ok((ident::relation(table), ground::holders(&[table]))))?;
            let detail = format!("it is locked: {}", if holders.is_empty() { failure.message } else { holders });
            return steps.skipped(name.unwrap_or_default(), "compress", detail);
        }
        Err(failure) => return Err(failure),
    };
    let name = facts.full_name.clone();
    if let Some(reason) = refusal(look, &facts) {
        return steps.skipped(name, "compress", reason);
    }
    let is_changed = Cell::new(false);
    let outcome = prepare(look, &facts).and_then(|()| match look.ground.read(|| Ok(has_columnar()))? {
        true => to_columns(look, parent, &facts),
        false => rewritten(look, parent, &facts, &is_changed),
    });
    match outcome {
        Ok(Some((became, detail))) if became.is_compressed => {
            // What the planner knows of the order of rows is not true any more.
            let analyzed = look.ground.statement(&[table], &format!("ANALYZE {name}"));
            let detail = match analyzed {
                Ok(()) => detail,
                Err(failure) => format!("{detail}; ANALYZE failed: {}", failure.message),
            };
            steps.done(name, "compress", detail)
        }
        Ok(Some((_, detail))) => steps.skipped(name, "compress", detail),
        Ok(None) => Ok(()),
        Err(failure) if is_changed.get() => steps.skipped(name, "compress", failure.message),
        Err(failure) => steps.failed(name, "compress", explained(failure)),
    }
}

/// Why a table is not compressed now.
fn refusal(look: &Look, facts: &Facts) -> Option<String> {
    if facts.relkind == "f" {
        return Some("it is a foreign table, whose data is elsewhere".to_owned());
    }
    if facts.access_method != "heap" {
        return Some(format!("its access method is {}: only heap tables are rewritten", facts.access_method));
    }
    if look.ground == Ground::Inside {
        return Some(
            "the parent's job does it, at its next run or when perf.partition_tick is called outside of a transaction \
             that has changed something"
                .to_owned(),
        );
    }
    if let Some(index) = &facts.broken_index {
        return Some(format!("its index {index} is not valid: REINDEX it, or drop it"));
    }
    let needed = room_needed(facts.bytes.unsigned_abs());
    match filesystem::space(&facts.directory) {
        Some(space) if space.available_bytes < needed as f64 => {
            Some(format!("it takes {needed} bytes for some time, and {} are free", space.available_bytes as i64))
        }
        _ => None,
    }
}

/// Lets VACUUM mark the pages whose rows everybody sees, if they are not all marked yet. A snapshot that does not see
/// all of them may be of a moment only; one that stays puts it off.
fn prepare(look: &Look, facts: &Facts) -> Result<(), Failure> {
    let is_ready = || {
        look.ground.step(&[facts.oid], || {
            lock(facts, "SHARE UPDATE EXCLUSIVE");
            Ok(rewrite::all_visible_pages(facts.oid).is_some())
        })
    };
    // A few dead rows alone would be left for later otherwise, and their pages unmarked.
    let statement = format!("VACUUM (INDEX_CLEANUP on, TRUNCATE false) {}", facts.full_name);
    for attempt in 1..=VACUUMS {
        if is_ready()? {
            break;
        }
        look.ground.statement(&[facts.oid], &statement)?;
        if attempt < VACUUMS && !is_ready()? {
            look.ground.pause(VACUUM_PAUSE_MS)?;
        }
    }
    Ok(())
}

fn lock(facts: &Facts, mode: &str) {
    ddl::run(&format!("LOCK TABLE ONLY {} IN {mode} MODE", facts.full_name));
}

/// So that its partitions stay what they are. Nobody is to wait behind somebody who waits for it.
fn lock_parent(look: &Look) {
    if let Some(name) = ident::relation(look.parent) {
        ddl::run(&format!("LOCK TABLE ONLY {name} IN ACCESS SHARE MODE NOWAIT"));
    }
}

/// Whether a table is to be compressed still.
fn is_due(look: &Look, table: pg_sys::Oid) -> Result<bool, Failure> {
    let (parent, plan) = planned(look)?;
    Ok(due(&parent, &plan.compress).contains(&table))
}

/// What came of one, for the record and for the answer.
type Outcome = Option<(Became, String)>;

/// Rewrites a table beside itself.
fn rewritten(look: &Look, parent: &Parent, facts: &Facts, is_changed: &Cell<bool>) -> Result<Outcome, Failure> {
    // The parent's lock is not kept while rows are copied: whoever detaches another partition would wait that long.
    let is_wanted = look.ground.step(&[look.parent], || {
        lock_parent(look);
        is_due(look, facts.oid)
    })?;
    if !is_wanted {
        return Ok(None);
    }
    executor::transaction(|| {
        Ground::Inside.step(&[facts.oid], || {
            lock(facts, "SHARE UPDATE EXCLUSIVE");
            Ok(())
        })?;
        if ident::relation(facts.oid).as_ref() != Some(&facts.full_name) {
            return Ok(None);
        }
        let Some(pages) = rewrite::all_visible_pages(facts.oid) else {
            is_changed.set(true);
            return Err(Failure::new(
                "55006",
                "it was written to lately, or a transaction is open that may see its former rows",
            ));
        };
        privilege::with_own_path(|| copied(look, parent, facts, pages, is_changed))
    })
}

/// The same with the table locked, and its pages known.
fn copied(
    look: &Look,
    parent: &Parent,
    facts: &Facts,
    pages: u32,
    is_changed: &Cell<bool>,
) -> Result<Outcome, Failure> {
    let became = |is_compressed, reason: Option<&str>| Became {
        is_compressed,
        reason: reason.map(str::to_owned),
        ordered_by: None,
        rows: None,
        bytes_before: facts.bytes,
        bytes_after: facts.bytes,
    };
    if pages == 0 {
        let became = became(false, Some("it is empty"));
        note(facts, &parent.full_name(), &became)?;
        return Ok(None);
    }
    let Some(indexes) = indexes(facts) else {
        return Err(Failure::new("0A000", "an index of it has a definition that is not understood"));
    };
    let columns = columns(facts);
    let has_lz4 = has_lz4();
    let time = ident::quote(&parent.column);
    let order = best_order(&orders(facts), &time).to_owned();
    let twin = rewrite::twin(facts.oid);
    let twin_name = ident::relation(twin).ok_or_else(|| Failure::new("XX000", "the new table is not there"))?;
    set_options(&twin_name, facts, &columns, has_lz4);
    let pairs = make_indexes(&indexes, twin, &twin_name)?;
    let rows = fill(facts, &columns, &order, twin);
    if !pairs.is_empty() {
        ddl::run(&format!("REINDEX TABLE {twin_name}"));
    }
    let bytes_after = ddl::value::<i64>(&format!("SELECT pg_total_relation_size({}::oid)", twin.to_u32())).unwrap_or(0);
    let became = Became {
        ordered_by: Some(order.clone()),
        rows: i64::try_from(rows).ok(),
        bytes_after,
        ..became(is_worth_it(facts.bytes.unsigned_abs(), bytes_after.unsigned_abs()), None)
    };
    if !became.is_compressed {
        ddl::run(&format!("DROP TABLE {twin_name}"));
        let reason = format!("{} bytes would become {bytes_after}: it is kept as it is", facts.bytes);
        let became = Became { reason: Some(reason.clone()), ordered_by: None, ..became };
        note(facts, &parent.full_name(), &became)?;
        return Ok(Some((became, reason)));
    }
    let started = std::time::Instant::now();
    Ground::Inside.step(&[look.parent, facts.oid], || {
        lock_parent(look);
        if !is_due(look, facts.oid)? {
            is_changed.set(true);
            return Err(Failure::new("55000", "while it was copied it was detached, or its parent changed"));
        }
        lock(facts, "ACCESS EXCLUSIVE");
        rewrite::lock(toast_of(facts.oid).map(|toast| toast.0).into_iter().chain(pairs.iter().map(|pair| pair.0)));
        if rewrite::all_visible_pages(facts.oid) != Some(pages) {
            is_changed.set(true);
            return Err(Failure::new("55006", "it was written to while it was copied: a later run tries again"));
        }
        set_options(&facts.full_name, facts, &columns, has_lz4);
        for index in indexes.iter().filter(|index| index.has_fillfactor) {
            fill_pages(index.oid);
        }
        rewrite::exchange((facts.oid, twin), &pairs);
        Ok(())
    })?;
    ddl::run(&format!("DROP TABLE {twin_name}"));
    if let Some((toast, index)) = toast_of(facts.oid) {
        rewrite::name_toast(facts.oid, toast, index);
    }
    note(facts, &parent.full_name(), &became)?;
    let method = if has_lz4 { "lz4" } else { "pglz, since the server has no lz4" };
    let detail = format!(
        "{} bytes became {bytes_after}; {rows} rows ordered by {order}; {method}; exchanged in {} ms",
        facts.bytes,
        started.elapsed().as_millis()
    );
    Ok(Some((became, detail)))
}

/// Full pages, and lz4 for what is written from now on.
fn set_options(table: &str, facts: &Facts, columns: &[Copied], has_lz4: bool) {
    let mut actions: Vec<String> = columns
        .iter()
        .filter(|column| has_lz4 && column.could_be_lz4)
        .map(|column| format!("ALTER COLUMN {} SET COMPRESSION lz4", column.name))
        .collect();
    if facts.has_fillfactor {
        actions.push("SET (fillfactor = 100)".to_owned());
    }
    if !actions.is_empty() {
        ddl::run(&format!("ALTER TABLE {table} {}", actions.join(", ")));
    }
}

/// Makes an index of the twin for each of the table's: empty, to be filled when the rows are there. The pairs.
fn make_indexes(
    indexes: &[Index],
    twin: pg_sys::Oid,
    twin_name: &str,
) -> Result<Vec<(pg_sys::Oid, pg_sys::Oid)>, Failure> {
    let schema = ident::relation_parts(twin).map(|(schema, _)| schema).unwrap_or_default();
    let mut pairs = Vec::new();
    for (number, index) in indexes.iter().enumerate() {
        let name = format!("pg_temp_{}_{}", twin.to_u32(), number + 1);
        ddl::run(&format!("SET LOCAL default_tablespace = {}", ident::literal(&index.tablespace)));
        ddl::run(&index.statement(&ident::quote(&name), twin_name));
        let full_name = ident::literal(&ident::qualified(&schema, &name));
        let made = ddl::value::<pg_sys::Oid>(&format!("SELECT {full_name}::regclass::oid"))
            .ok_or_else(|| Failure::new("XX000", "the new index is not there"))?;
        if index.has_fillfactor {
            fill_pages(made);
        }
        pairs.push((index.oid, made));
    }
    Ok(pairs)
}

fn fill_pages(index: pg_sys::Oid) {
    if let Some(name) = ident::relation(index) {
        ddl::run(&format!("ALTER INDEX {name} SET (fillfactor = 100)"));
    }
}

/// Copies all rows, in order; their number. Expressions of the order are the table's owner's to answer for.
fn fill(facts: &Facts, columns: &[Copied], order: &str, twin: pg_sys::Oid) -> u64 {
    // One sort at a time, as when an index is built.
    ddl::run("SELECT set_config('work_mem', current_setting('maintenance_work_mem'), true)");
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let query = format!("SELECT {} FROM ONLY {} ORDER BY {order}", names.join(", "), facts.full_name);
    let columns: Vec<rewrite::Column> = columns.iter().map(|column| column.column).collect();
    privilege::as_relation_owner_unforced(facts.oid, || rewrite::fill(twin, &query, &columns))
}

/// Where an access method for columns is installed, the server rewrites the table for it, with everybody waiting: what
/// such a method keeps beside the table's files is its own business.
fn to_columns(look: &Look, parent: &Parent, facts: &Facts) -> Result<Outcome, Failure> {
    look.ground.step(&[facts.oid], || {
        lock(facts, "ACCESS EXCLUSIVE");
        if !is_due(look, facts.oid)? {
            return Ok(None);
        }
        ddl::run(&format!("ALTER TABLE {} SET ACCESS METHOD columnar", facts.full_name));
        background::check_for_interrupts();
        let size = format!("SELECT pg_catalog.pg_total_relation_size({}::pg_catalog.oid)", facts.oid.to_u32());
        let bytes_after = ddl::value::<i64>(&size).unwrap_or(0);
        let became = Became {
            is_compressed: true,
            reason: None,
            ordered_by: None,
            rows: None,
            bytes_before: facts.bytes,
            bytes_after,
        };
        note(facts, &parent.full_name(), &became)?;
        Ok(Some((became, format!("{} bytes became {bytes_after}; columnar", facts.bytes))))
    })
}
