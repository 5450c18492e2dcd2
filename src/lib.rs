//! perf_opt: a performance engineer inside PostgreSQL. Modules are listed in data-flow order; imports point upwards only.
#![deny(ffi_unwind_calls)]

pgrx::pg_module_magic!(name, version);

mod act;
mod api;
mod collect;
mod error;
mod guc;
mod memory;
mod pg;

pgrx::extension_sql_file!("../sql/history.sql", name = "history");
pgrx::extension_sql_file!("../sql/observe.sql", name = "observe", finalize);

/// Called by the server when the library is loaded.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::init();
    // SAFETY: plain global.
    if unsafe { pgrx::pg_sys::process_shared_preload_libraries_in_progress } {
        memory::init();
        act::launcher::register();
    }
}
