//! What matters of a query wherever it is in it: locks on rows, and functions that may do anything.

use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys};

use super::query::is_of_extension;
use super::Shape;
use crate::pg::ident;

/// Volatile functions of the server that only read: they may run anywhere.
const HARMLESS: [&str; 10] = [
    "random",
    "random_normal",
    "clock_timestamp",
    "timeofday",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
];

/// Beginnings of names of the server's stable functions that look at the session.
const ASK_THE_SESSION: [&str; 5] = ["current_setting", "current_schemas", "has_", "pg_has_role", "row_security_active"];

/// The server's stable functions that say what time it is, and when the statement or its transaction began.
const CLOCK: [&str; 4] = ["now", "transaction_timestamp", "statement_timestamp", "age"];

/// Beginnings of names of the server's stable functions whose results depend on their arguments, and on how times and
/// numbers are written: formats, zones, casts.
const OF_ARGUMENTS: [&str; 34] = [
    "date",
    "timestamp",
    "time",
    "interval",
    "extract",
    "to_char",
    "to_date",
    "to_timestamp",
    "to_number",
    "to_json",
    "json",
    "row_to_json",
    "array_",
    "record_",
    "concat",
    "textanycat",
    "anytextcat",
    "generate_series",
    "to_tsvector",
    "to_tsquery",
    "plainto_tsquery",
    "phraseto_tsquery",
    "websearch_to_tsquery",
    "ts_headline",
    "text",
    "numeric",
    "money",
    "cash",
    "overlaps",
    "in_range",
    "enum_",
    "range_",
    "multirange_",
    "string_agg",
];

/// Tells what a function that is not immutable depends on.
fn note_stable(shape: &mut Shape, name: &str, own: bool, volatile: bool, arguments: i32) {
    shape.any_volatile |= volatile;
    shape.own_changing |= own;
    if volatile || own {
        return;
    }
    if CLOCK.contains(&name) && (name != "age" || arguments == 1) {
        shape.clock = true;
    } else if arguments == 0 || ASK_THE_SESSION.iter().any(|start| name.starts_with(start)) {
        shape.session = true;
    } else if name != "format" && name != "age" && !OF_ARGUMENTS.iter().any(|start| name.starts_with(start)) {
        shape.unknown_stable.get_or_insert_with(|| name.to_owned());
    }
}

/// Notes what matters of a query wherever it is in it.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn note_node(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called with nodes of a valid query and with the shape that `note` lends.
    unsafe {
        let shape = &mut *context.cast::<Shape>();
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {
                let query = node.cast::<pg_sys::Query>();
                shape.locks_rows |= !(*query).rowMarks.is_null();
                shape.row_security |= (*query).hasRowSecurity;
                return pg_sys::query_tree_walker(query, Some(note_node), context, 0);
            }
            pg_sys::NodeTag::T_NextValueExpr => shape.volatile = true,
            // Each time other rows.
            pg_sys::NodeTag::T_TableSampleClause
                if (*node.cast::<pg_sys::TableSampleClause>()).repeatable.is_null() =>
            {
                shape.any_volatile = true;
            }
            pg_sys::NodeTag::T_SQLValueFunction => {
                shape.circumstances = true;
                let is_clock =
                    (*node.cast::<pg_sys::SQLValueFunction>()).op < pg_sys::SQLValueFunctionOp::SVFOP_CURRENT_ROLE;
                shape.clock |= is_clock;
                shape.session |= !is_clock;
            }
            _ => {}
        }
        pg_sys::check_functions_in_node(node, Some(note_function), context);
        pg_sys::expression_tree_walker(node, Some(note_node), context)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn note_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: the context is the shape that `note` lends; syscache look-ups.
    unsafe {
        let shape = &mut *context.cast::<Shape>();
        let own = function.to_u32() >= pg_sys::FirstNormalObjectId;
        if own && is_of_extension(pg_sys::get_func_namespace(function)) {
            shape.catalogs = true;
            shape.extension = true;
            return false;
        }
        shape.calls_functions |= own;
        // An aggregate is immutable for the server, whatever the functions are that it is made of.
        shape.own_changing |= own && pg_sys::get_func_prokind(function) as u8 == pg_sys::PROKIND_AGGREGATE;
        let volatility = pg_sys::func_volatile(function) as u8;
        if volatility != pg_sys::PROVOLATILE_IMMUTABLE {
            let name = ident::owned(pg_sys::get_func_name(function)).unwrap_or_default();
            let volatile = volatility == pg_sys::PROVOLATILE_VOLATILE;
            shape.volatile |= volatile && (own || !HARMLESS.contains(&name.as_str()));
            // Without arguments it can only tell of the session or of the clock.
            let arguments = pg_sys::get_func_nargs(function);
            shape.circumstances |= volatile
                || arguments == 0
                || (arguments == 1 && name == "age")
                || ASK_THE_SESSION.iter().any(|start| name.starts_with(start));
            note_stable(shape, &name, own, volatile, arguments);
        }
    }
    false
}
