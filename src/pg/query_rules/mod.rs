//! Looks for what could be written better in one statement, and writes it: on the server's own analysed tree, which is changed
//! and printed by the server. Parse analysis only: nothing is rewritten by rules, planned or executed.
//!
//! Called by the adviser on captured statements. Locks what analysing the statement locks, in a subtransaction that is always
//! rolled back: locks, settings and role are as before when [`look`] returns.
//!
//! `tree` has the tools, `print` makes texts of trees and takes the literals out, `predicates` looks at single conditions,
//! `subqueries` at queries within conditions and in FROM, `whole` at the statement as one.

mod correlated;
mod predicates;
mod print;
mod subqueries;
mod tree;
mod whole;

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

use perf_core::rewrite::Rule;
use pgrx::pg_sys;

use super::planner::analysis::{self, Sender};
use super::planner::{self, Failure, Parameter};
use super::{ident, role};
use crate::indexes::OWN_SCHEMA;
use print::Printer;
pub use whole::Read;

/// Conditions of one statement that are looked at.
const CONDITIONS_MAX: usize = 64;

/// A statement to look at: a sample of its executions.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// One statement, as it was sent.
    pub text: &'a str,
    /// `search_path` it was sent with; None for the current one.
    pub search_path: Option<&'a str>,
    /// Whose names it uses, and as whom it is analysed: a role that the caller could become.
    pub role: pg_sys::Oid,
    /// Values of its parameters, as far as they are known.
    pub parameters: &'a [Parameter],
    /// Never wait longer for a lock that somebody else holds.
    pub lock_timeout_ms: u32,
}

/// A statement written anew.
#[derive(Clone, Debug)]
pub struct Written {
    /// With the sample's literals: to be planned, never shown.
    pub sample: String,
    /// With `$n` in the place of each literal, numbered as normalising numbers them; None where that cannot be done.
    pub shown: Option<String>,
}

/// One thing that could be better.
#[derive(Clone, Debug)]
pub struct Finding {
    pub rule: Rule,
    /// What it is about, for whoever reads it.
    pub what: String,
    /// What to do, and under which conditions both give the same rows.
    pub note: String,
    /// A column with an index, without which it is no finding.
    pub indexed: Option<(pg_sys::Oid, i16)>,
    /// Columns that must not hold NULLs for both to give the same rows.
    pub not_null: Vec<(pg_sys::Oid, i16)>,
    /// The better statement.
    pub written: Option<Written>,
    /// Both may give different rows.
    pub changes_result: bool,
    /// A literal that the better statement is right for, but no other: statements that differ in it have the same text.
    pub fixed: Option<&'static str>,
    /// DDL that helps instead.
    pub ddl: Option<String>,
    /// The better statement's cost is a bound of what it can be told to cost; it is no equivalent to show.
    pub is_bound: bool,
}

impl Finding {
    fn new(rule: Rule, what: impl Into<String>, note: impl Into<String>) -> Finding {
        Finding {
            rule,
            what: what.into(),
            note: note.into(),
            indexed: None,
            not_null: Vec::new(),
            written: None,
            changes_result: false,
            fixed: None,
            ddl: None,
            is_bound: false,
        }
    }
}

/// What was seen of a statement.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What could be better.
    pub findings: Vec<Finding>,
    /// All tables that it names; none where one of them is of the catalogs or of this extension.
    pub relations: Vec<pg_sys::Oid>,
    /// Tables that its outermost query reads.
    pub reads: Vec<Read>,
    /// It is one search by one value: the same for many values at once.
    pub batch: Option<Written>,
}

/// Why a statement was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It takes longer than the call's [`Deadline`](planner::Deadline) allows.
    TimedOut,
    /// It cannot be analysed, or not by the caller.
    Unclear,
}

/// Looks at one statement.
pub fn look(source: &Source<'_>, repeats: usize) -> Result<Seen, Unseen> {
    // Analysing a text runs code: reading a literal checks constraints of domains. Whoever sent it chose that code, so it
    // never runs as anybody else.
    if source.role == pg_sys::InvalidOid || !role::may_plan_as(source.role) {
        return Err(Unseen::Unclear);
    }
    let (search_path, role, lock_timeout_ms) = (source.search_path, Some(source.role), Some(source.lock_timeout_ms));
    let look = || {
        let text = ident::until_nul(source.text);
        // SAFETY: inside a subtransaction with a memory context of its own that is rolled back.
        unsafe { seen(source, &text, repeats) }
    };
    // SAFETY: as above.
    let seen =
        planner::within_time(|| unsafe { analysis::in_place_of(Sender { search_path, role, lock_timeout_ms }, look) });
    match seen {
        Ok(Ok(seen)) => Ok(seen),
        Err(Failure::TimedOut) => Err(Unseen::TimedOut),
        Ok(Err(_)) | Err(_) => Err(Unseen::Unclear),
    }
}

