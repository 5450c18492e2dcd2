//! Materialized views: those that the policy wants, and captured statements that a view could answer.

use std::collections::BTreeSet;

use serde_json::json;

use super::{rows_of, Basis, Context, Row};
use crate::error::Error;
use crate::pg::statement_shape::Command;
use crate::pg::text::Text;
use crate::pg::{catalog, ident};
use crate::workload::shapes::{Shaped, Shapes};

/// Candidates of the workload, at most.
const CANDIDATES_MAX: usize = 10;
/// A faster statement gains nothing that anybody notices.
const MEAN_MS_MIN: f64 = 5.0;
/// Rows given for each block read, at most: a view of as much as is read is no summary.
const ROWS_PER_BLOCK_MAX: f64 = 1.0;
/// Fewer blocks are read as fast as a view.
const BLOCKS_MIN: f64 = 64.0;
/// What reading a summary takes instead, in ms.
const READ_MS: f64 = 0.2;
/// Calls between two refreshes, at least: the refresh costs one call.
const CALLS_A_REFRESH: f64 = 10.0;
/// Less is too little to tell what an hour is like.
const HOURS_MIN: f64 = 1.0;
/// Fewer calls are too few to tell how often it is asked.
const CALLS_MIN: f64 = 10.0;
/// Of all measured time: less is not worth a view.
const BENEFIT_MIN_PCT: f64 = 1.0;
/// How often views are refreshed, in hours.
const REFRESHES: [(&str, f64); 5] =
    [("1 min", 1.0 / 60.0), ("5 min", 1.0 / 12.0), ("15 min", 0.25), ("1 hour", 1.0), ("1 day", 24.0)];

pub(super) fn rows(context: &Context) -> Result<Vec<Row>, Error> {
    let mut rows = of_policy(context)?;
    if let Some(shapes) = &context.shapes {
        rows.extend(of_workload(shapes));
    }
    if rows.is_empty() {
        let mut row = Row::new("materialized_view");
        row.recommendation = "Don't: no captured statement would gain from one.".to_owned();
        row.reason = match &context.shapes {
            Some(shapes) if !shapes.statements.is_empty() => format!(
                "None of {} captured statements sums up many blocks in few rows, takes {MEAN_MS_MIN} ms or more and is \
                 called {CALLS_A_REFRESH} times between two refreshes; no view of perf.matview_policy is applicable.",
                shapes.statements.len()
            ),
            _ => format!(
                "{}, and no view of perf.matview_policy is applicable.",
                capitalised(context.nothing_captured())
            ),
        };
        rows.push(row);
    }
    Ok(rows)
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A row of perf.matview_policy.
struct Policy {
    name: String,
    schedule: String,
    sources: Vec<String>,
    definition: Option<String>,
    unique: Vec<String>,
}

fn of_policy(context: &Context) -> Result<Vec<Row>, Error> {
    let policies = rows_of(
        "SELECT view_name, schedule, source_tables, definition, unique_columns FROM perf.matview_policy
          ORDER BY view_name",
        &[],
        |row| {
            let list = |n| -> Result<Vec<String>, pgrx::spi::Error> {
                Ok(row.get::<Vec<Option<String>>>(n)?.unwrap_or_default().into_iter().flatten().collect())
            };
            Ok(Some(Policy {
                name: row.get::<Text>(1)?.unwrap_or_default().0,
                schedule: row.get::<Text>(2)?.unwrap_or_default().0,
                sources: list(3)?,
                definition: row.get::<Text>(4)?.map(|text| text.0),
                unique: list(5)?,
            }))
        },
    )?;
    let mut rows = Vec::new();
    for policy in policies {
        let sources: Vec<Option<Relation>> =
            policy.sources.iter().map(|name| in_search_path(name)).collect::<Result<_, _>>()?;
        let sources: Option<Vec<Relation>> = sources.into_iter().collect();
        let Some(sources) = sources.filter(|sources| !sources.is_empty()) else { continue };
        rows.push(row_of_policy(context, &policy, &sources)?);
    }
    Ok(rows)
}

/// A relation of the search path.
struct Relation {
    oid: pgrx::pg_sys::Oid,
    name: String,
    kind: String,
}

/// Looks a plain name up in the caller's search path.
fn in_search_path(name: &str) -> Result<Option<Relation>, Error> {
    let found = catalog::rows(
        "SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text
           FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s (name, place)
           JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) s.name
           JOIN pg_catalog.pg_class c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid
            AND c.relname OPERATOR(pg_catalog.=) $1::pg_catalog.name
          ORDER BY s.place LIMIT 1",
        &[Text(name.to_owned()).into()],
        |row| {
            let text = |n| catalog::text_of(row, n);
            let oid = row.get::<pgrx::pg_sys::Oid>(1)?.unwrap_or(pgrx::pg_sys::InvalidOid);
            Ok(Some(Relation { oid, name: ident::qualified(&text(2)?, &text(3)?), kind: text(4)? }))
        },
    )
    .map_err(super::failed)?;
    Ok(found.into_iter().next())
}

