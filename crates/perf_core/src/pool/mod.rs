//! How large a connection pool has to be, from how many backends were busy; and its configuration as text.
//!
//! The size of a pool of one database and role is the 99th percentile of its backends that were active or idle in a
//! transaction, second by second in their busiest hour, and a fifth more. All pools together get no more than twice the
//! cores (PostgreSQL wiki, "Number Of Database Connections"), or more where backends were seen to wait instead of
//! compute: a backend that waits half of its time needs another one to keep its core busy. Pure: histograms in, plain
//! data and text out.

mod busy;
mod config;
mod features;

pub use busy::BusySeconds;
pub use config::{pgbouncer_ini, sqlalchemy, Server};
pub use features::{feature_of, followed_name, Feature, FOLLOWED};

/// Which part of the seconds a pool must have been large enough for.
pub const PERCENTILE: f64 = 0.99;
/// Room above it.
pub const HEADROOM_FACTOR: f64 = 1.2;
/// Backends a core carries, when they compute.
pub const BACKENDS_PER_CORE: f64 = 2.0;
/// Less waiting than this part of the busy time is none.
pub const WAITING_MIN_SHARE: f64 = 0.1;
/// More than this is not counted, or the cap would be without end.
const WAITING_MAX_SHARE: f64 = 0.9;
/// Pools may take this part of max_connections.
pub const CONNECTIONS_SHARE_MAX: f64 = 0.9;
/// An hour with fewer seconds than this says nothing about a 99th percentile.
pub const SECONDS_MIN: u64 = 600;

/// The owner's size and overflow, for `Basis::Policy` only.
pub const POLICY_SIZE: u32 = 20;
/// See `POLICY_SIZE`.
pub const POLICY_OVERFLOW: u32 = 10;

/// An hour of samples, one a second.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hour {
    /// When it began, in microseconds of any epoch.
    pub start_us: i64,
    /// Seconds in which so many backends were active or idle in a transaction, by their number.
    pub seconds_busy: Vec<u64>,
}

impl Hour {
    fn seconds(&self) -> u64 {
        self.seconds_busy.iter().fold(0, |sum, s| sum.saturating_add(*s))
    }

    fn mean(&self) -> f64 {
        let busy: f64 = self.seconds_busy.iter().enumerate().map(|(n, s)| n as f64 * *s as f64).sum();
        busy / (self.seconds() as f64).max(1.0)
    }

    /// The smallest number of backends that was enough in this part of the seconds.
    fn percentile(&self, part: f64) -> u32 {
        let wanted = self.seconds() as f64 * part;
        let mut seen = 0.0;
        let enough = self.seconds_busy.iter().position(|s| {
            seen += *s as f64;
            seen >= wanted
        });
        u32::try_from(enough.unwrap_or(0)).unwrap_or(u32::MAX)
    }
}

/// What is known of one database and role.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    /// Database.
    pub database: String,
    /// Role.
    pub role: String,
    /// Hours that were sampled.
    pub hours: Vec<Hour>,
    /// Most connections it had, busy or not.
    pub connected_max: u32,
    /// What it was seen to use that needs a session of its own.
    pub features: Vec<Feature>,
}

/// What the server is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Machine {
    /// Cores that the server may use.
    pub cores: u32,
    /// max_connections.
    pub max_connections: u32,
    /// Part of the busy samples that waited: for I/O, locks or, idle in a transaction, for the client; 0..1. None: not
    /// known.
    pub waiting_share: Option<f64>,
}

/// Where a size comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Samples.
    Measured,
    /// The owner's words: there are not enough samples.
    Policy,
}

impl Basis {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Basis::Measured => "measured",
            Basis::Policy => "policy",
        }
    }
}

/// A pool for one database and role.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Database.
    pub database: String,
    /// Role.
    pub role: String,
    /// Connections to the server.
    pub size: u32,
    /// Where the size comes from.
    pub basis: Basis,
    /// Busy backends that were enough 99 % of the busiest hour.
    pub busy_p99: Option<u32>,
    /// Beginning of that hour.
    pub busiest_hour_us: Option<i64>,
    /// Seconds sampled in it.
    pub seconds: u64,
    /// Whether the cap of all pools made it smaller.
    pub capped: bool,
    /// Most connections it had.
    pub connected_max: u32,
    /// Why connections cannot be shared between transactions. Empty: they can.
    pub session_features: Vec<Feature>,
}

