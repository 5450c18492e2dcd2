//! From what one statement asks of one relation to the B-trees that could serve it.

use super::{Candidate, Key, Part};

/// Candidates for one statement and relation, at most.
pub const CANDIDATES_MAX: usize = 12;
/// Key columns of one candidate, at most: wider keys cost more than the last column saves.
pub const KEYS_MAX: usize = 5;

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
    /// Orders that are wanted (sort, group, distinct), on this relation.
    pub orders: Vec<Vec<Key>>,
    /// All columns that the statement reads there, when an index might hold them all: few and narrow, and the table mostly
    /// all-visible. Empty otherwise.
    pub outputs: Vec<i16>,
}

/// The candidates for `needs`, most promising first, without duplicates.
pub fn generate(needs: &Needs) -> Vec<Candidate> {
    let mut found = Found { relation: needs.relation, list: Vec::new() };
    let groups = Groups::of(&needs.filters);
    found.for_filters(&groups);
    found.for_orders(&groups, &needs.orders);
    found.for_joins(&groups, &needs.joins, &needs.orders);
    for arm in &needs.alternatives {
        // An arm can use what all rows fulfil too.
        let mut filters = arm.clone();
        filters.extend_from_slice(&needs.filters);
        found.for_filters(&Groups::of(arm));
        if !needs.filters.is_empty() {
            found.for_filters(&Groups::of(&filters));
        }
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
        let candidate = Candidate::btree(self.relation, keys, free);
        if !candidate.keys.is_empty() && !self.list.iter().any(|known| known.same_index(&candidate)) {
            self.list.push(candidate);
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

    fn for_joins(&mut self, groups: &Groups, joins: &[Part], orders: &[Vec<Key>]) {
        let values = groups.values();
        let joins: Vec<Key> = joins.iter().map(|part| Key::of(*part)).collect();
        let range = groups.range.get(..1).unwrap_or_default();
        for join in &joins {
            self.add(&[*join], range);
            let mut equal = values.clone();
            equal.push(*join);
            self.add(&equal, range);
            let mut led_by_join = vec![*join];
            led_by_join.extend(&values);
            self.add(&led_by_join, &[]);
            self.add(&[*join], &[]);
            if let Some(order) = orders.first() {
                self.add(&[*join], order);
            }
        }
        if joins.len() > 1 {
            self.add(&joins, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(column: i16, comparison: Comparison, selectivity: f64) -> Filter {
        Filter { part: Part::Column(column), comparison, selectivity, opclass: 0, predicate: None }
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

    proptest! {
        #[test]
        fn bounded_distinct_and_made_of_wanted_columns(
            filters in prop::collection::vec((1i16..8, 0usize..4, 0.0f64..1.0), 0..8),
            joins in prop::collection::vec(1i16..8, 0..4),
            orders in prop::collection::vec(prop::collection::vec((1i16..8, any::<bool>(), any::<bool>()), 1..5), 0..3),
        ) {
            let kinds = [Comparison::Equal, Comparison::IsNull, Comparison::In, Comparison::Range];
            let needs = Needs {
                relation: 9,
                filters: filters.iter().map(|(c, k, s)| filter(*c, kinds[*k], *s)).collect(),
                alternatives: vec![],
                joins: joins.into_iter().map(Part::Column).collect(),
                orders: orders.iter().map(|keys| keys.iter()
                    .map(|(column, descending, nulls_first)| Key { descending: *descending, nulls_first: *nulls_first, ..Key::ascending(*column) })
                    .collect()).collect(),
                outputs: vec![],
            };
            let candidates = generate(&needs);
            prop_assert!(candidates.len() <= CANDIDATES_MAX);
            for (at, candidate) in candidates.iter().enumerate() {
                prop_assert!(!candidate.keys.is_empty() && candidate.keys.len() <= KEYS_MAX);
                prop_assert!(candidate.free <= candidate.keys.len());
                let mut columns = numbers(candidate);
                columns.sort_unstable();
                columns.dedup();
                prop_assert_eq!(columns.len(), candidate.keys.len());
                prop_assert!(!candidates[..at].iter().any(|other| other.same_index(candidate)));
            }
        }
    }
}