fn row_of_policy(context: &Context, policy: &Policy, sources: &[Relation]) -> Result<Row, Error> {
    let mut row = Row::new("materialized_view");
    row.id = format!("scaling:materialized_view:{}", policy.name);
    row.basis = Basis::Policy;
    let existing = in_search_path(&policy.name)?;
    let wanted: BTreeSet<u32> = sources.iter().map(|source| source.oid.to_u32()).collect();
    // What a view over these tables could answer at most: statements that sum up nothing else.
    let time = context.shapes.as_ref().filter(|shapes| shapes.total_ms > 0.0).map(|shapes| {
        let same = |one: &&Shaped| {
            let of: BTreeSet<u32> = one.shape.tables.iter().map(|table| table.to_u32()).collect();
            is_summary(one) && of == wanted
        };
        let ms: f64 = shapes.statements.iter().filter(same).map(|one| one.total_ms).sum();
        100.0 * ms / shapes.total_ms
    });
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let names = names.join(", ");
    let name = ident::quote(&policy.name);
    row.evidence = json!({ "sources": names, "schedule": policy.schedule, "summaries_pct": time,
                           "status": match &existing {
                               Some(view) if view.kind == "m" => "exists",
                               Some(_) => "name_taken",
                               None => "missing",
                           } });
    let of_time = match time {
        Some(pct) => format!("captured statements that sum up {names} alone take {pct:.1} % of all time"),
        None => context.nothing_captured().to_owned(),
    };
    match existing {
        Some(view) if view.kind == "m" => {
            row.recommendation = format!("Nothing to do: {} is there.", view.name);
            row.reason = format!("perf.matview_policy wants it; {of_time}.");
        }
        Some(other) => {
            row.recommendation = format!("Decide: {} is no materialized view.", other.name);
            row.reason = format!("perf.matview_policy wants a view of that name over {names}; {of_time}.");
        }
        None => {
            // What is asked may be something else than what the view holds, and its refreshes cost: no benefit is known.
            row.recommendation = match time.is_some_and(|pct| pct >= BENEFIT_MIN_PCT) {
                true => {
                    format!("Look whether {name} answers what is asked of {names}: it could save that time at most.")
                }
                false => format!("Not now: the workload would not gain from {name}."),
            };
            row.reason = format!("perf.matview_policy wants {name} over {names}; {of_time}.");
            row.config = policy.definition.as_ref().map(|definition| {
                let query = definition.replace("%s", sources.first().map_or("", |source| &source.name));
                let unique: Vec<String> = policy.unique.iter().map(|column| ident::quote(column)).collect();
                let index = match unique.is_empty() {
                    true => String::new(),
                    false => format!("CREATE UNIQUE INDEX ON {name} ({});\n", unique.join(", ")),
                };
                format!(
                    "CREATE MATERIALIZED VIEW {name} AS {query};\n{index}SELECT perf.matview_schedule({}, {});\n",
                    ident::literal(&name),
                    ident::literal(&policy.schedule)
                )
            });
        }
    }
    Ok(row)
}

/// Whether a statement reads and sums up, and means the same whoever runs it and when.
fn is_summary(one: &Shaped) -> bool {
    let shape = &one.shape;
    shape.command == Command::Select
        && shape.aggregates
        && !(shape.locks_rows || shape.volatile || shape.temporary || shape.catalogs || shape.tables.is_empty())
        && !(shape.row_security || shape.circumstances)
}

/// Why the text of a statement is not made into a definition, if it is not.
fn no_definition(one: &Shaped) -> Option<&'static str> {
    let start = one.text.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let word: String = start.chars().take_while(char::is_ascii_alphabetic).collect();
    let is_query = ["select", "with", "values", "table"].iter().any(|known| word.eq_ignore_ascii_case(known));
    match () {
        _ if one.shape.parameters => {
            Some("the values it is called with must be columns of the view, or part of its definition")
        }
        // Whoever refreshes a view runs what it calls.
        _ if one.shape.calls_functions => Some("it calls functions that are not the server's own: look at them first"),
        _ if !is_query => Some("its query is part of another command"),
        _ => None,
    }
}

