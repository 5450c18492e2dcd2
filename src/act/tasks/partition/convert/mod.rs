//! The job that makes a plain table partitioned while it is in use, and the one that goes back. The steps are those of
//! [`plan`]: each is a transaction of its own, or a statement that has its own, and is written down in the same one
//! ([`record`]); those that cannot be are known by what the catalogs say. So a run that was interrupted, by whatever, is
//! done again from the beginning, and finds what is there.
//!
//! Called by the worker of a run, outside of any transaction, in a session of the job's owner. What is slow runs under SHARE
//! UPDATE EXCLUSIVE, beside readers and writers. What needs ACCESS EXCLUSIVE waits for it no longer than it is told to, gives
//! way and tries again ([`patience`]), and holds it for milliseconds.

pub mod copy;
pub mod facts;
pub mod keys;
mod moved;
pub mod obstacles;
mod patience;
pub mod plan;
pub mod record;
pub mod request;
pub mod swap;
mod undo;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use perf_core::partition::{literal, EpochUnit, Key};
use perf_core::partition_convert as rules;
use pgrx::{pg_sys, register_xact_callback, PgXactCallbackEvent};
use serde_json::{json, Value};

use self::facts::Table;
use self::patience::Patience;
use self::plan::{Settled, Step, Study, BOUND_CHECK, NOT_NULL_CHECK};
use self::record::{Conversion, State};
use super::ground::Ground;
use super::rotate;
use super::settings::{ArchiveTo, OnExpire, Settings};
use super::{Look, Steps};
use crate::act::executor::{self, Failure};
use crate::act::runs::Order;
use crate::act::tasks::{note, Outcome, Write};
use crate::pg::lock::{self, Exclusive};
use crate::pg::{background, ddl, ident, privilege};

/// The kind of job.
pub const KIND: &str = "partition_convert";
/// How often the end of the first partition is chosen anew, when rows come that lie beyond it.
const BOUND_TRIES: u32 = 3;
/// Partitions made ahead of the first one's end.
const PREMAKE: u32 = 4;
/// Rows that violate a CHECK that is being validated.
const CHECK_VIOLATION: &str = "23514";
/// How long it is tried to clean up after a failure.
const TIDY: Duration = Duration::from_secs(30);

/// Runs a job of this kind. The job goes with the run, so that a failure is not tried again; a crash leaves it, and is.
pub fn run(order: &Order, write: Write) -> Result<(), Failure> {
    let mut outcome = attempt(order, write);
    if let Err(failure) = &mut outcome {
        background::drop_cancel();
        tidy(order, failure);
        background::drop_cancel();
        let removed = executor::transaction(|| Ok(request::remove_job(order.job_id)?));
        if let Err(failure) = removed {
            pgrx::log!("perf_opt job {} was not removed: {}", order.job_id, failure.message);
        }
    }
    outcome
}

fn attempt(order: &Order, write: Write) -> Result<(), Failure> {
    // What is printed and parsed here means the same under whatever settings the owner has.
    for (name, value) in [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_isolation", c"read committed"),
        (c"row_security", c"off"),
        (c"default_tablespace", c""),
        (c"datestyle", c"ISO, YMD"),
        (c"intervalstyle", c"postgres"),
        (c"extra_float_digits", c"3"),
        (c"lock_timeout", c"0"),
    ] {
        background::set_session(name, value);
    }
    let relation = pg_sys::Oid::from(order.target.unwrap_or_default());
    let mut job = Job { order, patience: Patience::of(&order.options)?, lines: Vec::new(), lock_ms: 0.0, tries: 0 };
    let detail = if order.options.get("undo").and_then(Value::as_bool).unwrap_or(false) {
        undo::run(&mut job, relation)?
    } else {
        convert(&mut job, relation)?
    };
    let mut all = job.detail(None);
    if let (Some(all), Some(detail)) = (all.as_object_mut(), detail.as_object()) {
        all.extend(detail.clone());
    }
    executor::transaction(|| {
        write(Outcome { detail: all.clone(), ..Outcome::plain() })?;
        Ok(request::remove_job(order.job_id)?)
    })
}

