//! Which standbys are asked, and by whom: checks of what a user wants, and the job that does it. Called by the fleet
//! functions in the user's transaction, and by the job for the rights it still has to have. Locks the row of the job.

use perf_core::conninfo::{Conninfo, Refusal};
use pgrx::datum::Interval;
use pgrx::pg_sys;

use super::link::LIMIT_S;
use super::{Node, Target, KIND};
use crate::act::define::{self, Definition};
use crate::act::runs::rows;
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::query::text;
use crate::pg::text::Text;
use crate::pg::{background, catalog, privilege};

const JOBS: &std::ffi::CStr = c"job";
const NODES_MAX: usize = 16;
const NAME_CHARACTERS: usize = 100;
const SCHEDULE: &str = "1 min";
/// Several statements of `LIMIT_S` each, and the connection.
const TIMEOUT: &str = "45 s";

fn invalid(argument: &'static str, value: impl Into<String>, accepted: &str) -> Error {
    Error::InvalidArgument { argument, value: value.into(), accepted: accepted.to_owned() }
}

/// Makes, or changes, the job that asks a standby; its number.
pub fn add(name: &str, conninfo: &str) -> Result<i64, Error> {
    define::check_preloaded()?;
    background::refuse_in_recovery(c"the definition of a node");
    if name.trim().is_empty() || name.chars().count() > NAME_CHARACTERS || name.chars().any(char::is_control) {
        return Err(invalid("name", format!("\"{name}\""), "A name of 1 to 100 characters."));
    }
    let target = target(conninfo)?;
    may_use(&target)?;
    let role = privilege::current_role();
    let known = nodes()?;
    if known.iter().any(|node| node.name == name && node.owner != role) {
        return Err(invalid(
            "name",
            format!("\"{name}\" is the name of a node of another role"),
            "See perf.fleet_nodes.",
        ));
    }
    if known.len() >= NODES_MAX && !known.iter().any(|node| node.name == name) {
        return Err(Error::WrongState {
            message: format!("there are {NODES_MAX} nodes already"),
            hint: "Remove one with perf.fleet_node_remove(name).".to_owned(),
        });
    }
    let node = Node { name: name.to_owned(), target };
    let limit = |text: &str| text.parse::<Interval>().map_err(|_| invalid("timeout", text, "An interval."));
    let job = Definition {
        name: &format!("fleet {name}"),
        kind: KIND,
        target: None,
        schedule: SCHEDULE,
        time_zone: "UTC",
        command: None,
        options: node.to_options(),
        timeout: Some(limit(TIMEOUT)?),
        lock_timeout: Some(limit("5 s")?),
        max_retries: 0,
        priority: 0,
        catch_up: "skip",
        overlap: "skip",
    };
    job.store()
}

/// Removes the job that asks a standby; what is known of it goes along.
pub fn remove(name: &str) -> Result<(), Error> {
    background::refuse_in_recovery(c"the removal of a node");
    let role = privilege::current_role();
    let is_mine = |known: &Known| known.owner == role || privilege::is_superuser(role);
    match nodes()?.into_iter().find(|node| node.name == name && is_mine(node)) {
        Some(node) => define::remove(node.job_id),
        None => Err(Error::UndefinedObject {
            message: format!("node \"{name}\" does not exist"),
            hint: "perf.fleet_nodes lists the nodes; perf.fleet_node_add(name, conninfo) adds one.".to_owned(),
        }),
    }
}

struct Known {
    job_id: i64,
    owner: pg_sys::Oid,
    name: String,
}

fn nodes() -> Result<Vec<Known>, Error> {
    privilege::as_owner(JOBS, || {
        Ok(rows(
            c"SELECT job_id, owner::pg_catalog.oid, options ->> 'node' FROM perf.job WHERE kind = 'fleet' ORDER BY job_id",
            &[],
            |row| Known {
                job_id: row.get::<i64>(1).unwrap_or_default(),
                owner: row.get::<pg_sys::Oid>(2).unwrap_or(pg_sys::InvalidOid),
                name: row.string(3),
            },
        ))
    })
}

/// A connection string as it may be stored, or the name of a foreign server.
fn target(conninfo: &str) -> Result<Target, Error> {
    if !conninfo.trim().is_empty() && !conninfo.contains('=') && !conninfo.contains("://") {
        return Ok(Target::Server(conninfo.trim().to_owned()));
    }
    let outside = "Leave it out: use a password file of the server's user (passfile), or a foreign server with a user \
                   mapping, and give the name of that server instead.";
    let mut info = Conninfo::parse(conninfo).map_err(|refusal| match refusal {
        // What was given is not repeated: it would end up in logs.
        Refusal::Secret(keyword) => invalid("conninfo", format!("it holds a {keyword}"), outside),
        Refusal::Forbidden(keyword) => {
            invalid("conninfo", format!("it sets {keyword}"), "Leave it out, or see how libpq spells it.")
        }
        Refusal::Syntax(reason) => invalid(
            "conninfo",
            reason,
            "Keywords and values, such as 'host=replica1 user=monitor', or the name of a foreign server.",
        ),
    })?;
    // Each of several would have the time that a connection may take.
    if let Some(keyword) = ["host", "hostaddr"].into_iter().find(|name| info.get(name).is_some_and(|v| v.contains(',')))
    {
        return Err(invalid("conninfo", format!("it has several values of {keyword}"), "One standby is one node."));
    }
    info.set("connect_timeout", &LIMIT_S.to_string());
    if !info.has("dbname") {
        let database = catalog::value::<Text>("SELECT pg_catalog.current_database()::pg_catalog.text", &[]);
        info.set("dbname", &database.map_err(spi_failed)?.unwrap_or_default().0);
    }
    Ok(Target::Conninfo(info.text()))
}

