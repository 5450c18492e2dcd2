//! Connection pooling.

use perf_core::pool::{self, Basis as PoolBasis, Server};
use serde_json::{json, Value};

use super::{value_of, Basis, Context, Row, Trigger};
use crate::error::Error;
use crate::workload::pools;

/// The size and overflow that a policy row has, if it has any.
fn of_policy(trigger: &Trigger) -> Option<(u64, u64)> {
    let setting = |name: &str| trigger.settings.get(name).and_then(Value::as_u64).filter(|n| *n < 100_000);
    Some((setting("pool_size")?, setting("max_overflow").unwrap_or(0)))
}

pub(super) fn rows(context: &Context) -> Result<Vec<Row>, Error> {
    let mut row = Row::new("connection_pooling");
    // Above what the server admits a trigger could never fire.
    let trigger = context.trigger("connections_pool").cloned().map(|mut trigger| {
        trigger.threshold = trigger.threshold.map(|t| t.min(context.measured.connections_ceiling));
        trigger
    });
    let connections = context.measured.connections;
    row.compare("peak_connections", "connections", Some(connections), trigger.as_ref());
    let distance = row.distance();
    let (groups, machine) = pools::read()?;
    let advice = pool::advise(&groups, &machine);
    let measured: Vec<_> = advice.pools.iter().filter(|pool| pool.basis == PoolBasis::Measured).collect();
    if measured.is_empty() {
        let policy = context.trigger("connection_pooling").and_then(of_policy);
        row.basis = if policy.is_some() { Basis::Policy } else { Basis::None };
        row.config = policy.map(|(size, overflow)| {
            format!(
                "# Policy, not measured. Per process: divide by the number of processes.\n\
                 create_engine(url, pool_size={size}, max_overflow={overflow}, pool_timeout=30, pool_recycle=1800, \
                 pool_pre_ping=True)\n"
            )
        });
        row.recommendation = match row.triggered {
            true => "Pool connections; the size is the policy's until busy connections are measured.".to_owned(),
            false => {
                "Not yet: the trigger is not reached, and how many connections are busy is not measured.".to_owned()
            }
        };
        row.reason = format!(
            "{distance}; a size needs {} seconds of samples in an hour, and no database and role has as many.",
            pool::SECONDS_MIN
        );
        row.evidence = json!({ "groups": groups.len(), "cap": advice.cap, "cap_reason": advice.cap_reason });
        return Ok(vec![row]);
    }
    let port = value_of::<i32>("SELECT current_setting('port')::int4", &[])?;
    let server = Server { port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(5432), ..Server::default() };
    // Pools are of this database: what others have connected is none of it.
    let connections = context.measured.connections_of_database;
    let (mut wanted, mut assumed) = (0, 0);
    for pool in &advice.pools {
        *if pool.basis == PoolBasis::Measured { &mut wanted } else { &mut assumed } += u64::from(pool.size);
    }
    let saved = 100.0 * (1.0 - (wanted + assumed) as f64 / connections.max(1.0));
    row.expected_benefit_pct = (saved > 0.0).then_some(saved);
    let mut config = format!("; pgbouncer.ini\n{}", pool::pgbouncer_ini(&advice, &server));
    for pool in &measured {
        let name = format!("{}, {}", pool.database, pool.role).replace(char::is_control, "?");
        // Comments, so that all of it is a pgbouncer.ini.
        let arguments: String = pool::sqlalchemy(pool, 1).lines().map(|line| format!(";   {line}\n")).collect();
        config.push_str(&format!("\n; SQLAlchemy without PgBouncer: {name}\n{arguments}"));
    }
    row.config = Some(config);
    row.recommendation = match (row.triggered, saved > 0.0) {
        (true, true) => format!(
            "Put PgBouncer in front: {} connections are enough for the {connections:.0} of this database.",
            wanted + assumed
        ),
        (true, false) => "Not for this database: it has no more connections than a pool would have.".to_owned(),
        (false, true) => format!("Not yet: {} connections would do, but the trigger is not reached.", wanted + assumed),
        (false, false) => "Don't: there are no more connections than a pool would have.".to_owned(),
    };
    row.reason = format!(
        "{distance}; this database had {connections:.0}; {wanted} connections are what {} of its roles had busy in 99 % \
         of their busiest hour, and a fifth more",
        measured.len()
    );
    if assumed > 0 {
        let others = advice.pools.len() - measured.len();
        row.reason.push_str(&format!("; {assumed} more are the policy's for {others} roles that were not measured"));
    }
    let beyond = if wanted + assumed > u64::from(advice.cap) { ", which they exceed" } else { "" };
    row.reason.push_str(&format!(
        "; the server serves {} well ({}){beyond}; the benefit is the share of connections saved.",
        advice.cap, advice.cap_reason
    ));
    let pools: Vec<Value> = advice
        .pools
        .iter()
        .map(|pool| {
            json!({ "database": pool.database, "role": pool.role, "size": pool.size, "basis": pool.basis.name(),
                    "busy_p99": pool.busy_p99, "seconds": pool.seconds, "capped": pool.capped,
                    "connected_max": pool.connected_max,
                    "session_pooling_because": pool.session_features.iter().map(|f| f.name()).collect::<Vec<_>>() })
        })
        .collect();
    row.evidence =
        json!({ "pools": pools, "cap": advice.cap, "cap_reason": advice.cap_reason, "connections": wanted + assumed });
    Ok(vec![row])
}
