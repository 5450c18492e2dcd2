//! Judges one candidate: the numbers, the verdict with its reasons, and the statements that would do it.

use std::collections::BTreeMap;

use super::candidates::{amount, Facts, Layout};
use super::place::{self, Outcome};
use super::{
    balance, check, Placement, Route, HEADROOM_MONTHS, IMBALANCE_MAX, MISSING_SHARE_MAX, MOVED_FACTOR, NODE_CALL_MS,
    SINGLE_SHARD_MIN_PCT,
};

/// What to do. In the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The workload fits the key, and one machine will not do for long. Blockers come first.
    Shard,
    /// The workload fits the key, but one machine will do.
    NotYet,
    /// The workload does not fit the key.
    Unsuitable,
}

impl Verdict {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Shard => "shard",
            Verdict::NotYet => "not_yet",
            Verdict::Unsuitable => "unsuitable",
        }
    }
}

/// Shares of the time of all statements, 0..1, by how they are routed. They sum to one, or to zero without any time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TimeShares {
    /// One node, found by the key.
    pub single_shard: f64,
    /// Copies only, on any node.
    pub reference_only: f64,
    /// Every node on its own.
    pub colocated: f64,
    /// Rows move between nodes, or copies are written.
    pub cross_shard: f64,
    /// On the node that holds what is not distributed.
    pub local: f64,
}

/// A statement to run, as data. Relation names are the caller's, quoted; column names are not quoted: they go into
/// literals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ddl {
    /// `create_reference_table`.
    Reference {
        /// The table.
        relation: String,
    },
    /// `create_distributed_table`.
    Distribute {
        /// The table.
        relation: String,
        /// What it is split by.
        column: String,
        /// The table whose rows lie together with its own; None for the first.
        colocate_with: Option<String>,
    },
}

impl Ddl {
    /// The statement. `literal` makes a string literal out of any text.
    pub fn sql(&self, literal: impl Fn(&str) -> String) -> String {
        match self {
            Ddl::Reference { relation } => format!("SELECT create_reference_table({});", literal(relation)),
            Ddl::Distribute { relation, column, colocate_with: None } => {
                format!("SELECT create_distributed_table({}, {});", literal(relation), literal(column))
            }
            Ddl::Distribute { relation, column, colocate_with: Some(first) } => format!(
                "SELECT create_distributed_table({}, {}, colocate_with => {});",
                literal(relation),
                literal(column),
                literal(first)
            ),
        }
    }
}

/// A candidate for the key and what was found out about it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The column of the class that is used most, as (relation, column).
    pub column: (usize, usize),
    /// The same as text: relation.column.
    pub key: String,
    /// What every relation becomes.
    pub placements: Vec<Placement>,
    /// How every statement is routed; None: it referred to something unknown.
    pub routes: Vec<Option<Route>>,
    /// What to do.
    pub verdict: Verdict,
    /// Transactions that touch one key value at most, in percent.
    pub single_shard_pct: f64,
    /// Transactions that visit several nodes or touch several key values, in percent.
    pub cross_shard_pct: f64,
    /// Transactions of which that is not known, because values were not captured, in percent. Not counted as single.
    pub unknown_pct: f64,
    /// Part of those: transactions that did more than was captured or understood.
    pub incomplete_pct: f64,
    /// Transactions expected to run on one node, in percent: two values lie together by luck, once in `nodes` times.
    pub one_node_pct: f64,
    /// The same by the time of the statements.
    pub time: TimeShares,
    /// Expected load of the busiest node over the mean: the worse of rows and traffic.
    pub imbalance: f64,
    /// Work that the nodes do together over what one does, by a model: see `speedup`.
    pub predicted_speedup: f64,
    /// Relations copied to all nodes.
    pub reference_tables: Vec<usize>,
    /// Relations that lie together, by the key.
    pub colocated_tables: Vec<usize>,
    /// Relations in use that stay on one node.
    pub local_tables: Vec<usize>,
    /// What must be changed first.
    pub blockers: Vec<String>,
    /// How to do it; nothing where the verdict is `Unsuitable`.
    pub ddl: Vec<Ddl>,
    /// Why this verdict, with the numbers.
    pub reasons: Vec<String>,
}

/// All candidates, the best first.
#[derive(Debug, Clone)]
pub struct Advice {
    /// The verdict of the best candidate; `Unsuitable` without any.
    pub verdict: Verdict,
    /// Candidates, the best first.
    pub candidates: Vec<Candidate>,
    /// Why, in one sentence.
    pub reason: String,
}

impl Advice {
    pub(super) fn of(candidates: Vec<Candidate>) -> Advice {
        match candidates.first() {
            None => Advice {
                verdict: Verdict::Unsuitable,
                candidates,
                reason: "Don't shard: no captured statement compares a column with a value or another column."
                    .to_owned(),
            },
            Some(best) => Advice {
                verdict: best.verdict,
                reason: match best.verdict {
                    Verdict::Shard => format!("Shard by {}: {}.", best.key, best.reasons.join("; ")),
                    Verdict::NotYet => format!("Don't shard yet: {} would do; {}.", best.key, best.reasons.join("; ")),
                    Verdict::Unsuitable => {
                        format!("Don't shard: even {} does not do; {}.", best.key, best.reasons.join("; "))
                    }
                },
                candidates,
            },
        }
    }
}

