use super::*;
use proptest::prelude::*;

fn column(name: &str, n_distinct: f64) -> Column {
    Column {
        name: name.to_owned(),
        n_distinct,
        null_fraction: 0.0,
        most_common: Vec::new(),
        updated: false,
        class: TypeClass::Key,
        type_name: "bigint".to_owned(),
        narrow_sequence: false,
    }
}

fn relation(name: &str, bytes: f64, columns: &[(&str, f64)]) -> Relation {
    Relation {
        name: name.to_owned(),
        rows: 1e7,
        bytes,
        columns: columns.iter().map(|(name, distinct)| column(name, *distinct)).collect(),
        unique: vec![Unique { name: format!("{name}_pkey"), columns: vec![0] }],
        triggers: Vec::new(),
        obstacles: Vec::new(),
    }
}

fn pin(table: usize, column: usize, slot: usize) -> Pin {
    Pin { column: (table, column), slots: vec![slot] }
}

fn statement(id: i64, ms: f64, tables: &[usize], joins: &[(TableColumn, TableColumn)], pins: Vec<Pin>) -> Statement {
    Statement { id, total_ms: ms, calls: ms, tables: tables.to_vec(), joins: joins.to_vec(), pins, writes: Vec::new() }
}

fn foreign_key(name: &str, from: usize, to: usize, columns: (usize, usize)) -> ForeignKey {
    ForeignKey { name: name.to_owned(), from, to, columns: vec![columns], changes_columns: false }
}

/// users, payments by user_id, countries; reads of a user's payments with the country's name.
fn platform() -> Workload {
    Workload {
        relations: vec![
            relation("public.users", 5e9, &[("id", 1e6), ("country", 200.0)]),
            relation("public.payments", 80e9, &[("id", 1e8), ("user_id", 1e6), ("at", 1e8)]),
            relation("public.countries", 1e6, &[("code", 200.0)]),
        ],
        foreign_keys: vec![foreign_key("payments_user", 1, 0, (1, 0))],
        statements: vec![
            statement(1, 900.0, &[1], &[], vec![pin(0, 1, 0)]),
            statement(2, 90.0, &[0, 2], &[((0, 1), (1, 0))], vec![pin(0, 0, 0)]),
            statement(3, 10.0, &[1], &[], vec![]),
        ],
        transactions: (0..100u64)
            .map(|n| Transaction {
                steps: vec![
                    Step { statement: 0, values: vec![Some(n)] },
                    Step { statement: 1, values: vec![Some(if n < 5 { n + 1000 } else { n })] },
                ],
                times: 1.0,
                incomplete: false,
            })
            .collect(),
        nodes: 4,
        headroom_months: Some(6.0),
        missing_share: 0.0,
    }
}

#[test]
fn what_is_not_known_of_transactions_is_not_counted_as_one_value() {
    let mut workload = platform();
    // Nine in ten did more than there was room for; half of those are known to touch two values.
    let batch = |n: u64| Transaction {
        steps: (0..=n % 2).map(|more| Step { statement: 0, values: vec![Some(5_000 + n + more)] }).collect(),
        times: 1.0,
        incomplete: true,
    };
    workload.transactions.truncate(90);
    workload.transactions.extend((0..810).map(batch));
    let best = advise(&workload).candidates.remove(0);
    assert!((best.cross_shard_pct - 100.0 * 410.0 / 900.0).abs() < 1e-9, "{}", best.cross_shard_pct);
    assert!((best.incomplete_pct - 45.0).abs() < 1e-9 && (best.single_shard_pct - 100.0 * 85.0 / 900.0).abs() < 1e-9);
    assert_eq!(best.verdict, Verdict::Unsuitable);

    // What is known fits, but it is too little.
    let mut workload = platform();
    workload.transactions.extend((0..20).map(|_| Transaction { steps: Vec::new(), times: 1.0, incomplete: true }));
    let best = advise(&workload).candidates.remove(0);
    assert_eq!(best.verdict, Verdict::NotYet, "{:?}", best.reasons);
    assert!(best.reasons.iter().any(|r| r.starts_with("16.7 % of the transactions did more")), "{:?}", best.reasons);

    let best = advise(&Workload { missing_share: 0.3, ..platform() }).candidates.remove(0);
    assert_eq!(best.verdict, Verdict::NotYet, "{:?}", best.reasons);
    assert!(best.reasons.iter().any(|r| r.starts_with("30.0 % of the time")), "{:?}", best.reasons);
}

