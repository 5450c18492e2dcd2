use super::*;
use proptest::prelude::*;

const MIB: f64 = 1024.0 * 1024.0;

/// A used B-tree on these columns, with nothing special.
fn index(oid: u32, columns: &[i16]) -> Index {
    Index {
        oid,
        method: "btree".to_owned(),
        keys: columns.iter().map(|column| Key { column: *column, class: 1978, collation: 0, options: 0 }).collect(),
        immediate: true,
        valid: true,
        live: true,
        scans: 100,
        bytes: 20.0 * MIB,
        ..Index::default()
    }
}

fn unused(oid: u32, columns: &[i16]) -> Index {
    Index { scans: 0, idle_days: 60.0, ..index(oid, columns) }
}

/// OIDs and findings of what is to be dropped.
fn drops(indexes: &[Index]) -> Vec<(u32, Finding)> {
    of(indexes, &[], Counters::Complete, Action::Drop)
}

fn of(indexes: &[Index], keys: &[Vec<i16>], counters: Counters, action: Action) -> Vec<(u32, Finding)> {
    judge(indexes, keys, counters)
        .into_iter()
        .filter(|verdict| verdict.action == action)
        .map(|verdict| (indexes[verdict.index].oid, verdict.finding))
        .collect()
}

#[test]
fn different_indexes_stay() {
    assert_eq!(
        judge(&[index(1, &[1]), index(2, &[2]), index(3, &[2, 1])], &[], Counters::Complete),
        vec![Verdict { index: 1, action: Action::Drop, finding: Finding::Covered { by: 2 } }]
    );
    assert!(judge(&[index(1, &[1]), index(2, &[2]), index(3, &[3, 1])], &[], Counters::Complete).is_empty());
}

#[test]
fn of_two_equal_ones_the_better_stays() {
    let plain = index(1, &[1, 2]);
    let duplicate = |better| vec![(1, Finding::Duplicate { of: 1, better })];
    assert_eq!(drops(&[plain.clone(), Index { bound: true, ..index(2, &[1, 2]) }]), duplicate(Better::Bound));
    assert_eq!(drops(&[plain.clone(), Index { scans: 101, ..index(2, &[1, 2]) }]), duplicate(Better::Used));
    assert_eq!(drops(&[plain.clone(), Index { wanted: true, scans: 1, ..index(2, &[1, 2]) }]), duplicate(Better::Used));
    assert_eq!(
        drops(&[index(2, &[1, 2]), plain.clone()]),
        vec![(2, Finding::Duplicate { of: 1, better: Better::Older })]
    );
    let three = [index(7, &[1]), index(5, &[1]), index(6, &[1])];
    let found = drops(&three);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|(oid, finding)| *oid != 5 && matches!(finding, Finding::Duplicate { of: 1, .. })));
}

#[test]
fn backwards_is_the_same() {
    let mut other = index(2, &[1, 2]);
    for key in &mut other.keys {
        key.options = 3;
    }
    assert_eq!(
        drops(&[index(1, &[1, 2]), other.clone()]),
        vec![(2, Finding::Duplicate { of: 0, better: Better::Older })]
    );
    other.keys[0].options = 0;
    assert!(drops(&[index(1, &[1, 2]), other.clone()]).is_empty());
    other.keys[0].options = 1;
    assert!(drops(&[index(1, &[1, 2]), other]).is_empty());
}

#[test]
fn definitions_that_differ_are_no_duplicates() {
    let base = index(1, &[1]);
    let changed: [fn(&mut Index); 7] = [
        |other| other.keys[0].class = 4217,
        |other| other.keys[0].collation = 950,
        |other| other.keys[0].options = 2,
        |other| other.predicate = "{OPEXPR}".to_owned(),
        |other| other.method = "hash".to_owned(),
        |other| (other.keys[0].column, other.expressions) = (0, "{FUNCEXPR}".to_owned()),
        |other| other.keys.clear(),
    ];
    for change in changed {
        let mut other = index(2, &[1]);
        change(&mut other);
        assert!(drops(&[base.clone(), other.clone()]).is_empty(), "{other:?}");
        other.keys.extend(index(3, &[2]).keys);
        assert!(drops(&[base.clone(), other.clone()]).is_empty(), "{other:?}");
    }
}

