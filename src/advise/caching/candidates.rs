//! Strategies that the workload itself calls for: captured statements that no policy is about.

use std::collections::{BTreeSet, HashMap};

use super::facts::{Facts, Relation, Statement};
use super::{assess, Row};
use perf_core::cache::candidate::MEAN_MS_MIN;

/// Rows at most: of statements that can be cached, and of others.
const ROWS_MAX: usize = 50;
const REFUSED_MAX: usize = 20;

/// Rows of the statements that are not bound to a policy: recommended ones first, the heaviest first.
pub fn rows(facts: &Facts, bound: &[u64]) -> Vec<Row> {
    let mut rows = Vec::new();
    let (mut kept, mut refused) = (0, 0);
    for statement in facts.statements.as_deref().unwrap_or_default() {
        let is_of_tables = !statement.shape.tables.is_empty() || !statement.shape.catalogs;
        let is_slow = statement.total_ms >= MEAN_MS_MIN * statement.calls;
        let is_known = facts.summaries.contains_key(&statement.queryid);
        if bound.contains(&statement.queryid) || !is_of_tables || !(is_slow || is_known) {
            continue;
        }
        let room = match facts.obstacle(statement) {
            Some(_) => (&mut refused, REFUSED_MAX),
            None => (&mut kept, ROWS_MAX),
        };
        if *room.0 >= room.1 {
            continue;
        }
        *room.0 += 1;
        rows.push(row(statement, facts));
    }
    let mut used: HashMap<String, usize> = HashMap::new();
    rows.iter().for_each(|row| *used.entry(row.key_template.clone()).or_default() += 1);
    for row in rows.iter_mut().filter(|row| used.get(&row.key_template).is_some_and(|times| *times > 1)) {
        row.key_template += &format!(":{}", short(row.queryid.unwrap_or(0) as u64));
    }
    let rank = |row: &Row| ["active", "recommended", "insufficient_data"].iter().position(|one| *one == row.status);
    rows.sort_by_key(|row| rank(row).unwrap_or(usize::MAX));
    rows
}

/// A queryid as part of a name.
fn short(queryid: u64) -> String {
    format!("{:08x}", queryid >> 32 ^ queryid & 0xffff_ffff)
}

fn row(statement: &Statement, facts: &Facts) -> Row {
    let keyed = facts.keyed(statement);
    let tables = facts.tables_of(statement);
    let main = keyed.first().map(|(relation, ..)| *relation).or(tables.first().copied());
    let main = main.map_or("query", |relation| relation.name.as_str());
    let columns: Vec<&str> = keyed.iter().map(|(_, column, _)| *column).collect();
    let by = if columns.is_empty() { String::new() } else { format!("_by_{}", columns.join("_")) };
    let events: BTreeSet<String> = tables.iter().map(|table| event(table)).collect();
    let mut row = Row {
        name: format!("{main}{by}_{}", short(statement.queryid)),
        key_template: template(main, &placeholders(statement, facts)),
        invalidated_by: events.into_iter().collect(),
        source: "workload",
        queryid: Some(statement.queryid as i64),
        basis: "none",
        queryids: vec![statement.queryid as i64],
        ..Row::default()
    };
    assess(&mut row, &[statement], facts, None);
    row
}

/// What a change of a table is called.
pub fn event(table: &Relation) -> String {
    format!("{}_changed", table.name)
}

/// What the values of a statement are called, by place: a value by the name of the column that is equal to it, where a changed
/// row tells by that column whose results it changes; else by its number.
pub fn placeholders(statement: &Statement, facts: &Facts) -> Vec<String> {
    let is_name = |name: &str| {
        name.chars().all(|one| one.is_ascii_alphanumeric() || one == '_')
            && !name.starts_with(|one: char| one.is_ascii_digit())
            && !name.starts_with("value_")
    };
    let keyed = facts.keyed(statement);
    let mut names: Vec<String> = Vec::new();
    for slot in 0..values_of(&statement.text) {
        let column = keyed.iter().find(|one| one.2 == slot && facts.is_exact(statement, one)).map(|one| one.1);
        let column = column.filter(|name| is_name(name) && !names.iter().any(|known| known == name));
        names.push(column.map_or_else(|| format!("value_{}", slot + 1), str::to_owned));
    }
    names
}

/// The key: every value of the statement is in it.
fn template(main: &str, placeholders: &[String]) -> String {
    let mut template = format!("app:{}", main.replace(['{', '}', ':'], "_"));
    placeholders.iter().for_each(|name| template += &format!(":{{{name}}}"));
    template
}

/// The highest n of any `$n` in a normalised text.
fn values_of(text: &str) -> usize {
    let numbers = text.split('$').skip(1).filter_map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).take(4).count();
        rest.get(..digits)?.parse::<usize>().ok()
    });
    numbers.max().unwrap_or(0)
}
