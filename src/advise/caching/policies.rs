//! The wishes of `perf.cache_policy`, bound to captured statements and judged.

use perf_core::cache::pattern;
use serde_json::json;

use super::facts::{Facts, Statement};
use super::{assess, failed, Row};
use crate::error::Error;
use crate::pg::catalog;
use crate::pg::text::Text;

/// A row of the table.
pub struct Policy {
    name: String,
    key_template: String,
    ttl_s: f64,
    sizes: (Option<i64>, Option<i64>, String),
    invalidated_by: Vec<String>,
    used_for: Option<String>,
    queryid: Option<i64>,
    pattern: Option<String>,
    /// Tables that are not in the search path.
    missing: Vec<String>,
}

/// All of them, in the order of their numbers. Tables are looked up in the caller's search path.
pub fn read() -> Result<Vec<Policy>, Error> {
    catalog::rows(
        "SELECT p.cache_name, p.key_template, EXTRACT(epoch FROM p.ttl)::pg_catalog.float8, p.size_low_bytes,
                p.size_high_bytes, p.size_per, p.invalidated_by, p.used_for, p.queryid, p.query_pattern,
                ARRAY(SELECT t.name FROM pg_catalog.unnest(p.source_tables) WITH ORDINALITY AS t (name, place)
                       WHERE t.name IS NOT NULL AND NOT EXISTS (
                             SELECT FROM pg_catalog.pg_class c
                               JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                              WHERE c.relname OPERATOR(pg_catalog.=) t.name::pg_catalog.name
                                AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.\"char\"[])
                                AND n.nspname OPERATOR(pg_catalog.=) ANY (pg_catalog.current_schemas(false)))
                       ORDER BY t.place)
           FROM perf.cache_policy AS p ORDER BY p.policy_no NULLS LAST, p.cache_name COLLATE \"C\"",
        &[],
        |row| {
            let string = |n| catalog::text_of(row, n);
            let list = |n| -> Result<Vec<String>, pgrx::spi::Error> {
                Ok(row.get::<Vec<Option<String>>>(n)?.unwrap_or_default().into_iter().flatten().collect())
            };
            Ok(Some(Policy {
                name: string(1)?,
                key_template: string(2)?,
                ttl_s: row.get::<f64>(3)?.unwrap_or(0.0),
                sizes: (row.get::<i64>(4)?, row.get::<i64>(5)?, string(6)?),
                invalidated_by: list(7)?,
                used_for: row.get::<Text>(8)?.map(|text| text.0),
                queryid: row.get::<i64>(9)?,
                pattern: row.get::<Text>(10)?.map(|text| text.0),
                missing: list(11)?,
            }))
        },
    )
    .map_err(failed)
}

impl Policy {
    /// Captured statements that the cache would answer.
    pub fn statements<'a>(&self, facts: &'a Facts) -> Vec<&'a Statement> {
        let all = facts.statements.as_deref().unwrap_or_default().iter();
        match (self.queryid, &self.pattern) {
            (Some(queryid), _) => all.filter(|statement| statement.queryid == queryid as u64).collect(),
            (None, Some(like)) => all.filter(|statement| pattern::is_like(&statement.text, like)).collect(),
            (None, None) => Vec::new(),
        }
    }
}

/// The row of a policy.
pub fn row(policy: &Policy, statements: &[&Statement], facts: &Facts) -> Row {
    let mut row = Row {
        name: policy.name.clone(),
        key_template: policy.key_template.clone(),
        ttl_s: Some(policy.ttl_s),
        invalidated_by: policy.invalidated_by.clone(),
        used_for: policy.used_for.clone(),
        source: if statements.is_empty() { "policy" } else { "both" },
        queryid: match statements {
            [one] => Some(one.queryid as i64),
            _ => policy.queryid,
        },
        basis: "policy",
        queryids: statements.iter().map(|statement| statement.queryid as i64).collect(),
        ..Row::default()
    };
    if !policy.missing.is_empty() {
        row.status = "not_applicable";
        row.reason = format!("Not in the search path: {}.", policy.missing.join(", "));
        row.evidence = json!({"missing": policy.missing});
        return with_wish(row, policy);
    }
    assess(&mut row, statements, facts, Some(policy.ttl_s));
    if statements.is_empty() && row.status != "active" {
        row.status = "insufficient_data";
        row.reason = match (&facts.statements, policy.queryid, &policy.pattern) {
            (None, ..) => {
                "Nothing is captured: add perf_opt to shared_preload_libraries and restart the server.".to_owned()
            }
            (_, Some(queryid), _) => format!("No captured statement has the queryid {queryid} of the policy."),
            (_, None, Some(like)) => format!("No captured statement is like the pattern of the policy: {like}"),
            (_, None, None) => {
                "The policy says neither by queryid nor by query_pattern which statements it is about.".to_owned()
            }
        };
        row.reads_per_min = None;
        row.writes_per_min = None;
    }
    with_wish(row, policy)
}

/// Adds what the policy expects of sizes.
fn with_wish(mut row: Row, policy: &Policy) -> Row {
    let (low, high, per) = &policy.sizes;
    row.evidence["policy"] = json!({"size_low_bytes": low, "size_high_bytes": high, "size_per": per});
    row
}
