//! The row of perf.partition_conversion: how far a conversion is and what it takes to go back. Written by the job in the
//! transaction of each step, with the rights of the tables' owner; read by the functions that start it.

use pgrx::pg_sys;
use serde_json::{json, Value};

use super::keys::Key;
use super::plan::{Request, Step};
use super::swap::Renamed;
use crate::act::runs::{rows, run};
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::query::text;
use crate::pg::text::{Document, Text};

const CONVERSIONS: &std::ffi::CStr = c"partition_conversion";

/// Where a conversion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Under way, or interrupted.
    Converting,
    /// The swap is done.
    Converted,
    /// On the way back.
    Undoing,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Converting => "converting",
            State::Converted => "converted",
            State::Undoing => "undoing",
        }
    }
}

/// A row.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The old table, later the first partition.
    pub relation: pg_sys::Oid,
    /// The partitioned table.
    pub parent: Option<pg_sys::Oid>,
    /// Where it is.
    pub state: State,
    /// The last step that is done.
    pub step: String,
    /// What was asked for.
    pub request: Request,
    /// Where the first partition ends, on the key's line and as SQL.
    pub boundary: Option<(i64, String)>,
    /// The control column took NULL before.
    pub was_nullable: bool,
    /// Unique indexes that had no control column.
    pub keys: Vec<Key>,
    /// What changed its name.
    pub renamed: Vec<Renamed>,
}

/// What was asked for, as a job and a record keep it.
pub fn request_to_json(request: &Request) -> Value {
    json!({
        "control": request.control, "every": request.every, "time_zone": request.time_zone, "epoch": request.epoch,
    })
}

/// From what a job or a record keeps.
pub fn request_from_json(value: &Value) -> Option<Request> {
    let string = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Request {
        control: string("control")?,
        every: string("every")?,
        time_zone: string("time_zone")?,
        epoch: string("epoch"),
    })
}

impl Conversion {
    /// One that begins.
    pub fn new(relation: pg_sys::Oid, request: Request) -> Conversion {
        Conversion {
            relation,
            parent: None,
            state: State::Converting,
            step: Step::Start.name().to_owned(),
            request,
            boundary: None,
            was_nullable: false,
            keys: Vec::new(),
            renamed: Vec::new(),
        }
    }

    /// The conversion of a table, by its old or its new OID. What is left of tables that are gone does not count.
    pub fn find(relation: pg_sys::Oid) -> Result<Option<Conversion>, Error> {
        privilege::as_owner(CONVERSIONS, || {
            let found = rows(
                c"SELECT relation, parent, state, step, options, undo, boundary_at, boundary FROM perf.partition_conversion v
                 WHERE (relation = $1 OR parent = $1) AND EXISTS (SELECT FROM pg_class c WHERE c.oid = v.relation)
                   AND (parent IS NULL OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = v.parent AND i.inhrelid = v.relation))",
                &[relation.into()],
                |row| {
                    let undo = row.get::<Document>(6)?.0;
                    let list = |name: &str| undo.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
                    Some(Conversion {
                        relation: row.get::<pg_sys::Oid>(1)?,
                        parent: row.get::<pg_sys::Oid>(2),
                        state: [State::Converting, State::Converted, State::Undoing]
                            .into_iter()
                            .find(|state| state.name() == row.string(3))?,
                        step: row.string(4),
                        request: request_from_json(&row.get::<Document>(5)?.0)?,
                        boundary: row.get::<i64>(7).zip(row.get::<Text>(8).map(|text| text.0)),
                        was_nullable: undo.get("was_nullable").and_then(Value::as_bool).unwrap_or(false),
                        keys: list("keys").iter().filter_map(Key::from_json).collect(),
                        renamed: list("renamed").iter().filter_map(Renamed::from_json).collect(),
                    })
                },
            );
            Ok(found.into_iter().flatten().next())
        })
    }

    /// Writes the row, in the open transaction. `done`: the step that it does.
    pub fn save(&mut self, done: Step) -> Result<(), Error> {
        self.step = done.name().to_owned();
        let undo = json!({
            "was_nullable": self.was_nullable,
            "keys": self.keys.iter().map(Key::to_json).collect::<Vec<_>>(),
            "renamed": self.renamed.iter().map(Renamed::to_json).collect::<Vec<_>>(),
        });
        let owner = privilege::current_role();
        privilege::as_owner(CONVERSIONS, || {
            privilege::writable(|| {
                run(
                    c"INSERT INTO perf.partition_conversion AS v
                             (relation, parent, owner, state, step, options, undo, boundary_at, boundary)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                     ON CONFLICT (relation) DO UPDATE
                     SET parent = excluded.parent, owner = excluded.owner, state = excluded.state, step = excluded.step,
                         options = excluded.options, undo = excluded.undo, boundary_at = excluded.boundary_at,
                         boundary = excluded.boundary,
                         converted_at = CASE WHEN excluded.state = 'converting' THEN NULL
                                             ELSE COALESCE(v.converted_at, clock_timestamp()) END",
                    &[
                        self.relation.into(),
                        self.parent.into(),
                        owner.into(),
                        text(self.state.name()),
                        text(&self.step),
                        Document(request_to_json(&self.request)).into(),
                        Document(undo).into(),
                        self.boundary.as_ref().map(|(at, _)| *at).into(),
                        self.boundary.as_ref().map(|(_, literal)| Text(literal.clone())).into(),
                    ],
                );
                Ok(())
            })
        })
    }

    /// Takes the row away, and those of tables that are gone.
    pub fn forget(relation: pg_sys::Oid) -> Result<(), Error> {
        privilege::as_owner(CONVERSIONS, || {
            privilege::writable(|| {
                run(
                    c"DELETE FROM perf.partition_conversion v
                     WHERE relation = $1 OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = v.relation)",
                    &[relation.into()],
                );
                Ok(())
            })
        })
    }
}

/// Notes how long the swap has kept everybody away.
pub fn save_lock_ms(relation: pg_sys::Oid, ms: f64) -> Result<(), Error> {
    privilege::as_owner(CONVERSIONS, || {
        privilege::writable(|| {
            run(
                c"UPDATE perf.partition_conversion SET exclusive_lock_ms = $2 WHERE relation = $1",
                &[relation.into(), ms.into()],
            );
            Ok(())
        })
    })
}