#[test]
fn no_more_candidates_are_made_than_are_judged() {
    let tables = 3 * CANDIDATES_MAX;
    let workload = Workload {
        // No two columns mean the same: their names differ.
        relations: (0..tables).map(|n| relation(&format!("t{n}"), 1e6, &[(&format!("k{n}"), 1e3)])).collect(),
        foreign_keys: Vec::new(),
        statements: (0..tables).map(|n| statement(n as i64, 1.0 + n as f64, &[n], &[], vec![pin(0, 0, 0)])).collect(),
        transactions: Vec::new(),
        ..platform()
    };
    let made = candidates::Candidates::of(&Facts::of(&workload));
    assert_eq!(made.len(), CANDIDATES_MAX);
    // Those that are used most.
    assert_eq!(made[0].members, [(tables - 1, 0)]);
}

#[test]
fn a_platform_of_users_is_split_by_user() {
    let advice = advise(&platform());
    let best = &advice.candidates[0];
    assert_eq!((best.verdict, best.key.as_str()), (Verdict::Shard, "public.payments.user_id"));
    assert_eq!(best.placements, [Placement::Distributed(0), Placement::Distributed(1), Placement::Reference]);
    assert!((best.single_shard_pct - 95.0).abs() < 1e-9 && (best.cross_shard_pct - 5.0).abs() < 1e-9);
    // Two users lie together once in four times.
    assert!((best.one_node_pct - (95.0 + 5.0 / 4.0)).abs() < 1e-9);
    assert!((best.time.single_shard - 0.99).abs() < 1e-9 && (best.time.colocated - 0.01).abs() < 1e-9);
    // 990 ms go by the key, 10 calls of 1 ms to every node: 1000 / (990 / 4 + 10 / 4 + 10 * 0.5) at perfect balance.
    assert!(best.predicted_speedup > 3.5 && best.predicted_speedup < 1000.0 / 255.0 + 1e-9);
    assert_eq!(best.blockers, ["public.payments_pkey of public.payments: must contain the key user_id"]);
    let sql: Vec<String> = best.ddl.iter().map(|d| d.sql(|text| format!("'{}'", text.replace('\'', "''")))).collect();
    assert_eq!(
        sql,
        [
            "SELECT create_reference_table('public.countries');",
            "SELECT create_distributed_table('public.users', 'id');",
            "SELECT create_distributed_table('public.payments', 'user_id', colocate_with => 'public.users');",
        ]
    );
    assert!(advice.reason.starts_with("Shard by public.payments.user_id: 95.0 %"), "{}", advice.reason);
}

#[test]
fn time_decides_only_where_the_key_fits() {
    for (months, want) in [
        (Some(11.9), Verdict::Shard),
        (Some(12.0), Verdict::NotYet),
        (Some(f64::INFINITY), Verdict::NotYet),
        (None, Verdict::NotYet),
        (Some(f64::NAN), Verdict::NotYet),
    ] {
        let advice = advise(&Workload { headroom_months: months, ..platform() });
        assert_eq!(advice.verdict, want, "{months:?}");
        assert!(!advice.candidates[0].ddl.is_empty());
    }
}

/// Changes one column of payments.user_id's class and says what the best candidate says of it.
fn with_key(change: impl Fn(&mut Column)) -> Advice {
    let mut workload = platform();
    change(&mut workload.relations[1].columns[1]);
    advise(&workload)
}

