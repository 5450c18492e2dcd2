//! How a parent is managed: what `perf.partition_manage` was told, as the job keeps it in its options. Called by the function
//! that stores it and by the job. Locks nothing.

use perf_core::partition::{EpochUnit, Every, Key, Ruler, Span, Wish};
use serde_json::{json, Value};

use crate::act::executor::Failure;
use crate::error::Error;
use crate::pg::zone::ServerZone;

/// What becomes of a partition whose retention is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpire {
    /// It is a table of its own from then on.
    Detach,
    /// It goes.
    Drop,
    /// It is moved to where old data is kept.
    Archive,
}

impl OnExpire {
    /// By the name that users write.
    pub fn from_name(name: &str) -> Option<OnExpire> {
        match name {
            "detach" => Some(OnExpire::Detach),
            "drop" => Some(OnExpire::Drop),
            "archive" => Some(OnExpire::Archive),
            _ => None,
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            OnExpire::Detach => "detach",
            OnExpire::Drop => "drop",
            OnExpire::Archive => "archive",
        }
    }
}

/// Where archived partitions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveTo {
    /// To another schema.
    Schema,
    /// To a compressed file in `perf_opt.archive_directory`.
    File,
}

impl ArchiveTo {
    /// By the name that users write.
    pub fn from_name(name: &str) -> Option<ArchiveTo> {
        match name {
            "schema" => Some(ArchiveTo::Schema),
            "file" => Some(ArchiveTo::File),
            _ => None,
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            ArchiveTo::Schema => "schema",
            ArchiveTo::File => "file",
        }
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Width of a partition.
    pub every: Every,
    /// Partitions made ahead.
    pub premake: u32,
    /// Age at which a partition expires.
    pub retention: Option<Span>,
    /// What becomes of it then.
    pub on_expire: OnExpire,
    /// Where it is archived to.
    pub archive_to: ArchiveTo,
    /// The schema for that.
    pub archive_schema: String,
    /// Age at which it is compressed.
    pub compress_after: Option<Span>,
    /// What bounds are cut by.
    pub time_zone: String,
    /// What a bigint key counts.
    pub epoch: Option<EpochUnit>,
    /// Rows of the default partition moved while others wait.
    pub max_move_rows: i64,
}

impl Settings {
    /// For the planner of partitions.
    pub fn wish(&self) -> Wish {
        Wish { premake: self.premake, retention: self.retention, compress_after: self.compress_after }
    }

    /// The zone that bounds are cut in.
    pub fn zone(&self) -> Result<ServerZone, Error> {
        ServerZone::named("time_zone", &self.time_zone)
    }

    /// What measures a key of a table.
    pub fn ruler<'a>(&self, key: Key, zone: &'a ServerZone) -> Ruler<'a> {
        Ruler { every: self.every, key, zone }
    }

    /// As a job keeps it.
    pub fn to_options(&self) -> Value {
        json!({
            "every": self.every.to_string(), "premake": self.premake, "retention": self.retention.map(span_to_json),
            "on_expire": self.on_expire.name(), "archive_to": self.archive_to.name(),
            "archive_schema": self.archive_schema, "compress_after": self.compress_after.map(span_to_json),
            "time_zone": self.time_zone, "epoch": self.epoch.map(|unit| unit.to_string()), "max_move_rows": self.max_move_rows,
        })
    }

    /// As [`Settings::to_options`] wrote it.
    pub fn from_options(options: &Value) -> Result<Settings, Failure> {
        let bad = |name: &str| Failure::new("22023", format!("the job's options have no valid \"{name}\""));
        let string = |name: &str| options.get(name).and_then(Value::as_str);
        let number = |name: &str| options.get(name).and_then(Value::as_i64);
        let span = |name: &str| match options.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => span_from_json(value).map(Some).ok_or_else(|| bad(name)),
        };
        Ok(Settings {
            every: string("every").and_then(|every| Every::parse(every).ok()).ok_or_else(|| bad("every"))?,
            premake: number("premake").and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad("premake"))?,
            retention: span("retention")?,
            on_expire: string("on_expire").and_then(OnExpire::from_name).ok_or_else(|| bad("on_expire"))?,
            archive_to: string("archive_to").and_then(ArchiveTo::from_name).ok_or_else(|| bad("archive_to"))?,
            archive_schema: string("archive_schema").ok_or_else(|| bad("archive_schema"))?.to_owned(),
            compress_after: span("compress_after")?,
            time_zone: string("time_zone").ok_or_else(|| bad("time_zone"))?.to_owned(),
            epoch: match options.get("epoch") {
                None | Some(Value::Null) => None,
                Some(value) => {
                    Some(value.as_str().and_then(|name| EpochUnit::parse(name).ok()).ok_or_else(|| bad("epoch"))?)
                }
            },
            max_move_rows: number("max_move_rows").ok_or_else(|| bad("max_move_rows"))?,
        })
    }
}

fn span_to_json(span: Span) -> Value {
    json!({ "months": span.months, "days": span.days, "micros": span.micros })
}

fn span_from_json(value: &Value) -> Option<Span> {
    let number = |name: &str| value.get(name).and_then(Value::as_i64);
    Some(Span {
        months: number("months").and_then(|n| i32::try_from(n).ok())?,
        days: number("days").and_then(|n| i32::try_from(n).ok())?,
        micros: number("micros")?,
    })
}
