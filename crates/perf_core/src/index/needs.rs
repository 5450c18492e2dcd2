//! What one statement asks of one relation: conditions, joins, orders, and what it reads there. Made by whoever plans the
//! statement; `candidates` says which indexes could serve it.

use super::{Key, Part};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_asked_for_no_more() {
        let [kept, dropped] = [Part::Expression(1), Part::Expression(2)];
        let with = |part, predicate| Filter {
            part,
            predicate,
            comparison: Comparison::Equal,
            selectivity: 0.1,
            opclass: 0,
            hash_width: 0.0,
            ordered: false,
        };
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
}
