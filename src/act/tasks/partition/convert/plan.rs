//! What a conversion is going to do, and what is in its way: for the function that shows it, for the one that starts it and
//! for the job, which makes sure that it is still so. Inside a transaction, under a `search_path` of `pg_catalog`. Locks
//! nothing; reads the table where no index tells its newest row.

use perf_core::partition::{literal, At, EpochUnit, Every, Key, Ruler};
use perf_core::partition_convert as rules;
use pgrx::pg_sys;

use super::facts::{self, Control, Newest, Table};
use super::keys;
use super::obstacles::{self, Obstacle};
use super::swap;
use crate::act::jobs::to_unix;
use crate::error::Error;
use crate::pg::zone::ServerZone;
use crate::pg::{background, ident};

/// The CHECK that stands for NOT NULL until that can be had without a scan.
pub const NOT_NULL_CHECK: &str = "perf_convert_not_null";
/// The CHECK that proves that all rows fit the first partition.
pub const BOUND_CHECK: &str = "perf_convert_bound";
/// Locks, as the plan names them.
const NONE: &str = "none";
const SHARE_UPDATE: &str = "SHARE UPDATE EXCLUSIVE";
const EXCLUSIVE: &str = "ACCESS EXCLUSIVE, for milliseconds";

/// What is done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Looking.
    Start,
    /// Unique indexes get the control column.
    Keys,
    /// The control column takes no NULL.
    NotNull,
    /// Constraints take the new indexes.
    SwapKeys,
    /// All rows are shown to lie in the first partition.
    Bound,
    /// The partitioned table takes the name.
    Swap,
    /// Partitions for what comes.
    Ahead,
}

impl Step {
    /// For the record.
    pub fn name(self) -> &'static str {
        match self {
            Step::Start => "start",
            Step::Keys => "keys",
            Step::NotNull => "not null",
            Step::SwapKeys => "swap keys",
            Step::Bound => "bound",
            Step::Swap => "swap",
            Step::Ahead => "ahead",
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The column to partition by.
    pub control: String,
    /// How wide partitions are.
    pub every: String,
    /// Whose wall clock bounds lie on.
    pub time_zone: String,
    /// What a number counts.
    pub epoch: Option<String>,
}

/// What was asked for, understood.
pub struct Settled {
    /// The column.
    pub control: Control,
    /// How wide partitions are.
    pub every: Every,
    /// What the column tells.
    pub key: Key,
    zone: ServerZone,
}

impl Settled {
    /// Where bounds lie.
    pub fn ruler(&self) -> Ruler<'_> {
        Ruler { every: self.every, key: self.key, zone: &self.zone }
    }

    /// The clock, in microseconds since 1970.
    pub fn now() -> i64 {
        to_unix(background::now())
    }

    /// The CHECK that all rows lie before a bound.
    pub fn bound(&self, boundary: At) -> String {
        let name = &self.control.name;
        format!("CHECK ({name} IS NOT NULL AND {name} < {})", literal(self.key, boundary))
    }
}

/// A table that is to be converted.
pub struct Study {
    /// The table.
    pub table: Table,
    /// `None` when what was asked for makes no sense.
    pub settled: Option<Settled>,
    /// Where its rows end.
    pub boundary: Option<At>,
    /// What is in the way.
    pub obstacles: Vec<Obstacle>,
}

