//! From what one statement asks of one relation to the indexes that could serve it: B-trees on all rows, the same with
//! INCLUDE columns or on the rows of a condition, GIN, BRIN, hash.

use super::{Candidate, Key, Kind, Part};

/// Candidates for one statement and relation, at most. One planner run sees them all, so their number costs little.
pub const CANDIDATES_MAX: usize = 24;
/// Key columns of one candidate, at most: wider keys cost more than the last column saves.
pub const KEYS_MAX: usize = 5;
/// INCLUDE columns of one candidate, at most.
pub const INCLUDE_MAX: usize = 8;
/// Candidates that get a twin with INCLUDE columns, at most.
const COVERING_MAX: usize = 5;
/// Conditions that a partial index is tried for, at most, and candidates that get a twin on the rows of each.
const PREDICATES_MAX: usize = 2;
const PARTIAL_MAX: usize = 3;
/// GIN and BRIN candidates, at most each.
const CONTAINS_MAX: usize = 4;
const ORDERED_MAX: usize = 2;
/// Bytes of a value from which on a hash of it is smaller than the value in a B-tree by enough to matter.
pub const HASH_WIDTH_MIN: f64 = 24.0;

/// How a column or expression is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Comparison {
    /// With one value.
    Equal,
    /// With NULL (`IS NULL`).
    IsNull,
    /// With one of several values.
    In,
    /// With a bound, or `IS NOT NULL`.
    Range,
    /// By what it contains or matches: a GIN index with the filter's operator class can find it.
    Contains,
}

/// One indexable condition on one column or expression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    /// What is compared.
    pub part: Part,
    /// How it is compared.
    pub comparison: Comparison,
    /// Share of rows that pass, as the planner sees it.
    pub selectivity: f64,
    /// OID of the operator class that an index needs for it; 0 for the type's default.
    pub opclass: u32,
    /// The condition itself by its number in the caller's table of expressions, when an index could have it as its
    /// predicate.
    pub predicate: Option<u32>,
    /// Mean bytes of what is compared, when a hash index could find it; 0 when none could.
    pub hash_width: f64,
    /// Whether the table is big and its rows lie in the order of what is compared, so that a BRIN index could find them.
    pub ordered: bool,
}

/// What one statement asks of one relation in one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// OID of the relation.
    pub relation: u32,
    /// Conditions that all hold.
    pub filters: Vec<Filter>,
    /// For every OR: its arms, each a list of conditions that hold together.
    pub alternatives: Vec<Vec<Filter>>,
    /// Columns and expressions equated with another relation's.
    pub joins: Vec<Part>,
    /// Those of them that are equated with one and the same other relation, where they are several.
    pub joined_together: Vec<Vec<Part>>,
    /// Orders that are wanted (sort, group, distinct), on this relation.
    pub orders: Vec<Vec<Key>>,
    /// All columns that the statement reads there, when an index might hold them all: few and narrow, and the table mostly
    /// all-visible. Empty otherwise.
    pub outputs: Vec<i16>,
}

impl Needs {
    /// Whether an index that begins with `part` could be of use.
    pub fn mentions(&self, part: Part) -> bool {
        self.filters.iter().chain(self.alternatives.iter().flatten()).any(|filter| filter.part == part)
            || self.joins.contains(&part)
            || self.orders.iter().flatten().any(|key| key.part == part)
    }

    /// Whether one of the conditions that all hold is the predicate `number`.
    pub fn implies(&self, number: u32) -> bool {
        self.filters.iter().any(|filter| filter.predicate == Some(number))
    }

    /// Whether an expression could be a key or the predicate of an index for it.
    pub fn has_expressions(&self) -> bool {
        let is_expression = |part: &Part| matches!(part, Part::Expression(_));
        let mut filters = self.filters.iter().chain(self.alternatives.iter().flatten());
        filters.any(|filter| filter.predicate.is_some() || is_expression(&filter.part))
            || self.joins.iter().any(is_expression)
            || self.orders.iter().flatten().any(|key| is_expression(&key.part))
    }