#[test]
fn bad_keys_are_rejected_with_the_number() {
    type Change = fn(&mut Column);
    let cases: [(Change, &str); 6] = [
        (|c| c.null_fraction = 0.2, "public.payments.user_id is NULL in 20.0 %"),
        (|c| c.updated = true, "public.payments.user_id is updated"),
        (|c| c.class = TypeClass::Time, "public.payments.user_id is a time"),
        (|c| c.class = TypeClass::Other, "public.payments.user_id is of a type"),
        (|c| c.n_distinct = 3.0, "public.payments.user_id has 3 different values"),
        (
            |c| c.most_common = vec![0.01, 0.3],
            "public.payments.user_id has one value with 30.0 % of the rows, and 16.7 %",
        ),
    ];
    for (change, why) in cases {
        let advice = with_key(change);
        assert_eq!(advice.verdict, Verdict::Unsuitable, "{why}");
        let of_class = advice.candidates.iter().find(|c| c.key == "public.payments.user_id");
        let reasons = of_class.map(|c| c.reasons.join("; ")).unwrap_or_default();
        assert!(reasons.contains(why), "{reasons}");
        assert!(of_class.is_some_and(|c| c.ddl.is_empty()));
    }
}

#[test]
fn traffic_may_be_hotter_than_rows() {
    let mut workload = platform();
    for (n, transaction) in workload.transactions.iter_mut().enumerate() {
        let value = Some(if n % 2 == 0 { 7 } else { n as u64 });
        transaction.steps.iter_mut().for_each(|s| s.values = vec![value]);
    }
    let advice = advise(&workload);
    assert_eq!(advice.verdict, Verdict::Unsuitable);
    assert!(advice.candidates[0].imbalance > 2.0, "{}", advice.reason);
}

#[test]
fn routes_follow_values_through_equalities() {
    use Placement::*;
    let places = [Distributed(0), Distributed(1), Reference, Local];
    let joined = [((0, 0), (1, 1))];
    let writes = |s: Statement, table: usize| Statement { writes: vec![table], ..s };
    let of = |tables: &[usize], joins: &[_], pins: Vec<Pin>| statement(0, 1.0, tables, joins, pins);
    for (statement, want) in [
        (of(&[0, 1], &joined, vec![pin(0, 0, 0)]), Route::Keyed(vec![0])),
        (of(&[0, 1], &joined, vec![pin(1, 1, 3)]), Route::Keyed(vec![3])),
        (of(&[0, 1], &joined, vec![]), Route::Everywhere),
        (of(&[0, 1], &joined, vec![pin(0, 1, 0)]), Route::Everywhere),
        (of(&[0, 1], &[], vec![pin(0, 0, 0)]), Route::Moving),
        (of(&[0, 1], &[], vec![pin(0, 0, 0), pin(1, 1, 1)]), Route::Keyed(vec![0, 1])),
        // users.country = payments.user_id: an equality, but not of the keys.
        (of(&[0, 1], &[((0, 1), (1, 1))], vec![]), Route::Moving),
        // A self-join by something else than the key.
        (of(&[1, 1], &[((0, 0), (1, 0))], vec![]), Route::Moving),
        (of(&[0, 2], &[((0, 1), (1, 0))], vec![pin(0, 0, 0)]), Route::Keyed(vec![0])),
        (of(&[2], &[], vec![]), Route::Anywhere),
        (of(&[], &[], vec![]), Route::Anywhere),
        (of(&[3], &[], vec![]), Route::Local),
        (of(&[3, 2], &[], vec![]), Route::Local),
        (of(&[0, 3], &[], vec![pin(0, 0, 0)]), Route::Moving),
        (writes(of(&[2], &[], vec![]), 0), Route::Copies),
        (writes(of(&[0], &[], vec![pin(0, 0, 0)]), 0), Route::Keyed(vec![0])),
        (writes(of(&[0], &[], vec![]), 0), Route::Everywhere),
        (of(&[0], &[], vec![Pin { column: (0, 0), slots: vec![0, 1, 2] }, pin(0, 0, 4)]), Route::Keyed(vec![4])),
    ] {
        assert_eq!(place::route(&statement, &places), want, "{statement:?}");
    }
}

