//! What was changed by `perf.apply` and what it has gained, for the roadmap: perf.applied_changes. Reads
//! with the rights of the caller, who sees what that view shows; locks nothing.

use perf_core::roadmap::after_each_other;

use crate::error::Error;
use crate::pg::catalog;
use crate::pg::privilege;

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// index_create, index_drop, index_reindex, matview, partitioning, cache_policy or setting.
    pub kind: String,
    /// Schema-qualified and quoted; of a cache policy its name.
    pub relation: String,
    /// queued, applying, applied, verified, no_gain, regressed, undoing, undone or failed.
    pub status: String,
    /// Of the workload's time.
    pub achieved_pct: Option<f64>,
}

impl Change {
    /// It is on its way.
    pub fn is_under_way(&self) -> bool {
        matches!(self.status.as_str(), "queued" | "applying")
    }

    /// It is in place, and nobody has looked yet what it gained.
    pub fn is_unverified(&self) -> bool {
        self.status == "applied"
    }

    /// It is in place and was looked at.
    pub fn is_verified(&self) -> bool {
        matches!(self.status.as_str(), "verified" | "no_gain" | "regressed")
    }
}

/// All changes, the oldest first.
pub fn all() -> Result<Vec<Change>, Error> {
    privilege::with_own_path(|| {
        catalog::rows(
            "SELECT kind::text, relation::text, status::text, achieved_pct::float8
               FROM perf.applied_changes ORDER BY applied_at NULLS LAST, change_id",
            &[],
            |row| {
                let text = |n| catalog::text_of(row, n);
                Ok(Some(Change {
                    kind: text(1)?,
                    relation: text(2)?,
                    status: text(3)?,
                    achieved_pct: row.get::<f64>(4)?,
                }))
            },
        )
    })
    .map_err(super::failed)
}

/// What the verified ones of some changes have gained.
pub fn gained<'a>(changes: impl Iterator<Item = &'a Change>) -> Option<f64> {
    let achieved: Vec<f64> =
        changes.filter(|change| change.is_verified()).filter_map(|change| change.achieved_pct).collect();
    after_each_other(&achieved)
}
