//! What an index that does not exist would take on disk, from the statistics of its columns. Reads the syscache; samples of a
//! table are `crate::pg::elements`' business.

use perf_core::index::{size, Kind};
use pgrx::pg_sys;

use super::{Hypothetical, KeyPart, Samples, Target};
use crate::pg::elements::Search;
use crate::pg::relation::{self, Relation};

/// Fillfactor of leaves of a B-tree that says nothing else.
const BTREE_FILLFACTOR: f64 = 90.0;
/// Fillfactor of a hash index that says nothing else.
const HASH_FILLFACTOR: f64 = 75.0;
/// The most that a Bloom filter of a block range takes by default: 4 % of false positives among 3,725 values.
const BLOOM_BYTES: f64 = 4_463.0;
/// Values that a multi-minmax summary keeps by default.
const MULTI_VALUES: f64 = 32.0;

impl Hypothetical {
    /// Prices the index on `relation`, or on each of `leaves` when `relation` is partitioned. Call again after a change.
    pub fn settle(&mut self, relation: &Relation, leaves: &[Relation], samples: &Samples) {
        self.targets.clear();
        self.bytes = 0.0;
        self.has_statistics = true;
        let of_key = |key: &KeyPart| (key.column == 0).then(|| samples.statistics(relation, key)).flatten();
        self.statistics = self.keys.iter().map(of_key).collect();
        if relation.kind == b'p' {
            for leaf in leaves {
                self.settle_on(relation, leaf, samples);
            }
        } else {
            self.settle_on(relation, relation, samples);
        }
    }

    fn settle_on(&mut self, named: &Relation, target: &Relation, samples: &Samples) {
        let mut attributes = Vec::new();
        for number in self.keys.iter().map(|key| key.column).chain(self.include.iter().copied()) {
            if number == 0 {
                attributes.push(0);
                continue;
            }
            // Partitions may number their columns differently: the name decides.
            let Some(column) = named.column(number).and_then(|column| target.column_named(&column.name)) else {
                return;
            };
            attributes.push(column.number);
        }
        let mut columns = Vec::new();
        for (at, number) in attributes.iter().enumerate() {
            let known = match target.column(*number) {
                Some(column) => target.size_column(column),
                None => self.expression_column(at, named, target),
            };
            self.has_statistics &= known.1;
            columns.push(known.0);
        }
        let map = column_map(named, target);
        let estimate = match self.kind {
            Kind::Btree => self.btree(target, columns),
            Kind::Hash => self.hash(target, columns),
            Kind::Brin => self.brin(target, &columns),
            Kind::Gin => self.gin(target, &attributes, &map, &columns, samples),
        };
        self.bytes += estimate.bytes();
        let target_of =
            Target { attributes, map, pages: estimate.pages, key_pages: estimate.key_pages, height: estimate.height };
        self.targets.insert(target.oid.to_u32(), target_of);
    }

    fn btree(&self, target: &Relation, columns: Vec<size::Column>) -> size::Estimate {
        let mut deduplicate = self.storage.deduplicate && self.include.is_empty();
        for key in &self.keys {
            deduplicate &= relation::equal_image(key.family, key.input, key.collation);
        }
        size::btree(&size::Btree {
            tuples: target.tuples * self.predicate_share,
            columns,
            keys: self.keys.len(),
            deduplicate,
            fillfactor: self.storage.fillfactor.unwrap_or(BTREE_FILLFACTOR),
        })
    }

    fn hash(&self, target: &Relation, mut columns: Vec<size::Column>) -> size::Estimate {
        let column = columns.swap_remove(0);
        size::hash(&size::Hash {
            expected: target.tuples,
            tuples: target.tuples * self.predicate_share,
            column,
            fillfactor: self.storage.fillfactor.unwrap_or(HASH_FILLFACTOR),
        })
    }

    fn brin(&self, target: &Relation, columns: &[size::Column]) -> size::Estimate {
        let mut values = Vec::new();
        for (key, column) in self.keys.iter().zip(columns) {
            let one = (column.width, column.align);
            // Support function 1 tells what a summary holds.
            match relation::support(key.family, key.input, 1).map(pg_sys::Oid::to_u32) {
                Some(pg_sys::F_BRIN_INCLUSION_OPCINFO) => values.extend([one, (1.0, 1.0), (1.0, 1.0)]),
                Some(pg_sys::F_BRIN_BLOOM_OPCINFO) => values.push((BLOOM_BYTES, 4.0)),
                Some(pg_sys::F_BRIN_MINMAX_MULTI_OPCINFO) => values.push((MULTI_VALUES * column.width, 4.0)),
                _ => values.extend([one, one]),
            }
        }
        size::brin(&size::Brin { heap_pages: target.pages, pages_per_range: self.storage.pages_per_range, values })
    }

