//! SQL: `metrics`.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

use crate::advise::metrics;
use crate::pg::text::Text;

/// Every metric that can be measured of this server and this database now. A metric that cannot be measured has a row whose
/// value is NULL and whose note says why; one that does not apply, as that of a standby where there is none, has no row.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
pub fn metrics() -> TableIterator<
    'static,
    (
        name!(name, &'static str),
        name!(value, Option<f64>),
        name!(unit, &'static str),
        name!(scope, &'static str),
        name!(object, Option<Text>),
        name!(measured_at, TimestampWithTimeZone),
        name!(span, Option<Interval>),
        name!(note, Option<Text>),
    ),
> {
    let rows = metrics::measure(|_| true, true);
    TableIterator::new(rows.into_iter().map(|row| {
        let measured_at = TimestampWithTimeZone::try_from(row.measured_at)
            .unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity());
        let span = row.span_us.and_then(|us| Interval::new(0, 0, us).ok());
        let object = (!row.object.is_empty()).then_some(Text(row.object));
        (row.name, row.value, row.unit, row.scope, object, measured_at, span, row.note.map(Text))
    }))
}
