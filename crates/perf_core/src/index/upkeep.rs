//! Which existing indexes are in the way: unused, duplicate, covered by a wider one, left invalid, bloated.
//!
//! Judges the indexes of one relation at a time, from plain facts. What it says holds together: no index is dropped that
//! another verdict rests on, so that all of them may be followed at once.

use std::cmp::Reverse;

/// An unused index is worth a word from this size on: a smaller one may be unused only because its table is so small that
/// the planner reads it whole.
pub const UNUSED_BYTES_MIN: f64 = 1024.0 * 1024.0;
/// An index that was scanned once is unused again after this many days without a scan: a quarter, so that neither monthly
/// nor quarterly work is cut off.
pub const IDLE_DAYS: f64 = 100.0;
/// Statistics younger than this may not have seen a whole week's work.
pub const YOUNG_DAYS: f64 = 7.0;
/// Statistics older than this have seen the end of a month.
pub const SEASONED_DAYS: f64 = 31.0;
/// A rebuild must free this share: a B-tree that rows arrive in at random settles at about 70 % full pages, against 90 %
/// after a build, so less comes back by itself.
pub const BLOAT_SHARE_MIN: f64 = 0.3;
/// A rebuild must free this many bytes: below, nobody would notice.
pub const BLOAT_BYTES_MIN: f64 = 10.0 * 1024.0 * 1024.0;

/// One key of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Attribute number; 0 for an expression.
    pub column: i16,
    /// OID of the operator class.
    pub class: u32,
    /// OID of the collation.
    pub collation: u32,
    /// `indoption`: bit 0 for DESC, bit 1 for NULLS FIRST.
    pub options: i16,
}

impl Key {
    fn reversed(self) -> Self {
        Key { options: self.options ^ 3, ..self }
    }
}

/// What is known of an index. An index of a partitioned table stands for all its parts.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// OID.
    pub oid: u32,
    /// Access method.
    pub method: String,
    /// Keys, in order.
    pub keys: Vec<Key>,
    /// INCLUDE columns.
    pub include: Vec<i16>,
    /// The expressions of the keys numbered 0, one after the other, in a form that is equal when they are.
    pub expressions: String,
    /// The predicate, likewise; empty for none.
    pub predicate: String,
    /// Storage parameters and those of operator classes.
    pub settings: String,
    /// Enforces uniqueness.
    pub unique: bool,
    /// Checks uniqueness at once, as foreign keys and ON CONFLICT need it.
    pub immediate: bool,
    /// `NULLS NOT DISTINCT`.
    pub nulls_not_distinct: bool,
    /// Complete, and usable by queries.
    pub valid: bool,
    /// False once a DROP INDEX CONCURRENTLY has begun.
    pub live: bool,
    /// Somebody may be building it now.
    pub building: bool,
    /// Something other than queries needs it: a constraint, the replica identity, CLUSTER, an extension, or the index of
    /// the partitioned table that it is a part of.
    pub bound: bool,
    /// It is the index of a partitioned table.
    pub partitioned: bool,
    /// A plan of the workload uses it, or the policy asks for it.
    pub wanted: bool,
    /// Scans counted.
    pub scans: i64,
    /// Days since the last scan, or without a scan since counting began.
    pub idle_days: f64,
    /// Size.
    pub bytes: f64,
    /// Estimated size of a fresh build; None when that cannot be estimated.
    pub fresh_bytes: Option<f64>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// DROP INDEX.
    Drop,
    /// REINDEX INDEX.
    Reindex,
}

/// Why the index that stays is the one to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Something needs it, see [`Index::bound`].
    Bound,
    /// It enforces uniqueness.
    Unique,
    /// It is used more.
    Used,
    /// It was there first.
    Older,
}

/// What is the matter with an index. Numbers are places in the list that was judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finding {
    /// No query uses it.
    Unused,
    /// Another has the same definition.
    Duplicate {
        /// The one that stays.
        of: usize,
        /// Why that one.
        better: Better,
    },
    /// Another does all that it does, and more.
    Covered {
        /// The other.
        by: usize,
    },
    /// Its build or drop failed: it is written to and never read.
    Invalid {
        /// A valid index that does what it would.
        by: Option<usize>,
    },
    /// A fresh build would be this much smaller.
    Bloated {
        /// Bytes.
        freed: f64,
    },
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Place in the list that was judged.
    pub index: usize,
    /// What to do.
    pub action: Action,
    /// Why.
    pub finding: Finding,
}

