//! What an index that does not exist would take on disk, from the statistics of its columns. Reads the syscache; samples of a
//! table are `crate::pg::elements`' business.

use perf_core::index::{size, Kind};
use pgrx::pg_sys;

use super::{Hypothetical, KeyPart, Target};
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
    pub fn settle(&mut self, relation: &Relation, leaves: &[Relation]) {
        self.targets.clear();
        self.bytes = 0.0;
        self.has_statistics = true;
        if relation.kind == b'p' {
            for leaf in leaves {
                self.settle_on(relation, leaf);
            }
        } else {
            self.settle_on(relation, relation);
        }
    }

    fn settle_on(&mut self, named: &Relation, target: &Relation) {
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
                None => (expression_column(&self.keys[at], target), false),
            };
            self.has_statistics &= known.1;
            columns.push(known.0);
        }
        let estimate = match self.kind {
            Kind::Btree => self.btree(target, columns),
            Kind::Hash => self.hash(target, columns),
            Kind::Brin => self.brin(target, &columns),
            Kind::Gin => self.gin(target, &attributes, &columns),
        };
        self.bytes += estimate.bytes();
        let target_of =
            Target { attributes, pages: estimate.pages, key_pages: estimate.key_pages, height: estimate.height };
        self.targets.insert(target.oid.to_u32(), target_of);
    }

    fn btree(&self, target: &Relation, columns: Vec<size::Column>) -> size::Estimate {
        let mut deduplicate = self.storage.deduplicate && self.include.is_empty();
        for key in &self.keys {
            deduplicate &=
                relation::equal_image(relation::Opclass { family: key.family, input: key.input }, key.collation);
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

    fn gin(&mut self, target: &Relation, attributes: &[i16], columns: &[size::Column]) -> size::Estimate {
        let several = self.keys.len() > 1;
        let (mut groups, mut weighed, mut count) = (Vec::new(), 0.0, 0.0);
        for ((key, attribute), column) in self.keys.iter().zip(attributes).zip(columns) {
            let _ = attribute;
            let found = vec![size::gin::Group { keys: column.distinct, rows: 1.0 }];
            let bytes = size::gin::key_bytes(column.width, several);
            let keys: f64 = found.iter().map(|group| group.keys).sum();
            let _ = key;
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
}

/// An expression has no statistics before its index exists: its type's usual width, all values distinct.
fn expression_column(key: &KeyPart, target: &Relation) -> size::Column {
    // SAFETY: the expression is a valid analysed node tree that outlives this description.
    let width = unsafe { pg_sys::get_typavgwidth(key.type_oid, pg_sys::exprTypmod(key.expression)) };
    size::Column {
        width: f64::from(width),
        align: 1.0,
        widths: Vec::new(),
        null_fraction: 0.0,
        distinct: target.tuples.max(1.0),
        common: Vec::new(),
    }
}