/// Takes away the checks that a conversion has made and that refuse rows, when it has failed: nothing goes on with them by
/// itself. What cannot be had in time is said in the failure.
fn tidy(order: &Order, failure: &mut Failure) {
    let relation = pg_sys::Oid::from(order.target.unwrap_or_default());
    let found = executor::transaction(|| {
        // Beyond the swap neither is left; an undo takes them away itself, now or when it is called again.
        if !Conversion::find(relation)?.is_some_and(|found| found.state == State::Converting) {
            return Ok(None);
        }
        Ok(facts::table(relation).map(|table| {
            let is_left = |name: &str| match facts::check_validity(&table, name) {
                Some(true) => name == BOUND_CHECK,
                Some(false) => true,
                None => false,
            };
            let drops = [BOUND_CHECK, NOT_NULL_CHECK].into_iter().filter(|name| is_left(name));
            (drops.map(|name| format!("DROP CONSTRAINT {name}")).collect::<Vec<_>>().join(", "), table)
        }))
    });
    let (drops, table) = match found {
        Ok(Some((drops, table))) if !drops.is_empty() => (drops, table),
        Ok(_) => return,
        Err(other) => return pgrx::log!("perf_opt job {} left its checks: {}", order.job_id, other.message),
    };
    let statement = format!("ALTER TABLE {} {drops}", table.full);
    let dropped = Patience::of(&order.options).and_then(|patience| {
        let patience = patience.lasting(TIDY);
        let (limit_ms, quiet_ms) = (patience.lock_ms(), patience.quiet_lock_ms());
        patience.transaction(&statement, relation, |_| Ok(()), &mut || {
            privilege::with_lock_timeout(quiet_ms, || lock::take(relation, Exclusive::ShareUpdate));
            privilege::with_lock_timeout(limit_ms, || lock::take(relation, Exclusive::Access));
            ddl::run(&statement);
            Ok(())
        })
    });
    if dropped.is_err() {
        let advice =
            format!("Until the conversion goes on, rows that do not fit are refused; to end that: {statement};");
        failure.hint = Some(match failure.hint.take() {
            Some(hint) => format!("{hint} {advice}"),
            None => advice,
        });
    }
}

/// A run, and what it has done so far.
struct Job<'a> {
    order: &'a Order,
    patience: Patience,
    lines: Vec<String>,
    /// The longest time that everybody was kept away.
    lock_ms: f64,
    /// Locks that were not to be had at once.
    tries: u32,
}

impl Job<'_> {
    fn detail(&self, doing: Option<&str>) -> Value {
        json!({
            "lines": self.lines, "doing": doing, "exclusive_lock_ms": self.lock_ms, "lock_retries": self.tries,
        })
    }

    /// Says what comes next, for whoever waits for the run.
    fn doing(&self, what: &str) -> Result<(), Failure> {
        executor::transaction(|| note(self.order, &self.detail(Some(what))))
    }

    fn done(&mut self, what: String, since: Instant) {
        self.lines.push(format!("{what} ({:.0} ms)", since.elapsed().as_secs_f64() * 1e3));
    }

    /// Runs a statement that has transactions of its own, or is slow, under SHARE UPDATE EXCLUSIVE.
    fn slowly(&mut self, relation: pg_sys::Oid, statement: &str) -> Result<(), Failure> {
        self.doing(statement)?;
        let started = Instant::now();
        self.patience.statement(relation, statement)?;
        self.done(statement.to_owned(), started);
        Ok(())
    }

    /// Runs `body` in a transaction that takes ACCESS EXCLUSIVE, until it can have it. `body` gives the time since when it
    /// has the lock.
    fn quickly<T>(
        &mut self,
        what: &str,
        relation: pg_sys::Oid,
        mut body: impl FnMut() -> Result<(T, Instant), Failure>,
    ) -> Result<T, Failure> {
        self.doing(what)?;
        let started = Instant::now();
        let (order, lines) = (self.order, &self.lines);
        let tell = |holders: &str| {
            let detail = json!({ "lines": lines, "doing": format!("{what}; waiting: {holders}") });
            note(order, &detail)
        };
        // Locks go when the commit is on record. What comes after that, such as removing the files of a dropped index, takes
        // time in which nobody waits any more.
        let committed = Arc::new(Mutex::new(None::<Instant>));
        let mut body = || {
            let value = body()?;
            let clock = Arc::clone(&committed);
            register_xact_callback(PgXactCallbackEvent::Commit, move || {
                if let Ok(mut at) = clock.lock() {
                    *at = Some(Instant::now());
                }
            });
            Ok(value)
        };
        let ((value, locked), tries) = self.patience.transaction(what, relation, tell, &mut body)?;
        let committed = committed.lock().ok().and_then(|at| *at).unwrap_or_else(Instant::now);
        let held_ms = committed.saturating_duration_since(locked).as_secs_f64() * 1e3;
        self.lock_ms = self.lock_ms.max(held_ms);
        self.tries += tries;
        self.done(format!("{what}, locked for {held_ms:.1} ms"), started);
        Ok(value)
    }

    /// The same for statements on one table. Its owner runs them: what shows that a column has no NULL simplifies the
    /// table's constraints, whose functions are the owner's.
    fn alter(
        &mut self,
        table: &Table,
        statements: &[String],
        mut also: impl FnMut() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (limit_ms, quiet_ms) = (self.patience.lock_ms(), self.patience.quiet_lock_ms());
        let Some(first) = statements.first() else { return Ok(()) };
        self.quickly(first, table.oid, || {
            // VACUUM is waited for while everybody else goes on.
            privilege::with_lock_timeout(quiet_ms, || lock::take(table.oid, Exclusive::ShareUpdate));
            privilege::with_lock_timeout(limit_ms, || lock::take(table.oid, Exclusive::Access));
            let locked = Instant::now();
            privilege::as_relation_owner(table.oid, || {
                statements.iter().for_each(|statement| {
                    ddl::run(statement);
                });
            });
            also()?;
            Ok(((), locked))
        })
    }
}

