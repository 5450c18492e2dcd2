//! Settings that influence how statements run, as they are configured: for the server (files, ALTER SYSTEM, the command line)
//! and for databases and roles; and the settings of a change, with what puts each back. Called inside a transaction; reads
//! with the rights of the tables' owner, since files are shown to superusers only. Locks nothing.

use std::collections::{BTreeMap, HashMap};

use perf_core::guard::{canonical, command_line, Kind};
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::store::{Change, TABLE};
use crate::act::runs::rows;
use crate::error::Error;
use crate::pg::query::{c_text, Row};
use crate::pg::text::Text;
use crate::pg::{data_directory, ident, names, privilege, role};

/// The kind of change.
pub const KIND: &str = "setting";
/// Settings of a change at most.
pub const SETTINGS_MAX: usize = 50;

/// Where a setting is set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// For the whole server, rather than as ALTER DATABASE and ALTER ROLE do it.
    pub is_server: bool,
    /// 0 for all.
    pub database: u32,
    /// 0 for all.
    pub role: u32,
    /// Its name.
    pub name: String,
}

/// How it is set there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// Equal ones are the same text.
    pub value: String,
    /// As somebody has written it.
    pub written: String,
    /// As ALTER SYSTEM has written it, whether or not that is what counts.
    pub auto_written: Option<String>,
    /// default, file, auto, command_line or entry.
    pub origin: String,
    /// It takes a restart.
    pub needs_restart: bool,
}

/// All that is configured.
pub type Settings = BTreeMap<Place, Configured>;

/// What influences how statements are planned and run; what others must not put back, such as what a commit waits for, is
/// not among it. The list is that of the server's own documentation on query tuning, memory and parallel queries.
macro_rules! watched {
    () => {
        "(s.category LIKE 'Query Tuning%' OR s.name LIKE 'jit%'
          OR s.name IN ('work_mem', 'hash_mem_multiplier', 'temp_buffers', 'shared_buffers', 'effective_io_concurrency',
                        'max_parallel_workers', 'max_parallel_workers_per_gather', 'max_worker_processes',
                        'parallel_leader_participation'))"
    };
}

fn optional(row: &Row, column: i32) -> Option<String> {
    row.get::<Text>(column).map(|text| text.0)
}

/// The server's own settings, whatever this session has set.
pub fn of_server() -> Result<Settings, Error> {
    // What the command line says counts more than all files.
    let given = command_line(&data_directory::command_line());
    let statement = const {
        c_text(
            concat!(
                "WITH line AS MATERIALIZED (
                     SELECT pg_catalog.lower(f.name) AS name, f.setting, f.seqno,
                            f.sourcefile = pg_catalog.current_setting('data_directory') || '/postgresql.auto.conf' AS is_auto
                       FROM pg_catalog.pg_file_settings f WHERE f.error IS NULL)
                 SELECT s.name, s.vartype, s.unit, s.context = 'postmaster', s.boot_val, s.setting, l.setting, l.is_auto,
                        a.setting
                   FROM pg_catalog.pg_settings s
                   LEFT JOIN (SELECT DISTINCT ON (name) name, setting, is_auto FROM line ORDER BY name, seqno DESC) l
                          ON l.name = pg_catalog.lower(s.name)
                   LEFT JOIN (SELECT DISTINCT ON (name) name, setting FROM line WHERE is_auto ORDER BY name, seqno DESC) a
                          ON a.name = pg_catalog.lower(s.name)
                  WHERE s.context <> 'internal' AND ",
                watched!(),
                "\0"
            )
            .as_bytes(),
        )
    };
    privilege::as_owner(TABLE, || {
        Ok(rows(statement, &[], |row| {
            let (name, unit) = (row.string(1), optional(row, 3));
            let kind = Kind::of(&row.string(2), unit.as_deref());
            let needs_restart = row.get::<bool>(4).unwrap_or(false);
            let is_auto = row.get::<bool>(8).unwrap_or(false);
            let (written, origin) = match (given.get(&name.to_ascii_lowercase()), optional(row, 7)) {
                (Some(value), _) => (value.clone(), "command_line"),
                (None, Some(value)) => (value, if is_auto { "auto" } else { "file" }),
                (None, None) => (optional(row, 5).unwrap_or_default(), "default"),
            };
            // A file may say already what the next start will make true.
            let counts = if needs_restart { row.string(6) } else { written.clone() };
            let configured = Configured {
                value: canonical(&counts, kind),
                written,
                auto_written: optional(row, 9),
                origin: origin.to_owned(),
                needs_restart,
            };
            (Place { is_server: true, database: 0, role: 0, name }, configured)
        })
        .into_iter()
        .collect())
    })
}

