//! What the roadmap and the checklist know of this database: each advisor and catalog is asked once, when the first task
//! needs it, in a subtransaction of its own. One that fails is a warning and a reason, not the end. Locks what they lock.

use std::cell::{OnceCell, RefCell};
use std::time::Duration;

use pgrx::pg_sys;

use super::changes::{self, Change};
use crate::act::define;
use crate::act::executor::{attempt, Failure};
use crate::advise::index::recommend::{self, Options};
use crate::advise::index::Recommendation;
use crate::advise::{caching, scaling};
use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{catalog, ident, privilege, query};
use crate::workload::queries::{Source, Workload};
use crate::workload::{captured, shapes};
use crate::{guc, memory};

/// Parts of the time budget: for indexes, and for planning the workload of partitioned tables.
const INDEX_SHARE: f64 = 0.6;
const PARTITION_SHARE: f64 = 0.3;

/// A relation of the caller's search path.
#[derive(Clone, Debug)]
pub struct Relation {
    /// OID.
    pub oid: pg_sys::Oid,
    /// Quoted and qualified.
    pub name: String,
    /// `r`, `p`, `m`, ...
    pub kind: String,
}

/// A job of the scheduler, whoever owns it.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it does.
    pub kind: String,
    /// What to.
    pub target: u32,
    /// It runs when it is due.
    pub runs: bool,
    /// Runs by schedule, rather than when asked.
    pub is_scheduled: bool,
    /// Runs that failed since one succeeded.
    pub failures: i32,
    /// Partitions are let go at some age.
    pub has_retention: bool,
    /// Partitions are compressed at some age.
    pub compresses: bool,
}

/// What was found, or why nothing was.
type Found<T> = Result<T, String>;

/// Asks each once.
pub struct Facts {
    budget: Duration,
    workload: OnceCell<Workload>,
    indexes: OnceCell<Found<Vec<Recommendation>>>,
    caches: OnceCell<Found<Vec<caching::Row>>>,
    scaling: OnceCell<Found<Vec<scaling::Row>>>,
    statements: OnceCell<Found<shapes::Shapes>>,
    jobs: OnceCell<Found<Vec<Job>>>,
    changes: OnceCell<Found<Vec<Change>>>,
    warnings: RefCell<Vec<String>>,
}

impl Facts {
    /// Nothing is asked yet. `budget`: for all planning together.
    pub fn new(budget: Duration) -> Facts {
        Facts {
            budget,
            workload: OnceCell::new(),
            indexes: OnceCell::new(),
            caches: OnceCell::new(),
            scaling: OnceCell::new(),
            statements: OnceCell::new(),
            jobs: OnceCell::new(),
            changes: OnceCell::new(),
            warnings: RefCell::new(Vec::new()),
        }
    }

