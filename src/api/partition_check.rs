//! SQL: `partition_check`.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::{or_raise, required};
use crate::act::jobs::to_unix;
use crate::error::Error;
use crate::partitions::check;
use crate::pg::text::Text;

/// What is wrong with partitioned tables. See sql/partition_check.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "partition_check"(
    "relation" regclass DEFAULT NULL,
    "as_of" timestamptz DEFAULT pg_catalog.now()
) RETURNS TABLE ("parent" text, "problem" text, "detail" text, "fix_sql" text)
LANGUAGE c
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn partition_check(
    relation: Option<pg_sys::Oid>,
    as_of: Option<TimestampWithTimeZone>,
) -> TableIterator<
    'static,
    (name!(parent, Text), name!(problem, Text), name!(detail, Text), name!(fix_sql, Option<Text>)),
> {
    let problems = or_raise((|| {
        let as_of = i64::from(required("as_of", as_of)?);
        if as_of == i64::MIN || as_of == i64::MAX {
            return Err(Error::InvalidArgument {
                argument: "as_of",
                value: if as_of < 0 { "-infinity" } else { "infinity" }.to_owned(),
                accepted: "A time.".to_owned(),
            });
        }
        check::check(relation, to_unix(as_of))
    })());
    TableIterator::new(
        problems.into_iter().map(|one| (Text(one.parent), Text(one.problem), Text(one.detail), one.fix.map(Text))),
    )
}
