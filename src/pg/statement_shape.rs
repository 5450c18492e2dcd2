//! What a statement touches and by what: its tables, the columns it holds equal to each other and to values from outside,
//! what it writes. Parse analysis and rewriting only: views are expanded, nothing is planned or executed.
//!
//! Called by the readers of the workload. Locks what analysing the statement locks, in a subtransaction that is always
//! rolled back: locks, settings and role are as before when [`of`] returns.
//!
//! `query` walks the rewritten trees, `conditions` what their rows are asked, `notes` looks at everything in them,
//! `resolve` follows expressions to columns of tables and to values.

mod conditions;
mod notes;
mod query;
mod resolve;
mod variables;

use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::{pg_sys, PgList};

use super::planner::analysis::{self, Sender};
use super::planner::{self, Failure};
use super::{ident, role};
use query::Walker;

/// Slots from here on stand for values that are in no list of values: two different ones may be equal or not.
pub const UNKNOWN_SLOT: usize = 1 << 20;

/// A statement to look at.
pub struct Source<'a> {
    /// One statement.
    pub text: &'a str,
    /// `search_path` it was sent with.
    pub search_path: Option<&'a str>,
    /// Whose names it uses, and as whom it is analysed: a role that the caller could become.
    pub role: pg_sys::Oid,
    /// It ran within a function: names of columns that do not exist are the function's variables.
    pub nested: bool,
    /// Types of its parameters, where they are known.
    pub parameters: &'a [pg_sys::Oid],
    /// Never wait longer for a lock that somebody else holds.
    pub lock_timeout_ms: u32,
}

/// A column of a table of a statement: the table's place in `Shape::tables`, and the column's number.
pub type TableColumn = (usize, i16);

/// A column that a statement wants equal to a value from outside. For INSERT: the value a column of the new row gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Pin {
    /// Which column of which table.
    pub column: TableColumn,
    /// Which values: places in the list of its parameters and literals, or from [`UNKNOWN_SLOT`] on. Several for IN (...)
    /// or for several rows.
    pub slots: Vec<usize>,
}

/// What a statement does, as far as its text says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Command {
    /// It reads.
    #[default]
    Select,
    /// It writes: INSERT, UPDATE, DELETE, MERGE, COPY FROM, at any depth.
    Write,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// What it does.
    pub command: Command,
    /// Tables in use, a table that is used twice twice. Catalogs and temporary tables are left out.
    pub tables: Vec<pg_sys::Oid>,
    /// Equalities between columns that hold for every row, or by which rows of an outer join find each other.
    pub joins: Vec<(TableColumn, TableColumn)>,
    /// Equalities with values.
    pub pins: Vec<Pin>,
    /// Tables it writes, as places in `tables`.
    pub writes: Vec<usize>,
    /// Columns that an UPDATE sets, as (table, column).
    pub updated: Vec<(pg_sys::Oid, i16)>,
    /// It takes row locks: FOR UPDATE and the like.
    pub locks_rows: bool,
    /// It calls a volatile function that is not known to be harmless.
    pub volatile: bool,
    /// It calls functions that are not the server's own.
    pub calls_functions: bool,
    /// Row security leaves rows out for its role.
    pub row_security: bool,
    /// What it finds depends on who asks, or when: `current_user`, `now()`, a setting.
    pub circumstances: bool,
    /// What it finds depends on the time.
    pub clock: bool,
    /// What it finds depends on the session: who asks, or a setting that it looks at.
    pub session: bool,
    /// It calls volatile functions, harmless ones too.
    pub any_volatile: bool,
    /// A stable function that it calls and of which it is not known on what it depends, or `None`.
    pub unknown_stable: Option<String>,
    /// It calls functions that are not the server's own, and not immutable or not known to be.
    pub own_changing: bool,
    /// It uses temporary tables.
    pub temporary: bool,
    /// It reads catalogs, or tables of this extension.
    pub catalogs: bool,
    /// It names tables, views or functions of this extension.
    pub extension: bool,
    /// It sums up or sorts out rows: GROUP BY, aggregates, DISTINCT.
    pub aggregates: bool,
    /// It has parameters or normalised literals.
    pub parameters: bool,
}

impl Shape {
    /// Whether it is about this extension alone: it names something of it, and no table or function of anybody else but the
    /// server.
    pub fn is_of_extension(&self) -> bool {
        self.extension && self.is_of_nobody()
    }

    /// Whether it reads and writes no table and calls no function but the server's and this extension's.
    pub fn is_of_nobody(&self) -> bool {
        self.tables.is_empty() && !self.temporary && !self.calls_functions
    }
}

/// Why there is no shape.
pub enum Unclear {
    /// It is a utility statement without a query.
    Utility,
    /// It cannot be analysed: what the server says.
    Failed(String),
}