#[test]
fn values_that_are_not_known_are_not_taken_for_equal() {
    let mut workload = platform();
    for transaction in &mut workload.transactions {
        transaction.steps.iter_mut().for_each(|s| s.values.clear());
    }
    let advice = advise(&workload);
    assert_eq!(advice.verdict, Verdict::Unsuitable);
    let best = &advice.candidates[0];
    assert!((best.unknown_pct - 100.0).abs() < 1e-9 && best.single_shard_pct == 0.0, "{}", advice.reason);
    // One step with one value needs no value to be known.
    workload.transactions.iter_mut().for_each(|t| t.steps.truncate(1));
    assert_eq!(advise(&workload).verdict, Verdict::Shard);
    // Without transactions, statements by their calls.
    workload.transactions.clear();
    let best = advise(&workload).candidates.swap_remove(0);
    assert!((best.single_shard_pct - 99.0).abs() < 1e-9);
}

#[test]
fn blockers_name_what_must_change() {
    let mut workload = platform();
    workload.relations[1].columns[0].narrow_sequence = true;
    workload.relations[1].triggers.push("audit".to_owned());
    workload.relations[0].obstacles.push("has rules".to_owned());
    workload.relations.push(relation("logs", 900e9, &[("id", 1e9), ("payment", 1e8)]));
    workload.foreign_keys.push(foreign_key("logs_payment", 3, 1, (1, 0)));
    workload.foreign_keys.push(foreign_key("users_country", 0, 2, (1, 0)));
    workload.foreign_keys.push(foreign_key("users_payment", 0, 1, (1, 0)));
    let mut moving = statement(77, 1.0, &[0, 1], &[((0, 1), (1, 0))], vec![]);
    moving.writes = vec![0];
    workload.statements.push(moving);
    let advice = advise(&workload);
    let best = &advice.candidates[0];
    assert_eq!(best.verdict, Verdict::Shard, "{}", advice.reason);
    let text = best.blockers.join("\n");
    for part in [
        "public.payments_pkey of public.payments",
        "trigger audit of public.payments",
        "public.payments.id: its sequence must be of type bigint",
        "public.users: has rules",
        "foreign key logs_payment of logs to public.payments: refers to a distributed table from one that is not",
        "foreign key users_payment of public.users to public.payments: must contain the key of both tables",
        "statement 77: writes by rows of other nodes",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("users_country") && !text.contains("payments_user"), "{text}");
}

/// orders and events, both read by a column of a user that nothing in the schema ties together.
fn untied(name: &str, event_user: impl Fn(u64) -> u64) -> Advice {
    advise(&Workload {
        relations: vec![
            relation("orders", 50e9, &[("id", 1e8), ("user_id", 1e6)]),
            relation("events", 50e9, &[("id", 1e8), (name, 1e6)]),
        ],
        foreign_keys: vec![],
        statements: vec![
            statement(1, 10.0, &[0], &[], vec![pin(0, 1, 0)]),
            statement(2, 10.0, &[1], &[], vec![pin(0, 1, 0)]),
        ],
        transactions: (0..50)
            .map(|n| Transaction {
                steps: vec![
                    Step { statement: 0, values: vec![Some(n)] },
                    Step { statement: 1, values: vec![Some(event_user(n))] },
                ],
                times: 1.0,
                incomplete: false,
            })
            .collect(),
        ..platform()
    })
}

#[test]
fn columns_that_get_equal_values_mean_the_same() {
    let both = [Placement::Distributed(1), Placement::Distributed(1)];
    assert_eq!(untied("player", |n| n).candidates[0].placements, both, "equal values, another name");
    assert_eq!(untied("user_id", |n| n).candidates[0].placements, both);
    assert_eq!(untied("user_id", |n| n).verdict, Verdict::Shard);
    for name in ["player", "user_id"] {
        let advice = untied(name, |n| n + 1000);
        assert!(advice.candidates.iter().all(|c| c.colocated_tables.len() == 1), "{name} has other values");
        assert_eq!(advice.verdict, Verdict::Unsuitable);
    }
    // The same flag is no sign of the same meaning.
    assert!(untied("player", |n| if n < 4 { n } else { 99 }).candidates.iter().all(|c| c.colocated_tables.len() == 1));
}

