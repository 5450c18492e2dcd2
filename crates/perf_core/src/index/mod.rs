//! Index selection without a server: what a statement asks of a relation becomes candidates ([`candidates`]), candidates
//! of many statements are merged ([`merge`]) and chosen under a budget ([`select`]); [`size`] prices an index in bytes,
//! [`name`] gives it a name and an id; [`upkeep`] judges the indexes that exist.
//!
//! Everything is a pure function over plain values; the planner is behind the trait [`select::CostOracle`].

pub mod candidates;
pub mod merge;
pub mod name;
pub mod select;
pub mod size;
pub mod upkeep;

/// The access method of a candidate. Further kinds (GIN, BRIN, hash) get a variant here and an arm where one is priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Ordered keys.
    Btree,
}

impl Kind {
    /// The access method's name in `pg_am`.
    pub fn access_method(self) -> &'static str {
        match self {
            Kind::Btree => "btree",
        }
    }
}

/// One key column of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Attribute number in the relation.
    pub column: i16,
    /// `DESC`.
    pub descending: bool,
    /// `NULLS FIRST`.
    pub nulls_first: bool,
}

impl Key {
    /// `ASC NULLS LAST`, the default.
    pub fn ascending(column: i16) -> Self {
        Key { column, descending: false, nulls_first: false }
    }

    /// Whether this is the default order.
    pub fn is_default(self) -> bool {
        !self.descending && !self.nulls_first
    }

    /// The same key read backwards.
    pub fn reversed(self) -> Self {
        Key { column: self.column, descending: !self.descending, nulls_first: !self.nulls_first }
    }
}

/// An index that does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// OID of the relation.
    pub relation: u32,
    /// Access method.
    pub kind: Kind,
    /// Key columns in order; never empty.
    pub keys: Vec<Key>,
    /// How many leading keys are compared for equality by the statement that asked: these may be reordered.
    pub free: usize,
}

impl Candidate {
    /// The key columns' attribute numbers.
    pub fn columns(&self) -> Vec<i16> {
        self.keys.iter().map(|key| key.column).collect()
    }

    /// Whether `self` can stand in for `other`: same relation and kind, and `other`'s keys are a prefix of its own, read
    /// forwards or backwards.
    pub fn covers(&self, other: &Candidate) -> bool {
        self.relation == other.relation && self.kind == other.kind && keys_cover(&self.keys, &other.keys)
    }

    /// Whether both describe the same index but for the bookkeeping in `free`.
    pub fn same_index(&self, other: &Candidate) -> bool {
        self.relation == other.relation && self.kind == other.kind && self.keys == other.keys
    }
}

/// Whether an index on `keys` serves all that one on `wanted` does: `wanted` is a prefix, read forwards or backwards.
pub fn keys_cover(keys: &[Key], wanted: &[Key]) -> bool {
    if wanted.is_empty() || keys.len() < wanted.len() {
        return false;
    }
    let pairs = || keys.iter().zip(wanted);
    pairs().all(|(key, want)| key == want) || pairs().all(|(key, want)| key.reversed() == *want)
}
