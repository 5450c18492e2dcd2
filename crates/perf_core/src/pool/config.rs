//! Pools as text: pgbouncer.ini, and arguments of SQLAlchemy.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Advice, Basis, Pool, POLICY_OVERFLOW, POLICY_SIZE};

/// Clients that may wait, for each connection to the server: a client costs PgBouncer some kilobytes.
const CLIENTS_FACTOR: u32 = 20;
const CLIENTS_MIN: u32 = 100;

/// How the pooler is to reach the server, and clients the pooler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host of the server, as the pooler sees it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where the pooler listens.
    pub listen_addr: String,
    /// See `listen_addr`.
    pub listen_port: u16,
    /// The pooler's file of users.
    pub auth_file: String,
    /// Whether it is PgBouncer 1.21 or later, which follows statements that drivers prepare. Older ones do not start
    /// with a setting that they do not know.
    pub follows_prepared: bool,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            host: "127.0.0.1".to_owned(),
            port: 5432,
            listen_addr: "127.0.0.1".to_owned(),
            listen_port: 6432,
            auth_file: "/etc/pgbouncer/userlist.txt".to_owned(),
            follows_prepared: false,
        }
    }
}

/// A name on the left of an entry: quoted as SQL quotes it, unless it is plain.
fn name(name: &str) -> String {
    if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A value of a connection string.
fn value(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// The roles that there was no room for, as one: no user of that name is there to be limited.
const OTHERS: &str = "(other)";

/// Whether a file of lines can hold it.
fn writable(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

/// The file. Pools of names that no such file can hold are left out, and named in a comment.
///
/// PgBouncer makes a pool for every database and user: `pool_size` of a database is that of its largest role, and the
/// other roles are kept to theirs by `max_user_connections`.
pub fn pgbouncer_ini(advice: &Advice, server: &Server) -> String {
    // "pgbouncer" is the pooler's own database, and "*" stands for every one that is not named.
    let is_special = |database: &str| ["pgbouncer", "*"].contains(&database);
    let writes = |p: &&Pool| writable(&p.database) && writable(&p.role) && !is_special(&p.database);
    let pools: Vec<&Pool> = advice.pools.iter().filter(writes).collect();
    // Largest pool and sum of a database; sum, clients and whether any pool of a role needs sessions.
    let mut databases: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    let mut roles: BTreeMap<&str, (u32, bool)> = BTreeMap::new();
    for pool in &pools {
        let database = databases.entry(&pool.database).or_default();
        *database = (database.0.max(pool.size), database.1.saturating_add(pool.size));
        if pool.role == OTHERS {
            continue;
        }
        let role = roles.entry(&pool.role).or_default();
        *role = (role.0.saturating_add(pool.size), role.1 || pool.needs_session());
    }
    let total = pools.iter().fold(0u32, |sum, p| sum.saturating_add(p.size));
    let connected = pools.iter().fold(0u32, |sum, p| sum.saturating_add(p.connected_max));
    let clients = total.saturating_mul(CLIENTS_FACTOR).max(connected.saturating_mul(2)).max(CLIENTS_MIN);

    let mut ini = String::new();
    let mut line = |text: std::fmt::Arguments| {
        // Writing to a string does not fail.
        let _ = writeln!(ini, "{text}");
    };
    line(format_args!(
        "; {total} connections to the server in all; no more than {}: {}.",
        advice.cap, advice.cap_reason
    ));
    for pool in &pools {
        let (database, role) = (&pool.database, &pool.role);
        let why = match pool.busy_p99 {
            Some(busy) => format!("{busy} busy at most in 99 % of the busiest hour"),
            None => "policy, not measured".to_owned(),
        };
        line(format_args!("; {database}, {role}: {} ({why})", pool.size));
        if role == OTHERS {
            line(format_args!(
                ";   of roles not told apart: they share what the database has, and have no line of their own"
            ));
        }
        for feature in &pool.session_features {
            line(format_args!(";   session pooling because of {}: {}", feature.name(), feature.remedy()));
        }
    }
    if pools.len() < advice.pools.len() {
        let left = advice.pools.len() - pools.len();
        line(format_args!("; left out: {left} whose name this file cannot hold"));
    }
    line(format_args!("[databases]"));
    for (database, (size, sum)) in &databases {
        let (host, port) = (value(&server.host), server.port);
        line(format_args!(
            "{} = host={host} port={port} dbname={} pool_size={size} max_db_connections={sum}",
            name(database),
            value(database)
        ));
    }
    line(format_args!("\n[users]"));
    for (role, (sum, session)) in &roles {
        let mode = if *session { "pool_mode=session " } else { "" };
        line(format_args!("{} = {mode}max_user_connections={sum}", name(role)));
    }
    line(format_args!("\n[pgbouncer]"));
    line(format_args!("listen_addr = {}\nlisten_port = {}", server.listen_addr, server.listen_port));
    line(format_args!("auth_type = scram-sha-256\nauth_file = {}", server.auth_file));
    line(format_args!("pool_mode = transaction\nmax_client_conn = {clients}"));
    if server.follows_prepared {
        line(format_args!("max_prepared_statements = 200"));
    } else {
        line(format_args!("; For statements that drivers prepare, from PgBouncer 1.21 on; older ones refuse it:"));
        line(format_args!("; max_prepared_statements = 200"));
    }
    // Drivers send it in the start packet; the pooler does not follow it.
    line(format_args!("ignore_startup_parameters = extra_float_digits"));
    line(format_args!("server_idle_timeout = 600\nquery_wait_timeout = 30"));
    ini
}

/// Arguments of SQLAlchemy's create_engine for one pool without PgBouncer. They are per process: what all `processes`
/// open together is the size of the pool.
pub fn sqlalchemy(pool: &Pool, processes: u32) -> String {
    let processes = processes.max(1);
    let (size, overflow, basis) = match pool.basis {
        Basis::Measured => {
            let each = (pool.size / processes).max(1);
            // What does not divide evenly is left out rather than multiplied by the processes.
            let kept = (each * 2).div_ceil(3);
            (kept, each - kept, "measured")
        }
        Basis::Policy => (POLICY_SIZE, POLICY_OVERFLOW, "policy, not measured"),
    };
    let total = u64::from(processes) * u64::from(size + overflow);
    let mut text = format!(
        "# Per process ({basis}): {processes} processes x ({size} + {overflow}) = {total} connections for {} wanted.\n",
        pool.size
    );
    if total > u64::from(pool.size) {
        text.push_str("# More than the server serves well: put PgBouncer in between, or run fewer processes.\n");
    }
    text.push_str(&format!(
        "create_engine(url, pool_size={size}, max_overflow={overflow}, pool_timeout=30, pool_recycle=1800, \
         pool_pre_ping=True)\n\
         # Behind PgBouncer: create_engine(url, poolclass=sqlalchemy.pool.NullPool)\n"
    ));
    text
}
