//! What-if planning in the asking backend: one statement, any number of index configurations, nothing executed.
//!
//! Four planner hooks (relation info, path list, statistics of index keys, EXPLAIN's index names) are installed at the first
//! call or at preload, and silent unless this backend is inside [`plan`]: see `hooks`. They also look at the planner's own
//! parameter list, so that a query which some user function plans while ours is being planned is left alone. `request` is
//! what is asked and answered, `analysis` how a text becomes a query, `harvest` what a statement asks of its relations, `plan_tree` and `work` read finished plans.
//!
//! Called by the advisors and by `perf.what_if`. Locks what the statement's own planning locks, in a subtransaction that is
//! always rolled back: locks, settings, role, snapshots and memory are as before when [`plan`] returns or raises. Plan
//! caches are not involved.

pub(super) mod analysis;
mod harvest;
mod hooks;
mod limit;
mod plan_tree;
mod request;
mod work;

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{pg_sys, PgList, PgMemoryContexts, PgSqlErrorCode, PgTryBuilder};

use super::cardinality::Corrections;
use super::ident;
use crate::compat;
use analysis::Sender;
pub use hooks::install_hooks;
use hooks::{Active, ActiveGuard};
pub use limit::Deadline;
pub use plan_tree::{Scan, UsedIndex};
use request::report_of;
pub use request::{Configuration, Failure, Parameter, Planned, Statement, WriteCommand};

/// Plans `statement` once for each configuration, in order. An ERROR of the statement is a [`Failure`], and so is the end of
/// the time that a [`Deadline`] leaves; a cancel request, a shutdown and a lack of memory are raised again once everything
/// is as before.
pub fn plan(statement: &Statement<'_>, configurations: &[Configuration<'_>]) -> Result<Vec<Planned>, Failure> {
    install_hooks();
    // SAFETY: inside a subtransaction with a memory context of its own, see `in_subtransaction`.
    within_time(|| unsafe { plan_all(statement, configurations) })?
}

/// Runs `body` as [`in_subtransaction`] does, for no longer than a [`Deadline`] leaves for one statement. An ERROR is a
/// [`Failure`], unless it is one that [`plan`] raises again.
pub(super) fn within_time<R>(body: impl FnOnce() -> R) -> Result<R, Failure> {
    let timed_out = Cell::new(false);
    let outcome = in_subtransaction(|| {
        let _clock = limit::Clock::start(&timed_out);
        body()
    });
    outcome.map_err(|caught| {
        if report_of(&caught).sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED && timed_out.get() {
            return Failure::TimedOut;
        }
        Failure::Raised(unless_fatal(caught))
    })
}

/// Raises a cancel request, a shutdown, a lack of memory or a panic again; anything else is handed back.
pub(super) fn unless_fatal(caught: Box<CaughtError>) -> Box<CaughtError> {
    let code = report_of(&caught).sql_error_code();
    let fatal = matches!(
        code,
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
            | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY
    );
    if fatal || matches!(*caught, CaughtError::RustPanic { .. }) {
        caught.rethrow();
    }
    caught
}

/// The work memory of this session, in kB.
pub fn work_mem_kb() -> i64 {
    // SAFETY: a plain read of a setting of this process.
    i64::from(unsafe { pg_sys::work_mem })
}

/// Runs `body` with a `search_path` of `pg_catalog` alone; None when it raised an ERROR other than those that [`plan`] raises
/// again, which this does too.
pub fn with_catalog_path<R>(body: impl FnOnce() -> R) -> Option<R> {
    in_subtransaction(|| {
        // SAFETY: inside a subtransaction that is rolled back.
        unsafe { analysis::set_locally(c"search_path", "pg_catalog") };
        body()
    })
    .map_err(unless_fatal)
    .ok()
}

