//! Whether to split a database over several nodes, and by what. "Don't" is an answer like any other.
//!
//! Columns that joins and foreign keys hold equal form classes (as do those that transactions give equal values, and
//! those of one name unless transactions tell otherwise); a class of columns is a candidate for the key. Under a
//! candidate every relation is distributed by its column of the class, copied to all nodes (small and rarely written),
//! or stays where it is. Then every captured statement and transaction is asked how many nodes it would visit. All
//! limits are constants of this module, each with its reason. Pure: facts are handed in, nothing is looked up, nothing
//! panics.
//!
//! The rules about what Citus refuses are those of its documentation ("Choosing Distribution Column", "SQL Support and
//! Workarounds", "Creating and Modifying Distributed Objects").

mod balance;
mod candidates;
mod check;
mod place;
mod report;

use candidates::{Candidates, Facts};
pub use report::{Advice, Candidate, Ddl, TimeShares, Verdict};

/// Transactions that must touch one key value only, in percent. The project's policy: every other one pays for several
/// nodes and for a commit in two phases.
pub const SINGLE_SHARD_MIN_PCT: f64 = 90.0;
/// The load of the busiest node over the mean may be this. Beyond it a third of what was bought stands idle.
pub const IMBALANCE_MAX: f64 = 1.5;
/// While a larger machine lasts at least this long, it is the cheaper answer.
pub const HEADROOM_MONTHS: f64 = 12.0;
/// Copies of a table on all nodes may add this part to what the database stores ...
pub const COPIES_STORAGE_SHARE: f64 = 0.1;
/// ... or this many bytes in all, whichever is more.
pub const COPIES_BYTES: f64 = 1_073_741_824.0;
/// Writes to a copied table are made on every node. The time they take now may be this part of the workload's.
pub const COPIES_WRITE_SHARE: f64 = 0.01;
/// A statement that visits every node costs each of them this in planning, a round trip and its start, in milliseconds:
/// an assumption about nodes in one data centre.
pub const NODE_CALL_MS: f64 = 0.5;
/// Rows that must move between nodes are read, sent, and read again: an assumption, and a kind one.
pub const MOVED_FACTOR: f64 = 2.0;
/// While more than this part of the transactions, or of the time, is not known, nothing is split.
pub const MISSING_SHARE_MAX: f64 = 0.1;
/// Candidates looked at, by the time of the statements that use them.
const CANDIDATES_MAX: usize = 24;

/// What a type means for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeClass {
    /// Can be a key: integers, uuid, text and the like.
    Key,
    /// A date or time: new rows and nearly all reads would go to whatever holds today.
    Time,
    /// No key: boolean, floating point, json, arrays, or a type without a hash function.
    Other,
}

/// A column and what its statistics say.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name, not quoted.
    pub name: String,
    /// Number of different values (absolute: not the negative form of pg_statistic).
    pub n_distinct: f64,
    /// Share of NULLs, 0..1.
    pub null_fraction: f64,
    /// Shares of the rows that the most common values have, 0..1, largest first or not.
    pub most_common: Vec<f64>,
    /// Whether a captured statement assigns to it in an UPDATE.
    pub updated: bool,
    /// Kind of type.
    pub class: TypeClass,
    /// Its type, and its collation where it has one of its own: rows lie together by values of one type only.
    pub type_name: String,
    /// Whether its default is a sequence of a type smaller than bigint.
    pub narrow_sequence: bool,
}

/// A unique, primary key or exclusion constraint, or a unique index.
#[derive(Debug, Clone)]
pub struct Unique {
    /// Its name, for messages.
    pub name: String,
    /// Indexes into the relation's columns.
    pub columns: Vec<usize>,
}

/// A table.
#[derive(Debug, Clone)]
pub struct Relation {
    /// Qualified, quoted where needed: it goes into DDL and messages as it is.
    pub name: String,
    /// Rows.
    pub rows: f64,
    /// Bytes with indexes and TOAST.
    pub bytes: f64,
    /// Its columns.
    pub columns: Vec<Column>,
    /// What must be unique.
    pub unique: Vec<Unique>,
    /// Names of its triggers, without those of foreign keys.
    pub triggers: Vec<String>,
    /// What else keeps it from being distributed, as text: a rule, an inheriting table, a foreign table ...
    pub obstacles: Vec<String>,
}

