//! Says how many nodes statements and transactions visit when the relations lie in a given way.

use std::collections::{HashMap, HashSet};

use super::candidates::{amount, Classes, Facts};
use super::{Placement, Route, Statement, TableColumn};

/// A key value that was seen this often has a load of its own; the others are taken to spread evenly.
const SEEN_MIN: f64 = 5.0;

/// How a statement is routed. Equalities pass values on: `a.k = b.k AND a.k = $1` pins both.
pub(super) fn route(statement: &Statement, placements: &[Placement]) -> Route {
    let place = |table: usize| statement.tables.get(table).and_then(|&r| placements.get(r)).copied();
    let places: Vec<Option<Placement>> = (0..statement.tables.len()).map(place).collect();
    let keys: Vec<TableColumn> = (places.iter().enumerate())
        .filter_map(|(table, p)| match p {
            Some(Placement::Distributed(column)) => Some((table, *column)),
            _ => None,
        })
        .collect();
    let local = places.contains(&Some(Placement::Local));
    let copies_written = statement.writes.iter().any(|&w| places.get(w) == Some(&Some(Placement::Reference)));
    if copies_written {
        return Route::Copies;
    }
    if keys.is_empty() {
        return if local { Route::Local } else { Route::Anywhere };
    }
    if local {
        return Route::Moving;
    }

    let mut numbers: HashMap<TableColumn, usize> = HashMap::new();
    let mentioned = statement.joins.iter().flat_map(|(a, b)| [*a, *b]).chain(statement.pins.iter().map(|p| p.column));
    for column in mentioned.chain(keys.iter().copied()) {
        let next = numbers.len();
        numbers.entry(column).or_insert(next);
    }
    let mut classes = Classes::new(numbers.len());
    for (a, b) in &statement.joins {
        if let (Some(&a), Some(&b)) = (numbers.get(a), numbers.get(b)) {
            classes.join(a, b);
        }
    }
    // The fewest values that a class is pinned to.
    let mut pinned: HashMap<usize, &[usize]> = HashMap::new();
    for pin in statement.pins.iter().filter(|p| !p.slots.is_empty()) {
        if let Some(&number) = numbers.get(&pin.column) {
            let slots = pinned.entry(classes.root(number)).or_insert(&pin.slots);
            if pin.slots.len() < slots.len() {
                *slots = &pin.slots;
            }
        }
    }
    let roots: HashSet<usize> = keys.iter().filter_map(|k| numbers.get(k).map(|&n| classes.root(n))).collect();
    if roots.iter().all(|r| pinned.contains_key(r)) {
        let mut slots: Vec<usize> = roots.iter().flat_map(|r| pinned[r].iter().copied()).collect();
        slots.sort_unstable();
        slots.dedup();
        return Route::Keyed(slots);
    }
    if roots.len() == 1 {
        Route::Everywhere
    } else {
        Route::Moving
    }
}

/// What became of the workload. Shares are 0..1.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// Transactions that touch one key value at most.
    pub(super) single: f64,
    /// Those of them that run on one node, whichever.
    pub(super) anywhere: f64,
    /// Transactions known to visit several nodes, or more than one key value.
    pub(super) cross: f64,
    /// Transactions of several keyed steps, of which not all values are known, and `incomplete` ones.
    pub(super) unknown: f64,
    /// Transactions that did more than is known, unless what is known visits several nodes.
    pub(super) incomplete: f64,
    /// Transactions expected on one node: values that differ may still lie together.
    pub(super) one_node: f64,
    /// Share of the time of the statements that run on one node, whichever.
    pub(super) time_on_one_node: f64,
    /// How the statements are routed, as the workload has them.
    pub(super) routes: Vec<Option<Route>>,
    /// Shares that single key values have of the keyed transactions, largest first; without those that were seen too
    /// seldom to tell a busy one from chance.
    pub(super) traffic: Vec<f64>,
}