#[test]
fn expressions_are_compared_whole() {
    let on =
        |oid, columns: &[i16], expressions: &str| Index { expressions: expressions.to_owned(), ..index(oid, columns) };
    assert_eq!(drops(&[on(1, &[0], "{A}"), on(2, &[0, 3], "{A}")]), vec![(1, Finding::Covered { by: 1 })]);
    assert_eq!(drops(&[on(1, &[0], "{A}"), on(2, &[0, 0], "{A} {B}")]), vec![(1, Finding::Covered { by: 1 })]);
    assert!(drops(&[on(1, &[0], "{A}"), on(2, &[0, 0], "{B} {A}")]).is_empty());
    assert!(drops(&[on(1, &[0], "{A}"), on(2, &[0, 3], "{B}")]).is_empty());
}

#[test]
fn include_columns_must_be_there() {
    let with = |oid, columns: &[i16], include: &[i16]| Index { include: include.to_vec(), ..index(oid, columns) };
    assert_eq!(drops(&[with(1, &[1], &[2]), index(2, &[1, 2])]), vec![(1, Finding::Covered { by: 1 })]);
    assert_eq!(drops(&[with(1, &[1], &[2]), with(2, &[1], &[3, 2])]), vec![(1, Finding::Covered { by: 1 })]);
    assert_eq!(drops(&[with(1, &[1], &[2, 3]), with(2, &[1], &[3, 2])]).len(), 1);
    assert!(drops(&[with(1, &[1], &[2]), index(2, &[1, 3])]).is_empty());
}

#[test]
fn other_methods_only_when_all_is_the_same() {
    let gin = |oid, columns: &[i16], settings: &str| Index {
        method: "gin".to_owned(),
        settings: settings.to_owned(),
        ..index(oid, columns)
    };
    assert_eq!(drops(&[gin(1, &[1], ""), gin(2, &[1], "")]).len(), 1);
    assert!(drops(&[gin(1, &[1], ""), gin(2, &[1], "{fastupdate=off}")]).is_empty());
    assert!(drops(&[gin(1, &[1], ""), gin(2, &[1, 2], "")]).is_empty());
}

#[test]
fn uniqueness_is_never_lost() {
    let unique = |oid, columns: &[i16]| Index { unique: true, ..index(oid, columns) };
    assert!(drops(&[Index { scans: 0, idle_days: 900.0, ..unique(1, &[1]) }]).is_empty());
    assert!(drops(&[unique(1, &[1]), index(2, &[1, 2])]).is_empty());
    assert!(drops(&[unique(1, &[1]), unique(2, &[1, 2])]).is_empty());
    assert_eq!(drops(&[index(1, &[1]), unique(2, &[1])]), vec![(1, Finding::Covered { by: 1 })]);
    assert_eq!(drops(&[unique(1, &[1]), unique(2, &[1])]).len(), 1);
    assert!(drops(&[unique(1, &[1]), Index { nulls_not_distinct: true, ..unique(2, &[1]) }]).is_empty());
    // A deferrable constraint is no substitute for what ON CONFLICT needs.
    let deferrable = Index { bound: true, immediate: false, ..unique(2, &[1]) };
    assert!(drops(&[unique(1, &[1]), deferrable]).is_empty());
    let constraint = Index { bound: true, ..unique(2, &[1]) };
    assert_eq!(drops(&[unique(1, &[1]), constraint.clone()]).len(), 1);
    assert!(drops(&[Index { bound: true, ..unique(1, &[1]) }, constraint]).is_empty());
}