fn of_workload(shapes: &Shapes) -> Vec<Row> {
    let Some(hours) = shapes.hours else { return Vec::new() };
    let mut found: Vec<Row> = shapes.statements.iter().filter_map(|one| candidate(shapes, one, hours)).collect();
    found.sort_by(|a, b| {
        let benefit = |row: &Row| row.expected_benefit_pct.unwrap_or(0.0);
        benefit(b).total_cmp(&benefit(a)).then_with(|| a.id.cmp(&b.id))
    });
    found.truncate(CANDIDATES_MAX);
    found
}

fn candidate(shapes: &Shapes, one: &Shaped, hours: f64) -> Option<Row> {
    if !is_summary(one) || one.calls <= 0.0 || shapes.total_ms <= 0.0 {
        return None;
    }
    let (mean, blocks, rows) = (one.total_ms / one.calls, one.blocks / one.calls, one.rows / one.calls);
    if mean < MEAN_MS_MIN || blocks < BLOCKS_MIN || rows > ROWS_PER_BLOCK_MAX * blocks {
        return None;
    }
    // Of what was seen for less than an hour nothing is known but that hour.
    let known = hours >= HOURS_MIN && one.calls >= CALLS_MIN;
    let hours = hours.max(HOURS_MIN);
    let an_hour = one.calls / hours;
    let (every, refresh_hours) = REFRESHES.into_iter().find(|(_, hours)| an_hour * hours >= CALLS_A_REFRESH)?;
    let refreshes = (hours / refresh_hours).ceil().max(1.0);
    let saved = one.total_ms - refreshes * mean - one.calls * READ_MS;
    let benefit = 100.0 * saved / shapes.total_ms;
    if benefit < BENEFIT_MIN_PCT {
        return None;
    }
    let mut row = Row::new("materialized_view");
    let id = one.queryid as i64;
    row.id = format!("scaling:materialized_view:{id}");
    row.metric = Some("calls_per_hour".to_owned());
    row.threshold = Some(CALLS_A_REFRESH / refresh_hours);
    row.unit = Some("1/h".to_owned());
    row.reason = format!("Statement {id} reads {blocks:.0} blocks for {rows:.1} rows in {mean:.1} ms");
    if known {
        row.triggered = true;
        row.priority = if benefit >= 20.0 { "high" } else { "medium" }.to_owned();
        row.measured_value = Some(an_hour);
        row.expected_benefit_pct = Some(benefit);
        row.basis = Basis::Measured;
        row.reason.push_str(&format!(
            ", {an_hour:.0} times an hour: a view refreshed every {every} would save {benefit:.1} % of all time, its \
             refreshes counted"
        ));
    } else {
        row.reason.push_str(&format!(
            "; {:.0} calls are all that was seen, and how often it is asked takes an hour and {CALLS_MIN:.0} calls to tell",
            one.calls
        ));
    }
    let advice = match no_definition(one) {
        Some(why) => {
            row.reason.push_str(&format!("; {why}"));
            if one.shape.parameters {
                format!("consider a materialized view for statement {id}: group by what its parameters compare.")
            } else {
                format!("consider a materialized view for statement {id}.")
            }
        }
        None => {
            row.config = Some(definition(one, every));
            format!("answer statement {id} from a materialized view, if {every} old is new enough.")
        }
    };
    row.recommendation = if known { capitalised(&advice) } else { format!("Not yet, but then {advice}") };
    row.reason.push('.');
    row.evidence = json!({ "queryid": id, "calls": one.calls, "hours": hours, "mean_ms": mean,
                           "blocks_per_call": blocks,
                           "rows_per_call": rows, "share_pct": 100.0 * one.total_ms / shapes.total_ms,
                           "refresh_every": every });
    Some(row)
}

/// A view of a statement. Its names mean what they meant only under the search path that it was sent with; what its text
/// ends with may be a comment.
fn definition(one: &Shaped, every: &str) -> String {
    let name = format!("mv_{:016x}", one.queryid);
    let path = match &one.search_path {
        Some(path) => format!("search_path {}", path.replace(char::is_control, "?")),
        None => "a search_path that was not kept".to_owned(),
    };
    format!(
        "-- Its names were looked up with {path}: check them.\nCREATE MATERIALIZED VIEW {name} AS {}\n;\n\
         SELECT perf.matview_schedule({}, {});\n",
        one.text.trim_end().trim_end_matches(';'),
        ident::literal(&name),
        ident::literal(every)
    )
}