    /// Leaves out the predicates and the expressions that are not to be kept. Columns stay.
    pub fn retain(&mut self, predicate: impl Fn(u32) -> bool, expression: impl Fn(Part) -> bool) {
        let kept = |part: &Part| matches!(part, Part::Column(_)) || expression(*part);
        for filter in &mut self.filters {
            filter.predicate = filter.predicate.filter(|number| predicate(*number));
        }
        self.filters.retain(|filter| kept(&filter.part));
        // Of an OR that loses an arm the others stay: whether they are of use without it is the planner's to say.
        for arm in &mut self.alternatives {
            arm.retain(|filter| kept(&filter.part));
        }
        self.alternatives.retain(|arm| !arm.is_empty());
        self.joins.retain(kept);
        self.joined_together.iter_mut().for_each(|parts| parts.retain(kept));
        self.joined_together.retain(|parts| parts.len() > 1);
        for order in &mut self.orders {
            let sorted = order.iter().take_while(|key| kept(&key.part)).count();
            order.truncate(sorted);
        }
        self.orders.retain(|order| !order.is_empty());
    }
}

/// The candidates for `needs`, most promising first, without duplicates.
pub fn generate(needs: &Needs) -> Vec<Candidate> {
    let mut found = Found { relation: needs.relation, list: Vec::new() };
    let groups = Groups::of(&needs.filters);
    // The first of every section are what the twins are made of.
    let mut sections = vec![0];
    found.for_filters(&groups);
    sections.push(found.list.len());
    found.for_orders(&groups, &needs.orders);
    sections.push(found.list.len());
    found.for_joins(&groups, needs);
    sections.push(found.list.len());
    for arm in &needs.alternatives {
        // An arm can use what all rows fulfil too.
        let mut filters = arm.clone();
        filters.extend_from_slice(&needs.filters);
        found.for_filters(&Groups::of(arm));
        if !needs.filters.is_empty() {
            found.for_filters(&Groups::of(&filters));
        }
    }
    let best: Vec<Candidate> =
        sections.windows(2).flat_map(|section| found.list[section[0]..section[1]].iter().take(2)).cloned().collect();
    // What truncation drops first is last: B-trees beyond the best, after at most a few of every other kind.
    let rest: Vec<Candidate> = found.list.drain(..).filter(|candidate| !best.contains(candidate)).collect();
    found.list.clone_from(&best);
    found.contained(needs);
    found.covering(&best, &needs.outputs);
    found.partial(&best, needs);
    found.hashed(needs);
    found.in_order(needs);
    for candidate in rest {
        found.push(candidate);
    }
    found.list.truncate(CANDIDATES_MAX);
    found.list
}

/// Conditions by kind, most selective first, one per column or expression.
struct Groups {
    equal: Vec<Key>,
    several: Vec<Key>,
    range: Vec<Key>,
}

impl Groups {
    fn of(filters: &[Filter]) -> Self {
        let mut sorted = filters.to_vec();
        sorted.sort_by(|a, b| a.selectivity.total_cmp(&b.selectivity).then(a.part.cmp(&b.part)));
        let (mut equal, mut several, mut range) = (Vec::new(), Vec::new(), Vec::new());
        for filter in &sorted {
            let key = Key { opclass: filter.opclass, ..Key::of(filter.part) };
            match filter.comparison {
                Comparison::Equal | Comparison::IsNull => push_new(&mut equal, key),
                Comparison::In => push_new(&mut several, key),
                Comparison::Range => push_new(&mut range, key),
                Comparison::Contains => {}
            }
        }
        several.retain(|key| !has(&equal, key.part));
        range.retain(|key| !has(&equal, key.part) && !has(&several, key.part));
        Groups { equal, several, range }
    }

    /// Everything compared with a value.
    fn values(&self) -> Vec<Key> {
        self.equal.iter().chain(&self.several).copied().collect()
    }
}

fn has(keys: &[Key], part: Part) -> bool {
    keys.iter().any(|key| key.part == part)
}

fn push_new(list: &mut Vec<Key>, key: Key) {
    if !has(list, key.part) {
        list.push(key);
    }
}

struct Found {
    relation: u32,
    list: Vec<Candidate>,
}

