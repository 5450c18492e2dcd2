//! What may be done with a materialized view, and how: privileges, and whether it can be refreshed concurrently. Called by
//! the task and by the functions that schedule it, inside a transaction. Locks nothing.

use pgrx::pg_sys;

use crate::act::executor::Failure;
use crate::act::runs::rows;
use crate::error::Error;
use crate::pg::refresh::Mode;
use crate::pg::text::Text;
use crate::pg::{ident, privilege, view_sources};

/// REFRESH has a privilege of its own from this version on; it is the owner's right before.
const MAINTAIN_SINCE: u32 = 17;

/// The view was dropped.
pub fn gone(view: pg_sys::Oid) -> Failure {
    Failure {
        hint: Some("perf.job_unschedule(job_id) removes the job.".to_owned()),
        ..Failure::new("42P01", format!("the materialized view does not exist any more (it had OID {})", view.to_u32()))
    }
}

/// Refuses what is no materialized view, and a role that may not refresh it.
pub fn check(view: pg_sys::Oid) -> Result<String, Error> {
    let Some(name) = ident::relation(view) else {
        return Err(Error::UndefinedObject {
            message: format!("relation with OID {} does not exist", view.to_u32()),
            hint: "perf.matviews lists the materialized views.".to_owned(),
        });
    };
    if view_sources::is_populated(view).is_none() {
        return Err(Error::InvalidArgument {
            argument: "view",
            value: format!("{name} is not a materialized view"),
            accepted: "A materialized view; perf.matviews lists them.".to_owned(),
        });
    }
    if may_refresh(view)? {
        return Ok(name);
    }
    let hint = if pg_sys::PG_MAJORVERSION_NUM >= MAINTAIN_SINCE {
        "Its owner, a superuser, or a role that has been granted MAINTAIN on it may schedule its refresh."
    } else {
        "Its owner or a superuser may schedule its refresh."
    };
    Err(Error::Denied { message: format!("must be owner of materialized view {name}"), hint: hint.to_owned() })
}

fn may_refresh(view: pg_sys::Oid) -> Result<bool, Error> {
    let role = privilege::current_role();
    let query = if pg_sys::PG_MAJORVERSION_NUM >= MAINTAIN_SINCE {
        c"SELECT pg_catalog.pg_has_role($2, c.relowner, 'USAGE') OR pg_catalog.has_table_privilege($2, c.oid, 'MAINTAIN')
         FROM pg_catalog.pg_class c WHERE c.oid = $1"
    } else {
        c"SELECT pg_catalog.pg_has_role($2, c.relowner, 'USAGE') FROM pg_catalog.pg_class c WHERE c.oid = $1"
    };
    let found = privilege::as_owner(c"job", || Ok(rows(query, &[view.into(), role.into()], |row| row.get::<bool>(1))))?;
    Ok(found.into_iter().flatten().any(|may| may))
}

/// Refuses a role that may not refresh the view: asked before its lock is, so that nobody has to wait for a role that has
/// no business there.
pub fn check_privilege(view: pg_sys::Oid) -> Result<(), Failure> {
    if view_sources::is_populated(view).is_none() {
        return Err(gone(view));
    }
    check(view).map(drop).map_err(Failure::from)
}

/// How the view is refreshed when `wanted` is asked for, and why not concurrently.
pub fn mode(view: pg_sys::Oid, wanted: &str) -> Result<(Mode, Option<String>), Failure> {
    if wanted == "plain" {
        return Ok((Mode::Plain, Some("mode plain was asked for".to_owned())));
    }
    let found = privilege::as_owner_of(c"job", || {
        rows(c"SELECT perf._why_not_concurrent($1)", &[view.into()], |row| row.get::<Text>(1).map(|why| why.0))
    });
    let why_not = found.into_iter().flatten().flatten().next();
    match why_not {
        None => Ok((Mode::Concurrent, None)),
        Some(why_not) if wanted == "concurrent" => Err(Failure {
            hint: Some(
                "Create a unique index on plain columns of all its rows, and populate it once with mode auto or plain."
                    .to_owned(),
            ),
            ..Failure::new("55000", format!("the view cannot be refreshed concurrently: {why_not}"))
        }),
        Some(why_not) => Ok((Mode::Plain, Some(why_not))),
    }
}
