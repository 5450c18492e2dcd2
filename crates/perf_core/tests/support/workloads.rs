//! Workloads with known answers, and a replay of them on four shards.
//!
//! Every case has tables with rows, statements, kinds of transactions, and the truth by construction: the key, or that
//! there is none, and which value of a statement carries the key. The capture that the advice reads and the
//! transactions that are replayed are drawn apart. A replay does not ask the advice: it splits the rows by hash of the
//! true key, sends a statement to the shard of the value that carries the key, and believes it only if that shard gives
//! the same rows as all data do.

use std::collections::HashMap;

use perf_core::sharding::{
    Column, ForeignKey, Pin, Placement, Relation, Statement, Step, TableColumn, Transaction, TypeClass, Unique,
    Workload,
};

use super::rng::{mix, Rng};

/// Shards of the replay.
pub const NODES: u32 = 4;

/// The known answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Shard, by the true key.
    Shard,
    /// The key is right but the time has not come.
    NotYet,
    /// Don't.
    Dont,
}

/// A case.
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// What the advice reads.
    pub workload: Workload,
    /// What it should say.
    pub answer: Answer,
    /// The true layout, even where the answer is "don't".
    pub truth: Vec<Placement>,
    /// Every case hashes in a way of its own.
    salt: u64,
    data: Vec<Vec<Vec<u64>>>,
    homes: Vec<Option<usize>>,
    replayed: Vec<Vec<(usize, Vec<u64>)>>,
}

/// What the replay has found.
#[derive(Debug, Clone, Copy)]
pub struct Replayed {
    /// Transactions that ran on one shard, in percent.
    pub single_pct: f64,
    /// Bytes of the fullest shard over the mean.
    pub imbalance: f64,
}

struct Kind {
    weight: f64,
    /// Values of roots (true: the same root again) and other values, by statement.
    steps: Vec<(usize, Vec<Draw>)>,
}

#[derive(Clone, Copy)]
enum Draw {
    /// The root of the transaction.
    Root,
    /// Another root.
    OtherRoot,
    /// Any id of a relation.
    Id(usize),
    /// An id of a row of the transaction's root in this relation.
    Own(usize),
    /// A value below.
    Below(usize),
}

#[derive(Default)]
struct Build {
    relations: Vec<Relation>,
    data: Vec<Vec<Vec<u64>>>,
    keys: Vec<ForeignKey>,
    statements: Vec<Statement>,
    homes: Vec<Option<usize>>,
    costs: Vec<f64>,
    kinds: Vec<Kind>,
}

impl Build {
    fn table(&mut self, name: &str, columns: &[(&str, TypeClass)], rows: Vec<Vec<u64>>, bytes: f64) -> usize {
        let columns = columns.iter().map(|(name, class)| Column {
            name: (*name).to_owned(),
            n_distinct: 0.0,
            null_fraction: 0.0,
            most_common: Vec::new(),
            updated: false,
            class: *class,
            type_name: "bigint".to_owned(),
            narrow_sequence: false,
        });
        self.relations.push(Relation {
            name: name.to_owned(),
            rows: rows.len() as f64 * 1e4,
            bytes,
            columns: columns.collect(),
            unique: vec![Unique { name: format!("{name}_pkey"), columns: vec![0] }],
            triggers: Vec::new(),
            obstacles: Vec::new(),
        });
        self.data.push(rows);
        self.relations.len() - 1
    }

    fn statement(&mut self, statement: Statement, home: Option<usize>, cost_ms: f64) -> usize {
        let id = self.statements.len() as i64 + 1;
        self.statements.push(Statement { id, ..statement });
        self.homes.push(home);
        self.costs.push(cost_ms);
        self.statements.len() - 1
    }

    fn kind(&mut self, weight: f64, steps: &[(usize, &[Draw])]) {
        self.kinds.push(Kind { weight, steps: steps.iter().map(|(s, d)| (*s, d.to_vec())).collect() });
    }
}

type Join = (TableColumn, TableColumn);

fn pin(table: usize, column: usize, slot: usize) -> Pin {
    Pin { column: (table, column), slots: vec![slot] }
}

fn read(tables: &[usize], joins: &[Join], pins: Vec<Pin>) -> Statement {
    Statement { tables: tables.to_vec(), joins: joins.to_vec(), pins, ..Statement::default() }
}

fn write(tables: &[usize], joins: &[Join], pins: Vec<Pin>) -> Statement {
    Statement { writes: vec![0], ..read(tables, joins, pins) }
}

