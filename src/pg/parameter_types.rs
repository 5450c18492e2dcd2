//! What parameters of type text are cast to in a statement, and a text as the type prints it: `007` that is cast to int is
//! the same parameter as `7`. Called inside a transaction, for statements that were analysed and not planned. Locks nothing
//! beyond what types' own functions lock; their errors are theirs.

use std::ffi::{c_void, CString};

use pgrx::{pg_guard, pg_sys, PgList};

use super::planner::analysis::{self, Sender};
use super::text::DbText;
use super::{ident, privilege, query_rules};

/// A type, with what limits its values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cast {
    type_oid: pg_sys::Oid,
    typmod: i32,
}

/// Types are written with their schema, whatever the search path is.
const QUALIFIED: pg_sys::bits16 = pg_sys::FORMAT_TYPE_FORCE_QUALIFY as pg_sys::bits16;
const TEXT: Cast = Cast { type_oid: pg_sys::TEXTOID, typmod: -1 };

struct Search {
    /// Of each parameter, all that it is cast to; text where it is not.
    found: Vec<Vec<Cast>>,
}

/// What each parameter is cast to wherever it is used; `None` where it is used as text, or in two ways, or not at all.
///
/// # Safety
/// A valid list of queries.
pub unsafe fn of_parameters(queries: *mut pg_sys::List, parameters: usize) -> Vec<Option<Cast>> {
    let mut search = Search { found: vec![Vec::new(); parameters] };
    // SAFETY: as promised; the walker reads only, and the search outlives it.
    unsafe {
        for query in PgList::<pg_sys::Node>::from_pg(queries).iter_ptr() {
            walk(query, (&raw mut search).cast());
        }
    }
    let only = |casts: Vec<Cast>| match casts[..] {
        [cast] if cast != TEXT => Some(cast),
        _ => None,
    };
    search.found.into_iter().map(only).collect()
}

/// What the server takes each parameter of a statement for where the text does not say it, as types can be written; `None` for
/// one that the statement does not have. In the current role's place and search path; nothing stays locked.
pub fn inferred(text: &str, lock_timeout_ms: u32) -> Result<Vec<Option<String>>, String> {
    let sender = Sender { search_path: None, role: None, lock_timeout_ms: Some(lock_timeout_ms) };
    let text = ident::until_nul(text);
    // SAFETY: inside a subtransaction with a memory context of its own that is rolled back.
    let types = || unsafe {
        let raw = analysis::only_statement(&text).map_err(|failure| failure.message())?;
        Ok::<_, String>(analysis::with_types(raw, &text, &[]).1)
    };
    // SAFETY: as above.
    let types = query_rules::guarded(|| unsafe { analysis::in_place_of(sender, types) })??;
    // SAFETY: looks names up; the text is ours to free.
    let written = |of: pg_sys::Oid| unsafe { ident::owned(pg_sys::format_type_extended(of, -1, QUALIFIED)) };
    Ok(types.into_iter().map(|of| if of == pg_sys::InvalidOid { None } else { written(of) }).collect())
}

impl Search {
    fn note(&mut self, parameter: i32, cast: Cast) {
        let place = usize::try_from(parameter - 1).ok().and_then(|at| self.found.get_mut(at));
        if let Some(casts) = place.filter(|casts| !casts.contains(&cast)) {
            casts.push(cast);
        }
    }
}

/// The parameter that a node is.
unsafe fn parameter(node: *mut pg_sys::Node) -> Option<i32> {
    // SAFETY: NULL, or a node that its tag says the type of.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_Param {
            return None;
        }
        let param = node.cast::<pg_sys::Param>();
        let is_given = (*param).paramkind == pg_sys::ParamKind::PARAM_EXTERN && (*param).paramtype == pg_sys::TEXTOID;
        is_given.then_some((*param).paramid)
    }
}

/// The parameter that a node casts, and to what.
unsafe fn cast(node: *mut pg_sys::Node) -> Option<(i32, Cast)> {
    // SAFETY: NULL, or a node that its tag says the type of.
    unsafe {
        if node.is_null() {
            return None;
        }
        let argument = match (*node).type_ {
            pg_sys::NodeTag::T_RelabelType => (*node.cast::<pg_sys::RelabelType>()).arg,
            pg_sys::NodeTag::T_CoerceViaIO => (*node.cast::<pg_sys::CoerceViaIO>()).arg,
            pg_sys::NodeTag::T_FuncExpr => {
                // A cast within a type, to the limits of its values.
                let function = node.cast::<pg_sys::FuncExpr>();
                let is_cast = (*function).funcformat != pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
                let argument = PgList::<pg_sys::Node>::from_pg((*function).args).head().filter(|_| is_cast)?;
                let (parameter, inner) = cast(argument)?;
                let typmod = pg_sys::exprTypmod(node);
                let is_same = inner.type_oid == (*function).funcresulttype && typmod >= 0;
                return is_same.then_some((parameter, Cast { typmod, ..inner }));
            }
            _ => return None,
        };
        let found = parameter(argument.cast())?;
        Some((found, Cast { type_oid: pg_sys::exprType(node), typmod: -1 }))
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called with nodes of a valid query, and with the search that `of_parameters` lends.
    unsafe {
        let search = &mut *context.cast::<Search>();
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            return pg_sys::query_tree_walker(node.cast(), Some(walk), context, 0);
        }
        if let Some((parameter, cast)) = cast(node) {
            search.note(parameter, cast);
            return false;
        }
        if let Some(parameter) = parameter(node) {
            search.note(parameter, TEXT);
        }
        pg_sys::expression_tree_walker(node, Some(walk), context)
    }
}

/// Whether values of a type end in blanks that mean nothing.
pub fn is_padded(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::getBaseType(type_oid) == pg_sys::BPCHAROID }
}

/// A text read as a type and printed again, the same whatever the session's settings for printing are. Raises what the type
/// says of a text that is none of its values.
pub fn printed(text: &str, cast: Cast) -> String {
    let Ok(source) = CString::new(DbText::from_utf8(text).as_bytes().to_vec()) else { return text.to_owned() };
    let Cast { type_oid, typmod } = cast;
    // What is too long is cut by a cast, but refused when it is read.
    let is_cut = matches!(type_oid, pg_sys::BPCHAROID | pg_sys::VARCHAROID | pg_sys::BITOID | pg_sys::VARBITOID);
    let typmod = if is_cut { -1 } else { typmod };
    // SAFETY: look-ups of a type that the statement names; a NUL-terminated text; what is printed is copied.
    let printed = unsafe {
        let (mut input, mut element) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::getTypeInputInfo(type_oid, &raw mut input, &raw mut element);
        let value = pg_sys::OidInputFunctionCall(input, source.as_ptr().cast_mut(), element, typmod);
        let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(type_oid, &raw mut output, &raw mut is_varlena);
        privilege::with_plain_text(|| ident::owned(pg_sys::OidOutputFunctionCall(output, value)))
    };
    let printed = printed.unwrap_or_else(|| text.to_owned());
    if is_padded(type_oid) {
        printed.trim_end_matches(' ').to_owned()
    } else {
        printed
    }
}
