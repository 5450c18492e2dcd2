use super::*;
use proptest::prelude::*;

fn filter(column: i16, comparison: Comparison, selectivity: f64) -> Filter {
    let part = Part::Column(column);
    Filter { part, comparison, selectivity, opclass: 0, predicate: None, hash_width: 0.0, ordered: false }
}

fn numbers(candidate: &Candidate) -> Vec<i16> {
    candidate.keys.iter().filter_map(|key| key.column()).collect()
}

fn columns(candidates: &[Candidate]) -> Vec<Vec<i16>> {
    candidates.iter().map(numbers).collect()
}

#[test]
fn equality_then_range() {
    let needs = Needs {
        relation: 1,
        filters: vec![filter(3, Comparison::Range, 0.001), filter(2, Comparison::Equal, 0.1)],
        ..Needs::default()
    };
    assert_eq!(numbers(&generate(&needs)[0]), [2, 3]);
}

#[test]
fn equality_then_descending_order_is_one_ascending_or_descending_key() {
    let descending = Key::ascending(5).reversed();
    let needs = Needs {
        relation: 1,
        filters: vec![filter(2, Comparison::Equal, 0.1)],
        orders: vec![vec![descending]],
        ..Needs::default()
    };
    let candidates = generate(&needs);
    assert!(candidates.iter().any(|c| c.keys == [Key::ascending(2), Key::ascending(5)]), "{candidates:?}");
    assert!(candidates.iter().any(|c| c.keys == [Key::ascending(5)]), "read backwards: {candidates:?}");
}

#[test]
fn mixed_directions_stay() {
    let order = vec![Key::ascending(1), Key::ascending(2).reversed()];
    let candidates = generate(&Needs { relation: 1, orders: vec![order.clone()], ..Needs::default() });
    assert_eq!(candidates[0].keys, order);
}

#[test]
fn in_list_then_order_and_joins() {
    let needs = Needs {
        relation: 1,
        filters: vec![filter(2, Comparison::In, 0.01)],
        joins: vec![Part::Column(7)],
        orders: vec![vec![Key::ascending(5)]],
        ..Needs::default()
    };
    let columns = columns(&generate(&needs));
    for wanted in [&[2][..], &[2, 5], &[7], &[2, 7]] {
        assert!(columns.iter().any(|c| c == wanted), "{wanted:?} in {columns:?}");
    }
}

#[test]
fn arms_of_an_or_stand_alone() {
    let needs = Needs {
        relation: 1,
        alternatives: vec![vec![filter(2, Comparison::Equal, 0.1)], vec![filter(3, Comparison::Equal, 0.1)]],
        ..Needs::default()
    };
    assert_eq!(columns(&generate(&needs)), [vec![2], vec![3]]);
}

#[test]
fn what_is_read_is_included() {
    let needs = Needs {
        relation: 1,
        filters: vec![filter(3, Comparison::Range, 0.01)],
        outputs: vec![3, 5, 6],
        ..Needs::default()
    };
    let candidates = generate(&needs);
    assert!(candidates.iter().any(|one| numbers(one) == [3] && one.include == [5, 6]), "{candidates:?}");
    assert!(candidates.iter().any(|one| numbers(one) == [3] && one.include.is_empty()), "{candidates:?}");
    let covered = generate(&Needs { outputs: vec![3], ..needs });
    assert!(covered.iter().all(|one| one.include.is_empty()), "{covered:?}");
}

#[test]
fn a_predicate_takes_its_column_out_of_the_keys_unless_it_is_alone() {
    let rare = Filter { predicate: Some(4), ..filter(2, Comparison::Equal, 0.02) };
    let order = vec![vec![Key::ascending(5)]];
    let both = Needs { relation: 1, filters: vec![rare], orders: order, ..Needs::default() };
    let partial: Vec<Candidate> = generate(&both).into_iter().filter(|one| one.predicate == Some(4)).collect();
    assert!(partial.iter().any(|one| numbers(one) == [5] && one.free == 0), "{partial:?}");
    let alone = generate(&Needs { orders: vec![], ..both });
    assert!(alone.iter().any(|one| one.predicate == Some(4) && numbers(one) == [2]), "{alone:?}");
    assert!(alone.iter().any(|one| one.predicate.is_none() && numbers(one) == [2]), "{alone:?}");
}

