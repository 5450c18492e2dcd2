//! SQL: `_pool_advice`, `_pgbouncer_ini`: how large connection pools of this database have to be.

use perf_core::pool::{self, Server};
use pgrx::prelude::*;

use super::{or_raise, required};
use crate::error::Error;
use crate::pg::text::Text;
use crate::workload::pools;

fn advice() -> Result<pool::Advice, Error> {
    let (groups, machine) = pools::read()?;
    Ok(pool::advise(&groups, &machine))
}

/// A pool for each role of this database that was connected in the last 30 days.
#[pg_extern(volatile)]
#[allow(clippy::type_complexity, reason = "the row type is the contract")]
fn _pool_advice() -> TableIterator<
    'static,
    (
        name!(role, Text),
        name!(size, i64),
        name!(basis, Text),
        name!(busy_p99, Option<i64>),
        name!(seconds, i64),
        name!(connected_max, i64),
        name!(is_capped, bool),
        name!(session_features, Vec<String>),
        name!(cap, i64),
        name!(cap_reason, Text),
    ),
> {
    let advice = or_raise(advice());
    let (cap, reason) = (i64::from(advice.cap), advice.cap_reason);
    TableIterator::new(
        advice
            .pools
            .into_iter()
            .map(|pool| {
                (
                    Text(pool.role),
                    i64::from(pool.size),
                    Text(pool.basis.name().to_owned()),
                    pool.busy_p99.map(i64::from),
                    i64::try_from(pool.seconds).unwrap_or(i64::MAX),
                    i64::from(pool.connected_max),
                    pool.capped,
                    pool.session_features.iter().map(|feature| feature.name().to_owned()).collect::<Vec<String>>(),
                    cap,
                    Text(reason.clone()),
                )
            })
            .collect::<Vec<_>>(),
    )
}

/// The configuration of a PgBouncer for them.
#[pg_extern(volatile)]
fn _pgbouncer_ini(
    host: Option<Text>,
    port: Option<i32>,
    listen_port: Option<i32>,
    auth_file: Option<Text>,
    follows_prepared: Option<bool>,
) -> Text {
    or_raise((|| {
        let number = |argument: &'static str, port: Option<i32>| {
            let port = required(argument, port)?;
            u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| Error::InvalidArgument {
                argument,
                value: port.to_string(),
                accepted: "A port from 1 to 65535.".to_owned(),
            })
        };
        let server = Server {
            host: required("host", host)?.0,
            port: number("port", port)?,
            listen_port: number("listen_port", listen_port)?,
            auth_file: required("auth_file", auth_file)?.0,
            follows_prepared: required("follows_prepared", follows_prepared)?,
            ..Server::default()
        };
        Ok(Text(pool::pgbouncer_ini(&advice()?, &server)))
    })())
}
