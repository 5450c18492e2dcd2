//! perf_opt: a performance engineer inside PostgreSQL. Modules are listed in data-flow order; imports point upwards only.
#![deny(ffi_unwind_calls)]

pgrx::pg_module_magic!(name, version);

mod compat;
mod error;
mod guc;
mod pg;

mod collect;

mod advise;

mod api;

pgrx::extension_sql_file!("../sql/policy.sql", name = "policy_tables");
pgrx::extension_sql_file!("../sql/comments_policy.sql", name = "policy_comments", requires = ["policy_tables"]);
pgrx::extension_sql_file!("../sql/capacity.sql", name = "capacity_tables");
pgrx::extension_sql_file!(
    "../sql/capacity_functions.sql",
    name = "capacity_functions",
    requires = [
        "capacity_tables",
        api::capacity::capacity_estimate,
        api::capacity::capacity_samples,
        api::capacity::capacity_sample_now
    ]
);
