//! What read replicas could take over, and what that can bring at most. Pure: time of transactions in, shares out.
//!
//! A transaction can go to a replica if it writes nothing, takes no row locks, calls no volatile function, and uses no
//! temporary table; of those, reads by the same role of what it had just written must stay, for a replica lags. With r
//! the share of all time that can go and n replicas that share it with the primary, the work per second grows at most
//! to 1 / ((1 - r) + r / (n + 1)) of what it is (Amdahl's law): a bound, not a promise.

use std::collections::BTreeMap;

/// A share of an application's time from which on its whole connection can be pointed at a replica.
pub const WHOLE_SHARE: f64 = 0.95;
/// Another replica is worth it while it raises the bound by this factor.
pub const WORTH_FACTOR: f64 = 1.1;
/// More replicas than this are never proposed: each costs the primary a stream of WAL.
pub const REPLICAS_MAX: u32 = 5;

/// Transactions of one kind, summed up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    /// Role.
    pub role: String,
    /// application_name.
    pub application: String,
    /// Time in them.
    pub total_ms: f64,
    /// Part of it that read what the same role had written moments before.
    pub fresh_ms: f64,
    /// They write.
    pub writes: bool,
    /// They take row locks: FOR UPDATE and the like.
    pub locks_rows: bool,
    /// They call a volatile function, which may do anything.
    pub volatile: bool,
    /// They use temporary tables.
    pub temporary_tables: bool,
}

fn amount(ms: f64) -> f64 {
    if ms.is_finite() && ms > 0.0 {
        ms
    } else {
        0.0
    }
}

impl Work {
    /// Time of it that could be spent on a replica.
    pub fn offloadable_ms(&self) -> f64 {
        if self.writes || self.locks_rows || self.volatile || self.temporary_tables {
            return 0.0;
        }
        (amount(self.total_ms) - amount(self.fresh_ms)).max(0.0)
    }
}

/// Where a role and application should connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The primary: nothing can go.
    Primary,
    /// Both: the application must choose for each transaction.
    Both,
    /// A replica: nearly everything can go, and the rest fails there with 25006 until it is pointed elsewhere.
    Replica,
}

impl Target {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Target::Primary => "primary",
            Target::Both => "both",
            Target::Replica => "replica",
        }
    }
}

/// One role and application.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Role.
    pub role: String,
    /// application_name.
    pub application: String,
    /// Its share of all time, 0..1.
    pub share: f64,
    /// The share of all time that could go to a replica, 0..1.
    pub offloadable_share: f64,
    /// Where it should connect to.
    pub target: Target,
}

/// What replicas could do.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// r: the share of all time that can go. None without any time.
    pub offloadable_share: Option<f64>,
    /// Replicas worth having; 0: none.
    pub replicas: u32,
    /// The bound with them, 1 without.
    pub gain_max: f64,
    /// Roles and applications, those that offload most first.
    pub parts: Vec<Part>,
}

/// 1 / ((1 - r) + r / (n + 1)).
pub fn gain_max(offloadable_share: f64, replicas: u32) -> f64 {
    let r = if offloadable_share.is_nan() { 0.0 } else { offloadable_share.clamp(0.0, 1.0) };
    1.0 / ((1.0 - r) + r / (f64::from(replicas) + 1.0))
}

