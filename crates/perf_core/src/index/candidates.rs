//! From what one statement asks of one relation to the indexes that could serve it: B-trees on all rows, the same with
//! INCLUDE columns or on the rows of a condition, GIN, BRIN, hash.

use super::needs::{Comparison, Filter, Needs};
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
mod tests;
