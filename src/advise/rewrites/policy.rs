//! The examples of `perf.sql_example`, measured in this database: what the planner says of them with and without their index.

use perf_core::rewrite::improvement_pct;
use pgrx::pg_sys;

use super::{costs, facts, Answer, Row};
use crate::error::Error;
use crate::pg::catalog;
use crate::pg::planner::{Deadline, Failure, Statement};
use crate::pg::role;
use crate::pg::text::Text;

/// Never wait longer for a lock that somebody else holds.
const LOCK_TIMEOUT_MS: u32 = 200;

/// One row of the table.
#[derive(Clone, Debug, Default)]
struct Example {
    number: i32,
    title: String,
    tables: Vec<String>,
    problem: String,
    before: String,
    after: String,
    ddl: Option<String>,
    owner_ddl: Option<String>,
    changes_result: bool,
    gain: Option<String>,
    note: Option<String>,
}

/// Adds all examples in their order. One whose tables are missing is told on demand.
pub fn add(answer: &mut Answer, include_inapplicable: bool) -> Result<(), Error> {
    let rows = &mut answer.rows;
    let examples = read()?;
    for (at, example) in examples.iter().enumerate() {
        pgrx::check_for_interrupts!();
        if Deadline::has_passed() {
            answer
                .notices
                .push(format!("the time was up before {} of the examples were measured", examples.len() - at));
            break;
        }
        let missing: Vec<&String> = example.tables.iter().filter(|name| !exists(name)).collect();
        let role = owner(example);
        let planned = match role {
            Ok(role) => costs::plan(&statement(&example.before, role))
                .map(|_| role)
                .map_err(|failure| format!("The statement cannot be planned here: {}.", reason(&failure))),
            Err(why) => Err(why.to_owned()),
        };
        match planned {
            Ok(role) => measure(example, role, &missing, rows)?,
            Err(why) if include_inapplicable => {
                let why = if missing.is_empty() {
                    why
                } else {
                    format!("Not applicable: there is no {} in the search_path.", listed(&missing))
                };
                rows.push(Row {
                    note: noted(&[&why], example),
                    after_sql: Some(example.after.clone()),
                    ..row(example)
                });
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// The role to plan an example as, for planning runs functions: whose its tables are. An error is why there is none.
fn owner(example: &Example) -> Result<pg_sys::Oid, &'static str> {
    let names: Vec<Option<Text>> = example
        .tables
        .iter()
        .filter(|name| catalog::is_relation_name(name))
        .map(|name| Some(Text(name.clone())))
        .collect();
    let owners = catalog::rows(
        "SELECT DISTINCT c.relowner FROM pg_catalog.unnest($1::pg_catalog.text[]) AS t (name)
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(t.name)",
        &[names.into()],
        |row| row.get::<pg_sys::Oid>(1),
    );
    match owners.unwrap_or_default().as_slice() {
        [owner] if role::may_plan_as(*owner) => Ok(*owner),
        [] => Err("None of its source_tables is there, whose owner it could be planned as."),
        _ => Err("Its source_tables belong to several roles, or to one whose rights the current role does not have."),
    }
}

fn statement(text: &str, role: pg_sys::Oid) -> Statement<'_> {
    Statement { text, role: Some(role), lock_timeout_ms: Some(LOCK_TIMEOUT_MS), ..Statement::default() }
}

fn reason(failure: &Failure) -> String {
    failure.message().trim_end_matches('.').to_owned()
}

fn listed(names: &[&String]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<&str>>().join(", ")
}

fn noted(parts: &[&str], example: &Example) -> String {
    let own = example.note.as_deref();
    parts.iter().copied().chain(own).filter(|part| !part.is_empty()).collect::<Vec<&str>>().join(" ")
}

fn row(example: &Example) -> Row {
    Row {
        example_no: example.number,
        title: example.title.clone(),
        source: "policy",
        problem: example.problem.clone(),
        before_sql: example.before.clone(),
        supporting_ddl: example.owner_ddl.clone().or_else(|| example.ddl.clone()),
        changes_result: Some(example.changes_result),
        basis: "none",
        policy_gain: example.gain.clone(),
        ..Row::default()
    }
}

/// An index that an example names, and those that are the same and exist.
struct Index<'a> {
    ddl: &'a str,
    existing: Vec<pg_sys::Oid>,
}

impl<'a> Index<'a> {
    fn of(ddl: Option<&'a str>) -> Result<Option<Index<'a>>, Error> {
        let Some((ddl, (relation, columns))) = ddl.and_then(|ddl| Some((ddl, costs::described(ddl)?))) else {
            return Ok(None);
        };
        Ok(Some(Index { ddl, existing: facts::indexes_on(relation, &columns)? }))
    }
}

/// The row of an example as the policy has it and, where the policy names a better index than its owner, one for that.
fn measure(example: &Example, role: pg_sys::Oid, missing: &[&String], rows: &mut Vec<Row>) -> Result<(), Error> {
    let owners = Index::of(example.owner_ddl.as_deref().or(example.ddl.as_deref()))?;
    let better = Index::of(example.owner_ddl.as_ref().and(example.ddl.as_deref()))?;
    // Before means without any of them.
    let indexes: Vec<&Index<'_>> = owners.iter().chain(&better).collect();
    let hidden: Vec<pg_sys::Oid> = indexes.iter().flat_map(|index| index.existing.iter().copied()).collect();
    let (before, after) = (statement(&example.before, role), statement(&example.after, role));
    let cost_before = costs::cost_without(&before, &hidden);
    let alone = costs::cost_without(&after, &hidden);
    let measured = |cost_after: Option<f64>| Row {
        cost_before,
        cost_after,
        improvement_pct: improvement_pct(cost_before, cost_after),
        basis: if cost_after.is_some() { "what_if" } else { "none" },
        ..row(example)
    };
    let changes = if example.changes_result { "The result changes." } else { "" };
    let cost_after = match &owners {
        Some(index) => costs::cost_with(&after, index.ddl, &hidden),
        None => alone,
    };
    let of_text = match (improvement_pct(cost_before, alone), &owners) {
        (Some(pct), Some(_)) if pct.abs() < 0.05 => {
            "The other text alone, without the index, changes nothing.".to_owned()
        }
        (Some(pct), Some(_)) => format!("The other text alone, without the index, changes the cost by {:.1} %.", -pct),
        _ => String::new(),
    };
    let lacking = match cost_after {
        None if !missing.is_empty() => {
            format!("There is no {} yet, so what it would gain is not measured.", listed(missing))
        }
        _ => String::new(),
    };
    let built = |index: &Option<Index<'_>>| match index {
        Some(index) if !index.existing.is_empty() => "The index exists; before is without it.",
        _ => "",
    };
    let owner = if better.is_some() { "As the owner would have it." } else { "" };
    rows.push(Row {
        after_sql: Some(example.after.clone()),
        note: noted(&[owner, changes, &of_text, &lacking, built(&owners)], example),
        ..measured(cost_after)
    });
    if let Some(index) = &better {
        let cost_after = costs::cost_with(&before, index.ddl, &hidden);
        rows.push(Row {
            after_sql: Some(example.before.clone()),
            supporting_ddl: example.ddl.clone(),
            changes_result: Some(false),
            note: noted(&["With the better index; the statement stays as it is.", built(&better)], example),
            ..measured(cost_after)
        });
    }
    Ok(())
}

fn exists(name: &str) -> bool {
    catalog::relation_named(name).is_ok_and(|found| found.is_some())
}

fn read() -> Result<Vec<Example>, Error> {
    let exists = catalog::value::<bool>("SELECT pg_catalog.to_regclass('perf.sql_example') IS NOT NULL", &[]);
    if exists != Ok(Some(true)) {
        return Ok(Vec::new());
    }
    catalog::rows(
        "SELECT e.example_no, e.title, e.source_tables, e.problem, e.before_sql, e.after_sql, e.supporting_ddl, e.owner_ddl,
                e.changes_result, e.expected_gain, e.note
           FROM perf.sql_example e ORDER BY e.example_no",
        &[],
        |row| {
            let text = |n| Ok::<Option<String>, pgrx::spi::Error>(row.get::<Text>(n)?.map(|text| text.0));
            let tables = row.get::<Vec<Option<Text>>>(3)?.unwrap_or_default();
            Ok(Some(Example {
                number: row.get::<i32>(1)?.unwrap_or(0),
                title: text(2)?.unwrap_or_default(),
                tables: tables.into_iter().flatten().map(|name| name.0).collect(),
                problem: text(4)?.unwrap_or_default(),
                before: text(5)?.unwrap_or_default(),
                after: text(6)?.unwrap_or_default(),
                ddl: text(7)?,
                owner_ddl: text(8)?,
                changes_result: row.get::<bool>(9)?.unwrap_or(true),
                gain: text(10)?,
                note: text(11)?,
            }))
        },
    )
    .map_err(|error| Error::WrongState {
        message: format!("table perf.sql_example cannot be read: {error}"),
        hint: "SELECT perf.load_policy() loads the shipped catalogue again.".to_owned(),
    })
}