#[test]
fn unused_ones_go_unless_something_needs_them() {
    assert_eq!(drops(&[unused(1, &[1])]), vec![(1, Finding::Unused)]);
    let kept: [fn(&mut Index); 6] = [
        |index| index.bound = true,
        |index| index.unique = true,
        |index| index.wanted = true,
        |index| index.scans = 1,
        |index| index.bytes = UNUSED_BYTES_MIN - 1.0,
        |index| index.building = true,
    ];
    for keep in kept {
        let mut one = unused(1, &[1]);
        keep(&mut one);
        assert!(drops(&[one.clone()]).is_empty(), "{one:?}");
    }
    assert_eq!(drops(&[Index { scans: 5, idle_days: IDLE_DAYS, ..index(1, &[1]) }]), vec![(1, Finding::Unused)]);
    assert!(of(&[unused(1, &[1])], &[], Counters::Foreign, Action::Drop).is_empty());
}

#[test]
fn a_foreign_key_keeps_its_last_index() {
    let judged = |indexes: &[Index], key: &[i16]| of(indexes, &[key.to_vec()], Counters::Complete, Action::Drop);
    assert!(judged(&[unused(1, &[1])], &[1]).is_empty());
    assert!(judged(&[unused(1, &[2, 1, 3])], &[1, 2]).is_empty());
    assert_eq!(judged(&[unused(1, &[2, 3, 1])], &[1, 2]).len(), 1);
    assert_eq!(judged(&[unused(1, &[1])], &[1, 2]).len(), 1);
    assert_eq!(judged(&[unused(1, &[1]), unused(2, &[1, 2])], &[1]).len(), 1);
    let partial = Index { predicate: "{OPEXPR}".to_owned(), ..index(2, &[1, 2]) };
    assert!(judged(&[unused(1, &[1]), partial], &[1]).is_empty());
    let brin = Index { method: "brin".to_owned(), ..index(2, &[1]) };
    assert!(judged(&[unused(1, &[1]), brin], &[1]).is_empty());
}

#[test]
fn counters_that_are_complete_beat_definitions() {
    let pair = [index(1, &[1]), unused(2, &[1, 2])];
    assert_eq!(of(&pair, &[], Counters::Complete, Action::Drop), vec![(2, Finding::Unused)]);
    assert_eq!(of(&pair, &[], Counters::Partial, Action::Drop), vec![(1, Finding::Covered { by: 1 })]);
    assert_eq!(of(&pair, &[], Counters::Foreign, Action::Drop), vec![(1, Finding::Covered { by: 1 })]);
}

#[test]
fn invalid_ones_go_or_are_built_again() {
    let broken = |oid, columns: &[i16]| Index { valid: false, ..index(oid, columns) };
    let again = vec![(1, Finding::Invalid { by: None })];
    assert_eq!(of(&[broken(1, &[1])], &[], Counters::Partial, Action::Reindex), again);
    assert_eq!(drops(&[broken(1, &[1]), index(2, &[1, 2])]), vec![(1, Finding::Invalid { by: Some(1) })]);
    assert_eq!(drops(&[Index { live: false, ..broken(1, &[1]) }]), vec![(1, Finding::Invalid { by: None })]);
    // The substitute is not dropped, even if nobody asks for it.
    assert_eq!(drops(&[broken(1, &[1]), unused(2, &[1, 2])]), vec![(1, Finding::Invalid { by: Some(1) })]);
    assert!(judge(&[Index { building: true, ..broken(1, &[1]) }], &[], Counters::Complete).is_empty());
    assert!(judge(&[Index { partitioned: true, ..broken(1, &[1]) }], &[], Counters::Complete).is_empty());
    assert!(judge(&[broken(1, &[1])], &[], Counters::Foreign).is_empty());
    // It can take nobody's place itself.
    assert!(drops(&[index(1, &[1]), broken(2, &[1, 2])]).iter().all(|(oid, _)| *oid != 1));
    let unique = Index { unique: true, ..broken(1, &[1]) };
    assert_eq!(of(&[unique, index(2, &[1])], &[], Counters::Partial, Action::Reindex), again);
}

