//! Which of its values say which rows a statement reads or writes: columns held equal to a value, directly or by being held
//! equal to a column that is. Pure; called by whoever analysed the statement.

use super::shadow::Use;

/// A column of a table of a statement: the table's place, and the column's number.
pub type TableColumn = (usize, i16);

/// What a statement's text says of its tables.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    /// Its tables by their numbers; a table that is used twice is there twice.
    pub tables: Vec<u32>,
    /// Columns that are held equal.
    pub joins: Vec<(TableColumn, TableColumn)>,
    /// Columns that are held equal to a value, with the places of their values: several for several rows.
    pub pins: Vec<(TableColumn, Vec<usize>)>,
}

impl Statement {
    /// Columns of a table that have values, with the places of those; directly or over equal columns.
    fn pinned(&self, table: usize) -> Vec<(i16, Vec<usize>)> {
        let mut found: Vec<(TableColumn, Vec<usize>)> = self.pins.clone();
        let mut at = 0;
        while let Some((column, slots)) = found.get(at).cloned() {
            at += 1;
            for (a, b) in &self.joins {
                for (one, other) in [(a, b), (b, a)] {
                    if *one == column && !found.iter().any(|(known, _)| known == other) {
                        found.push((*other, slots.clone()));
                    }
                }
            }
        }
        let mut columns: Vec<(i16, Vec<usize>)> = (found.into_iter())
            .filter(|((place, _), slots)| *place == table && !slots.is_empty())
            .map(|((_, column), slots)| (column, slots))
            .collect();
        columns.sort();
        columns.dedup_by_key(|(column, _)| *column);
        columns
    }

    /// Its tables as a shadow wants them, and the places of the values of all their columns, one after the other. Places
    /// that are not below `values` are of values that nobody knows.
    pub fn uses(&self, values: usize) -> (Vec<Use>, Vec<usize>) {
        let mut uses: Vec<(Use, Vec<usize>)> = Vec::new();
        for (place, relation) in self.tables.iter().enumerate() {
            let columns: Vec<(i16, usize)> = (self.pinned(place).into_iter())
                .filter_map(|(column, slots)| match slots[..] {
                    [slot] if slot < values => Some((column, slot)),
                    _ => None,
                })
                .collect();
            let (numbers, slots) = columns.into_iter().unzip();
            let one = (Use { relation: *relation, columns: numbers }, slots);
            if !uses.contains(&one) {
                uses.push(one);
            }
        }
        let (uses, slots): (Vec<Use>, Vec<Vec<usize>>) = uses.into_iter().unzip();
        (uses, slots.concat())
    }

    /// Columns that say which rows of a table are written, with the places of their values; `updated` are columns whose
    /// rows get another value, which says nothing of the rows that had it before.
    pub fn written(&self, table: usize, updated: &[i16], values: usize) -> Vec<(i16, Vec<usize>)> {
        (self.pinned(table).into_iter())
            .filter(|(column, slots)| !updated.contains(column) && slots.iter().all(|slot| *slot < values))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            tables: vec![10, 20, 30],
            joins: vec![((0, 1), (1, 4)), ((1, 4), (2, 2))],
            pins: vec![((0, 1), vec![0]), ((0, 5), vec![1, 2]), ((2, 7), vec![99])],
        }
    }

    #[test]
    fn values_reach_columns_over_equalities() {
        let (uses, slots) = statement().uses(12);
        let is = |relation, columns: &[i16]| Use { relation, columns: columns.to_vec() };
        assert_eq!(uses, [is(10, &[1]), is(20, &[4]), is(30, &[2])]);
        assert_eq!(slots, [0, 0, 0]);
    }

    #[test]
    fn what_is_updated_or_not_known_says_nothing() {
        let one = statement();
        assert_eq!(one.written(0, &[], 12), [(1, vec![0]), (5, vec![1, 2])]);
        assert_eq!(one.written(0, &[1], 12), [(5, vec![1, 2])]);
        assert_eq!(one.written(0, &[], 2), [(1, vec![0])]);
        assert_eq!(one.written(2, &[], 12), [(2, vec![0])]);
    }

    #[test]
    fn a_table_that_is_used_twice_in_the_same_way_counts_once() {
        let twice = Statement { tables: vec![10, 10, 10], joins: vec![], pins: vec![((2, 1), vec![0])] };
        let (uses, slots) = twice.uses(12);
        assert_eq!(uses.len(), 2);
        assert_eq!(slots, [0]);
    }
}