fn in_the_way(study: &Study) -> Result<(), Failure> {
    match study.obstacles.first() {
        Some(obstacle) => Err(Failure {
            hint: Some(obstacle.hint.clone()),
            ..Failure::new(obstacle.sqlstate, obstacle.message.clone())
        }),
        None => Ok(()),
    }
}

/// All steps that are not done yet.
fn convert(job: &mut Job, relation: pg_sys::Oid) -> Result<Value, Failure> {
    let wanted = record::request_from_json(&job.order.options)
        .ok_or_else(|| Failure::new("22023", "the job's options are not those of a conversion"))?;
    let found = executor::transaction(|| Ok(Conversion::find(relation)?))?;
    let mut conversion = match found {
        Some(found) if found.state == State::Undoing => {
            return Err(Failure {
                hint: Some("CALL perf.partition_convert_undo() goes on with that.".to_owned()),
                ..Failure::new("55000", "the conversion of the table is being undone")
            })
        }
        Some(found) if found.state == State::Converted => return ahead(job, found),
        Some(found) => Conversion { request: wanted, ..found },
        None => Conversion::new(relation, wanted),
    };
    keys(job, &mut conversion)?;
    not_null(job, &mut conversion)?;
    swap_keys(job, &mut conversion)?;
    let mut tries = 1;
    while !bound(job, &mut conversion)? {
        tries += 1;
        if tries > BOUND_TRIES {
            return Err(Failure {
                hint: Some("Call it again when such rows have stopped to come.".to_owned()),
                ..Failure::new("55000", "rows come that are newer than the end of the first partition each time")
            });
        }
    }
    swap(job, &mut conversion)?;
    ahead(job, conversion)
}

/// Table and arguments as they are now.
fn look(conversion: &Conversion) -> Result<(Table, Settled), Failure> {
    let study = plan::study(conversion.relation, &conversion.request, false)?;
    // What a bigint counts was seen in the rows before the first step, and is remembered.
    in_the_way(&study)?;
    match study.settled {
        Some(settled) => Ok((study.table, settled)),
        None => Err(Failure::new("55000", "the table has changed since the conversion began")),
    }
}

fn keys(job: &mut Job, conversion: &mut Conversion) -> Result<(), Failure> {
    let (table, settled) = executor::transaction(|| {
        let study = plan::study(conversion.relation, &conversion.request, true)?;
        in_the_way(&study)?;
        let settled = study.settled.ok_or_else(|| Failure::new("55000", "the table has changed"))?;
        if let Key::Epoch(unit) = settled.key {
            conversion.request.epoch = Some(unit.to_string());
        }
        conversion.keys = keys::wanted(&study.table, &settled.control, &conversion.keys);
        conversion.was_nullable |= !settled.control.not_null;
        // Before anything is built: what is found after a crash is known to be ours.
        conversion.save(Step::Start)?;
        Ok((study.table, settled))
    })?;
    for key in &conversion.keys {
        let (has, validity) = executor::transaction(|| {
            let has =
                key.unique.constraint.is_some() && facts::constraint_has(&table, &key.unique.name, &settled.control);
            Ok((has, facts::index_validity(&table, &key.new)))
        })?;
        if has || validity == Some(true) {
            continue;
        }
        if validity == Some(false) {
            job.slowly(table.oid, &key.drop(&table))?;
        }
        job.slowly(table.oid, &key.build(&table))?;
    }
    executor::transaction(|| Ok(conversion.save(Step::Keys)?))
}

