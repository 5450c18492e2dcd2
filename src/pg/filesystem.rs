//! Free and used space of the filesystem a path is on. A server process has its data directory as working directory, so
//! that relative paths are those of the data directory.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;

use pgrx::pg_sys;

/// Space of one filesystem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Space {
    /// Size in bytes.
    pub total_bytes: f64,
    /// In use, in bytes.
    pub used_bytes: f64,
    /// What the server's user can still write, in bytes: without what is reserved for root.
    pub available_bytes: f64,
    /// Identity of the filesystem: equal for two paths on the same one.
    pub device: u64,
}

/// None when the path does not exist or the filesystem does not say.
pub fn space(path: &str) -> Option<Space> {
    let device = std::fs::metadata(path).ok()?.dev();
    let path = CString::new(path).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in NUL and `stat` has room for the result; it is read only where the call says it was filled.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    let unit = stat.f_frsize as f64;
    let total_bytes = stat.f_blocks as f64 * unit;
    (total_bytes > 0.0).then_some(Space {
        total_bytes,
        used_bytes: (stat.f_blocks as f64 - stat.f_bfree as f64).max(0.0) * unit,
        available_bytes: stat.f_bavail as f64 * unit,
        device,
    })
}

/// Where the files of a tablespace are; `None`: the server's default one.
pub fn directory_of(tablespace: Option<pg_sys::Oid>) -> String {
    match tablespace {
        Some(oid) if oid != pg_sys::DEFAULTTABLESPACE_OID => format!("pg_tblspc/{}", oid.to_u32()),
        _ => "base".to_owned(),
    }
}
