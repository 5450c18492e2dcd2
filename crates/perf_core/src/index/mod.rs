//! Index selection without a server: what a statement asks of a relation becomes candidates ([`candidates`]), candidates
//! of many statements are merged ([`merge`]) and chosen under a budget ([`select`]); [`size`] prices an index in bytes,
//! [`name`] gives it a name and an id; [`ledger`] remembers plans, [`work`] values them; [`pattern`] reads what a text is
//! matched with; [`upkeep`] judges the indexes that exist; [`settled`] takes out of measured times what indexes have saved
//! since.
//!
//! Everything is a pure function over plain values; the planner is behind the trait [`ledger::Planner`].

pub mod candidates;
pub mod ledger;
pub mod maintenance;
pub mod merge;
pub mod name;
pub mod needs;
pub mod pattern;
pub mod select;
pub mod settled;
pub mod size;
pub mod upkeep;
pub mod work;

/// The access method of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Ordered keys.
    Btree,
    /// Hashes of one key.
    Hash,
    /// Summaries of block ranges.
    Brin,
    /// Elements within values.
    Gin,
}

impl Kind {
    /// The access method's name in `pg_am`.
    pub fn access_method(self) -> &'static str {
        match self {
            Kind::Btree => "btree",
            Kind::Hash => "hash",
            Kind::Brin => "brin",
            Kind::Gin => "gin",
        }
    }
}

/// What a key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A column, by attribute number.
    Column(i16),
    /// An expression, by its number in the caller's table of expressions.
    Expression(u32),
}

/// One key of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Column or expression.
    pub part: Part,
    /// OID of the operator class; 0 for the type's default.
    pub opclass: u32,
    /// `DESC`.
    pub descending: bool,
    /// `NULLS FIRST`.
    pub nulls_first: bool,
}

impl Key {
    /// `ASC NULLS LAST` with the default operator class.
    pub fn of(part: Part) -> Self {
        Key { part, opclass: 0, descending: false, nulls_first: false }
    }

    /// The same for a column.
    pub fn ascending(column: i16) -> Self {
        Key::of(Part::Column(column))
    }

    /// Whether this is the default order.
    pub fn is_default(self) -> bool {
        !self.descending && !self.nulls_first
    }

    /// The same key read backwards.
    pub fn reversed(self) -> Self {
        Key { descending: !self.descending, nulls_first: !self.nulls_first, ..self }
    }

    /// The column, if it is one.
    pub fn column(self) -> Option<i16> {
        match self.part {
            Part::Column(column) => Some(column),
            Part::Expression(_) => None,
        }
    }
}

/// An index that does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// OID of the relation.
    pub relation: u32,
    /// Access method.
    pub kind: Kind,
    /// Keys in order; never empty.
    pub keys: Vec<Key>,
    /// INCLUDE columns.
    pub include: Vec<i16>,
    /// The predicate, by its number in the caller's table of expressions.
    pub predicate: Option<u32>,
    /// How many leading keys are compared for equality by the statement that asked: these may be reordered.
    pub free: usize,
}

impl Candidate {
    /// A B-tree on all rows.
    pub fn btree(relation: u32, keys: Vec<Key>, free: usize) -> Self {
        Candidate { relation, kind: Kind::Btree, keys, include: Vec::new(), predicate: None, free }
    }

    /// What the keys are made of.
    pub fn parts(&self) -> Vec<Part> {
        self.keys.iter().map(|key| key.part).collect()
    }

    /// Whether `self` can stand in for `other`: `other`'s keys are a prefix of its own, read forwards or backwards, its
    /// INCLUDE columns are there, and both are of the same kind and on the same rows.
    pub fn covers(&self, other: &Candidate) -> bool {
        let holds = |column: &i16| {
            self.include.contains(column) || self.keys.iter().any(|key| key.part == Part::Column(*column))
        };
        self.relation == other.relation
            && self.kind == other.kind
            && self.predicate == other.predicate
            && match self.kind {
                Kind::Btree => keys_cover(&self.keys, &other.keys),
                Kind::Hash | Kind::Brin | Kind::Gin => self.keys == other.keys,
            }
            && other.include.iter().all(holds)
    }

    /// Whether both describe the same index but for the bookkeeping in `free`.
    pub fn same_index(&self, other: &Candidate) -> bool {
        self.relation == other.relation
            && self.kind == other.kind
            && self.keys == other.keys
            && self.include == other.include
            && self.predicate == other.predicate
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
