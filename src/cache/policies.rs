//! The policies of perf.cache_policy as the store needs them: which one a key belongs to, and what it says of it. Read anew
//! whenever something is put, for they may be edited; what is counted by name may use ones that are some seconds old. Locks
//! what reading the table locks.

use std::cell::RefCell;
use std::collections::BTreeMap;

use perf_core::cache::template::Template;

use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{background, privilege, query};

/// What has no policy is counted under this name.
pub const OTHER: &str = "(other)";
const REMEMBERED_US: i64 = 10_000_000;

/// A policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Its keys, as written.
    pub key_template: String,
    /// The same; `None` for a text that is no template.
    pub template: Option<Template>,
    /// How long an entry lives.
    pub ttl_us: i64,
    /// How long it may be served beyond that.
    pub max_stale_us: i64,
    /// What computes a value.
    pub compute_sql: Option<String>,
    /// Events.
    pub invalidated_by: Vec<String>,
}

/// All of them, by name.
pub fn read() -> Result<Vec<Policy>, Error> {
    find(None)
}

/// The one of a name.
pub fn by_name(name: &str) -> Result<Option<Policy>, Error> {
    find(Some(name)).map(|found| found.into_iter().next())
}

fn find(name: Option<&str>) -> Result<Vec<Policy>, Error> {
    privilege::as_owner(c"cache_policy", || {
        let (_, policies) = query::run_on_part(
            "SELECT cache_name, key_template,
                    (EXTRACT(epoch FROM ttl) * 1000000)::bigint,
                    coalesce((EXTRACT(epoch FROM max_stale) * 1000000)::bigint, 0), compute_sql, invalidated_by
             FROM perf.cache_policy WHERE cache_name = coalesce($1, cache_name) ORDER BY cache_name",
            0,
            &[name.map(|name| Text(name.to_owned())).into()],
            |row| Policy {
                name: row.string(1),
                template: Template::parse(&row.string(2)).ok(),
                key_template: row.string(2),
                ttl_us: row.get(3).unwrap_or(0),
                max_stale_us: row.get(4).unwrap_or(0),
                compute_sql: row.get::<Text>(5).map(|text| text.0),
                invalidated_by: row.get::<Vec<String>>(6).unwrap_or_default(),
            },
        );
        Ok(policies)
    })
}

/// The policy that says the most of a key.
pub fn of_key<'a>(policies: &'a [Policy], key: &str) -> Option<&'a Policy> {
    let literal = |policy: &Policy| policy.template.as_ref().map_or(0, Template::literal_bytes);
    policies
        .iter()
        .filter(|policy| policy.template.as_ref().is_some_and(|template| template.matches(key)))
        .max_by_key(|policy| literal(policy))
}

thread_local! {
    static REMEMBERED: RefCell<(i64, Vec<Policy>)> = const { RefCell::new((0, Vec::new())) };
}

/// The name under which a key is counted.
pub fn counted_as(key: &str) -> String {
    with_remembered(|policies| name_of(policies, key).to_owned())
}

/// How many of these keys are counted under which name.
pub fn counts<'a>(keys: impl Iterator<Item = &'a String>) -> Vec<(String, u64)> {
    with_remembered(|policies| {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        keys.for_each(|key| *counts.entry(name_of(policies, key)).or_default() += 1);
        counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    })
}

fn name_of<'a>(policies: &'a [Policy], key: &str) -> &'a str {
    of_key(policies, key).map_or(OTHER, |policy| &policy.name)
}

/// Runs `body` on the policies as they were some seconds ago at most.
fn with_remembered<T>(body: impl FnOnce(&[Policy]) -> T) -> T {
    let now = background::now();
    let is_fresh = REMEMBERED.with_borrow(|(at, _)| *at != 0 && (now - at).abs() < REMEMBERED_US);
    if !is_fresh {
        if let Ok(policies) = read() {
            REMEMBERED.with_borrow_mut(|remembered| *remembered = (now, policies));
        }
    }
    REMEMBERED.with_borrow(|(_, policies)| body(policies))
}