/// Runs `body` in a subtransaction that is rolled back. An ERROR other than a cancel request and the like is its message.
/// `body` must return nothing that the server allocated.
pub fn guarded<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    planner::in_subtransaction(AssertUnwindSafe(body))
        .map_err(|caught| Failure::Raised(planner::unless_fatal(caught)).message())
}

/// Runs `body` with a setting of the caller's, as long as it lasts.
pub fn with_setting<R>(name: &CStr, value: &str, body: impl FnOnce() -> R) -> Result<R, String> {
    guarded(|| {
        // SAFETY: inside a subtransaction that is rolled back.
        unsafe { analysis::set_locally(name, value) };
        body()
    })
}

/// # Safety
/// Inside a subtransaction that is rolled back, in the sender's place.
unsafe fn seen(source: &Source<'_>, text: &CStr, repeats: usize) -> Result<Seen, String> {
    // SAFETY: see the function's contract; trees are the server's own and live in the scratch context.
    unsafe {
        let Analyzed { raw, query, .. } = analyzed(text, source.parameters)?;
        let relations = tree::relations(query);
        // What is cheap to know comes first: all else is in vain where nothing is to be told.
        if relations.is_empty() || relations.iter().any(|oid| is_nobodys(*oid)) {
            return Ok(Seen::default());
        }
        let printer = Printer::new(text, query, source.parameters);
        let mut seen = Seen { relations, reads: whole::reads(query), ..Seen::default() };
        let mut look = Look { query, raw, source, printer, findings: Vec::new() };
        predicates::look(&mut look);
        subqueries::look(&mut look);
        whole::look(&mut look);
        seen.batch = (repeats > 1).then(|| look.ask(|look| predicates::batch(look, repeats))).flatten();
        seen.findings = look.findings;
        Ok(seen)
    }
}

/// Whether a table is of the catalogs or of this extension: nobody's to write other statements for.
fn is_nobodys(relation: pg_sys::Oid) -> bool {
    // SAFETY: syscache look-ups; the name is ours to free.
    let schema = unsafe { ident::owned(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation))) };
    schema.is_some_and(|schema| ["pg_catalog", "information_schema", OWN_SCHEMA].contains(&schema.as_str()))
}

/// What the rules work on.
struct Look<'a> {
    /// The statement as analysed; never changed.
    query: *mut pg_sys::Query,
    /// The statement as parsed.
    raw: *mut pg_sys::Node,
    source: &'a Source<'a>,
    printer: Printer<'a>,
    findings: Vec<Finding>,
}

impl Look<'_> {
    /// What a rule finds; nothing where it raises an ERROR, so that the others are heard. What it gives is nothing of the
    /// server's.
    fn ask<R>(&self, rule: impl FnOnce(&Self) -> Option<R>) -> Option<R> {
        guarded(|| rule(self)).ok().flatten()
    }
}

/// A statement as parsed and as analysed.
struct Analyzed {
    raw: *mut pg_sys::Node,
    query: *mut pg_sys::Query,
    /// Types of `$1`, `$2`, ...; zero for one that is not used.
    types: Vec<pg_sys::Oid>,
}

/// Analyses one statement, without other extensions looking on.
///
/// # Safety
/// Inside a subtransaction that is rolled back, with an active snapshot.
unsafe fn analyzed(text: &CStr, parameters: &[Parameter]) -> Result<Analyzed, String> {
    // SAFETY: see the function's contract.
    unsafe {
        let raw = analysis::only_statement(text).map_err(|failure| failure.message())?;
        analysis::unwrap_query(raw);
        // Analysis scribbles on what it is given.
        let kept = pg_sys::copyObjectImpl((*raw).stmt.cast()).cast();
        let (query, types) = analysis::with_types(raw, text, parameters);
        if (*query).commandType == pg_sys::CmdType::CMD_UTILITY {
            return Err(Failure::Utility.message());
        }
        Ok(Analyzed { raw: kept, query, types })
    }
}
