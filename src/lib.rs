//! perf_opt: a performance engineer inside PostgreSQL. Modules are listed in data-flow order; imports point upwards only.
#![deny(ffi_unwind_calls)]

pgrx::pg_module_magic!(name, version);

mod collect;
mod compat;
mod error;
mod guc;
mod pg;

pgrx::extension_sql_file!("../sql/policy.sql", name = "policy_tables");
pgrx::extension_sql_file!("../sql/comments_policy.sql", name = "policy_comments", requires = ["policy_tables"]);
pgrx::extension_sql_file!("../sql/capacity.sql", name = "capacity_tables");
