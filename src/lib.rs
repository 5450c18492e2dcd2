//! perf_opt: a performance engineer inside PostgreSQL. Modules are listed in data-flow order; imports point upwards only.
#![deny(ffi_unwind_calls)]

pgrx::pg_module_magic!(name, version);

mod advise;
mod api;
mod compat;
mod error;
mod guc;
mod pg;
mod workload;