/// What makes a case special. The first seven should be sharded.
const VARIANTS: [&str; 15] = [
    "plain",
    "no foreign keys",
    "composite foreign keys",
    "owner of several kinds",
    "sender and receiver",
    "no root table",
    "busy but bearable root",
    "don't: two keys a transaction",
    "don't: one hot root",
    "don't: analytics",
    "don't: key not in the statements",
    "not yet: headroom",
    "don't: nullable or updated key",
    "don't: a shared table is written",
    "don't: a handful of roots",
];
const GOOD: usize = 7;

const DOMAINS: [(&str, &str, [&str; 4]); 4] = [
    ("users", "user_id", ["transactions", "payments", "game_results", "risk_scores"]),
    ("tenants", "tenant_id", ["projects", "tasks", "comments", "files"]),
    ("customers", "customer_id", ["orders", "order_items", "invoices", "returns"]),
    ("devices", "device_id", ["readings", "events", "commands", "errors"]),
];

/// Case number `number`: every third one is a "don't".
pub fn case(number: usize, transactions: usize) -> Case {
    let mut rng = Rng::new(number as u64 * 7919 + 17);
    let variant = if number % 3 == 2 { GOOD + (number / 3) % 8 } else { (number - number / 3) % GOOD };
    let title = VARIANTS[variant];
    let has = |name: &str| title.contains(name);
    let (root_name, key_name, child_names) = DOMAINS[rng.below(DOMAINS.len())];
    let roots = if has("handful") { 5 } else { 150 + rng.below(500) };
    let skew = rng.between(1.0, 1.4);
    let hot_share = match () {
        _ if has("one hot") => rng.between(0.4, 0.7),
        _ if has("bearable") => 0.06,
        _ => 0.0,
    };
    let draw_root = move |rng: &mut Rng| {
        if rng.unit() < hot_share {
            7 % roots as u64
        } else {
            ((roots as f64 * rng.unit().powf(skew)) as u64).min(roots as u64 - 1)
        }
    };
    let mut b = Build::default();
    use TypeClass::{Key, Other, Time};

    // Tables: (id, root, created_at, status, lookup id, parent).
    let lookup_rows = 40 + rng.below(60);
    let shared = has("shared table");
    let lookup_bytes = if shared { 60e9 } else { 1e7 };
    let lookup = b.table(
        "lookups",
        &[("id", Key), ("note", Key)],
        (0..lookup_rows as u64).map(|i| vec![i, i % 5]).collect(),
        lookup_bytes,
    );
    let root = b.table(
        root_name,
        &[("id", Key), ("created_at", Time), ("active", Other), ("lookup_id", Key)],
        (0..roots as u64).map(|i| vec![i, i % 50, i % 2, i % lookup_rows as u64]).collect(),
        rng.between(1e9, 9e9),
    );
    let children: Vec<usize> = (0..2 + rng.below(3))
        .map(|n| {
            let mut rows: Vec<Vec<u64>> = (0..3000u64)
                .map(|i| {
                    let owner = draw_root(&mut rng);
                    vec![i, owner, i % 97, i % 4, rng.below(lookup_rows) as u64, rng.below(3000) as u64]
                })
                .collect();
            rows.shrink_to_fit();
            let columns =
                [("id", Key), (key_name, Key), ("created_at", Time), ("status", Key), ("lookup_id", Key), ("ref", Key)];
            let bytes = rng.between(20e9, 200e9);
            b.table(child_names[n], &columns, rows, bytes)
        })
        .collect();
    let with_root = !has("no root table");

    if !has("no foreign keys") && with_root {
        for &child in &children {
            let name = format!("fk_{child}");
            b.keys.push(ForeignKey { name, from: child, to: root, columns: vec![(1, 0)], changes_columns: false });
            b.keys.push(ForeignKey {
                name: format!("fl_{child}"),
                from: child,
                to: lookup,
                columns: vec![(4, 0)],
                changes_columns: false,
            });
        }
        if has("composite") {
            let columns = vec![(1, 1), (5, 0)];
            b.keys.push(ForeignKey {
                name: "fc".to_owned(),
                from: children[1],
                to: children[0],
                columns,
                changes_columns: false,
            });
        }
    }

    // What everybody does.
    use Draw::*;
    let good = 1.0;
    let mut of_root = Vec::new();
    for &child in &children {
        let list = b.statement(read(&[child], &[], vec![pin(0, 1, 0)]), Some(0), 3.0);
        let own = b.statement(read(&[child], &[], vec![pin(0, 1, 0), pin(0, 0, 1)]), Some(0), 0.3);
        let with_lookup = b.statement(read(&[child, lookup], &[((0, 4), (1, 0))], vec![pin(0, 1, 0)]), Some(0), 4.0);
        let insert = b.statement(write(&[child], &[], vec![pin(0, 1, 0), pin(0, 4, 1)]), Some(0), 0.2);
        of_root.push((list, own, with_lookup, insert));
        b.kind(good * rng.between(0.5, 1.5), &[(list, &[Root])]);
        b.kind(good * rng.between(0.2, 1.0), &[(own, &[Root, Own(child)]), (with_lookup, &[Root])]);
        b.kind(good * rng.between(0.2, 1.0), &[(list, &[Root]), (insert, &[Root, Id(lookup)])]);
    }
    let siblings =
        b.statement(read(&[children[0], children[1]], &[((0, 1), (1, 1))], vec![pin(0, 1, 0)]), Some(0), 6.0);
    b.kind(rng.between(0.2, 0.8), &[(siblings, &[Root])]);
    let look = b.statement(read(&[lookup], &[], vec![pin(0, 0, 0)]), None, 0.1);
    b.kind(rng.between(0.1, 0.4), &[(look, &[Id(lookup)])]);
    if with_root {
        let point = b.statement(read(&[root], &[], vec![pin(0, 0, 0)]), Some(0), 0.1);
        let update = b.statement(write(&[root], &[], vec![pin(0, 0, 0)]), Some(0), 0.3);
        let joined = b.statement(read(&[root, children[0]], &[((0, 0), (1, 1))], vec![pin(0, 0, 0)]), Some(0), 5.0);
        b.kind(rng.between(0.5, 1.5), &[(point, &[Root])]);
        b.kind(rng.between(0.2, 0.8), &[(point, &[Root]), (update, &[Root]), (of_root[0].3, &[Root, Id(lookup)])]);
        b.kind(rng.between(0.2, 0.8), &[(joined, &[Root])]);
    }

    // What goes to several nodes: little of it, or much.
    let whole: f64 = b.kinds.iter().map(|k| k.weight).sum();
    let little = |rng: &mut Rng| whole * rng.between(0.0, 0.02);
    let much = |rng: &mut Rng, low: f64| {
        let share = rng.between(low, 0.6);
        whole * share / (1.0 - share)
    };
    let count = b.statement(read(&[children[0]], &[], vec![pin(0, 2, 0)]), None, 40.0);
    let analytics = if has("analytics") { much(&mut rng, 0.25) } else { little(&mut rng) };
    b.kind(analytics, &[(count, &[Below(97)])]);
    let by_id = b.statement(read(&[children[1]], &[], vec![pin(0, 0, 0)]), None, 0.3);
    let keyless = if has("not in the statements") { much(&mut rng, 0.25) } else { little(&mut rng) };
    b.kind(keyless, &[(by_id, &[Id(children[1])])]);
    let two = if has("two keys") { much(&mut rng, 0.25) } else { little(&mut rng) };
    b.kind(two, &[(of_root[1].3, &[Root, Id(lookup)]), (of_root[1].3, &[OtherRoot, Id(lookup)])]);
    if shared {
        let take = b.statement(write(&[lookup], &[], vec![pin(0, 0, 0)]), None, 1.0);
        let weight = much(&mut rng, 0.3);
        b.kind(weight, &[(of_root[0].3, &[Root, Id(lookup)]), (take, &[Id(lookup)])]);
    }
    let mut extra = None;
    if has("owner of several kinds") || has("sender and receiver") {
        let rows = (0..2000u64).map(|i| vec![i, draw_root(&mut rng), draw_root(&mut rng)]).collect();
        let several = has("several");
        let (name, first, second) =
            if several { ("attachments", "owner_id", "made_by") } else { ("transfers", "sender_id", "receiver_id") };
        let table = b.table(name, &[("id", Key), (first, Key), (second, Key)], rows, 15e9);
        extra = Some(table);
        let of_owner = b.statement(read(&[table], &[], vec![pin(0, 1, 0)]), Some(0), 2.0);
        let with_owner = b.statement(read(&[root, table], &[((0, 0), (1, 1))], vec![pin(0, 0, 0)]), Some(0), 3.0);
        b.kind(0.3, &[(of_owner, &[Root]), (with_owner, &[Root])]);
        // The same column means another thing elsewhere: the classes of two keys become one.
        let other = if several {
            read(&[children[0], table], &[((0, 0), (1, 1))], vec![pin(0, 0, 0)])
        } else {
            read(&[root, table], &[((0, 0), (1, 2))], vec![pin(0, 0, 0)])
        };
        let other = b.statement(other, None, 3.0);
        b.kind(0.02 * whole, &[(other, &[Below(roots)])]);
    }

    // Statistics as ANALYZE would have them.
    for (relation, rows) in b.relations.iter_mut().zip(&b.data) {
        for (number, column) in relation.columns.iter_mut().enumerate() {
            let mut counts: HashMap<u64, usize> = HashMap::new();
            rows.iter().for_each(|r| *counts.entry(r[number]).or_default() += 1);
            column.n_distinct = counts.len() as f64;
            if counts.len() < rows.len() {
                let mut common: Vec<usize> = counts.into_values().collect();
                common.sort_unstable_by(|a, b| b.cmp(a));
                column.most_common = common.iter().take(100).map(|c| *c as f64 / rows.len() as f64).collect();
            }
        }
    }
    if has("nullable") {
        let bad = number.is_multiple_of(2);
        for &child in &children {
            let column = &mut b.relations[child].columns[1];
            column.null_fraction = if bad { 0.1 } else { 0.0 };
            column.updated = !bad;
        }
    }

    let draw = |rng: &mut Rng, how_many: usize| -> Vec<Vec<(usize, Vec<u64>)>> {
        let total: f64 = b.kinds.iter().map(|k| k.weight).sum();
        (0..how_many)
            .map(|_| {
                let mut at = rng.unit() * total;
                let kind = b.kinds.iter().find(|k| {
                    at -= k.weight;
                    at < 0.0
                });
                let kind = kind.unwrap_or(&b.kinds[0]);
                let (mine, theirs) = (draw_root(rng), draw_root(rng));
                let value = |rng: &mut Rng, d: &Draw| match *d {
                    Root => mine,
                    OtherRoot => theirs,
                    Id(relation) => rng.below(b.data[relation].len()) as u64,
                    Own(relation) => {
                        let own: Vec<u64> = b.data[relation].iter().filter(|r| r[1] == mine).map(|r| r[0]).collect();
                        own.get(rng.below(own.len())).copied().unwrap_or(0)
                    }
                    Below(n) => rng.below(n) as u64,
                };
                kind.steps.iter().map(|(s, d)| (*s, d.iter().map(|d| value(rng, d)).collect())).collect()
            })
            .collect()
    };
    let captured = draw(&mut rng, transactions);
    let replayed = draw(&mut rng, transactions);
    for (statement, _) in captured.iter().flatten() {
        b.statements[*statement].calls += 100.0;
        b.statements[*statement].total_ms += 100.0 * b.costs[*statement];
    }
    let seen = captured.iter().map(|steps| Transaction {
        steps: steps
            .iter()
            .map(|(s, values)| Step { statement: *s, values: values.iter().map(|v| Some(mix(*v + 1))).collect() })
            .collect(),
        times: 1.0,
        incomplete: false,
    });

    let answer = match variant {
        v if v < GOOD => Answer::Shard,
        _ if has("headroom") => Answer::NotYet,
        _ => Answer::Dont,
    };
    let mut truth: Vec<Placement> = vec![Placement::Local; b.relations.len()];
    truth[lookup] = if shared { Placement::Local } else { Placement::Reference };
    truth[root] = Placement::Distributed(0);
    children.iter().chain(&extra).for_each(|&c| truth[c] = Placement::Distributed(1));
    let headroom = if answer == Answer::NotYet { rng.between(13.0, 40.0) } else { rng.between(1.0, 11.0) };
    Case {
        name: format!("{number} {root_name}, {title}"),
        answer,
        truth,
        salt: rng.next(),
        homes: b.homes,
        replayed,
        data: b.data,
        workload: Workload {
            missing_share: 0.0,
            relations: b.relations,
            foreign_keys: b.keys,
            statements: b.statements,
            transactions: seen.collect(),
            nodes: NODES,
            headroom_months: Some(headroom),
        },
    }
}

