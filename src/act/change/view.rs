//! A materialized view as it is in the database, by its name. Inside a transaction; locks it for the time of one call, as the
//! server does to print it.

use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{catalog, privilege};

/// The query of the materialized view of a name, unquoted; `None` when there is no such view.
pub fn definition(schema: &str, name: &str) -> Result<Option<String>, Error> {
    // Printed with all names qualified, whatever the session's path is.
    let found = privilege::with_own_path(|| {
        catalog::rows(
            "SELECT pg_catalog.pg_get_viewdef(c.oid) FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
              WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name
                AND c.relkind OPERATOR(pg_catalog.=) 'm'",
            &[Text(schema.to_owned()).into(), Text(name.to_owned()).into()],
            |row| Ok(row.get::<Text>(1)?.map(|query| query.0)),
        )
    });
    Ok(found.map_err(spi_failed)?.into_iter().next())
}
