//! SQL: `fleet_node_add`, `fleet_node_remove`.

use pgrx::prelude::*;

use super::{or_raise, required};
use crate::act::tasks::fleet::define;
use crate::pg::text::Text;

/// Has a standby asked every minute; the number of the job. See sql/fleet.sql.
#[pg_extern]
fn fleet_node_add(name: Option<Text>, conninfo: Option<Text>) -> i64 {
    or_raise((|| define::add(&required("name", name)?.0, &required("conninfo", conninfo)?.0))())
}

/// Stops asking a standby.
#[pg_extern]
fn fleet_node_remove(name: Option<Text>) {
    or_raise(required("name", name).and_then(|name| define::remove(&name.0)));
}