fn not_null(job: &mut Job, conversion: &mut Conversion) -> Result<(), Failure> {
    let (table, settled, check) = executor::transaction(|| {
        let (table, settled) = look(conversion)?;
        let check = facts::check_validity(&table, NOT_NULL_CHECK);
        Ok((table, settled, check))
    })?;
    if settled.control.not_null {
        return Ok(());
    }
    let [add, validate, set] = plan::not_null(&table, &settled.control);
    if check.is_none() {
        job.alter(&table, &[add], || Ok(()))?;
    }
    if check != Some(true) {
        // The check is taken away as after every failure.
        job.slowly(table.oid, &validate).map_err(|failure| match failure.sqlstate.as_str() {
            CHECK_VIOLATION => Failure {
                hint: Some("Give those rows a value or delete them, and call it again.".to_owned()),
                ..Failure::new(
                    CHECK_VIOLATION,
                    format!("rows of {} with NULL in {} have come meanwhile", table.full, settled.control.name),
                )
            },
            _ => failure,
        })?;
    }
    job.alter(&table, &[set], || Ok(conversion.save(Step::NotNull)?))
}

fn swap_keys(job: &mut Job, conversion: &mut Conversion) -> Result<(), Failure> {
    for key in conversion.keys.clone().iter().filter(|key| key.unique.constraint.is_some()) {
        let (table, has) = executor::transaction(|| {
            let (table, settled) = look(conversion)?;
            let has = facts::constraint_has(&table, &key.unique.name, &settled.control);
            Ok((table, has))
        })?;
        if !has {
            job.alter(&table, &key.swap(&table), || Ok(conversion.save(Step::SwapKeys)?))?;
        }
    }
    Ok(())
}

/// Shows that all rows lie in the first partition. False when one does not: it came after the end was chosen.
fn bound(job: &mut Job, conversion: &mut Conversion) -> Result<bool, Failure> {
    let (table, settled, check, newest) = executor::transaction(|| {
        let (table, settled) = look(conversion)?;
        let check = facts::check_validity(&table, BOUND_CHECK);
        let newest = facts::newest(&table, &settled.control);
        Ok((table, settled, check, newest))
    })?;
    let is_good = |boundary: &Option<(i64, String)>| {
        let at = boundary.as_ref().map(|(at, _)| *at);
        at.is_some_and(|at| rules::is_far_enough(&settled.ruler(), Settled::now(), at))
    };
    if check == Some(true) && is_good(&conversion.boundary) {
        return Ok(true);
    }
    let drop = format!("ALTER TABLE {} DROP CONSTRAINT {BOUND_CHECK}", table.full);
    if check.is_some() {
        job.alter(&table, std::slice::from_ref(&drop), || Ok(()))?;
    }
    let at = plan::boundary(&settled, &newest).map_err(|message| Failure::new("55000", message))?;
    conversion.boundary = Some((at, literal(settled.key, at)));
    let add = format!("ALTER TABLE {} ADD CONSTRAINT {BOUND_CHECK} {} NOT VALID", table.full, settled.bound(at));
    job.alter(&table, &[add], || Ok(conversion.save(Step::Bound)?))?;
    match job.slowly(table.oid, &format!("ALTER TABLE {} VALIDATE CONSTRAINT {BOUND_CHECK}", table.full)) {
        Err(failure) if failure.sqlstate == CHECK_VIOLATION => {
            job.alter(&table, &[drop], || Ok(()))?;
            Ok(false)
        }
        outcome => outcome.map(|()| true),
    }
}

