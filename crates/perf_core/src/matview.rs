//! Whether a refresh of a materialized view could change anything. Pure: what was found out about the view and what it reads,
//! when it was last refreshed and now, is handed in.
//!
//! The rule is that everything must be known and equal. What it stands on is the caller's: changes counted as
//! `memory::watch` says.

/// Something that the result depends on besides rows: a view's definition, a function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// What it is and its number, such as `rule 16500`.
    pub name: String,
    /// Which version of it: another one means that it was defined anew.
    pub version: String,
}

/// A table that is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Its OID.
    pub oid: u32,
    /// Version of its catalog row, and its file.
    pub version: String,
    /// Changes counted.
    pub changes: u64,
}

/// What was found out about a view at one time.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Facts {
    /// Which life of shared memory the counters belong to.
    pub boot: u64,
    /// Which database they belong to.
    pub database: u32,
    /// What the result depends on besides rows, in order.
    pub objects: Vec<Object>,
    /// Tables read, partitions and inheriting tables included, in order.
    pub sources: Vec<Source>,
    /// Changes counted of the view's own content.
    pub own_changes: u64,
    /// Why nothing can be concluded from all this.
    pub obstacle: Option<String>,
}

impl Facts {
    /// Whether both were found for the same definition over the same tables, whatever was written to them.
    pub fn same_structure(&self, other: &Facts) -> bool {
        self.objects == other.objects
            && self.sources.len() == other.sources.len()
            && self.sources.iter().zip(&other.sources).all(|(a, b)| a.oid == b.oid && a.version == b.version)
    }
}

/// Why a view is refreshed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It holds no result.
    NotPopulated,
    /// No refresh of it is on record.
    NeverRefreshed,
    /// Changes of what it reads cannot be told.
    Unknowable(String),
    /// They could not be told at the time of the last refresh.
    WasUnknowable(String),
    /// Counters have started anew since.
    Restarted,
    /// It, or something it uses, was defined anew, or its tables are other ones.
    Redefined,
    /// These tables may have changed.
    Changed(Vec<u32>),
    /// Its own content was changed by somebody else.
    Overwritten,
}

/// Whether a view is to be refreshed, and why; `None`: a refresh would change nothing.
pub fn decide(populated: bool, last: Option<&Facts>, now: &Facts) -> Option<Reason> {
    if !populated {
        return Some(Reason::NotPopulated);
    }
    if let Some(obstacle) = &now.obstacle {
        return Some(Reason::Unknowable(obstacle.clone()));
    }
    let Some(last) = last else { return Some(Reason::NeverRefreshed) };
    if let Some(obstacle) = &last.obstacle {
        return Some(Reason::WasUnknowable(obstacle.clone()));
    }
    if last.boot != now.boot || last.database != now.database {
        return Some(Reason::Restarted);
    }
    if !last.same_structure(now) {
        return Some(Reason::Redefined);
    }
    let changed: Vec<u32> = (last.sources.iter().zip(&now.sources))
        .filter(|(before, after)| before.changes != after.changes)
        .map(|(_, after)| after.oid)
        .collect();
    if !changed.is_empty() {
        return Some(Reason::Changed(changed));
    }
    (last.own_changes != now.own_changes).then_some(Reason::Overwritten)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts() -> Facts {
        Facts {
            boot: 7,
            database: 5,
            objects: vec![Object { name: "rule 1".into(), version: "a".into() }],
            sources: vec![
                Source { oid: 10, version: "x".into(), changes: 3 },
                Source { oid: 11, version: "y".into(), changes: 4 },
            ],
            own_changes: 1,
            obstacle: None,
        }
    }

    #[test]
    fn equal_facts_need_no_refresh() {
        assert_eq!(decide(true, Some(&facts()), &facts()), None);
    }

    #[test]
    fn reasons_name_what_differs() {
        let last = facts();
        assert_eq!(decide(false, Some(&last), &facts()), Some(Reason::NotPopulated));
        assert_eq!(decide(true, None, &facts()), Some(Reason::NeverRefreshed));
        let now = Facts { boot: 8, ..facts() };
        assert_eq!(decide(true, Some(&last), &now), Some(Reason::Restarted));
        let mut now = facts();
        now.sources[1].changes += 1;
        assert_eq!(decide(true, Some(&last), &now), Some(Reason::Changed(vec![11])));
        let mut now = facts();
        now.sources.pop();
        assert_eq!(decide(true, Some(&last), &now), Some(Reason::Redefined));
        let now = Facts { own_changes: 2, ..facts() };
        assert_eq!(decide(true, Some(&last), &now), Some(Reason::Overwritten));
        let unsure = Facts { obstacle: Some("o".into()), ..facts() };
        assert_eq!(decide(true, Some(&last), &unsure), Some(Reason::Unknowable("o".into())));
        assert_eq!(decide(true, Some(&unsure), &last), Some(Reason::WasUnknowable("o".into())));
    }

    proptest! {
        /// Any difference at all means a refresh.
        #[test]
        fn only_equal_facts_are_skipped(boot in 6u64..8, own in 0u64..2, first in 2u64..4, second in 3u64..5,
                                        version in "[ab]", file in "[xz]", oid in 10u32..12) {
            let now = Facts {
                boot,
                own_changes: own,
                objects: vec![Object { name: "rule 1".into(), version }],
                sources: vec![
                    Source { oid, version: file, changes: first },
                    Source { oid: 11, version: "y".into(), changes: second },
                ],
                ..facts()
            };
            prop_assert_eq!(decide(true, Some(&facts()), &now).is_none(), now == facts());
        }
    }
}
