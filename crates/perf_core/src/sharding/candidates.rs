//! Finds candidates for the key: classes of columns that joins and foreign keys hold equal, and how each relation lies
//! under one of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::place::{self, Outcome};
use super::{
    Column, ForeignKey, Placement, Relation, Statement, Transaction, TypeClass, Workload, CANDIDATES_MAX, COPIES_BYTES,
    COPIES_STORAGE_SHARE, COPIES_WRITE_SHARE, IMBALANCE_MAX,
};

/// Other placements tried for one candidate: each costs a look at the whole workload.
const TRIALS_MAX: usize = 48;

/// Transactions and values that must agree before two columns are believed to mean the same, or not.
const TOGETHER_MIN: usize = 5;
/// Columns of one transaction that are compared with each other.
const PINNED_MAX: usize = 16;

/// Sets that are merged by the equalities that are found.
#[derive(Debug, Clone)]
pub(super) struct Classes {
    parent: Vec<usize>,
}

impl Classes {
    pub(super) fn new(members: usize) -> Classes {
        Classes { parent: (0..members).collect() }
    }

    pub(super) fn root(&mut self, member: usize) -> usize {
        let mut at = member;
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    pub(super) fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        // The smaller number stays the root: the same equalities in another order give the same classes.
        self.parent[a.max(b)] = a.min(b);
    }
}

/// A number that is no amount counts as nothing.
pub(super) fn amount(value: f64) -> f64 {
    if value.is_finite() && value > 0.0 {
        value
    } else {
        0.0
    }
}

/// The workload without what refers to nothing, and sums over it.
pub(super) struct Facts<'a> {
    pub(super) relations: &'a [Relation],
    pub(super) foreign_keys: Vec<&'a ForeignKey>,
    /// None: refers to a table or column that does not exist, and counts for nothing.
    pub(super) statements: Vec<Option<&'a Statement>>,
    pub(super) transactions: Vec<&'a Transaction>,
    pub(super) nodes: f64,
    pub(super) headroom_months: Option<f64>,
    pub(super) missing_share: f64,
    pub(super) total_ms: f64,
    pub(super) total_bytes: f64,
    written_ms: Vec<f64>,
    touched: Vec<bool>,
    /// Place of a relation's first column among all columns.
    offsets: Vec<usize>,
    columns: usize,
}

impl<'a> Facts<'a> {
    pub(super) fn of(workload: &'a Workload) -> Facts<'a> {
        let relations = workload.relations.as_slice();
        let width = |relation: usize| relations.get(relation).map_or(0, |r| r.columns.len());
        let whole = |s: &Statement| {
            let known = |c: &super::TableColumn| s.tables.get(c.0).is_some_and(|&r| c.1 < width(r));
            s.tables.iter().all(|&r| r < relations.len())
                && s.joins.iter().all(|(a, b)| known(a) && known(b))
                && s.pins.iter().all(|p| known(&p.column))
                && s.writes.iter().all(|&w| w < s.tables.len())
        };
        let statements: Vec<Option<&Statement>> =
            workload.statements.iter().map(|s| Some(s).filter(|s| whole(s))).collect();
        let transactions = (workload.transactions.iter())
            .filter(|t| t.steps.iter().all(|s| statements.get(s.statement).is_some_and(Option::is_some)))
            .filter(|t| t.incomplete || !t.steps.is_empty())
            .collect();
        let foreign_keys = (workload.foreign_keys.iter())
            .filter(|k| k.from < relations.len() && k.to < relations.len())
            .filter(|k| k.columns.iter().all(|&(a, b)| a < width(k.from) && b < width(k.to)))
            .collect();
        let mut written_ms = vec![0.0; relations.len()];
        let mut touched = vec![false; relations.len()];
        for statement in statements.iter().flatten() {
            statement.tables.iter().for_each(|&r| touched[r] = true);
            let mut written: Vec<usize> = statement.writes.iter().map(|&w| statement.tables[w]).collect();
            written.sort_unstable();
            written.dedup();
            written.into_iter().for_each(|r| written_ms[r] += amount(statement.total_ms));
        }
        let mut columns = 0;
        let offsets = relations
            .iter()
            .map(|r| {
                columns += r.columns.len();
                columns - r.columns.len()
            })
            .collect();
        Facts {
            relations,
            foreign_keys,
            total_ms: statements.iter().flatten().map(|s| amount(s.total_ms)).sum(),
            total_bytes: relations.iter().map(|r| amount(r.bytes)).sum(),
            statements,
            transactions,
            nodes: f64::from(workload.nodes.max(2)),
            headroom_months: workload.headroom_months.filter(|m| !m.is_nan()),
            missing_share: amount(workload.missing_share).min(1.0),
            written_ms,
            touched,
            offsets,
            columns,
        }
    }

    /// Whether copies of it on all nodes cost little.
    pub(super) fn may_be_copied(&self, relation: usize) -> bool {
        let Some(found) = self.relations.get(relation) else { return false };
        let copies = (self.nodes - 1.0) * amount(found.bytes);
        copies <= (COPIES_STORAGE_SHARE * self.total_bytes).max(COPIES_BYTES)
            && self.written_ms[relation] <= COPIES_WRITE_SHARE * self.total_ms
    }

    /// Whether any statement uses it.
    pub(super) fn touched(&self, relation: usize) -> bool {
        self.touched[relation]
    }

    pub(super) fn column(&self, relation: usize, column: usize) -> Option<&'a Column> {
        self.relations.get(relation)?.columns.get(column)
    }