#[test]
fn of_several_columns_of_a_class_the_one_that_keeps_transactions_together_is_taken() {
    let mut workload = platform();
    // Transfers are joined with users by their receiver, which costs most, and read by their sender, which is frequent.
    workload.relations.push(relation("transfers", 40e9, &[("id", 1e8), ("receiver", 1e6), ("sender", 1e6)]));
    workload.statements.push(statement(4, 5000.0, &[0, 3], &[((0, 0), (1, 1))], vec![]));
    workload.statements.push(statement(5, 100.0, &[0, 3], &[((0, 0), (1, 2))], vec![pin(0, 0, 0)]));
    let mine = (0..300).map(|n| Step { statement: 4, values: vec![Some(n)] });
    workload.transactions.extend(mine.map(|step| Transaction { steps: vec![step], times: 1.0, incomplete: false }));
    let advice = advise(&workload);
    assert_eq!(advice.candidates[0].placements[3], Placement::Distributed(2), "{}", advice.reason);
}

#[test]
fn copies_are_written_by_every_node() {
    let mut workload = platform();
    workload.transactions.clear();
    // A hundredth of the time is allowed; every node does all of it.
    let write = Statement { writes: vec![0], calls: 0.0, ..statement(9, 9.0, &[2], &[], vec![pin(0, 0, 0)]) };
    let without = advise(&workload).candidates.swap_remove(0);
    workload.statements.push(write);
    let with = advise(&workload).candidates.swap_remove(0);
    assert_eq!(with.placements[2], Placement::Reference);
    // The time of the busiest node, in milliseconds.
    let busiest = |c: &Candidate, total: f64| total / c.predicted_speedup;
    assert!((busiest(&with, 1009.0) - busiest(&without, 1000.0) - 9.0).abs() < 1e-6);
    assert!(with.time.cross_shard > 0.0);
}

#[test]
fn tables_come_before_those_that_refer_to_them() {
    let mut workload = platform();
    workload.relations.swap(0, 1);
    for key in &mut workload.foreign_keys {
        *key = ForeignKey { from: 0, to: 1, ..key.clone() };
    }
    for table in workload.statements.iter_mut().flat_map(|s| &mut s.tables).filter(|t| **t < 2) {
        *table = 1 - *table;
    }
    let best = advise(&workload).candidates.swap_remove(0);
    let order: Vec<&str> = (best.ddl.iter())
        .map(|d| match d {
            Ddl::Reference { relation } | Ddl::Distribute { relation, .. } => relation.as_str(),
        })
        .collect();
    assert_eq!(order, ["public.countries", "public.users", "public.payments"]);
}

#[test]
fn copies_come_after_those_that_they_refer_to() {
    let mut workload = platform();
    workload.relations.push(relation("public.continents", 1e5, &[("code", 7.0)]));
    workload.foreign_keys.push(foreign_key("countries_continent", 2, 3, (0, 0)));
    workload.statements.push(statement(5, 1.0, &[2, 3], &[((0, 0), (1, 0))], vec![]));
    let best = advise(&workload).candidates.swap_remove(0);
    let copies: Vec<&str> = (best.ddl.iter())
        .filter_map(|d| match d {
            Ddl::Reference { relation } => Some(relation.as_str()),
            Ddl::Distribute { .. } => None,
        })
        .collect();
    assert_eq!(copies, ["public.continents", "public.countries"]);
}

