//! Jobs that manage partitions, as users define them: one for each parent. Called by the SQL functions, in the user's
//! transaction. Locks the row of the job.

use perf_core::partition::{EpochUnit, Every, Key, Span, PREMAKE_MAX};
use perf_core::schedule::DAY_US;
use pgrx::datum::Interval;
use pgrx::pg_sys;

use super::settings::{ArchiveTo, OnExpire, Settings};
use super::{archive, archive_file};
use crate::act::define::{take_over, Definition};
use crate::act::jobs::to_unix;
use crate::act::runs::rows;
use crate::error::Error;
use crate::partitions::{Parent, Table};
use crate::pg::{background, ident, privilege};

const JOBS: &std::ffi::CStr = c"job";
const NAME_CHARACTERS: usize = 200;
/// Partitions of a day and more are looked at each hour; shorter ones oftener.
const HOURLY: &str = "hourly";
const OFTEN: &str = "5 min";
const MAX_RETRIES: i32 = 5;
const MOVE_ROWS_MAX: i64 = 100_000_000;

/// What a user wants.
pub struct Request<'a> {
    /// The partitioned table.
    pub parent: pg_sys::Oid,
    /// Width of a partition.
    pub every: &'a str,
    /// Partitions made ahead.
    pub premake: i32,
    /// Age at which a partition expires.
    pub retention: Option<Interval>,
    /// What becomes of it then.
    pub on_expire: &'a str,
    /// Where archived ones go.
    pub archive_schema: &'a str,
    /// Age at which a partition is compressed.
    pub compress_after: Option<Interval>,
    /// What bounds are cut by.
    pub time_zone: &'a str,
    /// Whether to a schema or to a file.
    pub archive_to: &'a str,
    /// What a bigint key counts.
    pub epoch: Option<&'a str>,
    /// Rows moved out of the default partition while others wait.
    pub max_move_rows: i64,
}

fn invalid(argument: &'static str, value: impl std::fmt::Display, accepted: impl Into<String>) -> Error {
    Error::InvalidArgument { argument, value: format!("\"{value}\""), accepted: accepted.into() }
}

impl Request<'_> {
    /// Stores the job, in place of the one that the parent has. Its number.
    pub fn store(&self) -> Result<i64, Error> {
        let (parent, settings) = self.settings()?;
        let parent_name = parent.full_name();
        let job_id = self.store_job(&parent_name, &settings)?;
        let zone = settings.zone()?;
        let now = settings.ruler(parent.key, &zone).now(to_unix(background::now()));
        if !parent.ranges().iter().any(|range| range.contains(now)) {
            pgrx::notice!(
                "{parent_name} has no partition for rows of now until its job runs: \
                 SELECT * FROM perf.partition_tick({}) makes it at once",
                ident::literal(&parent_name)
            );
        }
        Ok(job_id)
    }

    fn store_job(&self, parent_name: &str, settings: &Settings) -> Result<i64, Error> {
        let name: String = format!("partitions of {parent_name}").chars().take(NAME_CHARACTERS).collect();
        take_over(super::KIND, self.parent, &name)?;
        Definition {
            name: &name,
            kind: super::KIND,
            target: Some(self.parent),
            schedule: if is_short(settings.every) { OFTEN } else { HOURLY },
            time_zone: &settings.time_zone,
            command: None,
            options: settings.to_options(),
            timeout: None,
            lock_timeout: None,
            max_retries: MAX_RETRIES,
            priority: 0,
            catch_up: "run_once",
            overlap: "skip",
        }
        .store()
    }

    fn settings(&self) -> Result<(Parent, Settings), Error> {
        // Whoever may not touch the table does not learn what it is like.
        let table = Table::read("parent", self.parent)?;
        table.check_owner()?;
        let epoch = self.epoch.map(|unit| EpochUnit::parse(unit).map_err(|reason| invalid("epoch", unit, reason)));
        let parent = Parent::read("parent", self.parent, epoch.transpose()?)?;
        if table.persistence == b't' {
            return Err(Error::InvalidArgument {
                argument: "parent",
                value: format!("{} is temporary", parent.full_name()),
                accepted: "A table that other sessions see.".to_owned(),
            });
        }
        if self.epoch.is_some() && !matches!(parent.key, Key::Epoch(_)) {
            let reason = format!("Leave it out: the key of {} is not a bigint.", parent.full_name());
            return Err(invalid("epoch", self.epoch.unwrap_or_default(), reason));
        }
        if self.retention.is_some() && self.epoch.is_none() && matches!(parent.key, Key::Epoch(_)) {
            return Err(Error::InvalidArgument {
                argument: "epoch",
                value: format!(
                    "not given, and the bounds of {} may be numbers that count anything",
                    parent.full_name()
                ),
                accepted:
                    "With a retention, say what the key counts: seconds, milliseconds, microseconds or nanoseconds."
                        .to_owned(),
            });
        }
        let every = Every::parse(self.every).map_err(|reason| invalid("every", self.every, sentence(&reason)))?;
        every.fits(parent.key).map_err(|reason| invalid("every", self.every, sentence(&reason)))?;
        let premake = u32::try_from(self.premake)
            .ok()
            .filter(|n| (1..=PREMAKE_MAX).contains(n))
            .ok_or_else(|| invalid("premake", self.premake, format!("A number from 1 to {PREMAKE_MAX}.")))?;
        let settings = Settings {
            every,
            premake,
            retention: self.age("retention", self.retention, every)?,
            on_expire: OnExpire::from_name(self.on_expire)
                .ok_or_else(|| invalid("on_expire", self.on_expire, "detach, drop or archive."))?,
            archive_to: ArchiveTo::from_name(self.archive_to)
                .ok_or_else(|| invalid("archive_to", self.archive_to, "schema or file."))?,
            archive_schema: match self.archive_schema {
                "" => return Err(invalid("archive_schema", "", "The name of a schema.")),
                schema => {
                    archive::check_schema(schema)?;
                    schema.to_owned()
                }
            },
            compress_after: self.age("compress_after", self.compress_after, every)?,
            time_zone: self.time_zone.to_owned(),
            epoch: if let Key::Epoch(unit) = parent.key { Some(unit) } else { None },
            max_move_rows: match self.max_move_rows {
                rows @ 0..=MOVE_ROWS_MAX => rows,
                rows => {
                    return Err(invalid("max_move_rows", rows, format!("A number from 0 to {MOVE_ROWS_MAX}.")));
                }
            },
        };
        settings.zone()?;
        if settings.on_expire == OnExpire::Archive && settings.archive_to == ArchiveTo::File {
            archive_file::check_settings()?;
        }
        Ok((parent, settings))
    }

    /// An age of at least one interval: what is younger may still be written to.
    fn age(&self, argument: &'static str, age: Option<Interval>, every: Every) -> Result<Option<Span>, Error> {
        let Some(age) = age else { return Ok(None) };
        let span = Span { months: age.months(), days: age.days(), micros: age.micros() };
        if span.is_negative() || length_us(span) < length_us(every.span()) {
            let value = format!("{} months {} days {} s", span.months, span.days, span.micros / 1_000_000);
            return Err(Error::InvalidArgument {
                argument,
                value,
                accepted: format!("An interval of at least one partition ({every}), or NULL for never."),
            });
        }
        Ok(Some(span))
    }
}