fn swap(job: &mut Job, conversion: &mut Conversion) -> Result<(), Failure> {
    let (limit_ms, quiet_ms) = (job.patience.lock_ms(), job.patience.quiet_lock_ms());
    // Durable with the next commit: until then a crash undoes it as a whole, and nobody waits for the disk under the lock.
    background::set_session(c"synchronous_commit", c"off");
    let relation = conversion.relation;
    let before = conversion.clone();
    let swapped = job.quickly("the swap", relation, || {
        privilege::with_lock_timeout(quiet_ms, || lock::take(relation, Exclusive::ShareUpdate));
        *conversion = before.clone();
        let (table, settled) = look(conversion)?;
        let (_, boundary) = conversion.boundary.clone().ok_or_else(|| Failure::new("XX000", "no end was chosen"))?;
        if facts::check_validity(&table, BOUND_CHECK) != Some(true)
            || keys::wanted(&table, &settled.control, &conversion.keys).len() != conversion.keys.len()
            || !settled.control.not_null
        {
            return Err(Failure {
                hint: Some("Call it again: it goes on from what is there now.".to_owned()),
                ..Failure::new("55000", format!("the definition of {} has changed meanwhile", table.full))
            });
        }
        let swap = swap::prepare(&table, &settled, &boundary, &conversion.keys);
        let done = swap.run(&table, i64::from(limit_ms))?;
        conversion.parent = Some(done.parent);
        conversion.renamed = swap.renamed.clone();
        conversion.state = State::Converted;
        conversion.save(Step::Swap)?;
        Ok(((), done.locked))
    });
    background::set_session(c"synchronous_commit", c"on");
    swapped?;
    let lock_ms = job.lock_ms;
    executor::transaction(|| Ok(record::save_lock_ms(relation, lock_ms)?))
}

/// Makes the partitions for what comes after the first one.
fn ahead(job: &mut Job, mut conversion: Conversion) -> Result<Value, Failure> {
    let Some(parent) = conversion.parent else { return Err(Failure::new("XX000", "no partitioned table is known")) };
    let settings = settings(&conversion)?;
    // Nothing else makes statistics of a partitioned table: without them joins and groups of it would be planned blindly.
    let full = executor::transaction(|| Ok(ident::relation(parent)))?;
    let full = full.ok_or_else(|| Failure::new("42P01", "the partitioned table is gone"))?;
    job.slowly(parent, &format!("ANALYZE {full}"))?;
    let started = Instant::now();
    job.doing("making partitions ahead")?;
    // From the end of the first partition on, however far that is from the clock.
    let end = conversion.boundary.as_ref().map_or(i64::MIN, |(at, _)| *at);
    let look = Look {
        ground: Ground::TopLevel,
        parent,
        settings: &settings,
        as_of_us: Settled::now().max(end.saturating_sub(1)),
        caller: None,
    };
    let mut steps = Steps::default();
    rotate::rotate(&look, &mut steps)?;
    if let Some(step) = steps.all.iter().find(|step| step.status == super::Status::Failed) {
        let sqlstate = step.sqlstate.as_deref().unwrap_or("XX000");
        return Err(Failure::new(sqlstate, format!("{} of {}: {}", step.step, step.relation, step.detail)));
    }
    job.done(format!("{} partitions made ahead", steps.all.len()), started);
    let first = executor::transaction(|| {
        conversion.save(Step::Ahead)?;
        Ok(ident::relation(conversion.relation).unwrap_or_default())
    })?;
    let boundary = conversion.boundary.map_or_else(String::new, |(_, boundary)| boundary);
    let request = &conversion.request;
    job.lines
        .push(format!("{full} is partitioned by {}; what it held is in {first}, up to {boundary}", request.control));
    job.lines.push(format!(
        "next: SELECT perf.partition_manage({}, {}) makes partitions as time goes by",
        executor::transaction(|| Ok(ident::literal(&full)))?,
        executor::transaction(|| Ok(ident::literal(&request.every)))?,
    ));
    Ok(json!({ "relation": full, "first_partition": first, "boundary": boundary }))
}

/// As a job that manages the table would have them.
fn settings(conversion: &Conversion) -> Result<Settings, Failure> {
    let request = &conversion.request;
    let every = perf_core::partition::Every::parse(&request.every).map_err(|reason| Failure::new("22023", reason))?;
    let epoch = request.epoch.as_deref().map(EpochUnit::parse).transpose();
    Ok(Settings {
        every,
        premake: PREMAKE,
        retention: None,
        on_expire: OnExpire::Detach,
        archive_to: ArchiveTo::Schema,
        archive_schema: String::new(),
        compress_after: None,
        time_zone: request.time_zone.clone(),
        epoch: epoch.map_err(|reason| Failure::new("22023", reason))?,
        max_move_rows: 0,
    })
}
