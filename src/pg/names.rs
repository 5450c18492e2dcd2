//! Names of databases and roles by OID, and what the current role may see.

use core::ffi::{c_char, CStr};
use pgrx::pg_sys;
use std::collections::HashMap;

/// Looks names up once.
#[derive(Default)]
pub struct Names {
    databases: Known,
    roles: Known,
}

/// Names by OID; the latest is asked for again most often.
#[derive(Default)]
struct Known {
    names: HashMap<u32, Option<Vec<u8>>>,
    latest: Option<(u32, Option<Vec<u8>>)>,
}

impl Known {
    fn get(&mut self, oid: u32, look_up: impl FnOnce(pg_sys::Oid) -> Option<Vec<u8>>) -> Option<&[u8]> {
        if self.latest.as_ref().is_none_or(|(latest, _)| *latest != oid) {
            let name = self.names.entry(oid).or_insert_with(|| look_up(pg_sys::Oid::from(oid))).clone();
            self.latest = Some((oid, name));
        }
        self.latest.as_ref().and_then(|(_, name)| name.as_deref())
    }
}

impl Names {
    /// `None` when there is no such database (any more).
    pub fn database(&mut self, oid: u32) -> Option<&[u8]> {
        // SAFETY: a catalog look-up inside a transaction; NULL when missing.
        self.databases.get(oid, |oid| unsafe { bytes(pg_sys::get_database_name(oid)) })
    }

    /// `None` when there is no such role (any more).
    pub fn role(&mut self, oid: u32) -> Option<&[u8]> {
        // SAFETY: a catalog look-up inside a transaction; NULL when missing.
        self.roles.get(oid, |oid| unsafe { bytes(pg_sys::GetUserNameFromId(oid, true)) })
    }
}

unsafe fn bytes(name: *const c_char) -> Option<Vec<u8>> {
    // SAFETY: NULL or a NUL-terminated string.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_bytes().to_vec())
}

/// The name of a database; `None` when it is gone.
pub fn database_name(oid: u32) -> Option<String> {
    // SAFETY: a syscache look-up inside a transaction that gives NULL or a palloc'd string.
    unsafe { super::ident::owned(pg_sys::get_database_name(pg_sys::Oid::from(oid))) }
}

/// The OID of a database by name.
pub fn database_oid(name: &str) -> Option<u32> {
    let name = std::ffi::CString::new(name).ok()?;
    // SAFETY: a catalog look-up inside a transaction.
    let oid = unsafe { pg_sys::get_database_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then(|| oid.to_u32())
}

/// Whose statements the current role may see.
pub struct Visibility {
    own: u32,
    all: bool,
}

impl Visibility {
    /// Of the current role: its own, and everybody's with the rights of pg_read_all_stats.
    pub fn of_current_role() -> Visibility {
        // SAFETY: catalog look-ups inside a transaction.
        unsafe {
            let own = pg_sys::GetUserId();
            let reader = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_STATS);
            Visibility { own: own.to_u32(), all: pg_sys::has_privs_of_role(own, reader) }
        }
    }

    pub fn covers(&self, userid: u32) -> bool {
        self.all || self.own == userid
    }
}

pub fn current_database() -> u32 {
    // SAFETY: a plain read of a process global.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}
