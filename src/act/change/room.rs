//! Whether the disk has room for an index. Reads the catalog and asks the filesystem; locks nothing.

use pgrx::pg_sys;

use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::guc;
use crate::pg::{catalog, filesystem};

/// An error with the numbers when an index of so many bytes does not fit where CREATE INDEX would put it for this session:
/// into default_tablespace, else into that of the database.
pub fn require(size_bytes: i64) -> Result<(), Error> {
    let found = catalog::rows(
        "SELECT COALESCE((SELECT t.oid FROM pg_catalog.pg_tablespace t
                           WHERE t.spcname OPERATOR(pg_catalog.=) pg_catalog.current_setting('default_tablespace')::pg_catalog.name),
                         d.dattablespace)
           FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()",
        &[],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .map_err(spi_failed)?;
    let directory = filesystem::directory_of(found.into_iter().next());
    let free = filesystem::space(&directory).map(|space| space.available_bytes);
    match perf_core::change::lack_of_room(size_bytes.max(0) as f64, free, guc::apply_min_free_bytes()) {
        None => Ok(()),
        Some(reason) => Err(Error::NoRoom {
            message: format!("there is no room for the index: {reason}"),
            hint: "Make room, set default_tablespace to another one, or lower perf_opt.apply_min_free_mb.".to_owned(),
        }),
    }
}
