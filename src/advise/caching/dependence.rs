//! Shapes of statements as `perf_core::cache::depends` wants them. Pure but for the OIDs that it is told.

use perf_core::cache::depends;
use pgrx::pg_sys;

use crate::pg::statement_shape::Shape;

/// A statement that writes.
pub struct Writer {
    pub statement: depends::Statement,
    /// Places of the tables that it writes, with the columns that it sets.
    pub writes: Vec<(usize, Vec<i16>)>,
}

impl Writer {
    /// `root_of`: what a table is a part of, or itself.
    pub fn of(shape: &Shape, root_of: impl Fn(pg_sys::Oid) -> u32) -> Writer {
        let set_in = |place: usize| {
            let table = shape.tables[place];
            shape.updated.iter().filter(|(of, _)| *of == table).map(|(_, column)| *column).collect()
        };
        let writes = shape.writes.iter().map(|place| (*place, set_in(*place))).collect();
        Writer { statement: statement(shape, root_of), writes }
    }
}

/// Columns of a partition that is named have numbers of their own: nothing is said of their values. `root_of` as above.
pub fn statement(shape: &Shape, root_of: impl Fn(pg_sys::Oid) -> u32) -> depends::Statement {
    let is_whole = |place: usize| shape.tables.get(place).is_some_and(|table| root_of(*table) == table.to_u32());
    depends::Statement {
        tables: shape.tables.iter().map(|table| root_of(*table)).collect(),
        joins: shape.joins.iter().filter(|(a, b)| is_whole(a.0) && is_whole(b.0)).copied().collect(),
        pins: shape.pins.iter().filter(|pin| is_whole(pin.column.0)).map(|p| (p.column, p.slots.clone())).collect(),
    }
}