    /// Why a column cannot be what its relation is split by.
    pub(super) fn rejection(&self, column: &Column) -> Option<String> {
        // One value with share f gives its node n * f + (1 - f) of the mean: at most the imbalance allowed.
        let hot_max = (IMBALANCE_MAX - 1.0) / (self.nodes - 1.0);
        let hottest = column.most_common.iter().copied().map(amount).fold(0.0, f64::max);
        if column.class == TypeClass::Time {
            Some("is a time: all that is new would go to one node".to_owned())
        } else if column.class == TypeClass::Other {
            Some("is of a type that makes no key".to_owned())
        } else if amount(column.null_fraction) > 0.0 {
            Some(format!("is NULL in {:.1} % of the rows", 100.0 * column.null_fraction))
        } else if column.updated {
            Some("is updated: rows would have to move between nodes".to_owned())
        } else if amount(column.n_distinct) < self.nodes {
            Some(format!("has {:.0} different values for {:.0} nodes", amount(column.n_distinct), self.nodes))
        } else if hottest > hot_max {
            Some(format!(
                "has one value with {:.1} % of the rows, and {:.1} % is what {:.0} nodes bear",
                100.0 * hottest,
                100.0 * hot_max,
                self.nodes
            ))
        } else {
            None
        }
    }
}

/// A class of columns, and how the relations lie under it.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// The columns of the class as (relation, column), most used first.
    pub(super) members: Vec<(usize, usize)>,
    pub(super) placements: Vec<Placement>,
    /// Columns of the class that cannot be used, and why.
    pub(super) rejected: Vec<((usize, usize), String)>,
}

/// The candidates, most used first, no more than [`CANDIDATES_MAX`].
pub(super) struct Candidates;

impl Candidates {
    pub(super) fn of(facts: &Facts) -> Vec<Layout> {
        let at = |relation: usize, column: usize| facts.offsets[relation] + column;
        let mut classes = Classes::new(facts.columns);
        let mut weights = vec![0.0; facts.columns];
        for key in &facts.foreign_keys {
            key.columns.iter().for_each(|&(a, b)| classes.join(at(key.from, a), at(key.to, b)));
        }
        for statement in facts.statements.iter().flatten() {
            // Calls settle it where no time was measured.
            let weight = amount(statement.total_ms) + 1e-3 * amount(statement.calls);
            let place = |c: &super::TableColumn| at(statement.tables[c.0], c.1);
            for (a, b) in &statement.joins {
                classes.join(place(a), place(b));
                weights[place(a)] += weight;
                weights[place(b)] += weight;
            }
            statement.pins.iter().for_each(|p| weights[place(&p.column)] += weight);
        }
        same_meaning(facts, &mut classes);
        let mut by_root: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for (relation, found) in facts.relations.iter().enumerate() {
            for column in 0..found.columns.len() {
                by_root.entry(classes.root(at(relation, column))).or_default().push((relation, column));
            }
        }
        let weight_of = |m: &(usize, usize)| weights[at(m.0, m.1)];
        let mut used: Vec<(f64, Vec<(usize, usize)>)> = (by_root.into_values())
            .map(|mut members| {
                members.sort_by(|a, b| weight_of(b).total_cmp(&weight_of(a)).then(a.cmp(b)));
                (members.iter().map(weight_of).sum(), members)
            })
            .filter(|(weight, _)| *weight > 0.0)
            .collect();
        used.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        // A layout has a place for every relation: only those that are judged are made.
        used.into_iter().take(CANDIDATES_MAX).map(|(_, members)| Layout::of(facts, members)).collect()
    }
}

