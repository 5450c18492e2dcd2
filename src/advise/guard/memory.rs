//! What the guard has seen at its last look: perf.guard_look, perf.guard_setting, perf.guard_index. Reads and writes with the
//! rights of the tables' owner, inside a transaction.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use crate::act::change::setting::{Configured, Place, Settings};
use crate::act::runs::{rows, run, timestamp};
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::query::{text, Row};
use crate::pg::text::Text;

/// The table whose owner keeps it.
pub const TABLE: &std::ffi::CStr = c"guard_look";

/// A look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// When, in the server's time.
    pub looked_at: i64,
    /// When this process read the configuration.
    pub loaded_at: i64,
    /// The transaction id that was next.
    pub next_xid: i64,
}

fn read(row: &Row) -> Look {
    let time = |column: i32| row.get::<TimestampWithTimeZone>(column).map_or(0, i64::from);
    Look { looked_at: time(1), loaded_at: time(2), next_xid: row.get::<i64>(3).unwrap_or(0) }
}

/// The last look, if there was one since the guard is on.
pub fn last() -> Result<Option<Look>, Error> {
    privilege::as_owner(TABLE, || {
        Ok(rows(c"SELECT looked_at, loaded_at, next_xid FROM perf.guard_look", &[], read).into_iter().next())
    })
}

/// This look.
pub fn now() -> Result<Look, Error> {
    privilege::as_owner(TABLE, || {
        let found = rows(
            c"SELECT pg_catalog.clock_timestamp(), pg_catalog.pg_conf_load_time(),
                     pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint",
            &[],
            read,
        );
        Ok(found.into_iter().next().unwrap_or(Look { looked_at: 0, loaded_at: 0, next_xid: 0 }))
    })
}

/// Keeps a look.
pub fn note(look: &Look) -> Result<(), Error> {
    privilege::as_owner(TABLE, || {
        run(
            c"INSERT INTO perf.guard_look (looked_at, loaded_at, next_xid) VALUES ($1, $2, $3)
              ON CONFLICT (is_latest) DO UPDATE SET looked_at = $1, loaded_at = $2, next_xid = $3",
            &[timestamp(look.looked_at).into(), timestamp(look.loaded_at).into(), look.next_xid.into()],
        );
        Ok(())
    })
}

/// Forgets everything.
pub fn forget() -> Result<(), Error> {
    privilege::as_owner(TABLE, || {
        for statement in
            [c"DELETE FROM perf.guard_look", c"DELETE FROM perf.guard_setting", c"DELETE FROM perf.guard_index"]
        {
            run(statement, &[]);
        }
        Ok(())
    })
}

/// Settings as they were.
pub fn settings() -> Result<Settings, Error> {
    privilege::as_owner(TABLE, || {
        Ok(rows(
            c"SELECT is_server, setdatabase, setrole, name, value, written, auto_written, origin FROM perf.guard_setting",
            &[],
            |row| {
                let oid = |column: i32| row.get::<pg_sys::Oid>(column).map_or(0, pg_sys::Oid::to_u32);
                let place = Place {
                    is_server: row.get(1).unwrap_or(false),
                    database: oid(2),
                    role: oid(3),
                    name: row.string(4),
                };
                let configured = Configured {
                    value: row.string(5),
                    written: row.string(6),
                    auto_written: row.get::<Text>(7).map(|text| text.0),
                    origin: row.string(8),
                    needs_restart: false,
                };
                (place, configured)
            },
        )
        .into_iter()
        .collect())
    })
}

/// Keeps how a setting is now; `None`: not set there any more.
pub fn note_setting(place: &Place, configured: Option<&Configured>) -> Result<(), Error> {
    // As numbers: an OID of zero would be NULL.
    let (database, role) = (i64::from(place.database), i64::from(place.role));
    privilege::as_owner(TABLE, || {
        match configured {
            None => run(
                c"DELETE FROM perf.guard_setting WHERE is_server = $1 AND setdatabase = $2::oid AND setrole = $3::oid AND name = $4",
                &[place.is_server.into(), database.into(), role.into(), text(&place.name)],
            ),
            Some(configured) => run(
                c"INSERT INTO perf.guard_setting (is_server, setdatabase, setrole, name, value, written, auto_written, origin)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                  ON CONFLICT (is_server, setdatabase, setrole, name)
                  DO UPDATE SET value = $5, written = $6, auto_written = $7, origin = $8",
                &[
                    place.is_server.into(),
                    database.into(),
                    role.into(),
                    text(&place.name),
                    text(&configured.value),
                    text(&configured.written),
                    configured.auto_written.clone().map(Text).into(),
                    text(&configured.origin),
                ],
            ),
        };
        Ok(())
    })
}