#[test]
fn kinds_by_what_they_are_good_at() {
    let kinds = |filters: Vec<Filter>, orders: Vec<Vec<Key>>| -> Vec<(Kind, u32)> {
        generate(&Needs { relation: 1, filters, orders, ..Needs::default() })
            .iter()
            .map(|one| (one.kind, one.keys[0].opclass))
            .collect()
    };
    let contains = Filter { opclass: 77, ..filter(2, Comparison::Contains, 0.1) };
    assert_eq!(kinds(vec![contains], vec![]), [(Kind::Gin, 77)]);
    let wide = Filter { hash_width: 40.0, ..filter(2, Comparison::Equal, 0.1) };
    assert_eq!(kinds(vec![wide], vec![]), [(Kind::Btree, 0), (Kind::Hash, 0)]);
    let narrow = Filter { hash_width: 8.0, ..wide };
    assert_eq!(kinds(vec![narrow], vec![]), [(Kind::Btree, 0)]);
    assert!(kinds(vec![wide], vec![vec![Key::ascending(2)]]).iter().all(|(kind, _)| *kind == Kind::Btree));
    let ordered = Filter { ordered: true, ..filter(2, Comparison::Range, 0.1) };
    assert_eq!(kinds(vec![ordered], vec![]), [(Kind::Btree, 0), (Kind::Brin, 0)]);
}

#[test]
fn columns_joined_with_one_relation_are_one_key() {
    let needs = Needs {
        relation: 1,
        joins: vec![Part::Column(7), Part::Column(8), Part::Column(9)],
        joined_together: vec![vec![Part::Column(7), Part::Column(9)]],
        outputs: vec![2, 7, 9],
        ..Needs::default()
    };
    let candidates = generate(&needs);
    assert_eq!(numbers(&candidates[0]), [7, 9]);
    assert!(candidates.iter().any(|one| numbers(one) == [7, 9] && one.include == [2]), "{candidates:?}");
}

/// A filter in any shape: part, comparison, selectivity, operator class, predicate, width, order.
fn any_filter() -> impl Strategy<Value = Filter> {
    let part = prop_oneof![(1i16..6).prop_map(Part::Column), (0u32..3).prop_map(Part::Expression)];
    let comparison = prop_oneof![
        Just(Comparison::Equal),
        Just(Comparison::IsNull),
        Just(Comparison::In),
        Just(Comparison::Range),
        Just(Comparison::Contains)
    ];
    (part, comparison, 0.0f64..1.0, 0u32..3, prop::option::of(0u32..3), 0.0f64..50.0, any::<bool>()).prop_map(
        |(part, comparison, selectivity, opclass, predicate, hash_width, ordered)| Filter {
            part,
            comparison,
            selectivity,
            opclass,
            predicate,
            hash_width,
            ordered,
        },
    )
}

fn any_key() -> impl Strategy<Value = Key> {
    let part = prop_oneof![(1i16..6).prop_map(Part::Column), (0u32..3).prop_map(Part::Expression)];
    (part, any::<bool>(), any::<bool>()).prop_map(|(part, descending, nulls_first)| Key {
        descending,
        nulls_first,
        ..Key::of(part)
    })
}

proptest! {
    #[test]
    fn bounded_distinct_and_made_of_what_is_asked_for(
        filters in prop::collection::vec(any_filter(), 0..8),
        alternatives in prop::collection::vec(prop::collection::vec(any_filter(), 1..3), 0..3),
        joins in prop::collection::vec(1i16..12, 0..4),
        orders in prop::collection::vec(prop::collection::vec(any_key(), 1..7), 0..3),
        outputs in prop::collection::hash_set(1i16..12, 0..10),
    ) {
        let joins: Vec<Part> = joins.into_iter().map(Part::Column).collect();
        let needs = Needs {
            relation: 9,
            joined_together: if joins.len() > 1 { vec![joins.clone()] } else { vec![] },
            outputs: outputs.into_iter().collect(),
            filters, alternatives, joins, orders,
        };
        let candidates = generate(&needs);
        prop_assert!(candidates.len() <= CANDIDATES_MAX);
        for (at, candidate) in candidates.iter().enumerate() {
            prop_assert!(!candidate.keys.is_empty() && candidate.keys.len() <= KEYS_MAX);
            prop_assert!(candidate.free <= candidate.keys.len());
            let mut parts = candidate.parts();
            parts.sort_unstable();
            parts.dedup();
            prop_assert_eq!(parts.len(), candidate.keys.len());
            prop_assert!(parts.iter().all(|part| needs.mentions(*part)));
            prop_assert!(candidate.predicate.is_none_or(|number| needs.implies(number)));
            prop_assert!(candidate.include.len() <= INCLUDE_MAX);
            prop_assert!(candidate.include.iter().all(|column| needs.outputs.contains(column)));
            prop_assert!(!candidate.include.iter().any(|column| parts.contains(&Part::Column(*column))));
            if candidate.kind != Kind::Btree {
                prop_assert!(candidate.keys.len() == 1 && candidate.include.is_empty() && candidate.free == 0);
            }
            prop_assert!(!candidates[..at].iter().any(|other| other.same_index(candidate)));
        }
    }
}