/// A foreign key.
#[derive(Debug, Clone)]
pub struct ForeignKey {
    /// Its name, for messages.
    pub name: String,
    /// Index of the relation that refers.
    pub from: usize,
    /// Index of the relation referred to.
    pub to: usize,
    /// Columns of `from` and the columns of `to` they refer to.
    pub columns: Vec<(usize, usize)>,
    /// Whether what it does on DELETE or UPDATE gives its columns other values.
    pub changes_columns: bool,
}

/// A column of a table of a statement: the table's place in `Statement::tables`, and the column.
pub type TableColumn = (usize, usize);

/// A column that a statement wants equal to a value from outside. For INSERT: the value a column of the new row gets.
#[derive(Debug, Clone)]
pub struct Pin {
    /// Which column of which table of the statement.
    pub column: TableColumn,
    /// Which values, as places in `Step::values`; several for IN (...) or for several rows.
    pub slots: Vec<usize>,
}

/// A captured statement.
#[derive(Debug, Clone, Default)]
pub struct Statement {
    /// Its queryid or another name, for messages.
    pub id: i64,
    /// Time all its calls took.
    pub total_ms: f64,
    /// How often it was called.
    pub calls: f64,
    /// Relation of every entry of its range table; a relation that is used twice is here twice.
    pub tables: Vec<usize>,
    /// Equalities between columns that hold for every row of the result.
    pub joins: Vec<(TableColumn, TableColumn)>,
    /// Equalities with values.
    pub pins: Vec<Pin>,
    /// Tables it writes, as places in `tables`.
    pub writes: Vec<usize>,
}

/// A statement within a transaction.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// Index into the statements.
    pub statement: usize,
    /// Hashes of its values, for `Pin::slots`: equal values of any type have equal hashes, so hash the text. What is
    /// missing or None is not known.
    pub values: Vec<Option<u64>>,
}

/// A transaction that was seen.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// Its statements, in order.
    pub steps: Vec<Step>,
    /// How often it was seen.
    pub times: f64,
    /// It did more than is in `steps`, and nobody knows what.
    pub incomplete: bool,
}

/// Everything there is to judge by.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Tables.
    pub relations: Vec<Relation>,
    /// Foreign keys between them.
    pub foreign_keys: Vec<ForeignKey>,
    /// Statements.
    pub statements: Vec<Statement>,
    /// Transactions. Without any, every call of a statement counts as one.
    pub transactions: Vec<Transaction>,
    /// Nodes to split over; fewer than two are taken for two.
    pub nodes: u32,
    /// Months until the largest sensible machine is full; infinite: never by the forecast. None: not known.
    pub headroom_months: Option<f64>,
    /// Share of the time of all statements, 0..1, that is of statements which are not in `statements`: nobody knows what
    /// they do.
    pub missing_share: f64,
}

/// What a relation becomes under a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Split by this column.
    Distributed(usize),
    /// A copy on every node.
    Reference,
    /// Stays on one node.
    Local,
}

/// How many nodes a statement visits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// One, the one that the values of these slots lead to; more if the values differ.
    Keyed(Vec<usize>),
    /// Any one: it reads copies only, or no table.
    Anywhere,
    /// All, each on its own: what is joined lies together.
    Everywhere,
    /// All, and rows must move between them.
    Moving,
    /// All: it writes a table that is copied.
    Copies,
    /// The one that holds what is not distributed.
    Local,
}

/// Looks at every candidate and says what to do.
pub fn advise(workload: &Workload) -> Advice {
    let facts = Facts::of(workload);
    let mut found: Vec<Candidate> = Candidates::of(&facts).into_iter().map(|c| report::judge(&facts, &c)).collect();
    found.sort_by(|a, b| {
        let fitness = |c: &Candidate| match c.verdict {
            Verdict::Unsuitable => c.single_shard_pct,
            _ => c.predicted_speedup,
        };
        // Stable: of equal ones the one that is used most stays first.
        a.verdict.cmp(&b.verdict).then(fitness(b).total_cmp(&fitness(a)))
    });
    Advice::of(found)
}

#[cfg(test)]
mod tests;