/// Columns that no join and no foreign key holds equal may still mean the same: because transactions give them the same
/// values, or because they have the same name and transactions do not give them different ones.
fn same_meaning(facts: &Facts, classes: &mut Classes) {
    let usable =
        |relation: usize, column: usize| facts.column(relation, column).is_some_and(|c| facts.rejection(c).is_none());
    let mut together: HashMap<(usize, usize), Together> = HashMap::new();
    for transaction in &facts.transactions {
        let mut pinned: BTreeMap<usize, u64> = BTreeMap::new();
        for step in &transaction.steps {
            let Some(Some(statement)) = facts.statements.get(step.statement) else { continue };
            for pin in statement.pins.iter().filter(|p| p.slots.len() == 1) {
                let relation = statement.tables[pin.column.0];
                let value = pin.slots.first().and_then(|s| step.values.get(*s).copied().flatten());
                if let Some(value) = value.filter(|_| usable(relation, pin.column.1)) {
                    pinned.entry(facts.offsets[relation] + pin.column.1).or_insert(value);
                }
            }
        }
        let pinned: Vec<(usize, u64)> = pinned.into_iter().take(PINNED_MAX).collect();
        for (i, &(a, first)) in pinned.iter().enumerate() {
            for &(b, second) in &pinned[i + 1..] {
                let pair = together.entry((a, b)).or_default();
                pair.seen += 1;
                if first == second {
                    pair.equal += 1;
                    if pair.values.len() < TOGETHER_MIN {
                        pair.values.insert(first);
                    }
                }
            }
        }
    }
    for (&(a, b), pair) in &together {
        // Several different values: two flags that are both 1 mean nothing.
        if pair.values.len() >= TOGETHER_MIN && pair.equal * 10 >= pair.seen * 9 {
            classes.join(a, b);
        }
    }
    let mut named: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (relation, found) in facts.relations.iter().enumerate() {
        for (column, c) in found.columns.iter().enumerate() {
            // Every table has an "id" of its own.
            if !c.name.eq_ignore_ascii_case("id") && usable(relation, column) {
                named.entry(&c.name).or_default().push(facts.offsets[relation] + column);
            }
        }
    }
    for columns in named.values() {
        for (i, &a) in columns.iter().enumerate() {
            for &b in &columns[i + 1..] {
                let different = |p: &Together| p.seen >= TOGETHER_MIN && p.equal * 2 < p.seen;
                if !together.get(&(a, b)).is_some_and(different) {
                    classes.join(a, b);
                    // One is enough to tie it to the others of its name.
                    break;
                }
            }
        }
    }
}

/// How often two columns got values in one transaction.
#[derive(Default)]
struct Together {
    seen: usize,
    equal: usize,
    values: HashSet<u64>,
}

impl Layout {
    fn of(facts: &Facts, members: Vec<(usize, usize)>) -> Layout {
        let mut usable: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut rejected = Vec::new();
        for &(relation, column) in &members {
            match facts.column(relation, column).map(|c| facts.rejection(c)) {
                Some(None) => usable.entry(relation).or_default().push(column),
                Some(Some(why)) => rejected.push(((relation, column), why)),
                None => {}
            }
        }
        let placements = (0..facts.relations.len())
            .map(|r| match usable.get(&r).and_then(|c| c.first()) {
                Some(&column) => Placement::Distributed(column),
                None if facts.may_be_copied(r) => Placement::Reference,
                None => Placement::Local,
            })
            .collect();
        let mut layout = Layout { members, placements, rejected };
        if !usable.is_empty() {
            layout.improve(facts, &usable);
        }
        layout
    }

    /// A class may have several columns of one relation (sender and receiver), or a relation that had better be copied:
    /// tries what else there is, and keeps what lets more transactions stay on one node.
    fn improve(&mut self, facts: &Facts, usable: &BTreeMap<usize, Vec<usize>>) {
        let score = |outcome: &Outcome| outcome.single + 1e-3 * outcome.time_on_one_node;
        let mut best = None;
        let mut trials = 0;
        for (&relation, columns) in usable {
            let others = columns.iter().skip(1).map(|&c| Placement::Distributed(c));
            // The one table that every other one refers to is not a candidate for copies just because it is small.
            let copied = (columns.len() > 1 && facts.may_be_copied(relation)).then_some(Placement::Reference);
            for other in others.chain(copied) {
                if trials >= TRIALS_MAX {
                    return;
                }
                trials += 1;
                let before = *best.get_or_insert_with(|| score(&place::outcome(facts, &self.placements)));
                let old = std::mem::replace(&mut self.placements[relation], other);
                let after = score(&place::outcome(facts, &self.placements));
                if after > before + 1e-9 {
                    best = Some(after);
                } else {
                    self.placements[relation] = old;
                }
            }
        }
    }

    pub(super) fn distributed(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.placements.iter().enumerate().filter_map(|(r, p)| match p {
            Placement::Distributed(column) => Some((r, *column)),
            _ => None,
        })
    }
}
