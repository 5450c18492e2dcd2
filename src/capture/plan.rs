//! The plan of a slow execution as EXPLAIN prints it, without literals. Only above a threshold, at most ten a second in
//! the whole server, and never at the query's expense: an error while printing is swallowed.

use crate::memory::Memory;
use crate::pg::attempt::attempt;
use crate::pg::raw;
use core::ffi::CStr;
use core::sync::atomic::Ordering;
use perf_core::normalize::normalize_plan;
use pgrx::pg_sys;

const PLANS_PER_SECOND: u64 = 10;

/// The plan's text, or `None` when the budget is used up or printing failed.
///
/// # Safety
/// `query` is a live descriptor whose executor is open.
#[cold]
pub unsafe fn explain(memory: &Memory, query: *mut pg_sys::QueryDesc) -> Option<String> {
    if !take_budget(memory) {
        return None;
    }
    // SAFETY: the caller vouches for the descriptor. A memory context of its own is deleted whatever happens.
    unsafe {
        let outer = pg_sys::CurrentMemoryContext;
        let mut context = core::ptr::null_mut();
        let text = attempt(|| {
            context = pg_sys::AllocSetContextCreateExtended(
                outer,
                c"perf_opt plan".as_ptr(),
                pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
                pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
                pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
            );
            pg_sys::MemoryContextSwitchTo(context);
            let state = pg_sys::NewExplainState();
            (*state).costs = true;
            pg_sys::ExplainBeginOutput(state);
            pg_sys::ExplainPrintPlan(state, query);
            pg_sys::ExplainEndOutput(state);
            let text = CStr::from_ptr((*(*state).str_).data);
            Some(normalize_plan(&readable(text)))
        });
        pg_sys::MemoryContextSwitchTo(outer);
        if !context.is_null() {
            pg_sys::MemoryContextDelete(context);
        }
        text
    }
}

/// The text as UTF-8; in a database of another encoding what is not ASCII becomes `?`, which every encoding has.
fn readable(text: &CStr) -> String {
    // SAFETY: a plain look-up.
    if unsafe { raw::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as i32 {
        return text.to_string_lossy().into_owned();
    }
    text.to_bytes().iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect()
}

fn take_budget(memory: &Memory) -> bool {
    let second = (raw::clock_ns() / 1_000_000_000) & 0xffff_ffff;
    let budget = &memory.header().plan_budget;
    let take = |word: u64| match (word >> 32, word & 0xffff_ffff) {
        (at, used) if at == second && used >= PLANS_PER_SECOND => None,
        (at, _) if at == second => Some(word + 1),
        _ => Some(second << 32 | 1),
    };
    budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
}