impl Found {
    fn add(&mut self, equal: &[Key], rest: &[Key]) {
        let mut keys: Vec<Key> = Vec::new();
        for key in equal.iter().chain(rest) {
            push_new(&mut keys, *key);
        }
        keys.truncate(KEYS_MAX);
        // Equality columns have no order of their own; the rest read backwards is the same index, and default order reads
        // better.
        let free = keys.len().min(equal.len());
        let turned = keys[free..].iter().filter(|key| key.descending).count() * 2 > keys.len() - free;
        for (at, key) in keys.iter_mut().enumerate() {
            *key = match (at < free, turned) {
                (true, _) => Key { descending: false, nulls_first: false, ..*key },
                (false, true) => key.reversed(),
                (false, false) => *key,
            };
        }
        self.push(Candidate::btree(self.relation, keys, free));
    }

    fn push(&mut self, candidate: Candidate) {
        if !candidate.keys.is_empty() && !self.list.iter().any(|known| known.same_index(&candidate)) {
            self.list.push(candidate);
        }
    }

    /// An index of another kind on one key.
    fn push_single(&mut self, kind: Kind, filter: &Filter, opclass: u32) {
        let key = Key { opclass, ..Key::of(filter.part) };
        self.push(Candidate { kind, ..Candidate::btree(self.relation, vec![key], 0) });
    }

    /// GIN for what is contained or matched, in the whole condition or an arm of an OR.
    fn contained(&mut self, needs: &Needs) {
        let mut filters: Vec<&Filter> = needs
            .filters
            .iter()
            .chain(needs.alternatives.iter().flatten())
            .filter(|filter| filter.comparison == Comparison::Contains)
            .collect();
        filters.sort_by(|a, b| a.selectivity.total_cmp(&b.selectivity));
        for filter in filters.iter().take(CONTAINS_MAX) {
            self.push_single(Kind::Gin, filter, filter.opclass);
        }
    }

    /// Twins that hold everything the statement reads, so that the table need not be visited.
    fn covering(&mut self, best: &[Candidate], outputs: &[i16]) {
        if outputs.is_empty() || outputs.len() > INCLUDE_MAX {
            return;
        }
        for candidate in best.iter().take(COVERING_MAX) {
            let include = missing(outputs, &candidate.keys);
            if !include.is_empty() {
                self.push(Candidate { include, ..candidate.clone() });
            }
        }
    }

    /// Twins on the rows of one condition alone. That condition's column then tells nothing more, so it leaves the keys
    /// unless it is the only one.
    fn partial(&mut self, best: &[Candidate], needs: &Needs) {
        let mut filters: Vec<&Filter> = needs.filters.iter().filter(|filter| filter.predicate.is_some()).collect();
        filters.sort_by(|a, b| a.selectivity.total_cmp(&b.selectivity));
        for filter in filters.iter().take(PREDICATES_MAX) {
            for (made, candidate) in best.iter().take(PARTIAL_MAX).enumerate() {
                let mut twin = Candidate { predicate: filter.predicate, ..candidate.clone() };
                if let (Some(at), true) =
                    (twin.keys.iter().position(|key| key.part == filter.part), twin.keys.len() > 1)
                {
                    twin.keys.remove(at);
                    twin.free -= usize::from(at < twin.free);
                }
                let include = missing(&needs.outputs, &twin.keys);
                if made == 0 && !include.is_empty() && include.len() <= INCLUDE_MAX {
                    self.push(Candidate { include, ..twin.clone() });
                }
                self.push(twin);
            }
        }
    }

    /// Hash for what is wide and only ever compared for equality.
    fn hashed(&mut self, needs: &Needs) {
        let is_ordered = |part: Part| {
            needs.orders.iter().flatten().any(|key| key.part == part)
                || needs.filters.iter().any(|filter| filter.part == part && filter.comparison == Comparison::Range)
        };
        for filter in needs.filters.iter().chain(needs.alternatives.iter().flatten()) {
            if filter.comparison == Comparison::Equal && filter.hash_width >= HASH_WIDTH_MIN && !is_ordered(filter.part)
            {
                self.push_single(Kind::Hash, filter, 0);
            }
        }
    }

    /// BRIN for what the rows lie in the order of.
    fn in_order(&mut self, needs: &Needs) {
        for filter in needs.filters.iter().filter(|filter| filter.ordered).take(ORDERED_MAX) {
            self.push_single(Kind::Brin, filter, 0);
        }
    }