#[test]
fn what_the_ddl_would_fail_on_is_a_blocker() {
    let blockers = |change: fn(&mut Workload)| {
        let mut workload = platform();
        change(&mut workload);
        let best = advise(&workload).candidates.swap_remove(0);
        assert_eq!(best.verdict, Verdict::Shard, "{:?}", best.reasons);
        best.blockers
    };
    let none = blockers(|_| ());
    let more = |change: fn(&mut Workload)| -> Vec<String> {
        blockers(change).into_iter().filter(|blocker| !none.contains(blocker)).collect()
    };
    assert_eq!(
        more(|w| w.relations[1].columns[1].type_name = "integer".to_owned()),
        ["public.payments.user_id is of type integer, public.users.id of bigint: rows lie together by values of one type only"]
    );
    assert_eq!(
        more(|w| w.foreign_keys[0].changes_columns = true),
        ["foreign key payments_user of public.payments to public.users: must not change the key on DELETE or UPDATE"]
    );
    // Elsewhere than in the key it may.
    assert_eq!(
        more(|w| w.foreign_keys.push(ForeignKey { changes_columns: true, ..foreign_key("country", 0, 2, (1, 0)) })),
        Vec::<String>::new()
    );
    let circle = more(|w| w.foreign_keys.push(foreign_key("first_payment", 0, 1, (0, 1))));
    assert_eq!(circle.len(), 1, "{circle:?}");
    assert!(circle[0].contains("refer to each other in a circle"), "{circle:?}");
    // A table that refers to itself is none.
    assert_eq!(more(|w| w.foreign_keys.push(foreign_key("self", 1, 1, (1, 1)))), Vec::<String>::new());
}

#[test]
fn a_large_or_written_table_is_not_copied() {
    let mut workload = platform();
    workload.relations[2].bytes = 30e9;
    let large = advise(&workload);
    assert!(large.candidates.iter().all(|c| c.placements[2] != Placement::Reference));
    let mut workload = platform();
    workload.statements.push(Statement { writes: vec![0], ..statement(9, 30.0, &[2], &[], vec![pin(0, 0, 0)]) });
    let written = advise(&workload);
    assert!(written.candidates.iter().all(|c| c.placements[2] != Placement::Reference));
}

#[test]
fn nothing_captured_is_no_reason_to_shard() {
    let advice = advise(&Workload { statements: vec![], transactions: vec![], ..platform() });
    assert_eq!((advice.verdict, advice.candidates.len()), (Verdict::Unsuitable, 0));
    assert!(advice.reason.starts_with("Don't shard"));
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![6 => 0.0f64..1e6, 1 => any::<f64>()]
}

prop_compose! {
    fn any_column()(name in "[abi][d]?", n_distinct in any_number(),
                    null_fraction in prop_oneof![3 => Just(0.0), 1 => any_number()],
                    most_common in proptest::collection::vec(any_number().prop_map(|n| n / 1e7), 0..4),
                    updated in any::<bool>(),
                    class in prop_oneof![4 => Just(TypeClass::Key), 1 => Just(TypeClass::Time)]) -> Column {
        let type_name = if updated { "bigint" } else { "integer" }.to_owned();
        Column { name, n_distinct, null_fraction, most_common, updated, class, type_name, narrow_sequence: updated }
    }
}

prop_compose! {
    fn any_relation()(bytes in any_number(), columns in proptest::collection::vec(any_column(), 0..4)) -> Relation {
        let unique = vec![Unique { name: "u".to_owned(), columns: vec![0, 9] }];
        Relation { name: "r".to_owned(), rows: bytes, bytes, columns, unique, triggers: vec![], obstacles: vec![] }
    }
}

prop_compose! {
    fn any_statement()(total_ms in any_number(), calls in any_number(),
                       tables in proptest::collection::vec(0usize..5, 0..4),
                       joins in proptest::collection::vec(((0usize..4, 0usize..4), (0usize..4, 0usize..4)), 0..4),
                       pins in proptest::collection::vec(((0usize..4, 0usize..4),
                           proptest::collection::vec(0usize..3, 0..3)), 0..3),
                       writes in proptest::collection::vec(0usize..4, 0..2)) -> Statement {
        let pins = pins.into_iter().map(|(column, slots)| Pin { column, slots }).collect();
        Statement { id: 1, total_ms, calls, tables, joins, pins, writes }
    }
}