/// Rows of one shard, or of all of them.
struct Rows<'a> {
    data: &'a [Vec<Vec<u64>>],
    by: HashMap<(usize, usize, u64), Vec<usize>>,
    all: Vec<Vec<usize>>,
}

impl<'a> Rows<'a> {
    fn of(data: &'a [Vec<Vec<u64>>], kept: impl Fn(usize, &[u64]) -> bool) -> Rows<'a> {
        let mut by: HashMap<(usize, usize, u64), Vec<usize>> = HashMap::new();
        let mut all = vec![Vec::new(); data.len()];
        for (relation, rows) in data.iter().enumerate() {
            for (number, row) in rows.iter().enumerate().filter(|(_, row)| kept(relation, row)) {
                all[relation].push(number);
                for (column, value) in row.iter().enumerate() {
                    by.entry((relation, column, *value)).or_default().push(number);
                }
            }
        }
        Rows { data, by, all }
    }

    /// Combinations of rows that satisfy a statement, by nested loops over indexes; at most so many.
    fn result(&self, statement: &Statement, values: &[u64]) -> Vec<Vec<usize>> {
        let mut found: Vec<Vec<usize>> = vec![Vec::new()];
        for (table, &relation) in statement.tables.iter().enumerate() {
            let mut next = Vec::new();
            for bound in &found {
                let value_of = |c: &(usize, usize)| self.data[statement.tables[c.0]][bound[c.0]][c.1];
                let mut wanted: Vec<(usize, u64)> = (statement.pins.iter())
                    .filter(|p| p.column.0 == table)
                    .map(|p| (p.column.1, values[p.slots[0]]))
                    .collect();
                for (a, b) in &statement.joins {
                    for (here, there) in [(a, b), (b, a)] {
                        if here.0 == table && there.0 < table {
                            wanted.push((here.1, value_of(there)));
                        }
                    }
                }
                let candidates: &[usize] = match wanted.first() {
                    Some(&(column, value)) => self.by.get(&(relation, column, value)).map_or(&[], Vec::as_slice),
                    None => &self.all[relation],
                };
                for &row in candidates {
                    if wanted.iter().all(|&(column, value)| self.data[relation][row][column] == value) {
                        next.push(bound.iter().copied().chain([row]).collect());
                    }
                }
                if next.len() > 5000 {
                    break;
                }
            }
            found = next;
        }
        found
    }
}

impl Case {
    fn shard_of(&self, value: u64) -> usize {
        (mix(mix(self.salt).wrapping_add(value)) % u64::from(NODES)) as usize
    }