/// Looks at one statement.
pub fn of(source: &Source<'_>) -> Result<Shape, Unclear> {
    // Analysing a text runs code: reading a literal checks constraints of domains. Whoever sent it chose that code, so it
    // never runs as anybody else.
    if source.role == pg_sys::InvalidOid || !role::may_plan_as(source.role) {
        return Err(Unclear::Failed("you may not become its role, or the role is gone".to_owned()));
    }
    let outcome = planner::in_subtransaction(AssertUnwindSafe(|| {
        let (search_path, role, lock_timeout_ms) =
            (source.search_path, Some(source.role), Some(source.lock_timeout_ms));
        // SAFETY: inside a subtransaction with a memory context of its own that is rolled back.
        unsafe { analysis::in_place_of(Sender { search_path, role, lock_timeout_ms }, || rewritten(source)) }
    }));
    match outcome {
        Ok(result) => result,
        Err(caught) => Err(Unclear::Failed(Failure::Raised(planner::unless_fatal(caught)).message())),
    }
}

/// What a statement that is rewritten already depends on besides the rows of its tables: only what [`Shape`] says of its
/// functions, its tables and of row security is filled in.
///
/// # Safety
/// Valid lists: of rewritten queries, and of the OIDs of all relations that they name.
pub unsafe fn dependence(queries: *mut pg_sys::List, relations: *mut pg_sys::List) -> Shape {
    let mut shape = Shape::default();
    // SAFETY: as promised.
    unsafe {
        for query in PgList::<pg_sys::Node>::from_pg(queries).iter_ptr() {
            notes::note_node(query, (&raw mut shape).cast());
        }
        for relation in PgList::<pg_sys::Oid>::from_pg(relations).iter_oid() {
            query::add_table(&mut shape, relation);
        }
    }
    shape
}

/// # Safety
/// Inside a subtransaction that is rolled back, in the sender's place.
unsafe fn rewritten(source: &Source<'_>) -> Result<Shape, Unclear> {
    let text = ident::until_nul(source.text);
    let known = highest_parameter(source.text).max(source.parameters.len());
    // SAFETY: see the function's contract; what the parser makes is valid until the scratch context goes.
    unsafe {
        let raw = analysis::only_statement(&text).map_err(|failure| Unclear::Failed(failure.message()))?;
        analysis::unwrap_query(raw);
        if (*(*raw).stmt).type_ == pg_sys::NodeTag::T_CopyStmt {
            return Ok(copied((*raw).stmt.cast()));
        }
        let mut parameters = variables::Parameters::new(source.parameters, known, source.nested);
        let context = (&raw mut parameters).cast();
        let query = analysis::silenced(|| {
            pg_sys::parse_analyze_withcb(raw, text.as_ptr(), Some(variables::set_up), context, ptr::null_mut())
        });
        if (*query).commandType == pg_sys::CmdType::CMD_UTILITY {
            let utility = (*query).utilityStmt;
            if (*utility).type_ != pg_sys::NodeTag::T_CallStmt {
                return Err(Unclear::Utility);
            }
            let mut shape = Shape::default();
            notes::note_node((*utility.cast::<pg_sys::CallStmt>()).funcexpr.cast(), (&raw mut shape).cast());
            return Ok(shape);
        }
        let mut walker = Walker::new(known);
        walker.shape.parameters = parameters.any();
        walker.shape.aggregates = (*query).hasAggs
            || !(*query).groupClause.is_null()
            || !(*query).distinctClause.is_null()
            || !(*query).groupingSets.is_null();
        for query in PgList::<pg_sys::Query>::from_pg(pg_sys::pg_rewrite_query(query)).iter_ptr() {
            if (*query).commandType != pg_sys::CmdType::CMD_UTILITY {
                walker.note(query);
                walker.query(query, None);
            }
        }
        walker.finish()
    }
}

/// COPY of a table.
///
/// # Safety
/// `copy` is valid.
unsafe fn copied(copy: *mut pg_sys::CopyStmt) -> Shape {
    let mut shape = Shape::default();
    // SAFETY: as promised; a look-up that returns zero for what does not exist.
    unsafe {
        let relation = (*copy).relation;
        if !relation.is_null() {
            let flags = pg_sys::RVROption::RVR_MISSING_OK;
            let none = pg_sys::NoLock as pg_sys::LOCKMODE;
            let oid = pg_sys::RangeVarGetRelidExtended(relation, none, flags, None, ptr::null_mut());
            let place = query::add_table(&mut shape, oid);
            if (*copy).is_from {
                shape.command = Command::Write;
                shape.writes.extend(place);
            }
        }
    }
    shape
}

/// The highest n of any `$n` in a text.
fn highest_parameter(text: &str) -> usize {
    let numbers = text.split('$').skip(1).map(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).take(5).count();
        rest[..digits].parse::<usize>().unwrap_or(0)
    });
    numbers.max().unwrap_or(0)
}