pub(super) fn judge(facts: &Facts, layout: &Layout) -> Candidate {
    let outcome = place::outcome(facts, &layout.placements);
    let column = layout.members.first().copied().unwrap_or_default();
    let rows = rows_imbalance(facts, layout);
    let traffic = balance::imbalance(&outcome.traffic, 0.0, facts.nodes);
    let imbalance = if outcome.traffic.is_empty() { rows } else { rows.max(traffic) };
    let predicted_speedup = speedup(facts, &outcome, imbalance);
    let key =
        format!("{}.{}", facts.relations[column.0].name, facts.column(column.0, column.1).map_or("", |c| &c.name));
    let mut candidate = Candidate {
        column,
        key,
        verdict: Verdict::Unsuitable,
        single_shard_pct: 100.0 * outcome.single,
        cross_shard_pct: 100.0 * outcome.cross,
        unknown_pct: 100.0 * outcome.unknown,
        incomplete_pct: 100.0 * outcome.incomplete,
        one_node_pct: 100.0 * outcome.one_node,
        time: time_shares(facts, &outcome),
        imbalance,
        predicted_speedup,
        reference_tables: in_use(facts, layout, |p| p == Placement::Reference),
        colocated_tables: layout.distributed().map(|d| d.0).collect(),
        local_tables: in_use(facts, layout, |p| p == Placement::Local),
        blockers: check::blockers(facts, layout, &outcome),
        ddl: Vec::new(),
        reasons: Vec::new(),
        placements: layout.placements.clone(),
        routes: outcome.routes,
    };
    let rejected = layout.rejected.iter().map(|((relation, column), why)| {
        let name = facts.column(*relation, *column).map_or("", |c| &c.name);
        format!("{}.{name} {why}", facts.relations[*relation].name)
    });
    candidate.decide(facts, rejected.collect());
    if candidate.verdict != Verdict::Unsuitable {
        candidate.ddl = ddl(facts, layout, &candidate.reference_tables);
    } else {
        candidate.blockers.clear();
    }
    candidate
}

impl Candidate {
    fn decide(&mut self, facts: &Facts, rejected: Vec<String>) {
        let single = format!("{:.1} % of the transactions touch one key value", self.single_shard_pct);
        let balance =
            format!("the busiest of {:.0} nodes would have {:.2} times the mean", facts.nodes, self.imbalance);
        let mut against = Vec::new();
        if self.colocated_tables.is_empty() {
            against.push("no table has a column of this key that can be used".to_owned());
        } else {
            // What is not known speaks neither for it nor against it.
            if self.single_shard_pct < SINGLE_SHARD_MIN_PCT * (1.0 - self.incomplete_pct / 100.0) - 1e-9 {
                let unknown = match self.unknown_pct {
                    u if u > 0.0 => format!(" (of {u:.1} % the values are not known)"),
                    _ => String::new(),
                };
                against.push(format!("{single}{unknown}, {SINGLE_SHARD_MIN_PCT:.0} % are needed"));
            }
            if self.imbalance > IMBALANCE_MAX {
                against.push(format!("{balance}, {IMBALANCE_MAX} at most"));
            }
            if self.predicted_speedup <= 1.0 {
                let nodes = facts.nodes;
                against.push(format!("{nodes:.0} nodes would do {:.2} times the work of one", self.predicted_speedup));
            }
        }
        if !against.is_empty() {
            self.reasons = against;
            self.reasons.extend(rejected);
            return;
        }
        self.reasons = vec![single, balance];
        let too_many = 100.0 * MISSING_SHARE_MAX;
        let missing = [
            (self.incomplete_pct, "of the transactions did more than is known"),
            (100.0 * facts.missing_share, "of the time is of statements that are not known"),
        ];
        let missing: Vec<String> = (missing.into_iter().filter(|(pct, _)| *pct > too_many))
            .map(|(pct, what)| format!("{pct:.1} % {what}, {too_many:.0} % at most may be"))
            .collect();
        let is_known = missing.is_empty();
        self.reasons.extend(missing);
        self.verdict = match facts.headroom_months {
            Some(months) if months < HEADROOM_MONTHS && !is_known => {
                self.reasons.push(format!("a larger machine lasts {:.0} months", months.max(0.0)));
                Verdict::NotYet
            }
            Some(months) if months < HEADROOM_MONTHS => {
                self.reasons.push(format!("a larger machine lasts {:.0} months", months.max(0.0)));
                Verdict::Shard
            }
            Some(months) if months.is_finite() => {
                self.reasons.push(format!("a larger machine lasts {months:.0} months, and is cheaper"));
                Verdict::NotYet
            }
            Some(_) => {
                self.reasons.push("no end of what one machine can do is in sight".to_owned());
                Verdict::NotYet
            }
            None => {
                self.reasons.push("how long a larger machine lasts is not known yet".to_owned());
                Verdict::NotYet
            }
        };
        self.reasons.extend(rejected);
    }
}

