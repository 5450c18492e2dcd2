//! Jobs that manage partitions, as the check of partitions sees them: whoever may manage a table may know how it is managed.
//! Called by the check, inside a transaction. Locks nothing.

use std::collections::HashMap;

use perf_core::partition::EpochUnit;
use pgrx::pg_sys;
use serde_json::Value;

use crate::act::tasks::partition::settings::Settings;
use crate::error::Error;
use crate::pg::text::{Document, Text};
use crate::pg::{privilege, query};

const JOBS: &std::ffi::CStr = c"job";
const POLICY: &std::ffi::CStr = c"partition_policy";

/// One of them.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub job_id: i64,
    /// The table.
    pub target: u32,
    /// How it is managed.
    pub options: Value,
    /// Who runs it, by name.
    pub owner: String,
    owner_oid: pg_sys::Oid,
    is_target_gone: bool,
    /// The role that runs it was dropped.
    pub is_owner_gone: bool,
    /// The role that runs it may act as the owner of the table.
    pub may_manage: bool,
    /// False when it was found that it can never run.
    pub is_enabled: bool,
    /// Until when it is paused.
    pub paused_until: Option<String>,
    /// Runs that failed since one succeeded.
    pub failures: i32,
    last_message: String,
}

impl Job {
    /// The table was dropped.
    pub fn is_target_gone(&self) -> bool {
        self.is_target_gone
    }

    /// Whether the current role may do something about it.
    pub fn is_mine(&self) -> bool {
        let role = privilege::current_role();
        self.owner_oid == role || privilege::is_superuser(role)
    }

    /// Whether it runs when it is due.
    pub fn runs(&self) -> bool {
        self.is_enabled && !self.is_owner_gone && self.paused_until.is_none()
    }

    /// What its latest run that did not succeed has said.
    pub fn message(&self) -> &str {
        if self.last_message.is_empty() {
            "its runs say no more"
        } else {
            &self.last_message
        }
    }
}

/// All of them, by table.
pub fn all() -> Result<HashMap<u32, Vec<Job>>, Error> {
    privilege::as_owner(JOBS, || {
        let found = query::run_with(
            c"SELECT j.job_id, j.target::oid, j.options, r.rolname::text, j.owner::oid, c.oid IS NULL, r.oid IS NULL,
                     COALESCE(pg_has_role(r.oid, c.relowner, 'USAGE'), true), j.enabled,
                     CASE WHEN j.paused_until = 'infinity' THEN 'infinity'
                          WHEN j.paused_until > now() THEN to_char(j.paused_until, 'YYYY-MM-DD HH24:MI:SSTZH') END,
                     COALESCE(s.consecutive_failures, 0),
                     (SELECT x.message FROM perf.job_run x WHERE x.job_id = j.job_id AND x.message IS NOT NULL
                         AND x.status IN ('failed', 'crashed', 'cancelled', 'queued') ORDER BY x.run_id DESC LIMIT 1)
                FROM perf.job j LEFT JOIN perf.job_state s ON s.job_id = j.job_id LEFT JOIN pg_roles r ON r.oid = j.owner::oid
                LEFT JOIN pg_class c ON c.oid = j.target::oid
               WHERE j.kind = 'partition' AND j.target IS NOT NULL ORDER BY j.job_id",
            &[],
            |row| Job {
                job_id: row.get::<i64>(1).unwrap_or_default(),
                target: row.get::<pg_sys::Oid>(2).unwrap_or(pg_sys::InvalidOid).to_u32(),
                options: row.get::<Document>(3).map_or(Value::Null, |options| options.0),
                owner: row.string(4),
                owner_oid: row.get::<pg_sys::Oid>(5).unwrap_or(pg_sys::InvalidOid),
                is_target_gone: row.get::<bool>(6).unwrap_or(false),
                is_owner_gone: row.get::<bool>(7).unwrap_or(false),
                may_manage: row.get::<bool>(8).unwrap_or(true),
                is_enabled: row.get::<bool>(9).unwrap_or(true),
                paused_until: row.get::<Text>(10).map(|until| until.0),
                failures: row.get::<i32>(11).unwrap_or(0),
                last_message: row.string(12),
            },
        )
        .1;
        let mut by_table: HashMap<u32, Vec<Job>> = HashMap::new();
        for job in found {
            by_table.entry(job.target).or_default().push(job);
        }
        Ok(by_table)
    })
}

/// What the bigint key of a managed table counts.
pub fn unit(table: pg_sys::Oid) -> Result<Option<EpochUnit>, Error> {
    let jobs = all()?;
    let job = jobs.get(&table.to_u32()).and_then(|jobs| jobs.first());
    Ok(job.and_then(|job| Settings::from_options(&job.options).ok()).and_then(|settings| settings.epoch))
}

/// Tables that the policy wants partitioned, by their names alone.
pub fn policy_tables() -> Result<Vec<String>, Error> {
    privilege::as_owner(POLICY, || {
        Ok(query::run_with(c"SELECT table_name FROM perf.partition_policy", &[], |row| row.string(1)).1)
    })
}