/// What ALTER DATABASE and ALTER ROLE have set that counts in this database.
pub fn of_entries() -> Result<Settings, Error> {
    let statement = const {
        c_text(
            concat!(
                "SELECT e.setdatabase, e.setrole, s.name, s.vartype, s.unit, e.written
                   FROM (SELECT d.setdatabase, d.setrole, pg_catalog.lower(pg_catalog.split_part(o.option, '=', 1)) AS name,
                                pg_catalog.substr(o.option, pg_catalog.strpos(o.option, '=') + 1) AS written
                           FROM pg_catalog.pg_db_role_setting d, pg_catalog.unnest(d.setconfig) AS o (option)
                          WHERE d.setdatabase IN (0, (SELECT b.oid FROM pg_catalog.pg_database b
                                                       WHERE b.datname = pg_catalog.current_database()))) AS e
                   JOIN pg_catalog.pg_settings s ON pg_catalog.lower(s.name) = e.name
                  WHERE ",
                watched!(),
                "\0"
            )
            .as_bytes(),
        )
    };
    privilege::as_owner(TABLE, || {
        Ok(rows(statement, &[], |row| {
            let oid = |column: i32| row.get::<pg_sys::Oid>(column).map_or(0, pg_sys::Oid::to_u32);
            let (unit, written) = (optional(row, 5), row.string(6));
            let configured = Configured {
                value: canonical(&written, Kind::of(&row.string(4), unit.as_deref())),
                written,
                auto_written: None,
                origin: "entry".to_owned(),
                needs_restart: false,
            };
            (Place { is_server: false, database: oid(1), role: oid(2), name: row.string(3) }, configured)
        })
        .into_iter()
        .collect())
    })
}

/// One setting of a change.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where.
    pub place: Place,
    /// Before; `None`: not set there.
    pub was: Option<String>,
    /// Since.
    pub is: Option<String>,
    /// Puts it back.
    pub undo: Option<String>,
    /// What is to be known of that.
    pub note: Option<String>,
}

impl Setting {
    /// As it is kept.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.place.name, "server": self.place.is_server, "database": self.place.database,
            "role": self.place.role, "was": self.was, "is": self.is, "undo": self.undo, "note": self.note,
        })
    }

    fn from_json(value: &Value) -> Option<Setting> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let oid = |name: &str| value.get(name).and_then(Value::as_u64).and_then(|oid| u32::try_from(oid).ok());
        Some(Setting {
            place: Place {
                is_server: value.get("server")?.as_bool()?,
                database: oid("database")?,
                role: oid("role")?,
                name: text("name")?,
            },
            was: text("was"),
            is: text("is"),
            undo: text("undo"),
            note: text("note"),
        })
    }

    /// What happened to it, in words.
    pub fn told(&self) -> String {
        let value =
            |value: &Option<String>| value.as_deref().map_or("not set".to_owned(), |value| format!("\"{value}\""));
        format!("{} was {} and is {}", self.place.name, value(&self.was), value(&self.is))
    }
}

/// The settings of a change.
pub fn of(change: &Change) -> Vec<Setting> {
    let listed = change.state.get("settings").and_then(Value::as_array);
    listed.into_iter().flatten().filter_map(Setting::from_json).collect()
}

/// The role whose statements alone are concerned.
pub fn role_of(settings: &[Setting]) -> Option<u32> {
    let first = settings.first()?.place.role;
    (first != 0 && settings.iter().all(|one| !one.place.is_server && one.place.role == first)).then_some(first)
}

