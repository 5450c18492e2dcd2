//! What the planner looked at while it planned: relations and index paths. The path hook notes them, the count of steps asks
//! for them. Reads planner nodes; nothing is locked.

use pgrx::{pg_sys, PgList};

use crate::pg::relation;

/// The access method of B-trees.
const BTREE: u32 = 403;

/// An index path, as the planner priced it.
#[derive(Clone, Copy, Debug)]
pub struct SeenPath {
    index: pg_sys::Oid,
    rows: f64,
    total_cost: f64,
    /// Entries that one scan finds.
    pub entries: f64,
    /// Entries that it reads for that: conditions on later keys leave some of them out.
    pub read: f64,
    /// Share of the table's pages that are all-visible, 0 to 1.
    pub all_visible: f64,
}

/// An index of a relation.
#[derive(Clone, Debug)]
pub struct SeenIndex {
    index: pg_sys::Oid,
    /// How far the index follows the order of the table, 0 to 1.
    pub correlation: f64,
    /// Its pages.
    pub pages: f64,
    /// How many of its columns are keys.
    pub key_count: usize,
    /// Columns of the table that are its columns, in order; 0 for an expression.
    pub columns: Vec<i16>,
}

/// A relation, as the planner saw it.
#[derive(Clone, Copy, Debug)]
pub struct SeenRelation {
    relation: pg_sys::Oid,
    /// Its tuples.
    pub tuples: f64,
    /// Its pages.
    pub pages: f64,
}

/// What the path hook noted during one planner run.
#[derive(Debug, Default)]
pub struct Seen {
    paths: Vec<SeenPath>,
    indexes: Vec<SeenIndex>,
    relations: Vec<SeenRelation>,
}

impl Seen {
    /// Notes the paths of one relation.
    ///
    /// # Safety
    /// Called by the planner's path-list hook with its arguments.
    pub unsafe fn note(
        &mut self,
        root: *mut pg_sys::PlannerInfo,
        rel: *mut pg_sys::RelOptInfo,
        rte: *mut pg_sys::RangeTblEntry,
    ) {
        // SAFETY: planner nodes, alive during the hook.
        unsafe {
            if (*rte).rtekind != pg_sys::RTEKind::RTE_RELATION {
                return;
            }
            let relation = (*rte).relid;
            self.relations.push(SeenRelation { relation, tuples: (*rel).tuples, pages: f64::from((*rel).pages) });
            for info in PgList::<pg_sys::IndexOptInfo>::from_pg((*rel).indexlist).iter_ptr() {
                if self.index((*info).indexoid).is_some() {
                    continue;
                }
                let count = usize::try_from((*info).ncolumns).unwrap_or(0);
                let columns: Vec<i16> = (0..count).map(|at| *(*info).indexkeys.add(at) as i16).collect();
                let first = columns.first().copied().unwrap_or(0);
                self.indexes.push(SeenIndex {
                    index: (*info).indexoid,
                    correlation: relation::correlation(relation, first).abs(),
                    pages: f64::from((*info).pages),
                    key_count: usize::try_from((*info).nkeycolumns).unwrap_or(0),
                    columns,
                });
            }
            for list in [(*rel).pathlist, (*rel).partial_pathlist] {
                for path in PgList::<pg_sys::Path>::from_pg(list).iter_ptr() {
                    self.note_path(root, rel, path, false);
                }
            }
        }
    }