/// Runs `body` in a subtransaction and a memory context of its own, both gone afterwards. `body` must return nothing that
/// the server allocated.
pub(super) fn in_subtransaction<R>(body: impl FnOnce() -> R) -> Result<R, Box<CaughtError>> {
    // SAFETY: the pairing of context, owner and subtransaction that PL/pgSQL uses for an exception block: both are saved
    // before and restored after the rollback, which happens on the normal and the error path alike.
    unsafe {
        let outer_context = pg_sys::CurrentMemoryContext;
        let outer_owner = pg_sys::CurrentResourceOwner;
        let mut scratch = PgMemoryContexts::new("perf_opt what-if");
        pg_sys::BeginInternalSubTransaction(ptr::null());
        let result = PgTryBuilder::new(AssertUnwindSafe(|| {
            scratch.set_as_current();
            Ok(body())
        }))
        .catch_others(|caught| Err(Box::new(caught)))
        .execute();
        pg_sys::MemoryContextSwitchTo(outer_context);
        pg_sys::RollbackAndReleaseCurrentSubTransaction();
        pg_sys::MemoryContextSwitchTo(outer_context);
        pg_sys::CurrentResourceOwner = outer_owner;
        drop(scratch);
        result
    }
}

/// # Safety
/// Inside [`in_subtransaction`].
unsafe fn plan_all(statement: &Statement<'_>, configurations: &[Configuration<'_>]) -> Result<Vec<Planned>, Failure> {
    let Statement { search_path, role, lock_timeout_ms, .. } = *statement;
    let plan = || {
        let text = ident::until_nul(statement.text);
        // SAFETY: all nodes live in the scratch context.
        let (queries, has_parameters) = unsafe { analyze(statement, &text) }?;
        // SAFETY: as above.
        let parameters = unsafe { bind(statement) };
        let free = unused_oids(configurations.iter().map(|c| c.hypothetical.len()).max().unwrap_or(0));
        let mut result = Vec::with_capacity(configurations.len());
        for configuration in configurations {
            pgrx::check_for_interrupts!();
            let mut each = PgMemoryContexts::new("perf_opt what-if plan");
            // SAFETY: what is planned is taken out of the context before it goes.
            unsafe {
                let before = each.set_as_current();
                let mut planned = plan_one(&queries, &text, parameters, statement, configuration, &free);
                planned.has_parameters = has_parameters;
                pg_sys::MemoryContextSwitchTo(before.value());
                drop(each);
                result.push(planned);
            }
        }
        Ok(result)
    };
    // SAFETY: see the function's contract.
    unsafe { analysis::in_place_of(Sender { search_path, role, lock_timeout_ms }, plan) }
}

/// Parse analysis and rewriting, without other extensions looking on: the statement is not going to run.
///
/// # Safety
/// Inside [`in_subtransaction`] with an active snapshot.
unsafe fn analyze(statement: &Statement<'_>, text: &CStr) -> Result<(Vec<*mut pg_sys::Query>, bool), Failure> {
    // SAFETY: as above; parse trees and queries are allocated in the scratch context.
    unsafe {
        let raw = analysis::only_statement(text)?;
        if statement.unwrap {
            analysis::unwrap_query(raw);
        }
        let (mut types, mut count) = analysis::types_of(statement.parameters);
        let list = analysis::silenced(|| {
            pg_sys::pg_analyze_and_rewrite_varparams(raw, text.as_ptr(), &mut types, &mut count, ptr::null_mut())
        });
        let queries: Vec<*mut pg_sys::Query> = PgList::<pg_sys::Query>::from_pg(list).iter_ptr().collect();
        if queries.is_empty() || queries.iter().any(|query| (**query).commandType == pg_sys::CmdType::CMD_UTILITY) {
            return Err(Failure::Utility);
        }
        Ok((queries, count > 0))
    }
}

/// A parameter list of our own even without parameters: its address is how the hooks know our planner run.
///
/// # Safety
/// Inside [`in_subtransaction`].
unsafe fn bind(statement: &Statement<'_>) -> pg_sys::ParamListInfo {
    // SAFETY: the list has room for as many elements as are written; input functions get NUL-terminated strings.
    unsafe {
        let list = pg_sys::makeParamList(statement.parameters.len() as i32);
        for (at, parameter) in statement.parameters.iter().enumerate() {
            let slot = (*list).params.as_mut_ptr().add(at);
            (*slot).ptype = parameter.type_oid;
            (*slot).pflags = pg_sys::PARAM_FLAG_CONST as u16;
            match &parameter.value {
                None => (*slot).isnull = true,
                Some(value) => {
                    let (mut input, mut element) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
                    pg_sys::getTypeInputInfo(parameter.type_oid, &mut input, &mut element);
                    let value = ident::until_nul(value);
                    (*slot).isnull = false;
                    (*slot).value = pg_sys::OidInputFunctionCall(input, value.as_ptr().cast_mut(), element, -1);
                }
            }
        }
        list
    }
}