    fn gin(
        &self,
        target: &Relation,
        attributes: &[i16],
        map: &[i16],
        columns: &[size::Column],
        samples: &Samples,
    ) -> size::Estimate {
        let several = self.keys.len() > 1;
        let (mut groups, mut weighed, mut count) = (Vec::new(), 0.0, 0.0);
        for ((key, attribute), column) in self.keys.iter().zip(attributes).zip(columns) {
            // SAFETY: expressions are valid and outlive this; the copies are made in the current context.
            let search = unsafe {
                Search {
                    relation: target.oid,
                    key: match target.column(*attribute) {
                        Some(found) => {
                            pg_sys::makeVar(1, found.number, found.type_oid, found.typmod, found.collation, 0)
                                .cast::<pg_sys::Node>()
                        }
                        None => renumbered(key.expression, map),
                    },
                    predicate: renumbered(as_condition(self.predicate), map),
                    type_oid: key.type_oid,
                    class: key.class,
                    collation: key.collation,
                    several,
                }
            };
            let (found, bytes) = match samples.elements(&search) {
                Some(elements) => (elements.groups, elements.key_bytes),
                // Nothing known: every value one key.
                None => {
                    let rows = (target.tuples * self.predicate_share / column.distinct.max(1.0)).max(1.0);
                    let group = size::gin::Group { keys: column.distinct, rows };
                    (vec![group], size::gin::key_bytes(column.width, several))
                }
            };
            let keys: f64 = found.iter().map(|group| group.keys).sum();
            weighed += keys * bytes;
            count += keys;
            groups.extend(found);
        }
        size::gin(&size::Gin {
            tuples: target.tuples,
            heap_pages: target.pages,
            groups,
            key_bytes: weighed / f64::max(count, f64::MIN_POSITIVE),
            // SAFETY: a plain integer setting of this backend.
            memory_bytes: f64::from(unsafe { pg_sys::maintenance_work_mem }) * 1024.0,
        })
    }

    /// What is known of expression key `at`: its own statistics, else its type's usual width and all values distinct.
    fn expression_column(&self, at: usize, named: &Relation, target: &Relation) -> (size::Column, bool) {
        if let Some(Some(statistics)) = self.statistics.get(at) {
            let mut column = statistics.column.clone();
            // Beyond a tenth of the rows they grow with the rows.
            if column.distinct > named.tuples * 0.1 {
                column.distinct *= target.tuples / named.tuples.max(1.0);
            }
            return (column, true);
        }
        let key = &self.keys[at];
        // SAFETY: the expression is a valid analysed node tree that outlives this description.
        let width = unsafe { pg_sys::get_typavgwidth(key.type_oid, pg_sys::exprTypmod(key.expression)) };
        let column = size::Column {
            width: f64::from(width),
            align: 1.0,
            widths: Vec::new(),
            null_fraction: 0.0,
            distinct: target.tuples.max(1.0),
            common: Vec::new(),
        };
        (column, false)
    }
}

/// For each column of `named` its number in `target`, 0 for none; empty when both number them alike.
fn column_map(named: &Relation, target: &Relation) -> Vec<i16> {
    let last = named.columns.iter().map(|column| column.number).max().unwrap_or(0).max(0);
    let mut map = vec![0; last as usize];
    for column in &named.columns {
        if let Some(place) = map.get_mut((column.number - 1).max(0) as usize) {
            *place = target.column_named(&column.name).map_or(0, |found| found.number);
        }
    }
    let alike = named.columns.iter().all(|column| map.get((column.number - 1).max(0) as usize) == Some(&column.number));
    if alike {
        Vec::new()
    } else {
        map
    }
}

/// An implicitly-ANDed list as one condition.
///
/// # Safety
/// `list` is NULL or a list of conditions.
unsafe fn as_condition(list: *mut pg_sys::List) -> *mut pg_sys::Node {
    if list.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: as promised; the result shares the list's members.
    unsafe { pg_sys::make_ands_explicit(list).cast() }
}

/// `node`, over range table entry 1, with the columns numbered as `map` says; itself when the map is empty.
///
/// # Safety
/// `node` is NULL or a valid node tree whose variables are plain columns; the map covers them.
pub unsafe fn renumbered(node: *mut pg_sys::Node, map: &[i16]) -> *mut pg_sys::Node {
    if node.is_null() || map.is_empty() {
        return node;
    }
    // SAFETY: as promised; the callee copies, and keeps neither the map nor the flag.
    unsafe {
        let attributes = pg_sys::make_attrmap(map.len() as i32);
        std::ptr::copy_nonoverlapping(map.as_ptr(), (*attributes).attnums, map.len());
        let mut whole_row = false;
        let result = pg_sys::map_variable_attnos(node, 1, 0, attributes, pg_sys::InvalidOid, &mut whole_row);
        pg_sys::free_attrmap(attributes);
        result
    }
}
