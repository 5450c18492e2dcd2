//! The partitions of a table, and what they have already of an index that the whole is to get. Read when a table is first
//! looked at; reads catalogs, and locks each partition as reading it does.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use pgrx::pg_sys;

use super::{ddl, existing};
use crate::pg::catalog::{self, Partition, PartitionKind};
use crate::pg::expressions::Expressions;
use crate::pg::relation::Relation;

/// An index of a partition that the same index of the whole can take in as its part.
#[derive(Clone, Debug)]
pub struct Ready {
    /// OID.
    pub oid: pg_sys::Oid,
    /// Name, unquoted; its schema is the partition's.
    pub name: String,
    /// As `ddl::definition` writes it: the same for indexes that are the same, however partitions number their columns.
    definition: String,
}

/// What an index of the whole does in one partition.
pub struct Part<'a> {
    /// The partition.
    pub partition: &'a Partition,
    /// Its own index, which becomes the part; None when one is to be made.
    pub ready: Option<&'a Ready>,
}

/// All partitions of a table, at every depth.
#[derive(Clone, Debug, Default)]
pub struct Partitions {
    /// Those nearer to the table first.
    tree: Vec<Partition>,
    /// By OID of the partition.
    ready: HashMap<u32, Vec<Ready>>,
}

impl Partitions {
    /// Reads them; `leaves` are those that have storage here and can be looked at now. None of a table without.
    pub fn of(relation: &Relation, leaves: &[Relation], expressions: &RefCell<Expressions>) -> Self {
        if relation.kind != b'p' {
            return Partitions::default();
        }
        let tree = catalog::partitions(relation.oid);
        let known: HashMap<u32, &Relation> = leaves.iter().map(|leaf| (leaf.oid.to_u32(), leaf)).collect();
        let oids: Vec<pg_sys::Oid> = tree.iter().map(|part| part.oid).collect();
        let mut ready: HashMap<u32, Vec<Ready>> = HashMap::new();
        for index in existing::attachable(&oids) {
            let oid = index.relation;
            let read = || Relation::read(oid).ok();
            let Some(relation) = known.get(&oid.to_u32()).map(|known| (*known).clone()).or_else(read) else { continue };
            let Some(candidate) = existing::described(&relation, &index, &mut expressions.borrow_mut()) else {
                continue;
            };
            let definition = ddl::definition(&relation, &candidate, &expressions.borrow());
            ready.entry(oid.to_u32()).or_default().push(Ready { oid: index.oid, name: index.name, definition });
        }
        Partitions { tree, ready }
    }

    /// The foreign tables among them.
    pub fn foreign(&self) -> impl Iterator<Item = &Partition> {
        self.tree.iter().filter(|part| part.kind == PartitionKind::Foreign)
    }

    /// Whether any has an index that could become a part of another.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The parts of an index of the whole, those nearer to it first; what comes along with the index of a partition that
    /// has partitions itself is left out.
    pub fn parts_of(&self, definition: &str) -> Vec<Part<'_>> {
        let mut served = HashSet::new();
        let mut parts = Vec::new();
        for partition in &self.tree {
            let oid = partition.oid.to_u32();
            if served.contains(&partition.parent.to_u32()) {
                served.insert(oid);
                continue;
            }
            let same = |ready: &&Ready| ready.definition == definition;
            let ready = self.ready.get(&oid).and_then(|ready| ready.iter().find(same));
            if ready.is_some() {
                served.insert(oid);
            }
            if partition.kind != PartitionKind::Foreign {
                parts.push(Part { partition, ready });
            }
        }
        parts
    }

    /// OIDs of the partitions with storage that have their part of an index of the whole already.
    pub fn served_by(&self, definition: &str) -> HashSet<u32> {
        let open: HashSet<u32> = self
            .parts_of(definition)
            .iter()
            .filter(|part| part.ready.is_none())
            .map(|part| part.partition.oid.to_u32())
            .collect();
        let leaves = self.tree.iter().filter(|part| part.kind == PartitionKind::Plain);
        leaves.map(|part| part.oid.to_u32()).filter(|oid| !open.contains(oid)).collect()
    }
}