    /// Runs the transactions that the advice has not seen on data split by the true key.
    pub fn replay(&self) -> Replayed {
        let shard = |relation: usize, row: &[u64]| match self.truth[relation] {
            Placement::Distributed(column) => Some(self.shard_of(row[column])),
            // What is not distributed lies on none of the shards.
            Placement::Local => Some(usize::MAX),
            Placement::Reference => None,
        };
        let all = Rows::of(&self.data, |_, _| true);
        let shards: Vec<Rows> = (0..NODES as usize)
            .map(|s| Rows::of(&self.data, |relation, row| shard(relation, row).is_none_or(|of| of == s)))
            .collect();
        let single = self.replayed.iter().filter(|steps| {
            let mut on: Option<usize> = None;
            steps.iter().all(|(number, values)| {
                let statement = &self.workload.statements[*number];
                let only = |p: Placement| statement.tables.iter().all(|&t| self.truth[t] == p);
                let here = match self.homes[*number] {
                    None if only(Placement::Reference) => return statement.writes.is_empty(),
                    None => return false,
                    Some(slot) => self.shard_of(values[slot]),
                };
                // An INSERT finds no row: its rows go where the value says.
                let insert = !statement.writes.is_empty() && statement.pins.len() > 1;
                let same = insert || shards[here].result(statement, values) == all.result(statement, values);
                same && *on.get_or_insert(here) == here
            })
        });
        let single = single.count() as f64;
        let mut bytes = vec![0.0; NODES as usize];
        for (relation, rows) in self.data.iter().enumerate() {
            if let Placement::Distributed(column) = self.truth[relation] {
                let each = self.workload.relations[relation].bytes / rows.len() as f64;
                rows.iter().for_each(|row| bytes[self.shard_of(row[column])] += each);
            }
        }
        let mean = bytes.iter().sum::<f64>() / bytes.len() as f64;
        Replayed {
            single_pct: 100.0 * single / self.replayed.len() as f64,
            imbalance: bytes.into_iter().fold(0.0, f64::max) / mean,
        }
    }
}