prop_compose! {
    fn any_workload()(relations in proptest::collection::vec(any_relation(), 0..5),
                      keys in proptest::collection::vec((0usize..5, 0usize..5, 0usize..4, 0usize..4), 0..4),
                      statements in proptest::collection::vec(any_statement(), 0..6),
                      transactions in proptest::collection::vec((proptest::collection::vec((0usize..6,
                          proptest::collection::vec(proptest::option::of(0u64..4), 0..3)), 0..4), any_number()), 0..20),
                      nodes in prop_oneof![0u32..10, any::<u32>()],
                      headroom_months in proptest::option::of(any::<f64>()),
                      incomplete in any::<bool>(), missing_share in prop_oneof![3 => Just(0.0), 1 => any::<f64>()])
                      -> Workload {
        let foreign_keys = keys.into_iter()
            .map(|(from, to, a, b)| ForeignKey { changes_columns: a > b, ..foreign_key("f", from, to, (a, b)) }).collect();
        let step = |(statement, values)| Step { statement, values };
        let transactions = transactions.into_iter()
            .map(|(steps, times)| Transaction {
                steps: steps.into_iter().map(step).collect(), times, incomplete: incomplete && times > 5e5 }).collect();
        Workload { relations, foreign_keys, statements, transactions, nodes, headroom_months, missing_share }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_input_gives_shares_that_add_up_and_verdicts_that_keep_the_rules(workload in any_workload()) {
        let advice = advise(&workload);
        prop_assert!(advice.candidates.windows(2).all(|w| w[0].verdict <= w[1].verdict));
        for c in &advice.candidates {
            let sum = c.single_shard_pct + c.cross_shard_pct + c.unknown_pct;
            prop_assert!((sum - 100.0).abs() < 1e-6 || sum == 0.0, "{}", sum);
            prop_assert!(c.one_node_pct >= c.single_shard_pct - 1e-9 && c.one_node_pct <= 100.0 + 1e-9);
            let t = c.time;
            let time = t.single_shard + t.reference_only + t.colocated + t.cross_shard + t.local;
            prop_assert!((time - 1.0).abs() < 1e-6 || time == 0.0);
            prop_assert!(c.imbalance >= 1.0);
            prop_assert!((0.0..=f64::from(workload.nodes.max(2))).contains(&c.predicted_speedup));
            if c.verdict == Verdict::Unsuitable {
                prop_assert!(c.ddl.is_empty() && !c.reasons.is_empty());
            } else {
                let known = 1.0 - c.incomplete_pct / 100.0;
                prop_assert!(c.single_shard_pct >= SINGLE_SHARD_MIN_PCT * known - 1e-6 && c.imbalance <= IMBALANCE_MAX);
                prop_assert_eq!(c.ddl.len(), c.reference_tables.len() + c.colocated_tables.len());
            }
            prop_assert_eq!(c.verdict == Verdict::Shard,
                c.verdict != Verdict::Unsuitable && workload.headroom_months.is_some_and(|m| m < HEADROOM_MONTHS)
                    && c.incomplete_pct <= 10.0 && !(workload.missing_share.is_finite() && workload.missing_share > 0.1));
        }
    }

    /// A transaction of one statement with all equalities known is on one node exactly if its values are one value.
    #[test]
    fn two_values_are_never_single(a in 0u64..3, b in 0u64..3) {
        let mut workload = platform();
        workload.transactions = vec![Transaction {
            steps: vec![Step { statement: 0, values: vec![Some(a)] }, Step { statement: 0, values: vec![Some(b)] }],
            times: 3.0, incomplete: false,
        }];
        let advice = advise(&workload);
        let of_user = advice.candidates.iter().find(|c| c.key == "public.payments.user_id");
        prop_assert_eq!(of_user.map(|c| c.single_shard_pct), Some(if a == b { 100.0 } else { 0.0 }));
    }
}
