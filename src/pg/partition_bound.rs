//! Bounds of range partitions as the catalog has them: values of the key's type, not their text. Called by `partitions`
//! inside a transaction. Locks nothing; a relation that is dropped meanwhile has no bound.

use std::ffi::CStr;

use pgrx::{pg_sys, PgList};

/// What a partition holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// What no other partition does.
    Default,
    /// A range of one key, half-open.
    Range(Edge, Edge),
    /// Of a list, of a hash, or a range of several keys.
    Other,
}

/// One end of a range.
#[derive(Clone, Debug, PartialEq)]
pub enum Edge {
    /// MINVALUE.
    Min,
    /// MAXVALUE.
    Max,
    /// Days since 2000-01-01; `i32::MIN` and `i32::MAX` are the infinities.
    Date(i32),
    /// Microseconds since 2000-01-01; `i64::MIN` and `i64::MAX` are the infinities.
    Timestamp(i64),
    /// A bigint.
    Number(i64),
    /// A uuid.
    Uuid([u8; 16]),
    /// A value of another type.
    Other,
}

/// The bound of a partition; `None` when the relation is none (any more).
pub fn of(partition: pg_sys::Oid) -> Option<Bound> {
    // SAFETY: a catalog look-up inside a transaction. The tuple is released once its text is copied; the tree that is made
    // of the text belongs to the current memory context, and its node types are those the server writes for a bound.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(partition));
        if tuple.is_null() {
            return None;
        }
        let mut is_null = true;
        let column = pg_sys::Anum_pg_class_relpartbound as pg_sys::AttrNumber;
        let datum = pg_sys::SysCacheGetAttr(cache, tuple, column, &raw mut is_null);
        let text = (!is_null).then(|| pg_sys::text_to_cstring(datum.cast_mut_ptr()));
        pg_sys::ReleaseSysCache(tuple);
        let spec: *mut pg_sys::PartitionBoundSpec = pg_sys::stringToNode(text?).cast();
        if (*spec).is_default {
            return Some(Bound::Default);
        }
        let (lower, upper) = (one((*spec).lowerdatums), one((*spec).upperdatums));
        Some(match (lower, upper) {
            (Some(lower), Some(upper)) => Bound::Range(edge(lower), edge(upper)),
            _ => Bound::Other,
        })
    }
}

/// The only element of a list.
///
/// # Safety
/// A list of range datums, or NIL.
unsafe fn one(list: *mut pg_sys::List) -> Option<*mut pg_sys::PartitionRangeDatum> {
    // SAFETY: the caller's promise.
    let list = unsafe { PgList::<pg_sys::PartitionRangeDatum>::from_pg(list) };
    if list.len() == 1 {
        list.get_ptr(0)
    } else {
        None
    }
}

/// # Safety
/// A range datum of a bound that the server has stored.
unsafe fn edge(datum: *mut pg_sys::PartitionRangeDatum) -> Edge {
    use pg_sys::PartitionRangeDatumKind as Kind;
    // SAFETY: the value of a stored bound is a constant that is not null; a datum of a type is read as that type.
    unsafe {
        match (*datum).kind {
            Kind::PARTITION_RANGE_DATUM_MINVALUE => return Edge::Min,
            Kind::PARTITION_RANGE_DATUM_MAXVALUE => return Edge::Max,
            _ => {}
        }
        let constant: *mut pg_sys::Const = (*datum).value.cast();
        if constant.is_null() || (*constant).xpr.type_ != pg_sys::NodeTag::T_Const || (*constant).constisnull {
            return Edge::Other;
        }
        let value = (*constant).constvalue;
        match (*constant).consttype {
            pg_sys::DATEOID => Edge::Date(value.value() as i32),
            pg_sys::TIMESTAMPOID | pg_sys::TIMESTAMPTZOID => Edge::Timestamp(value.value() as i64),
            pg_sys::INT8OID => Edge::Number(value.value() as i64),
            pg_sys::UUIDOID => Edge::Uuid(*value.cast_mut_ptr::<[u8; 16]>()),
            _ => Edge::Other,
        }
    }
}

/// The definition of a bound, as CREATE TABLE and ATTACH take it.
pub fn text(partition: pg_sys::Oid) -> Option<String> {
    super::catalog::rows(
        "SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) FROM pg_catalog.pg_class c
          WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[partition.into()],
        |row| Ok(row.get::<super::text::Text>(1)?.map(|text| text.0)),
    )
    .ok()?
    .pop()
}

/// What a domain is of; a type that is none is its own base.
pub fn base_type(type_oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::getBaseType(type_oid) }
}

/// A name for messages of what a key's type is called.
pub fn type_name(type_oid: pg_sys::Oid) -> String {
    // SAFETY: a catalog look-up that gives a palloc'd string, `???` for what does not exist.
    unsafe {
        let name = pg_sys::format_type_be(type_oid);
        let copy = super::ident::from_server(CStr::from_ptr(name));
        pg_sys::pfree(name.cast());
        copy
    }
}
