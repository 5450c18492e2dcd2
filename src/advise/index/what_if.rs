//! One statement with and without given indexes. Called by the SQL function; see `crate::pg::planner` for what it locks.

use perf_core::index::work::Work;
use pgrx::pg_sys;

use crate::error::Error;
use crate::pg::expressions::share_of;
use crate::pg::hypothetical::{Hypothetical, Samples};
use crate::pg::planner::{self, Configuration, Failure, Planned, Statement, UsedIndex};
use crate::pg::relation::Relation;
use crate::pg::{catalog, create_index, ident};

/// One plan.
pub struct Variant {
    /// `current` or `hypothetical`.
    pub variant: &'static str,
    /// Planner's cost.
    pub total_cost: f64,
    /// Names of the indexes used, sorted.
    pub indexes_used: Vec<String>,
    /// EXPLAIN's text.
    pub plan: String,
    /// What the given indexes would take on disk; None for `current`.
    pub size_bytes: Option<i64>,
    /// What executing it would do.
    pub work: Work,
}

/// Plans `query` as things are, and with `indexes` added and `without` hidden.
pub fn run(query: &str, indexes: &[String], without: &[String]) -> Result<Vec<Variant>, Error> {
    let mut described = Vec::with_capacity(indexes.len());
    for statement in indexes {
        described.push(read(statement)?);
    }
    let mut hidden = Vec::new();
    for name in without {
        hidden.extend(catalog::index_named(name).ok_or_else(|| Error::UndefinedObject {
            message: format!("index \"{name}\" in argument \"without\" does not exist"),
            hint: "Name existing indexes, schema-qualified or found in the search_path.".to_owned(),
        })?);
    }
    let references: Vec<&Hypothetical> = described.iter().collect();
    let current = Configuration { explain: true, ..Configuration::default() };
    let changed = Configuration { hypothetical: &references, hidden: &hidden, explain: true, harvest: None };
    let statement = Statement { text: query, ..Statement::default() };
    match planner::plan(&statement, &[current, changed]) {
        Ok(plans) => Ok(plans
            .into_iter()
            .zip([("current", None), ("hypothetical", Some(&references[..]))])
            .map(|(plan, (variant, given))| variant_of(variant, plan, given))
            .collect()),
        Err(Failure::Raised(caught)) => caught.rethrow(),
        Err(failure) => Err(Error::InvalidArgument {
            argument: "query",
            value: failure.message(),
            accepted: "Give exactly one SELECT, INSERT, UPDATE, DELETE or MERGE statement.".to_owned(),
        }),
    }
}

fn variant_of(variant: &'static str, plan: Planned, indexes: Option<&[&Hypothetical]>) -> Variant {
    let given = indexes.unwrap_or_default();
    let mut indexes_used: Vec<String> =
        plan.scans.iter().flat_map(|scan| &scan.indexes).map(|used| used_name(*used, given)).collect();
    indexes_used.sort();
    indexes_used.dedup();
    let size_bytes = indexes.map(|indexes| indexes.iter().map(|index| index.bytes).sum::<f64>().round() as i64);
    Variant {
        variant,
        total_cost: plan.total_cost,
        indexes_used,
        plan: plan.text.unwrap_or_default(),
        size_bytes,
        work: plan.work,
    }
}

/// The unquoted name of an index in a plan.
pub fn used_name(used: UsedIndex, given: &[&Hypothetical]) -> String {
    match used {
        UsedIndex::Hypothetical(at) => given.get(at).map_or_else(String::new, |index| ident::from_server(&index.name)),
        UsedIndex::Real(oid) => ident::relation_parts(oid).map_or_else(|| oid.to_u32().to_string(), |(_, name)| name),
    }
}

/// Reads one CREATE INDEX and prices it.
pub fn read(statement: &str) -> Result<Hypothetical, Error> {
    let create_index::Described { mut index, relation, predicate } = create_index::read(statement)?;
    if let Some(condition) = predicate {
        index.predicate_share = share_of(&relation, &condition, None).unwrap_or(1.0);
    }
    index.settle(&relation, &leaves_of(&relation), &Samples::default());
    Ok(index)
}

/// The partitions of `relation` that have storage and can be looked at now; none when it is not partitioned.
pub fn leaves_of(relation: &Relation) -> Vec<Relation> {
    if relation.kind != b'p' {
        return Vec::new();
    }
    catalog::leaves(relation.oid).into_iter().filter_map(|oid: pg_sys::Oid| Relation::read(oid).ok()).collect()
}
