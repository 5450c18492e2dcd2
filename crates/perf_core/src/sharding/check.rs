//! What must be changed before relations can lie as a candidate wants it. The rules are those of Citus.

use super::candidates::{Facts, Layout};
use super::place::Outcome;
use super::report::in_order;
use super::{Column, Placement, Route};

/// More statements than this are not named one by one.
const STATEMENTS_NAMED_MAX: usize = 5;

pub(super) fn blockers(facts: &Facts, layout: &Layout, outcome: &Outcome) -> Vec<String> {
    let mut blockers = Vec::new();
    let name = |relation: usize| facts.relations[relation].name.as_str();
    let mut first: Option<(usize, &Column)> = None;
    for (relation, key) in layout.distributed() {
        let found = &facts.relations[relation];
        let key_name = found.columns.get(key).map_or("", |c| c.name.as_str());
        for unique in found.unique.iter().filter(|u| !u.columns.contains(&key)) {
            blockers.push(format!("{} of {}: must contain the key {key_name}", unique.name, found.name));
        }
        match (found.columns.get(key), first) {
            (Some(column), Some((other, known))) if column.type_name != known.type_name => blockers.push(format!(
                "{}.{} is of type {}, {}.{} of {}: rows lie together by values of one type only",
                found.name,
                column.name,
                column.type_name,
                name(other),
                known.name,
                known.type_name
            )),
            (Some(column), None) => first = Some((relation, column)),
            _ => {}
        }
        for trigger in &found.triggers {
            blockers.push(format!("trigger {trigger} of {}: not run on distributed tables by default", found.name));
        }
    }
    for (relation, found) in facts.relations.iter().enumerate() {
        if layout.placements[relation] == Placement::Local {
            continue;
        }
        for column in found.columns.iter().filter(|c| c.narrow_sequence) {
            blockers.push(format!(
                "{}.{}: its sequence must be of type bigint to give numbers on every node",
                found.name, column.name
            ));
        }
        blockers.extend(found.obstacles.iter().map(|o| format!("{}: {o}", found.name)));
    }
    for key in &facts.foreign_keys {
        let why = match (layout.placements[key.from], layout.placements[key.to]) {
            (Placement::Distributed(a), Placement::Distributed(b)) if !key.columns.contains(&(a, b)) => {
                "must contain the key of both tables"
            }
            (Placement::Distributed(own), _) if key.changes_columns && key.columns.iter().any(|(c, _)| *c == own) => {
                "must not change the key on DELETE or UPDATE"
            }
            (Placement::Distributed(_), Placement::Local) => "refers to a table that stays on one node",
            (Placement::Reference | Placement::Local, Placement::Distributed(_)) => {
                "refers to a distributed table from one that is not"
            }
            _ => continue,
        };
        blockers.push(format!("foreign key {} of {} to {}: {why}", key.name, name(key.from), name(key.to)));
    }
    let (_, stuck) = in_order(facts, layout.distributed().map(|(relation, _)| relation).collect());
    if !stuck.is_empty() {
        let names: Vec<&str> = stuck.iter().map(|relation| name(*relation)).collect();
        blockers.push(format!(
            "{}: refer to each other in a circle; drop a foreign key of it first, and add it again at the end",
            names.join(", ")
        ));
    }
    let moving: Vec<i64> = (facts.statements.iter().zip(&outcome.routes))
        .filter(|(_, route)| **route == Some(Route::Moving))
        .filter_map(|(s, _)| s.filter(|s| !s.writes.is_empty()).map(|s| s.id))
        .collect();
    for id in moving.iter().take(STATEMENTS_NAMED_MAX) {
        blockers.push(format!("statement {id}: writes by rows of other nodes, which is refused"));
    }
    if moving.len() > STATEMENTS_NAMED_MAX {
        blockers
            .push(format!("{} more statements that write by rows of other nodes", moving.len() - STATEMENTS_NAMED_MAX));
    }
    blockers
}