/// A reason as a hint.
fn sentence(reason: &str) -> String {
    let mut characters = reason.chars();
    let first = characters.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}

fn is_short(every: Every) -> bool {
    length_us(every.span()) < DAY_US
}

/// A length, with 30 days to the month, so that `1 month` is enough for months and `29 days` is not.
fn length_us(span: Span) -> i64 {
    let days = i64::from(span.months) * 30 + i64::from(span.days);
    days.saturating_mul(DAY_US).saturating_add(span.micros)
}

/// A managed parent.
pub struct Managed {
    /// The table.
    pub parent: pg_sys::Oid,
    /// Its job.
    pub job_id: i64,
    /// Whose rights it has.
    pub owner: pg_sys::Oid,
    /// How it is managed.
    pub options: serde_json::Value,
}

/// The managed parents whose jobs are the current role's; a superuser's are all. Of one parent only, if one is given.
pub fn managed(parent: Option<pg_sys::Oid>) -> Result<Vec<Managed>, Error> {
    let role = privilege::current_role();
    privilege::as_owner(JOBS, || {
        let found = rows(
            c"SELECT target::pg_catalog.oid, job_id, options, owner::pg_catalog.oid FROM perf.job
             WHERE kind = 'partition' AND ($1 IS NULL OR target = $1)
               AND (owner::pg_catalog.oid = $2 OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid = $2))
             ORDER BY job_id",
            &[parent.into(), role.into()],
            |row| {
                Some(Managed {
                    parent: row.get::<pg_sys::Oid>(1)?,
                    job_id: row.get::<i64>(2)?,
                    owner: row.get::<pg_sys::Oid>(4)?,
                    options: row.get::<crate::pg::text::Document>(3)?.0,
                })
            },
        );
        Ok(found.into_iter().flatten().collect())
    })
}

/// The one of a parent; an error when it has none of the current role's.
pub fn managed_one(parent: pg_sys::Oid) -> Result<Managed, Error> {
    managed(Some(parent))?.into_iter().next().ok_or_else(|| Error::UndefinedObject {
        message: format!(
            "you have no job that manages the partitions of {}",
            ident::relation(parent).unwrap_or_else(|| format!("relation {}", parent.to_u32()))
        ),
        hint: "perf.partition_manage(parent, every) makes one; perf.jobs lists your jobs.".to_owned(),
    })
}