/// How far the scan counters can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counters {
    /// Not at all: they are a standby's, and the index serves the primary too.
    Foreign,
    /// Somewhat: they are young, or replicas count their own scans.
    Partial,
    /// They cover a week and every server there is.
    Complete,
}

/// `high`, `medium` or `low`, by the age of the statistics and whether replicas use indexes uncounted.
pub fn confidence(statistics_days: f64, has_replicas: bool) -> &'static str {
    if has_replicas || statistics_days < YOUNG_DAYS {
        "low"
    } else if statistics_days < SEASONED_DAYS {
        "medium"
    } else {
        "high"
    }
}

impl Index {
    fn droppable(&self) -> bool {
        !self.bound && !self.building
    }

    /// Whether this index can do all that `other` does, on its own.
    fn covers(&self, other: &Index) -> bool {
        if self.method != other.method || self.predicate != other.predicate {
            return false;
        }
        let same_length = self.keys.len() == other.keys.len();
        if self.method != "btree" && (!same_length || self.settings != other.settings) {
            return false;
        }
        if other.unique && !(same_length && self.enforces(other)) {
            return false;
        }
        let columns = |number: &i16| self.include.contains(number) || self.keys.iter().any(|key| key.column == *number);
        self.begins_with(other) && other.include.iter().all(columns)
    }

    fn enforces(&self, other: &Index) -> bool {
        self.unique && self.nulls_not_distinct == other.nulls_not_distinct && (self.immediate || !other.immediate)
    }

    /// Whether the keys of `other` are the first of this index's, read forwards or, in a B-tree, backwards.
    fn begins_with(&self, other: &Index) -> bool {
        if other.keys.is_empty() || self.keys.len() < other.keys.len() {
            return false;
        }
        let pairs = || self.keys.iter().zip(&other.keys);
        let same = pairs().all(|(own, key)| own == key)
            || (self.method == "btree" && pairs().all(|(own, key)| own.reversed() == *key));
        // Expressions come one after the other, each balanced in its braces: a common beginning ends between two of them.
        same && self.expressions.starts_with(&other.expressions)
    }

    /// Whether it finds the rows that refer to a row: its first columns are those of the foreign key, in any order.
    fn supports(&self, foreign_key: &[i16]) -> bool {
        let first = self.keys.get(..foreign_key.len()).unwrap_or_default();
        !foreign_key.is_empty()
            && first.len() == foreign_key.len()
            && foreign_key.iter().all(|column| first.iter().any(|key| key.column == *column))
    }

    /// Of two indexes that can do the same, the one with more of this stays.
    fn worth(&self) -> (bool, bool, bool, i64, Reverse<u32>) {
        (self.bound, self.unique, self.wanted, self.scans, Reverse(self.oid))
    }

    fn better_than(&self, other: &Index) -> Better {
        if self.bound != other.bound {
            Better::Bound
        } else if self.unique != other.unique {
            Better::Unique
        } else if (self.wanted, self.scans) != (other.wanted, other.scans) {
            Better::Used
        } else {
            Better::Older
        }
    }
}

/// Judges the indexes of one relation. `foreign_keys` are the columns of each foreign key from this relation to another.
pub fn judge(indexes: &[Index], foreign_keys: &[Vec<i16>], counters: Counters) -> Vec<Verdict> {
    let mut judge = Judge {
        indexes,
        foreign_keys,
        stays: indexes.iter().map(|index| index.valid && index.live).collect(),
        needed: vec![false; indexes.len()],
        verdicts: Vec::new(),
    };
    if counters != Counters::Foreign {
        judge.invalid();
    }
    judge.redundant(true);
    match counters {
        Counters::Foreign => judge.redundant(false),
        // What the counters say weighs less than a definition: an index that can replace another is worth keeping.
        Counters::Partial => {
            judge.redundant(false);
            judge.unused();
        }
        Counters::Complete => {
            judge.unused();
            judge.redundant(false);
        }
    }
    judge.bloated();
    judge.verdicts
}

struct Judge<'a> {
    indexes: &'a [Index],
    foreign_keys: &'a [Vec<i16>],
    /// Valid, and not dropped by a verdict.
    stays: Vec<bool>,
    /// A verdict rests on it.
    needed: Vec<bool>,
    verdicts: Vec<Verdict>,
}