fn obstacle(step: Step, sqlstate: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Obstacle {
    Obstacle { step, sqlstate, message: message.into(), hint: hint.into() }
}

fn from_error(step: Step, error: Error) -> Obstacle {
    let (_, message, hint) = error.parts();
    obstacle(step, "22023", message, hint)
}

fn invalid(argument: &str, value: &str, reason: impl std::fmt::Display) -> Obstacle {
    let message = format!("invalid value for argument \"{argument}\": \"{value}\"");
    obstacle(Step::Start, "22023", message, format!("{reason}."))
}

/// Looks at everything. `with_rows`: also at the rows.
pub fn study(relation: pg_sys::Oid, request: &Request, with_rows: bool) -> Result<Study, Error> {
    let table = facts::table(relation).ok_or_else(|| Error::UndefinedObject {
        message: format!("relation with OID {} does not exist", relation.to_u32()),
        hint: "Name a table of this database.".to_owned(),
    })?;
    let mut study = Study { obstacles: obstacles::nature(&table), table, settled: None, boundary: None };
    if !study.obstacles.is_empty() {
        return Ok(study);
    }
    settle(&mut study, request, with_rows);
    study.obstacles.extend(obstacles::dependents(&study.table));
    if let Some(settled) = &study.settled {
        study.obstacles.extend(keys::obstacles(&study.table, &settled.control));
        if with_rows && study.obstacles.is_empty() {
            rows(&mut study);
        }
    }
    study.obstacles.sort_by_key(|obstacle| obstacle.step);
    Ok(study)
}

/// Understands what was asked for.
fn settle(study: &mut Study, request: &Request, with_rows: bool) {
    let every = match Every::parse(&request.every) {
        Ok(every) => Some(every),
        Err(reason) => {
            study.obstacles.push(invalid("every", &request.every, reason));
            None
        }
    };
    let zone = match ServerZone::named("time_zone", &request.time_zone) {
        Ok(zone) => Some(zone),
        Err(error) => {
            study.obstacles.push(from_error(Step::Start, error));
            None
        }
    };
    let unit = match request.epoch.as_deref().map(EpochUnit::parse).transpose() {
        Ok(unit) => unit,
        Err(reason) => {
            study.obstacles.push(invalid("epoch", request.epoch.as_deref().unwrap_or_default(), reason));
            return;
        }
    };
    let Some(control) = facts::control(&study.table, &request.control) else {
        let message = format!("column \"{}\" of {} does not exist", request.control, study.table.full);
        study.obstacles.push(obstacle(Step::Start, "42703", message, "control names a column of the table."));
        return;
    };
    if control.is_generated {
        let message = format!("column {} is generated", control.name);
        let hint = "A partition key must be a column that is written: partition by one it is made of.";
        study.obstacles.push(obstacle(Step::Start, "0A000", message, hint));
        return;
    }
    let unit = match (control.type_name.as_str(), unit) {
        ("bigint", None) => match with_rows.then(|| visible_newest(study, &control)).flatten() {
            Some(Newest::Number(number)) => EpochUnit::guess(number),
            _ => None,
        },
        ("bigint", unit) => unit,
        (_, Some(_)) => {
            let value = request.epoch.as_deref().unwrap_or_default();
            study.obstacles.push(invalid("epoch", value, "Leave it out: only a bigint counts since 1970"));
            return;
        }
        (_, None) => None,
    };
    let Some(key) = facts::key(&control.type_name, unit) else {
        study.obstacles.push(match control.type_name.as_str() {
            "bigint" => obstacle(
                Step::Start,
                "22023",
                format!("what the numbers in column {} count cannot be told from the newest of them", control.name),
                "epoch => seconds, milliseconds, microseconds or nanoseconds.",
            ),
            other => obstacle(
                Step::Start,
                "22023",
                format!("column {} is of type {other}", control.name),
                "Partition by a column of type date, timestamp, timestamptz, uuid (version 7) or bigint (an epoch).",
            ),
        });
        return;
    };
    let (Some(every), Some(zone)) = (every, zone) else { return };
    if let Err(reason) = every.fits(key) {
        study.obstacles.push(invalid("every", &request.every, reason));
        return;
    }
    study.settled = Some(Settled { control, every, key, zone });
}

/// The newest value where a look at the rows is allowed.
fn visible_newest(study: &Study, control: &Control) -> Option<Newest> {
    let hidden = obstacles::dependents(&study.table).iter().any(|obstacle| obstacle.step == Step::Bound);
    (!hidden).then(|| facts::newest(&study.table, control))
}

/// What the rows have against it.
fn rows(study: &mut Study) {
    let Some(settled) = &study.settled else { return };
    let (table, control) = (&study.table, &settled.control);
    if facts::has_null(table, control) {
        let message = format!("column {} is NULL in some rows of {}", control.name, table.full);
        let hint = format!("Give them a value: UPDATE {} SET {} = ... WHERE {1} IS NULL.", table.full, control.name);
        study.obstacles.push(obstacle(Step::NotNull, "55000", message, hint));
    }
    let newest = facts::newest(table, control);
    match boundary(settled, &newest) {
        Ok(boundary) => study.boundary = Some(boundary),
        Err(message) => {
            let message = format!("{message} in column {} of {}", control.name, table.full);
            let hint = "Give such rows another value: the partition for them could never be left behind.";
            study.obstacles.push(obstacle(Step::Bound, "55000", message, hint));
        }
    }
}

/// Where the first partition is to end.
pub fn boundary(settled: &Settled, newest: &Newest) -> Result<At, String> {
    if *newest == Newest::Infinite {
        return Err("the newest value is infinity".to_owned());
    }
    let at = newest.at(settled.key);
    rules::boundary(&settled.ruler(), Settled::now(), at).ok_or_else(|| {
        let newest = at.filter(|at| *at < settled.key.line().upper).map(|at| literal(settled.key, at));
        let newest = newest.unwrap_or_else(|| "the newest value".to_owned());
        match settled.key {
            Key::Uuid7 => format!("{newest}, no uuid of version 7 or one of the far future, is the last"),
            _ => format!("{newest}, more than a hundred years from now, is the last"),
        }
    })
}

/// A row of the plan.
pub struct Row {
    /// Steps of one number belong together.
    pub number: i32,
    /// What is done; notes are comments.
    pub sql: Option<String>,
    /// What it takes on the table.
    pub lock: Option<&'static str>,
    /// Why it cannot be done.
    pub blocker: Option<String>,
}

/// The rows of the plan.
pub fn show(study: &Study) -> Vec<Row> {
    let steps = steps(study);
    let number = |step: Step| steps.iter().position(|(at, ..)| *at >= step).unwrap_or(0) as i32 + 1;
    let mut rows = Vec::new();
    for (index, (_, sql, lock)) in steps.iter().enumerate() {
        let at = index as i32 + 1;
        let mut blockers = study.obstacles.iter().filter(|obstacle| number(obstacle.step) == at);
        rows.push(Row {
            number: at,
            sql: Some(sql.clone()),
            lock: Some(lock),
            blocker: blockers.next().map(|obstacle| obstacle.message.clone()),
        });
        rows.extend(blockers.map(|obstacle| Row {
            number: at,
            sql: None,
            lock: None,
            blocker: Some(obstacle.message.clone()),
        }));
    }
    if steps.is_empty() {
        rows.extend(study.obstacles.iter().map(|obstacle| Row {
            number: 1,
            sql: None,
            lock: None,
            blocker: Some(obstacle.message.clone()),
        }));
    }
    rows
}

/// The steps, their SQL and their locks.
fn steps(study: &Study) -> Vec<(Step, String, &'static str)> {
    let (Some(settled), table) = (&study.settled, &study.table) else { return Vec::new() };
    let control = &settled.control;
    let mut steps = Vec::new();
    let wanted = keys::wanted(table, control, &[]);
    for key in &wanted {
        let note = match key.unique.constraint {
            Some(_) => format!(
                "-- {} is no longer unique without {1}, which ON CONFLICT must name as well\n",
                key.columns, control.name
            ),
            None => format!("-- {} stays unique in the first partition only\n", key.columns),
        };
        steps.push((Step::Keys, note + &key.build(table), SHARE_UPDATE));
    }
    if !control.not_null {
        for (sql, lock) in not_null(table, control).into_iter().zip([EXCLUSIVE, SHARE_UPDATE, EXCLUSIVE]) {
            steps.push((Step::NotNull, sql, lock));
        }
    }
    for key in wanted.iter().filter(|key| key.unique.constraint.is_some()) {
        steps.push((Step::SwapKeys, in_transaction(&key.swap(table)), EXCLUSIVE));
    }
    let boundary = study.boundary.map_or_else(|| "...".to_owned(), |at| literal(settled.key, at));
    let check = study.boundary.map_or_else(|| "CHECK (...)".to_owned(), |at| settled.bound(at));
    steps.push((
        Step::Bound,
        format!(
            "-- rows from {boundary} on are refused until the swap\n\
             ALTER TABLE {} ADD CONSTRAINT {BOUND_CHECK} {check} NOT VALID",
            table.full
        ),
        EXCLUSIVE,
    ));
    steps.push((Step::Bound, format!("ALTER TABLE {} VALIDATE CONSTRAINT {BOUND_CHECK}", table.full), SHARE_UPDATE));
    let swap = swap::prepare(table, settled, &boundary, &wanted);
    let note = if swap.has_row_triggers {
        "-- TG_TABLE_NAME and TG_RELID will be those of the partition in row triggers\n"
    } else {
        ""
    };
    steps.push((Step::Swap, format!("{note}{}", in_transaction(&swap.shown(table, &wanted))), EXCLUSIVE));
    steps.push((Step::Ahead, format!("ANALYZE {}", table.full), SHARE_UPDATE));
    steps.push((
        Step::Ahead,
        format!(
            "-- partitions from {boundary} on, each made beside {} and attached; perf.partition_manage({}, {}) makes more",
            table.full,
            ident::literal(&table.full),
            ident::literal(&settled.every.to_string()),
        ),
        NONE,
    ));
    steps
}

/// NOT NULL for the control column without a scan under an exclusive lock.
pub fn not_null(table: &Table, control: &Control) -> [String; 3] {
    [
        format!(
            "ALTER TABLE {} ADD CONSTRAINT {NOT_NULL_CHECK} CHECK ({} IS NOT NULL) NOT VALID",
            table.full, control.name
        ),
        format!("ALTER TABLE {} VALIDATE CONSTRAINT {NOT_NULL_CHECK}", table.full),
        format!(
            "ALTER TABLE {} ALTER COLUMN {} SET NOT NULL, DROP CONSTRAINT {NOT_NULL_CHECK}",
            table.full, control.name
        ),
    ]
}

fn in_transaction(statements: &[String]) -> String {
    match statements {
        [one] => one.clone(),
        all => format!("BEGIN;\n{};\nCOMMIT", all.join(";\n")),
    }
}