    fn for_filters(&mut self, groups: &Groups) {
        let values = groups.values();
        for key in groups.range.iter().take(2) {
            self.add(&values, &[*key]);
        }
        self.add(&values, &[]);
        if !groups.several.is_empty() && !groups.equal.is_empty() {
            // Without the list: it can stay a filter.
            for key in groups.range.iter().take(1) {
                self.add(&groups.equal, &[*key]);
            }
        }
        for key in values.iter().chain(groups.range.iter().take(2)).take(3) {
            self.add(&[], &[*key]);
        }
        if let (Some(value), Some(range)) = (values.first(), groups.range.first()) {
            self.add(&[*value], &[*range]);
        }
    }

    fn for_orders(&mut self, groups: &Groups, orders: &[Vec<Key>]) {
        for order in orders {
            // What is fixed to one value sorts nothing.
            let rest: Vec<Key> = order.iter().copied().filter(|key| !has(&groups.equal, key.part)).collect();
            if rest.is_empty() {
                continue;
            }
            self.add(&groups.equal, &rest);
            if !groups.several.is_empty() {
                let values: Vec<Key> = groups.values().into_iter().filter(|key| !has(&rest, key.part)).collect();
                self.add(&values, &rest);
            }
            // Conditions that cannot lead are checked in the index, before the table is visited.
            let mut tail = rest.clone();
            for key in groups.several.iter().chain(&groups.range) {
                push_new(&mut tail, *key);
            }
            self.add(&groups.equal, &tail);
            self.add(&[], &rest);
        }
    }

    fn for_joins(&mut self, groups: &Groups, needs: &Needs) {
        let values = groups.values();
        let joins: Vec<Key> = needs.joins.iter().map(|part| Key::of(*part)).collect();
        let range = groups.range.get(..1).unwrap_or_default();
        for together in &needs.joined_together {
            let keys: Vec<Key> = together.iter().map(|part| Key::of(*part)).collect();
            self.add(&keys, range);
        }
        for join in &joins {
            self.add(&[*join], range);
            let mut equal = values.clone();
            equal.push(*join);
            self.add(&equal, range);
            let mut led_by_join = vec![*join];
            led_by_join.extend(&values);
            self.add(&led_by_join, &[]);
            self.add(&[*join], &[]);
            if let Some(order) = needs.orders.first() {
                self.add(&[*join], order);
                if !values.is_empty() {
                    // The values of the condition and the join, and what is left comes sorted.
                    self.add(&equal, order);
                }
            }
        }
    }
}

/// The columns of `outputs` that are not among `keys`.
fn missing(outputs: &[i16], keys: &[Key]) -> Vec<i16> {
    outputs.iter().copied().filter(|column| !has(keys, Part::Column(*column))).collect()
}

#[cfg(test)]
mod tests {
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
    #[test]
    fn what_is_not_kept_is_asked_for_no_more() {
        let [kept, dropped] = [Part::Expression(1), Part::Expression(2)];
        let with = |part, predicate| Filter { part, predicate, ..filter(1, Comparison::Equal, 0.1) };
        let column = Part::Column(1);
        let mut needs = Needs {
            filters: vec![with(column, Some(3)), with(column, Some(4)), with(dropped, None), with(kept, None)],
            alternatives: vec![vec![with(dropped, None)], vec![with(column, None), with(dropped, None)]],
            joins: vec![column, dropped, kept],
            joined_together: vec![vec![column, dropped], vec![column, kept]],
            orders: vec![vec![Key::of(dropped)], vec![Key::of(column), Key::of(dropped), Key::of(kept)]],
            ..Needs::default()
        };
        assert!(needs.has_expressions());
        needs.retain(|number| number == 3, |part| part == kept);
        assert!(needs.implies(3) && !needs.implies(4));
        assert!(needs.mentions(kept) && needs.mentions(column) && !needs.mentions(dropped));
        assert_eq!(needs.filters, vec![with(column, Some(3)), with(column, None), with(kept, None)]);
        assert_eq!(needs.alternatives, vec![vec![with(column, None)]]);
        assert_eq!(needs.joins, vec![column, kept]);
        assert_eq!(needs.joined_together, vec![vec![column, kept]]);
        assert_eq!(needs.orders, vec![vec![Key::of(column)]]);
        needs.retain(|_| false, |_| false);
        assert!(!needs.has_expressions() && needs.mentions(column));
    }

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
}