impl Judge<'_> {
    fn staying(&self) -> impl Iterator<Item = (usize, &Index)> {
        self.indexes.iter().enumerate().filter(|(at, _)| self.stays[*at])
    }

    fn drop(&mut self, index: usize, finding: Finding) {
        self.stays[index] = false;
        self.verdicts.push(Verdict { index, action: Action::Drop, finding });
    }

    /// What can take the place of `index`; the one worth most.
    fn substitute(&self, index: &Index, accept: impl Fn(usize, &Index) -> bool) -> Option<usize> {
        self.staying()
            .filter(|(at, other)| other.oid != index.oid && accept(*at, other) && other.covers(index))
            .max_by_key(|(_, other)| other.worth())
            .map(|(at, _)| at)
    }

    fn invalid(&mut self) {
        for (at, index) in self.indexes.iter().enumerate() {
            // The index of a partitioned table is invalid until each partition has its part: not a failed build.
            if (index.valid && index.live) || index.building || index.partitioned {
                continue;
            }
            let by = self.substitute(index, |_, _| true);
            if index.droppable() && (by.is_some() || !index.live) {
                by.into_iter().for_each(|by| self.needed[by] = true);
                self.drop(at, Finding::Invalid { by });
            } else if index.live {
                let finding = Finding::Invalid { by: None };
                self.verdicts.push(Verdict { index: at, action: Action::Reindex, finding });
            }
        }
    }

    /// Drops what another can replace: the same definitions, or strictly wider ones.
    fn redundant(&mut self, same: bool) {
        let beaten_by = |at: usize, index: &Index, other: &Index| {
            let mutual = index.covers(other);
            mutual == same && !self.needed[at] && (!mutual || other.worth() > index.worth())
        };
        // Beating is transitive, so that whoever is beaten is beaten by one that stays.
        let losers: Vec<bool> = self
            .indexes
            .iter()
            .enumerate()
            .map(|(at, index)| {
                self.stays[at]
                    && index.droppable()
                    && self.substitute(index, |_, other| beaten_by(at, index, other)).is_some()
            })
            .collect();
        for (at, index) in self.indexes.iter().enumerate().filter(|(at, _)| losers[*at]) {
            let found = self.substitute(index, |other_at, other| {
                !losers[other_at] && index.covers(other) == same && (!same || other.worth() > index.worth())
            });
            let Some(other) = found else { continue };
            self.needed[other] = true;
            let finding = if same {
                Finding::Duplicate { of: other, better: self.indexes[other].better_than(index) }
            } else {
                Finding::Covered { by: other }
            };
            self.drop(at, finding);
        }
    }

    fn unused(&mut self) {
        for (at, index) in self.indexes.iter().enumerate() {
            let idle = index.scans == 0 || index.idle_days >= IDLE_DAYS;
            if self.stays[at]
                && idle
                && index.droppable()
                && !index.unique
                && !index.wanted
                && !self.needed[at]
                && index.bytes >= UNUSED_BYTES_MIN
                && !self.is_last_for_foreign_key(at)
            {
                self.drop(at, Finding::Unused);
            }
        }
    }

    /// Whether a foreign key would have no index any more: deleting a row that others refer to would read all of them.
    fn is_last_for_foreign_key(&self, at: usize) -> bool {
        let index = &self.indexes[at];
        self.foreign_keys.iter().filter(|key| index.supports(key)).any(|key| {
            !self.staying().any(|(other_at, other)| {
                other_at != at
                    && other.supports(key)
                    && other.predicate.is_empty()
                    && matches!(other.method.as_str(), "btree" | "hash")
            })
        })
    }

    fn bloated(&mut self) {
        let found: Vec<Verdict> = self
            .staying()
            .filter(|(_, index)| !index.partitioned && !index.building)
            .filter_map(|(at, index)| {
                let freed = index.bytes - index.fresh_bytes?;
                let finding = Finding::Bloated { freed };
                (freed >= BLOAT_BYTES_MIN && freed >= index.bytes * BLOAT_SHARE_MIN).then_some(Verdict {
                    index: at,
                    action: Action::Reindex,
                    finding,
                })
            })
            .collect();
        self.verdicts.extend(found);
    }
}

#[cfg(test)]
mod tests;
