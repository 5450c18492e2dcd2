//! Time zones of the server's own database, so that a schedule means what `timestamptz` of the same server means. Called
//! by the job functions and the scheduler. Locks nothing.

use std::ffi::CString;

use pgrx::pg_sys;

use crate::error::Error;

/// A time zone that the server knows.
pub struct ServerZone(*mut pg_sys::pg_tz);

impl ServerZone {
    /// By name, abbreviation of POSIX form included, as `SET TIME ZONE` takes it.
    pub fn named(argument: &'static str, name: &str) -> Result<ServerZone, Error> {
        let unknown = || Error::InvalidArgument {
            argument,
            value: format!("\"{name}\""),
            accepted: "A time zone of the server: see pg_timezone_names, for example Europe/Berlin.".to_owned(),
        };
        let text = CString::new(name).map_err(|_| unknown())?;
        if name.is_empty() || name.len() > pg_sys::TZ_STRLEN_MAX as usize {
            return Err(unknown());
        }
        // SAFETY: a NUL-terminated name; what is found lives in the process's cache for ever.
        let zone = unsafe { pg_sys::pg_tzset(text.as_ptr()) };
        // SAFETY: as above.
        if zone.is_null() || !unsafe { pg_sys::pg_tz_acceptable(zone) } {
            return Err(unknown());
        }
        Ok(ServerZone(zone))
    }
}

impl perf_core::schedule::Zone for ServerZone {
    fn offset_s(&self, utc_us: i64) -> i32 {
        let seconds: pg_sys::pg_time_t = utc_us.div_euclid(1_000_000);
        // SAFETY: a zone of the process's cache; the result is in a static buffer of the process, or null out of range.
        unsafe {
            let local = pg_sys::pg_localtime(&raw const seconds, self.0);
            local.as_ref().map_or(0, |local| local.tm_gmtoff as i32)
        }
    }
}
