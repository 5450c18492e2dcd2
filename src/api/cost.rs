//! SQL: `cost_impact`.

use pgrx::prelude::*;

use super::or_raise;
use crate::advise::cost;
use crate::pg::text::Text;

/// What this server uses, what the owner of the application adds, and what both cost a month by the table of prices.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
pub fn cost_impact() -> TableIterator<
    'static,
    (
        name!(item, Text),
        name!(quantity, Option<f64>),
        name!(resource_unit, Option<Text>),
        name!(unit_price, Option<f64>),
        name!(monthly_cost_low, Option<f64>),
        name!(monthly_cost_high, Option<f64>),
        name!(currency, Option<Text>),
        name!(basis, Text),
        name!(note, Option<Text>),
    ),
> {
    let rows = or_raise(cost::impact());
    TableIterator::new(rows.into_iter().map(|row| {
        (
            Text(row.item),
            row.quantity,
            row.unit.map(Text),
            row.unit_price,
            row.monthly.map(|(low, _)| low),
            row.monthly.map(|(_, high)| high),
            row.currency.map(Text),
            Text(row.basis),
            row.note.map(Text),
        )
    }))
}