/// What one transaction does.
enum Visit {
    Anywhere,
    /// This many different values.
    Keys(usize),
    Unknown,
    Incomplete,
    Several,
}

pub(super) fn outcome(facts: &Facts, placements: &[Placement]) -> Outcome {
    let routes: Vec<Option<Route>> = facts.statements.iter().map(|s| s.map(|s| route(s, placements))).collect();
    let mut out = Outcome::default();
    let mut total = 0.0;
    let mut loads: HashMap<u64, f64> = HashMap::new();
    let mut count = |visit: Visit, times: f64| {
        total += times;
        match visit {
            Visit::Anywhere => out.anywhere += times,
            Visit::Keys(1) => out.single += times,
            Visit::Keys(values) => {
                out.cross += times;
                out.one_node += times * facts.nodes.powf(1.0 - values as f64);
            }
            Visit::Unknown => out.unknown += times,
            Visit::Incomplete => {
                out.unknown += times;
                out.incomplete += times;
            }
            Visit::Several => out.cross += times,
        }
    };
    for transaction in &facts.transactions {
        let times = amount(transaction.times);
        let mut values: HashSet<u64> = HashSet::new();
        let (mut keyed, mut unknown, mut several) = (0, false, false);
        for step in &transaction.steps {
            match routes.get(step.statement).and_then(Option::as_ref) {
                Some(Route::Keyed(slots)) => {
                    keyed += 1;
                    for &slot in slots {
                        match step.values.get(slot).copied().flatten() {
                            Some(value) => drop(values.insert(value)),
                            None => unknown = true,
                        }
                    }
                    // One value that is not known is one value.
                    keyed += slots.len().saturating_sub(1);
                }
                Some(Route::Anywhere) => {}
                _ => several = true,
            }
        }
        values.iter().for_each(|v| *loads.entry(*v).or_default() += times / values.len() as f64);
        let visit = match () {
            _ if several || values.len() > 1 && (unknown || transaction.incomplete) => Visit::Several,
            _ if transaction.incomplete => Visit::Incomplete,
            _ if keyed == 0 => Visit::Anywhere,
            _ if unknown && keyed > 1 => Visit::Unknown,
            _ => Visit::Keys(values.len().max(1)),
        };
        count(visit, times);
    }
    if facts.transactions.is_empty() {
        for (statement, route) in facts.statements.iter().zip(&routes) {
            let Some((statement, route)) = statement.zip(route.as_ref()) else { continue };
            let visit = match route {
                Route::Anywhere => Visit::Anywhere,
                Route::Keyed(slots) if slots.len() == 1 => Visit::Keys(1),
                Route::Keyed(_) => Visit::Unknown,
                _ => Visit::Several,
            };
            count(visit, amount(statement.calls));
        }
    }
    out.single += out.anywhere;
    out.one_node += out.single;
    if total > 0.0 {
        let known = [&mut out.single, &mut out.anywhere, &mut out.cross, &mut out.one_node];
        for share in known.into_iter().chain([&mut out.unknown, &mut out.incomplete]) {
            *share /= total;
        }
    }
    let keyed: f64 = loads.values().sum();
    out.traffic = loads.into_values().filter(|l| *l >= SEEN_MIN).map(|l| l / keyed).collect();
    out.traffic.sort_by(|a, b| b.total_cmp(a));
    let on_one = facts.statements.iter().zip(&routes).filter_map(|(s, r)| Some((s.as_ref()?, r.as_ref()?)));
    let on_one = on_one.filter(|(_, r)| matches!(r, Route::Anywhere) || matches!(r, Route::Keyed(s) if s.len() == 1));
    let time: f64 = on_one.map(|(s, _)| amount(s.total_ms)).sum();
    out.time_on_one_node = if facts.total_ms > 0.0 { time / facts.total_ms } else { 0.0 };
    out.routes = routes;
    out
}