/// The statement that sets a value in a place, or takes it away; `None` when the database or role is gone.
pub fn statement(place: &Place, value: Option<&str>) -> Option<String> {
    let name = ident::quote(&place.name);
    let what =
        value.map_or_else(|| format!("RESET {name}"), |value| format!("SET {name} TO {}", ident::literal(value)));
    if place.is_server {
        return Some(format!("ALTER SYSTEM {what}"));
    }
    let database = match place.database {
        0 => None,
        oid => Some(ident::quote(&names::database_name(oid)?)),
    };
    let role = match place.role {
        0 => None,
        oid => Some(ident::quote(&role::known_name(pg_sys::Oid::from(oid))?)),
    };
    Some(match (role, database) {
        (None, None) => format!("ALTER ROLE ALL {what}"),
        (None, Some(database)) => format!("ALTER DATABASE {database} {what}"),
        (Some(role), None) => format!("ALTER ROLE {role} {what}"),
        (Some(role), Some(database)) => format!("ALTER ROLE {role} IN DATABASE {database} {what}"),
    })
}

/// What a setting that was changed was and is, with what puts it back.
pub fn changed(place: &Place, was: Option<&Configured>, is: Option<&Configured>) -> Setting {
    let value = |one: Option<&Configured>| one.map(|one| one.value.clone());
    let (undo, note) = put_back(place, was, is);
    Setting { place: place.clone(), was: value(was), is: value(is), undo, note }
}

fn put_back(place: &Place, was: Option<&Configured>, is: Option<&Configured>) -> (Option<String>, Option<String>) {
    let noted = |text: &str| Some(text.to_owned());
    if !place.is_server {
        return (statement(place, was.map(|was| was.written.as_str())), None);
    }
    let (Some(was), Some(is)) = (was, is) else { return (None, None) };
    if is.needs_restart {
        return (None, noted("it takes a restart, which is a person's to decide"));
    }
    if is.origin == "command_line" {
        return (None, noted("it is on the command line of the server, which nothing overrides"));
    }
    if was.auto_written != is.auto_written {
        return (statement(place, was.auto_written.as_deref()), None);
    }
    (
        statement(place, Some(&was.value)),
        noted("a configuration file says so: ALTER SYSTEM overrides it, and the file stays as it is"),
    )
}

/// How each setting of a change stands now; `None`: not set there.
fn now(settings: &[Setting]) -> Result<HashMap<Place, Option<String>>, Error> {
    let mut configured = Settings::new();
    if settings.iter().any(|one| one.place.is_server) {
        configured.extend(of_server()?);
    }
    if settings.iter().any(|one| !one.place.is_server) {
        configured.extend(of_entries()?);
    }
    let value = |one: &Setting| configured.get(&one.place).map(|found| found.value.clone());
    Ok(settings.iter().map(|one| (one.place.clone(), value(one))).collect())
}

/// Refuses when a setting of a change is neither what it was made nor what it was before.
pub fn require_unchanged(change: &Change) -> Result<(), Error> {
    let settings = of(change);
    let now = now(&settings)?;
    for one in &settings {
        let found = now.get(&one.place).cloned().flatten();
        if found != one.is && found != one.was {
            let now = Setting { is: found, ..one.clone() };
            return Err(Error::WrongState {
                message: format!(
                    "change {} cannot be taken back: {}, not \"{}\"",
                    change.change_id,
                    now.told(),
                    one.is.as_deref().unwrap_or_default()
                ),
                hint: "Somebody has set it anew: put it right by hand.".to_owned(),
            });
        }
    }
    Ok(())
}

/// The statements that have still to be run to take a change back, and whether the configuration is to be read anew then.
pub fn left_to_undo(change: &Change) -> Result<(Vec<String>, bool), Error> {
    let settings = of(change);
    let now = now(&settings)?;
    let left: Vec<&Setting> = settings.iter().filter(|one| now.get(&one.place).cloned().flatten() != one.was).collect();
    let reload = left.iter().any(|one| one.place.is_server);
    Ok((left.into_iter().filter_map(|one| one.undo.clone()).collect(), reload))
}