    /// Notes an index path, or those below a bitmap path: their rows and costs are those of the bitmap.
    ///
    /// # Safety
    /// `path` is a path of `rel`, or below one.
    unsafe fn note_path(
        &mut self,
        root: *mut pg_sys::PlannerInfo,
        rel: *mut pg_sys::RelOptInfo,
        path: *mut pg_sys::Path,
        below: bool,
    ) {
        // SAFETY: the tag says which struct it is.
        unsafe {
            match (*path.cast::<pg_sys::Node>()).type_ {
                pg_sys::NodeTag::T_IndexPath => {
                    let path = path.cast::<pg_sys::IndexPath>();
                    let info = (*path).indexinfo;
                    let entries = ((*path).indexselectivity * (*info).tuples).max(1.0);
                    let bounded = bounded_selectivity(root, path).unwrap_or(0.0) * (*info).tuples;
                    self.paths.push(SeenPath {
                        index: (*info).indexoid,
                        rows: if below { entries } else { (*path).path.rows },
                        total_cost: if below { (*path).indextotalcost } else { (*path).path.total_cost },
                        entries,
                        read: entries.max(bounded),
                        all_visible: (*rel).allvisfrac,
                    });
                }
                pg_sys::NodeTag::T_BitmapHeapPath => {
                    self.note_path(root, rel, (*path.cast::<pg_sys::BitmapHeapPath>()).bitmapqual, true);
                }
                pg_sys::NodeTag::T_BitmapAndPath => {
                    self.note_paths(root, rel, (*path.cast::<pg_sys::BitmapAndPath>()).bitmapquals);
                }
                pg_sys::NodeTag::T_BitmapOrPath => {
                    self.note_paths(root, rel, (*path.cast::<pg_sys::BitmapOrPath>()).bitmapquals);
                }
                _ => {}
            }
        }
    }

    /// # Safety
    /// `list` is a list of paths below a bitmap path of `rel`.
    unsafe fn note_paths(
        &mut self,
        root: *mut pg_sys::PlannerInfo,
        rel: *mut pg_sys::RelOptInfo,
        list: *mut pg_sys::List,
    ) {
        // SAFETY: as promised.
        unsafe {
            for path in PgList::<pg_sys::Path>::from_pg(list).iter_ptr() {
                self.note_path(root, rel, path, true);
            }
        }
    }

    /// The path of an index scan with these rows and this cost, or the one nearest to it.
    pub fn path(&self, index: pg_sys::Oid, rows: f64, total_cost: f64) -> Option<&SeenPath> {
        let distance = |seen: &SeenPath| {
            (seen.rows - rows).abs() / rows.max(1.0) + 0.1 * (seen.total_cost - total_cost).abs() / total_cost.max(1e-9)
        };
        self.paths.iter().filter(|seen| seen.index == index).min_by(|a, b| distance(a).total_cmp(&distance(b)))
    }

    /// What was noted of an index.
    pub fn index(&self, index: pg_sys::Oid) -> Option<&SeenIndex> {
        self.indexes.iter().find(|seen| seen.index == index)
    }

    /// What was noted of a relation.
    pub fn relation(&self, relation: pg_sys::Oid) -> Option<&SeenRelation> {
        self.relations.iter().find(|seen| seen.relation == relation)
    }
}

/// How much of a B-tree a path reads: what its conditions on the first keys choose, up to the first that is no equality.
/// None when that is all of its conditions.
///
/// # Safety
/// `path` is an index path of the planner run of `root`.
unsafe fn bounded_selectivity(root: *mut pg_sys::PlannerInfo, path: *mut pg_sys::IndexPath) -> Option<f64> {
    // SAFETY: an index path's clauses come in the order of the keys; each holds conditions with their planner's note.
    unsafe {
        let info = (*path).indexinfo;
        if (*info).relam.to_u32() != BTREE {
            return None;
        }
        let clauses = PgList::<pg_sys::IndexClause>::from_pg((*path).indexclauses);
        let mut bounds = PgList::<pg_sys::RestrictInfo>::new();
        let (mut key, mut is_equal) = (0, true);
        for clause in clauses.iter_ptr() {
            let own = (*clause).indexcol;
            if own != key {
                if own != key + 1 || !is_equal {
                    let list = bounds.into_pg();
                    let relid = (*(*info).rel).relid as i32;
                    let inner = pg_sys::JoinType::JOIN_INNER;
                    return Some(pg_sys::clauselist_selectivity(root, list, relid, inner, std::ptr::null_mut()));
                }
                (key, is_equal) = (own, false);
            } else if bounds.is_empty() {
                is_equal = false;
            }
            for condition in PgList::<pg_sys::RestrictInfo>::from_pg((*clause).indexquals).iter_ptr() {
                is_equal |= super::order::is_equality((*condition).clause.cast());
                bounds.push(condition);
            }
        }
        None
    }
}