/// Whether the current role may have a standby asked so, itself; the schema of dblink.
pub fn may_use(target: &Target) -> Result<String, Error> {
    let schema = privilege::with_own_path(|| {
        catalog::value::<Text>(
            "SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
              WHERE e.extname = 'dblink'",
            &[],
        )
    })
    .map_err(spi_failed)?
    .ok_or_else(|| Error::WrongState {
        message: "extension \"dblink\" is not installed in this database".to_owned(),
        hint: "CREATE EXTENSION dblink; it comes with PostgreSQL's contrib modules.".to_owned(),
    })?;
    match target {
        Target::Conninfo(_) if privilege::is_superuser(privilege::current_role()) => Ok(schema.0),
        Target::Conninfo(_) => Err(Error::Denied {
            message: "only a superuser may have the server connect by a connection string".to_owned(),
            hint: "Give the name of a foreign server that you own.".to_owned(),
        }),
        Target::Server(server) => may_use_server(server, schema.0),
    }
}

struct Server {
    owner: pg_sys::Oid,
    is_limited: bool,
    is_mapped: bool,
    may_connect: bool,
}

fn may_use_server(server: &str, schema: String) -> Result<String, Error> {
    let found = privilege::with_own_path(|| {
        catalog::rows(
            "SELECT s.srvowner,
                    EXISTS (SELECT FROM pg_options_to_table(s.srvoptions) o
                             WHERE o.option_name = 'connect_timeout' AND o.option_value ~ '^([2-9]|10)$')
                    AND NOT EXISTS (SELECT FROM pg_options_to_table(s.srvoptions) o
                                     WHERE o.option_name IN ('host', 'hostaddr') AND o.option_value LIKE '%,%'),
                    EXISTS (SELECT FROM pg_user_mappings m
                             WHERE m.srvid = s.oid AND (m.umuser = 0 OR m.umuser = to_regrole(quote_ident(current_user))::oid)),
                    coalesce((SELECT bool_and(has_function_privilege(p.oid, 'EXECUTE'))
                                FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                               WHERE n.nspname = $2 AND p.proname IN ('dblink_connect', 'dblink_send_query', 'dblink_is_busy',
                                                                      'dblink_get_result', 'dblink_disconnect')), false)
               FROM pg_foreign_server s WHERE s.srvname = $1",
            &[text(server), text(&schema)],
            |row| {
                Ok(Some(Server {
                    owner: row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid),
                    is_limited: row.get::<bool>(2)?.unwrap_or(false),
                    is_mapped: row.get::<bool>(3)?.unwrap_or(false),
                    may_connect: row.get::<bool>(4)?.unwrap_or(false),
                }))
            },
        )
    })
    .map_err(spi_failed)?;
    let state = |message: String, hint: &str| Err(Error::WrongState { message, hint: hint.to_owned() });
    match found.into_iter().next() {
        None => Err(Error::UndefinedObject {
            message: format!("foreign server \"{server}\" does not exist"),
            hint: "Give the name of a foreign server, or keywords and values such as 'host=replica1 user=monitor'."
                .to_owned(),
        }),
        Some(known) if !privilege::has_rights_of(known.owner) || !known.may_connect => Err(Error::Denied {
            message: format!("permission denied to connect through foreign server \"{server}\""),
            hint: "Its owner may, with EXECUTE on the functions of dblink.".to_owned(),
        }),
        // Whoever owns it may have it lead anywhere, and change it later.
        Some(known) if privilege::is_superuser(privilege::current_role()) && !privilege::is_superuser(known.owner) => {
            Err(Error::Denied {
                message: format!("foreign server \"{server}\" belongs to a role that is no superuser"),
                hint: "Its owner may add it; a superuser may use servers of superusers only.".to_owned(),
            })
        }
        Some(known) if !known.is_limited => state(
            format!("foreign server \"{server}\" has no connect_timeout from 2 to 10, or several hosts"),
            "ALTER SERVER ... OPTIONS (ADD connect_timeout '4'), so that a standby that hangs is noticed; one host in \
             it, for each has that time.",
        ),
        Some(known) if !known.is_mapped => state(
            format!("foreign server \"{server}\" has no user mapping for you"),
            "CREATE USER MAPPING FOR ... SERVER ...",
        ),
        Some(_) => Ok(schema),
    }
}