#[test]
fn bloat_must_be_worth_a_rebuild() {
    let sized = |bytes: f64, fresh: f64| Index { bytes: bytes * MIB, fresh_bytes: Some(fresh * MIB), ..index(1, &[1]) };
    let rebuilt = |one: Index| of(&[one], &[], Counters::Complete, Action::Reindex);
    assert_eq!(rebuilt(sized(100.0, 60.0)), vec![(1, Finding::Bloated { freed: 40.0 * MIB })]);
    assert!(rebuilt(sized(100.0, 71.0)).is_empty());
    assert!(rebuilt(sized(12.0, 3.0)).is_empty());
    assert!(rebuilt(sized(100.0, 130.0)).is_empty());
    assert!(rebuilt(Index { fresh_bytes: None, ..sized(100.0, 60.0) }).is_empty());
    // What is dropped is not rebuilt.
    assert!(rebuilt(Index { scans: 0, idle_days: 60.0, ..sized(100.0, 60.0) }).is_empty());
    assert_eq!(rebuilt(Index { bound: true, ..sized(100.0, 60.0) }).len(), 1);
}

#[test]
fn confidence_follows_the_statistics() {
    assert_eq!(confidence(6.9, false), "low");
    assert_eq!(confidence(7.0, false), "medium");
    assert_eq!(confidence(31.0, false), "high");
    assert_eq!(confidence(365.0, true), "low");
}

fn any_index() -> impl Strategy<Value = Index> {
    let keys = prop::collection::vec((1i16..4, 0i16..4), 1..4);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.8));
    (keys, prop::collection::vec(1i16..4, 0..2), 0usize..2, flags, 0i64..3, 0usize..3).prop_map(
        |(keys, include, predicate, (unique, bound, wanted, immediate, valid), scans, size)| Index {
            keys: keys.into_iter().map(|(column, options)| Key { column, class: 1, collation: 0, options }).collect(),
            include,
            predicate: ["", "{P}"][predicate].to_owned(),
            unique,
            bound: bound && wanted,
            wanted,
            immediate,
            valid,
            scans,
            idle_days: 40.0,
            bytes: size as f64 * 10.0 * MIB,
            fresh_bytes: Some(5.0 * MIB),
            ..index(0, &[])
        },
    )
}

fn some_indexes() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any_index(), 0..9).prop_map(|mut indexes| {
        for (oid, index) in (1u32..).zip(&mut indexes) {
            index.oid = oid;
        }
        indexes
    })
}

proptest! {
    /// Following every verdict at once loses no constraint, no uniqueness, no foreign key's index and no plan's.
    #[test]
    fn all_verdicts_hold_together(
        indexes in some_indexes(),
        keys in prop::collection::vec(prop::collection::btree_set(1i16..4, 1..3), 0..3),
        counters in prop::sample::select(vec![Counters::Foreign, Counters::Partial, Counters::Complete]),
    ) {
        let keys: Vec<Vec<i16>> = keys.into_iter().map(|key| key.into_iter().collect()).collect();
        let verdicts = judge(&indexes, &keys, counters);
        let is_dropped = |at: usize| verdicts.iter().any(|verdict| verdict.index == at && verdict.action == Action::Drop);
        let stays: Vec<&Index> =
            (0..indexes.len()).filter(|at| !is_dropped(*at) && indexes[*at].valid).map(|at| &indexes[at]).collect();
        for verdict in &verdicts {
            let own = verdicts.iter().filter(|other| other.index == verdict.index).count();
            prop_assert_eq!(own, 1);
            let index = &indexes[verdict.index];
            prop_assert!(verdict.action == Action::Reindex || !index.bound);
            if let Finding::Duplicate { of: other, .. } | Finding::Covered { by: other } | Finding::Invalid { by: Some(other) } = verdict.finding {
                prop_assert!(!is_dropped(other) && indexes[other].covers(index));
            }
        }
        for (at, index) in indexes.iter().enumerate().filter(|(at, index)| is_dropped(*at) && index.valid) {
            let replaced = stays.iter().any(|other| other.covers(index));
            prop_assert!(replaced || (!index.wanted && !index.unique && index.scans == 0), "{at}");
            for key in keys.iter().filter(|key| index.supports(key)) {
                prop_assert!(stays.iter().any(|other| other.supports(key)));
            }
        }
    }

    #[test]
    fn covering_is_transitive(a in any_index(), b in any_index(), c in any_index()) {
        prop_assert!(!(a.covers(&b) && b.covers(&c)) || a.covers(&c));
    }
}