impl Pool {
    /// Whether a server connection must stay with its client for the whole session.
    pub fn needs_session(&self) -> bool {
        !self.session_features.is_empty()
    }
}

/// All pools of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// One for every database and role, in the given order.
    pub pools: Vec<Pool>,
    /// What they may have together.
    pub cap: u32,
    /// Where the cap comes from.
    pub cap_reason: String,
}

/// Sizes the pools of a server.
pub fn advise(groups: &[Group], machine: &Machine) -> Advice {
    let (cap, cap_reason) = cap(machine);
    let mut pools: Vec<Pool> = groups.iter().map(wish).collect();
    // A session pool of fewer connections than clients makes clients wait for others to disconnect: it is not cut.
    let fixed: u64 = pools.iter().filter(|p| p.needs_session()).map(|p| u64::from(p.size)).sum();
    let room = u64::from(cap).saturating_sub(fixed);
    let shared = |p: &Pool| !p.needs_session();
    let wished: u64 = pools.iter().filter(|p| shared(p)).map(|p| u64::from(p.size)).sum();
    if wished > room {
        for pool in pools.iter_mut().filter(|p| shared(p)) {
            // Rounded down, so that all of them together stay within the cap as long as there is one for each.
            let part = u64::from(pool.size) * room / wished.max(1);
            let size = u32::try_from(part).unwrap_or(u32::MAX).max(1);
            pool.capped = size < pool.size;
            pool.size = size;
        }
    }
    Advice { pools, cap, cap_reason }
}

fn cap(machine: &Machine) -> (u32, String) {
    let cores = f64::from(machine.cores.max(1));
    let waiting = machine.waiting_share.filter(|w| w.is_finite()).unwrap_or(0.0).clamp(0.0, WAITING_MAX_SHARE);
    let allowed = (f64::from(machine.max_connections) * CONNECTIONS_SHARE_MAX).floor().max(1.0);
    let (of_cores, reason) = if waiting >= WAITING_MIN_SHARE {
        let of_cores = (BACKENDS_PER_CORE * cores / (1.0 - waiting)).round();
        let part = 100.0 * waiting;
        (of_cores, format!("2 x {cores:.0} cores, and more for the {part:.0} % of the busy time that is spent waiting"))
    } else {
        (BACKENDS_PER_CORE * cores, format!("2 x {cores:.0} cores"))
    };
    if of_cores > allowed {
        (allowed as u32, format!("90 % of max_connections ({})", machine.max_connections))
    } else {
        (of_cores as u32, reason)
    }
}

/// The pool that a group wants for itself.
fn wish(group: &Group) -> Pool {
    let enough = group.hours.iter().filter(|h| h.seconds() >= SECONDS_MIN);
    let busiest = enough.max_by(|a, b| a.mean().total_cmp(&b.mean()).then(b.start_us.cmp(&a.start_us)));
    let mut features = group.features.clone();
    features.sort_unstable();
    features.dedup();
    let busy_p99 = busiest.map(|h| h.percentile(PERCENTILE));
    let size = match busy_p99 {
        _ if !features.is_empty() && group.connected_max > 0 => group.connected_max,
        Some(busy) => ((f64::from(busy) * HEADROOM_FACTOR).ceil() as u32).max(1),
        None => POLICY_SIZE,
    };
    Pool {
        database: group.database.clone(),
        role: group.role.clone(),
        size,
        basis: if busy_p99.is_some() { Basis::Measured } else { Basis::Policy },
        busy_p99,
        busiest_hour_us: busiest.map(|h| h.start_us),
        seconds: busiest.map_or(0, Hour::seconds),
        capped: false,
        connected_max: group.connected_max,
        session_features: features,
    }
}

#[cfg(test)]
mod tests;