    /// What did not work so far, to be told the user.
    pub fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }

    /// Runs what may fail: what it gives, or why it gives nothing.
    pub fn ask<T>(&self, what: &str, body: impl FnOnce() -> Result<T, Error>) -> Found<T> {
        attempt(|| body().map_err(Failure::from)).map_err(|message| {
            let told = format!("{what} could not be asked: {message}");
            self.warnings.borrow_mut().push(told.clone());
            told
        })
    }

    fn known<T>(found: &Found<Vec<T>>) -> Found<&[T]> {
        found.as_deref().map_err(Clone::clone)
    }

    /// The captured statements; none where nothing is captured.
    pub fn workload(&self) -> &Workload {
        self.workload.get_or_init(|| captured::read().unwrap_or_else(|_| Workload::empty(Source::Captured)))
    }

    /// Whether anything was measured.
    pub fn is_measured(&self) -> bool {
        !self.workload().statements.is_empty()
    }

    /// Why nothing was measured.
    pub fn why_unmeasured(&self) -> &'static str {
        if memory::is_ready() {
            "nothing was captured yet"
        } else {
            "nothing is captured, because perf_opt is not in shared_preload_libraries"
        }
    }

    /// Time of clients' statements a minute, in ms.
    pub fn ms_per_min(&self) -> Option<f64> {
        let workload = self.workload();
        let total: f64 = workload.statements.iter().filter(|one| !one.nested).map(|one| one.total_ms).sum();
        workload.hours.filter(|_| total > 0.0).map(|hours| total / (60.0 * hours))
    }

    /// Index advice on the workload, with every row of the policy.
    pub fn indexes(&self) -> Found<&[Recommendation]> {
        Self::known(self.indexes.get_or_init(|| {
            self.ask("the index advisor", || {
                Ok(recommend::run(self.workload(), &Options::within(self.budget.mul_f64(INDEX_SHARE)))?.rows)
            })
        }))
    }

    /// Advice on caches, with every row of the policy.
    pub fn caches(&self) -> Found<&[caching::Row]> {
        Self::known(self.caches.get_or_init(|| self.ask("the cache advisor", || caching::strategies(true))))
    }

    /// Advice on scaling.
    pub fn scaling(&self) -> Found<&[scaling::Row]> {
        Self::known(self.scaling.get_or_init(|| {
            self.ask("the advisor on scaling", || scaling::recommend_within(self.budget.mul_f64(PARTITION_SHARE)))
        }))
    }

    /// The one row of advice on scaling that has an id.
    pub fn scaling_row(&self, id: &str) -> Found<Option<&scaling::Row>> {
        Ok(self.scaling()?.iter().find(|row| row.id == id))
    }

    /// What captured statements touch.
    pub fn statements(&self) -> Found<&shapes::Shapes> {
        let found = self.statements.get_or_init(|| self.ask("the captured statements", shapes::read));
        found.as_ref().map_err(Clone::clone)
    }

    /// Changes that were applied; none where they cannot be read, which is a warning.
    pub fn changes_or_none(&self) -> &[Change] {
        self.changes().unwrap_or_default()
    }

    /// Changes that were applied.
    pub fn changes(&self) -> Found<&[Change]> {
        Self::known(self.changes.get_or_init(|| self.ask("perf.applied_changes", changes::all)))
    }

    /// All jobs: that there is one is nobody's secret.
    pub fn jobs(&self) -> Found<&[Job]> {
        Self::known(self.jobs.get_or_init(|| self.ask("the jobs", read_jobs)))
    }

    /// Jobs of a kind for a relation.
    pub fn jobs_of<'a>(&'a self, kind: &'a str, target: pg_sys::Oid) -> Found<impl Iterator<Item = &'a Job>> {
        Ok(self.jobs()?.iter().filter(move |job| job.kind == kind && job.target == target.to_u32()))
    }

    /// Why no job would run, if none would.
    pub fn why_no_jobs() -> Option<&'static str> {
        match (memory::is_ready(), guc::worker_enabled()) {
            (false, _) => Some("jobs need perf_opt in shared_preload_libraries"),
            (true, false) => Some("jobs do not run while perf_opt.collector is off"),
            (true, true) => None,
        }
    }

    /// The relation that a name means in the caller's search path: as it is written, or else as SQL reads it.
    pub fn find(&self, name: &str) -> Found<Option<Relation>> {
        self.ask("the catalogs", || find(name))
    }
}

fn find(name: &str) -> Result<Option<Relation>, Error> {
    let as_sql = catalog::is_relation_name(name).then(|| Text(name.to_owned()));
    let found = catalog::rows(
        "SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE c.oid OPERATOR(pg_catalog.=) COALESCE(
                (SELECT x.oid FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s (name, place)
                   JOIN pg_catalog.pg_namespace m ON m.nspname OPERATOR(pg_catalog.=) s.name
                   JOIN pg_catalog.pg_class x ON x.relnamespace OPERATOR(pg_catalog.=) m.oid
                    AND x.relname OPERATOR(pg_catalog.=) $1::pg_catalog.name
                  ORDER BY s.place LIMIT 1),
                pg_catalog.to_regclass($2)::pg_catalog.oid)",
        &[Text(name.to_owned()).into(), as_sql.into()],
        |row| {
            let text = |n| catalog::text_of(row, n);
            Ok(Some(Relation {
                oid: row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid),
                name: ident::qualified(&text(2)?, &text(3)?),
                kind: text(4)?,
            }))
        },
    );
    Ok(found.map_err(super::failed)?.into_iter().next())
}

fn read_jobs() -> Result<Vec<Job>, Error> {
    privilege::as_owner(c"job", || {
        let found = query::run_with(
            c"SELECT j.kind, coalesce(j.target::oid, 0::oid), j.enabled AND r.oid IS NOT NULL
                          AND coalesce(j.paused_until <= now(), true), coalesce(s.consecutive_failures, 0),
                     j.options -> 'retention', j.options -> 'compress_after', j.schedule
                FROM perf.job AS j LEFT JOIN perf.job_state AS s USING (job_id)
                LEFT JOIN pg_roles AS r ON r.oid = j.owner",
            &[],
            |row| {
                let is_set = |n| row.get::<pgrx::JsonB>(n).is_some_and(|value| !value.0.is_null());
                Job {
                    kind: row.string(1),
                    target: row.get::<pg_sys::Oid>(2).map_or(0, |oid| oid.to_u32()),
                    runs: row.get::<bool>(3).unwrap_or(false),
                    failures: row.get::<i32>(4).unwrap_or(0),
                    has_retention: is_set(5),
                    compresses: is_set(6),
                    is_scheduled: row.string(7) != define::MANUAL,
                }
            },
        );
        Ok(found.1)
    })
}