/// OIDs below those of user objects that no relation has.
fn unused_oids(count: usize) -> Vec<pg_sys::Oid> {
    (pg_sys::FirstUnpinnedObjectId..pg_sys::FirstNormalObjectId)
        .rev()
        .map(pg_sys::Oid::from)
        // SAFETY: a syscache lookup that returns zero for what does not exist.
        .filter(|oid| unsafe { pg_sys::get_rel_relkind(*oid) } == 0)
        .take(count)
        .collect()
}

/// # Safety
/// Inside [`plan_all`]; the queries are not changed.
unsafe fn plan_one(
    queries: &[*mut pg_sys::Query],
    text: &CStr,
    parameters: pg_sys::ParamListInfo,
    statement: &Statement<'_>,
    configuration: &Configuration<'_>,
    oids: &[pg_sys::Oid],
) -> Planned {
    let active =
        Active { parameters, configuration: *configuration, oids, needs: RefCell::default(), seen: RefCell::default() };
    let guard = ActiveGuard::set(&active);
    let mut planned = Planned::default();
    for query in queries {
        // SAFETY: the planner scribbles on its input, so it gets a copy; everything is in the caller's scratch context.
        unsafe {
            let copy = pg_sys::copyObjectImpl((*query).cast()).cast::<pg_sys::Query>();
            let plan = pg_sys::standard_planner(copy, text.as_ptr(), pg_sys::CURSOR_OPT_PARALLEL_OK as i32, parameters);
            compat::check_permissions(plan);
            planned.total_cost += (*(*plan).planTree).total_cost;
            planned.rows = (*(*plan).planTree).plan_rows;
            let known = &oids[..oids.len().min(configuration.hypothetical.len())];
            plan_tree::describe(plan, known, &mut planned);
            let corrections = Corrections::of(plan, statement.cardinalities);
            planned.misestimate = corrections.misestimate.into_iter().chain(planned.misestimate).reduce(f64::max);
            planned.work.add_all(&work::of(plan, &active.seen.borrow(), &corrections));
            planned.writes.extend(plan_tree::writes_of(*query, plan));
            if configuration.explain {
                let printed = explain(plan, text, parameters);
                planned.text = Some(planned.text.take().map_or(printed.clone(), |before| before + "\n" + &printed));
            }
        }
    }
    drop(guard);
    planned.needs = active.needs.into_inner();
    planned
}

/// EXPLAIN's text of a plan, hypothetical indexes included: the executor is started for printing only, which opens no index.
///
/// # Safety
/// Inside [`plan_one`].
unsafe fn explain(plan: *mut pg_sys::PlannedStmt, text: &CStr, parameters: pg_sys::ParamListInfo) -> String {
    // SAFETY: the query descriptor is started and ended here; the standard functions are called so that no other extension
    // takes this for an execution; the receiver discards.
    unsafe {
        let generic = (*parameters).numParams == 0;
        let bound = if generic { ptr::null_mut() } else { parameters };
        let descriptor = pg_sys::CreateQueryDesc(
            plan,
            text.as_ptr(),
            pg_sys::GetActiveSnapshot(),
            ptr::null_mut(),
            pg_sys::None_Receiver,
            bound,
            ptr::null_mut(),
            0,
        );
        pg_sys::standard_ExecutorStart(descriptor, compat::explain_flags(generic));
        let state = pg_sys::NewExplainState();
        (*state).costs = true;
        (*state).format = pg_sys::ExplainFormat::EXPLAIN_FORMAT_TEXT;
        pg_sys::ExplainBeginOutput(state);
        pg_sys::ExplainPrintPlan(state, descriptor);
        pg_sys::ExplainEndOutput(state);
        pg_sys::standard_ExecutorEnd(descriptor);
        let buffer = (*state).str_;
        let printed = ident::from_server(CStr::from_ptr((*buffer).data)).trim_end().to_owned();
        pg_sys::FreeQueryDesc(descriptor);
        printed
    }
}