/// Says what could go, whose it is, and how many replicas it would feed.
pub fn advise(work: &[Work]) -> Advice {
    let mut sums: BTreeMap<(&str, &str), (f64, f64)> = BTreeMap::new();
    for w in work {
        let sum = sums.entry((&w.role, &w.application)).or_default();
        sum.0 += amount(w.total_ms);
        sum.1 += w.offloadable_ms();
    }
    let total: f64 = sums.values().map(|s| s.0).sum();
    if !(total > 0.0 && total.is_finite()) {
        return Advice { offloadable_share: None, replicas: 0, gain_max: 1.0, parts: Vec::new() };
    }
    let r = (sums.values().map(|s| s.1).sum::<f64>() / total).clamp(0.0, 1.0);
    let worth = |n: &u32| gain_max(r, *n) >= WORTH_FACTOR * gain_max(r, *n - 1);
    let replicas = (1..=REPLICAS_MAX).take_while(worth).last().unwrap_or(0);
    let mut parts: Vec<Part> = (sums.into_iter())
        .map(|((role, application), (ms, offloadable))| Part {
            role: role.to_owned(),
            application: application.to_owned(),
            share: ms / total,
            offloadable_share: offloadable / total,
            target: match () {
                _ if offloadable <= 0.0 => Target::Primary,
                _ if offloadable >= WHOLE_SHARE * ms => Target::Replica,
                _ => Target::Both,
            },
        })
        .collect();
    parts.sort_by(|a, b| b.offloadable_share.total_cmp(&a.offloadable_share));
    Advice { offloadable_share: Some(r), replicas, gain_max: gain_max(r, replicas), parts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn work(role: &str, application: &str, total_ms: f64) -> Work {
        Work { role: role.to_owned(), application: application.to_owned(), total_ms, ..Work::default() }
    }

    #[test]
    fn the_bound_is_that_of_amdahl() {
        assert_eq!(gain_max(0.0, 3), 1.0);
        assert_eq!(gain_max(1.0, 3), 4.0);
        assert!((gain_max(0.5, 1) - 1.0 / 0.75).abs() < 1e-12);
        assert_eq!(gain_max(f64::NAN, 3), 1.0);
        assert_eq!(gain_max(0.7, 0), 1.0);
    }

    #[test]
    fn analytics_go_and_checkout_stays() {
        let advice = advise(&[
            work("report", "bi", 600.0),
            Work { writes: true, ..work("report", "bi", 10.0) },
            work("web", "shop", 100.0),
            Work { fresh_ms: 40.0, ..work("web", "shop", 100.0) },
            Work { writes: true, ..work("web", "shop", 90.0) },
            Work { locks_rows: true, ..work("web", "checkout", 50.0) },
            Work { volatile: true, ..work("web", "checkout", 25.0) },
            Work { temporary_tables: true, ..work("web", "checkout", 25.0) },
        ]);
        assert_eq!(advice.offloadable_share, Some(0.76));
        let targets: Vec<(&str, Target)> = advice.parts.iter().map(|p| (p.application.as_str(), p.target)).collect();
        assert_eq!(targets, [("bi", Target::Replica), ("shop", Target::Both), ("checkout", Target::Primary)]);
        // 1.61, 2.03, 2.33, 2.55, 2.73: the fourth brings less than a tenth.
        assert_eq!(advice.replicas, 3);
        assert!((advice.gain_max - 1.0 / (0.24 + 0.76 / 4.0)).abs() < 1e-9);
    }

    #[test]
    fn nothing_to_offload_needs_no_replica() {
        assert_eq!(advise(&[]).offloadable_share, None);
        assert_eq!(advise(&[work("a", "b", f64::NAN)]).offloadable_share, None);
        let advice = advise(&[Work { writes: true, ..work("a", "b", 5.0) }, work("a", "c", 0.5)]);
        assert_eq!((advice.replicas, advice.gain_max), (0, 1.0));
    }

    proptest! {
        #[test]
        fn shares_add_up_and_the_bound_holds(
            works in proptest::collection::vec(
                ("[ab]", "[xy]", any::<f64>(), any::<f64>(), any::<bool>(), any::<bool>()), 0..12)
        ) {
            let works: Vec<Work> = works.into_iter()
                .map(|(role, app, ms, fresh, writes, volatile)| {
                    Work { fresh_ms: fresh % 1e9, writes, volatile, ..work(&role, &app, ms % 1e9) }
                })
                .collect();
            let advice = advise(&works);
            if let Some(r) = advice.offloadable_share {
                prop_assert!((0.0..=1.0).contains(&r));
                prop_assert!((advice.parts.iter().map(|p| p.share).sum::<f64>() - 1.0).abs() < 1e-9);
                prop_assert!((advice.parts.iter().map(|p| p.offloadable_share).sum::<f64>() - r).abs() < 1e-9);
                prop_assert!(advice.gain_max >= 1.0 && advice.gain_max <= f64::from(advice.replicas) + 1.0 + 1e-9);
                prop_assert!(advice.parts.iter().all(|p| p.offloadable_share <= p.share + 1e-12));
            }
        }
    }
}