fn in_use(facts: &Facts, layout: &Layout, wanted: impl Fn(Placement) -> bool) -> Vec<usize> {
    (0..facts.relations.len()).filter(|&r| wanted(layout.placements[r]) && facts.touched(r)).collect()
}

/// By bytes: the k-th most common value of every table is taken for the same value, the worst case.
fn rows_imbalance(facts: &Facts, layout: &Layout) -> f64 {
    let bytes = |relation: usize| amount(facts.relations[relation].bytes);
    let total: f64 = layout.distributed().map(|(r, _)| bytes(r)).sum();
    let (mut shares, mut others): (Vec<f64>, f64) = (Vec::new(), 0.0);
    for (relation, column) in layout.distributed() {
        let Some(column) = facts.column(relation, column) else { continue };
        let weight = if total > 0.0 { bytes(relation) / total } else { 0.0 };
        let mut common: Vec<f64> = column.most_common.iter().copied().map(amount).collect();
        common.sort_by(|a, b| b.total_cmp(a));
        shares.resize(shares.len().max(common.len()), 0.0);
        shares.iter_mut().zip(&common).for_each(|(sum, share)| *sum += weight * share);
        others += weight * (amount(column.n_distinct) - common.len() as f64).max(0.0);
    }
    balance::imbalance(&shares, others, facts.nodes)
}

/// Time of the busiest node, which all nodes' work takes, against that of one machine. What the key leads to is spread
/// as well as `imbalance` allows; what visits every node costs each its part and a call; what moves rows costs more;
/// what writes copies costs every node all of it; what is not distributed stays with one. Commits in two phases are not
/// in it.
fn speedup(facts: &Facts, outcome: &Outcome, imbalance: f64) -> f64 {
    if facts.total_ms <= 0.0 {
        return 1.0;
    }
    let nodes = facts.nodes;
    let busiest: f64 = (facts.statements.iter().zip(&outcome.routes))
        .filter_map(|(s, r)| Some((s.as_ref()?, r.as_ref()?)))
        .map(|(statement, route)| {
            let (ms, calls) = (amount(statement.total_ms), NODE_CALL_MS * amount(statement.calls));
            match route {
                Route::Keyed(slots) if slots.len() == 1 => ms * imbalance / nodes,
                Route::Anywhere => ms / nodes,
                Route::Keyed(_) | Route::Everywhere => ms * imbalance / nodes + calls,
                Route::Moving => MOVED_FACTOR * ms * imbalance / nodes + calls,
                Route::Copies => ms + calls,
                Route::Local => ms,
            }
        })
        .sum();
    (facts.total_ms / busiest).clamp(0.0, nodes)
}

fn time_shares(facts: &Facts, outcome: &Outcome) -> TimeShares {
    let mut shares = TimeShares::default();
    if facts.total_ms <= 0.0 {
        return shares;
    }
    for (statement, route) in facts.statements.iter().zip(&outcome.routes) {
        let Some((statement, route)) = statement.zip(route.as_ref()) else { continue };
        let share = match route {
            Route::Keyed(slots) if slots.len() == 1 => &mut shares.single_shard,
            Route::Anywhere => &mut shares.reference_only,
            Route::Keyed(_) | Route::Everywhere => &mut shares.colocated,
            Route::Moving | Route::Copies => &mut shares.cross_shard,
            Route::Local => &mut shares.local,
        };
        *share += amount(statement.total_ms) / facts.total_ms;
    }
    shares
}

/// Copies first, for distributed tables may refer to them; then tables before those that refer to them.
fn ddl(facts: &Facts, layout: &Layout, references: &[usize]) -> Vec<Ddl> {
    let name = |relation: usize| facts.relations[relation].name.clone();
    let ordered = |relations: Vec<usize>| {
        // Of a circle any one comes first: that is a blocker.
        let (free, stuck) = in_order(facts, relations);
        free.into_iter().chain(stuck)
    };
    let mut ddl: Vec<Ddl> = ordered(references.to_vec()).map(|r| Ddl::Reference { relation: name(r) }).collect();
    let keys: BTreeMap<usize, usize> = layout.distributed().collect();
    let mut first: Option<String> = None;
    for relation in ordered(keys.keys().copied().collect()) {
        let key = keys.get(&relation).copied().unwrap_or_default();
        let column = facts.column(relation, key).map(|c| c.name.clone()).unwrap_or_default();
        ddl.push(Ddl::Distribute { relation: name(relation), column, colocate_with: first.clone() });
        first.get_or_insert_with(|| name(relation));
    }
    ddl
}

/// Relations, each before those that refer to it; and those of which none can come first, for they refer to each other.
pub(super) fn in_order(facts: &Facts, mut waiting: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
    let mut ordered = Vec::new();
    let refers = |from: usize, to: usize| facts.foreign_keys.iter().any(|k| k.from == from && k.to == to);
    while let Some(next) = waiting.iter().position(|&one| waiting.iter().all(|&w| w == one || !refers(one, w))) {
        ordered.push(waiting.remove(next));
    }
    (ordered, waiting)
}
