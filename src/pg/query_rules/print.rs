//! Makes texts of trees, as the server prints them: one with the literals of the sample, to be planned, and one with `$n` in
//! their places, to be shown. Which literal has which number is known by where in the sample's text it is.

use std::collections::HashMap;
use std::ffi::{c_void, CStr};

use perf_core::normalize::literals;
use pgrx::{is_a, pg_guard, pg_sys};

use super::{analyzed, guarded, tree, Written};
use crate::pg::ident;
use crate::pg::planner::Parameter;

// A literal's node is overwritten by what stands for it.
const _: () = assert!(size_of::<pg_sys::Const>() >= size_of::<pg_sys::Param>());
const _: () = assert!(size_of::<pg_sys::Const>() >= size_of::<pg_sys::RelabelType>());

/// Prints trees of one statement.
pub struct Printer<'a> {
    /// Numbers of literals by their places in the text.
    numbers: HashMap<i32, i32>,
    /// Names and types of the statement's columns.
    columns: Vec<(String, pg_sys::Oid)>,
    parameters: &'a [Parameter],
}

/// Functions that the grammar writes with a keyword for an argument, and which argument that is: it has to stay a literal.
const KEYWORDS: [(u32, usize); 8] = [
    (pg_sys::F_EXTRACT_TEXT_DATE, 0),
    (pg_sys::F_EXTRACT_TEXT_TIME, 0),
    (pg_sys::F_EXTRACT_TEXT_TIMETZ, 0),
    (pg_sys::F_EXTRACT_TEXT_TIMESTAMP, 0),
    (pg_sys::F_EXTRACT_TEXT_TIMESTAMPTZ, 0),
    (pg_sys::F_EXTRACT_TEXT_INTERVAL, 0),
    (pg_sys::F_NORMALIZE, 1),
    (pg_sys::F_IS_NORMALIZED, 1),
];

impl<'a> Printer<'a> {
    /// # Safety
    /// `query` was analysed from `text`.
    pub unsafe fn new(text: &CStr, query: *mut pg_sys::Query, parameters: &'a [Parameter]) -> Printer<'a> {
        let bytes = text.to_bytes();
        let mut number = literals::parameters(bytes) as i32;
        let mut numbers = HashMap::new();
        // SAFETY: a plain read of a process global.
        let escapes = unsafe { !pg_sys::standard_conforming_strings };
        literals::each(bytes, escapes, |literal| {
            number += 1;
            let at = literal.as_ptr() as usize - bytes.as_ptr() as usize;
            numbers.insert(at as i32, number);
            true
        });
        // SAFETY: as promised.
        Printer { numbers, columns: unsafe { columns_of(query) }, parameters }
    }

    /// The texts of a tree that takes the place of the statement; None where what the server prints is not read back as a
    /// statement with the same columns.
    ///
    /// # Safety
    /// A valid tree, in a subtransaction that is rolled back.
    pub unsafe fn write(&self, query: *mut pg_sys::Query) -> Option<Written> {
        // SAFETY: as promised.
        unsafe { self.write_texts(&[query], &[query], None, |parts| parts.concat()) }
    }

    /// The same where what is shown is another tree than what is planned, and has another type of parameter at a number.
    ///
    /// # Safety
    /// As for `write`.
    pub unsafe fn write_both(
        &self,
        sample: *mut pg_sys::Query,
        shown: *mut pg_sys::Query,
        retyped: (i32, pg_sys::Oid),
    ) -> Option<Written> {
        // SAFETY: as promised.
        unsafe { self.write_texts(&[sample], &[shown], Some(retyped), |parts| parts.concat()) }
    }

    /// The same of a statement that is put together of several.
    ///
    /// # Safety
    /// As for `write`.
    pub unsafe fn write_texts(
        &self,
        sample: &[*mut pg_sys::Query],
        shown: &[*mut pg_sys::Query],
        retyped: Option<(i32, pg_sys::Oid)>,
        join: impl Fn(&[String]) -> String,
    ) -> Option<Written> {
        // SAFETY: as promised; what is printed may be changed by the server, so it gets copies.
        unsafe {
            let texts = |trees: &[*mut pg_sys::Query], casts: Option<bool>| -> Option<(String, Vec<Stood>)> {
                let (mut parts, mut stood) = (Vec::new(), Vec::new());
                for query in trees {
                    parts.push(self.text(tree::copy(*query), casts, &mut stood)?);
                }
                Some((join(&parts), stood))
            };
            let (plain, _) = texts(sample, None)?;
            if !self.reads_back(&plain, None, self.parameters) {
                return None;
            }
            let mut parameters = self.parameters.to_vec();
            if let Some((number, of)) = retyped {
                let place = usize::try_from(number - 1).ok().and_then(|at| parameters.get_mut(at));
                if let Some(parameter) = place {
                    parameter.type_oid = of;
                }
            }
            let fits = |casts| {
                texts(shown, Some(casts))
                    .filter(|(text, stood)| self.reads_back(text, Some(stood), &parameters))
                    .map(|(text, _)| text)
            };
            Some(Written { sample: plain, shown: fits(false).or_else(|| fits(true)) })
        }
    }

    /// # Safety
    /// A valid tree that is nobody else's. `casts`: whether literals are replaced, and casts put around what takes their
    /// places; `stood` gets what they were.
    unsafe fn text(&self, query: *mut pg_sys::Query, casts: Option<bool>, stood: &mut Vec<Stood>) -> Option<String> {
        // SAFETY: as promised; the walker changes literals only.
        unsafe {
            if let Some(casts) = casts {
                let mut mask = Mask { numbers: &self.numbers, casts, failed: false, stood: Vec::new() };
                pg_sys::query_tree_walker(query, Some(replace), (&raw mut mask).cast(), 0);
                if mask.failed {
                    return None;
                }
                stood.append(&mut mask.stood);
            }
            ident::owned(pg_sys::pg_get_querydef(query, true))
        }
    }

    /// Whether the server makes the statement's columns of a text, and of what stands for literals what these were.
    fn reads_back(&self, text: &str, stood: Option<&[Stood]>, parameters: &[Parameter]) -> bool {
        let text = ident::until_nul(text);
        // SAFETY: inside a subtransaction that is rolled back.
        let read = guarded(|| unsafe { analyzed(&text, parameters).map(|read| (columns_of(read.query), read.types)) });
        let Ok(Ok((columns, types))) = read else { return false };
        let Some(stood) = stood else { return columns == self.columns };
        // What is selected as it was written has whatever type.
        let names = columns.iter().map(|one| &one.0).eq(self.columns.iter().map(|one| &one.0));
        names
            && stood.iter().all(|one| {
                let read = usize::try_from(one.number - 1).ok().and_then(|at| types.get(at));
                read.is_some_and(|read| is_alike(one.of, *read))
            })
    }
}

/// A literal that something stands for.
struct Stood {
    number: i32,
    of: pg_sys::Oid,
}

/// Whether a parameter of a type says the same as a literal of another: whole numbers, and texts.
fn is_alike(literal: pg_sys::Oid, parameter: pg_sys::Oid) -> bool {
    const WHOLE: [pg_sys::Oid; 3] = [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID];
    const TEXTS: [pg_sys::Oid; 4] = [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::UNKNOWNOID, pg_sys::NAMEOID];
    let both = |types: &[pg_sys::Oid]| types.contains(&literal) && types.contains(&parameter);
    literal == parameter || both(&WHOLE) || both(&TEXTS)
}

/// # Safety
/// A valid query.
unsafe fn columns_of(query: *mut pg_sys::Query) -> Vec<(String, pg_sys::Oid)> {
    // SAFETY: as promised.
    unsafe {
        let targets = match (*query).commandType {
            pg_sys::CmdType::CMD_SELECT => (*query).targetList,
            _ => (*query).returningList,
        };
        let shown = tree::elements::<pg_sys::TargetEntry>(targets).into_iter().filter(|target| !(**target).resjunk);
        shown
            .map(|target| {
                let name = (*target).resname;
                let name = if name.is_null() { String::new() } else { ident::from_server(CStr::from_ptr(name)) };
                (name, pg_sys::exprType((*target).expr.cast()))
            })
            .collect()
    }
}

struct Mask<'a> {
    numbers: &'a HashMap<i32, i32>,
    casts: bool,
    failed: bool,
    stood: Vec<Stood>,
}

/// Puts parameters in the places of literals.
#[pg_guard]
unsafe extern "C-unwind" fn replace(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called with the nodes of a tree that is ours to change, and with the mask that `text` lends. A literal's memory
    // has room for either node (see above), and whoever points to it takes any expression.
    unsafe {
        let mask = &mut *context.cast::<Mask<'_>>();
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => pg_sys::query_tree_walker(node.cast(), Some(replace), context, 0),
            pg_sys::NodeTag::T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                let is_syntax = (*call).funcformat == pg_sys::CoercionForm::COERCE_SQL_SYNTAX;
                let keyword = KEYWORDS.iter().find(|(function, _)| is_syntax && (*call).funcid.to_u32() == *function);
                let args = tree::elements::<pg_sys::Node>((*call).args).into_iter().enumerate();
                for (_, arg) in args.filter(|(at, _)| keyword.is_none_or(|(_, kept)| kept != at)) {
                    replace(arg, context);
                }
                false
            }
            pg_sys::NodeTag::T_Const => {
                let literal = *node.cast::<pg_sys::Const>();
                let Some(number) = mask.numbers.get(&literal.location).copied() else {
                    // What the rules put in has no place; NULL, true and false are no literals.
                    let is_word = literal.constisnull || literal.consttype == pg_sys::BOOLOID;
                    mask.failed |= literal.location >= 0 && !is_word;
                    return false;
                };
                let of = match literal.consttype {
                    pg_sys::UNKNOWNOID => pg_sys::TEXTOID,
                    of => of,
                };
                let param = parameter(number, of);
                mask.stood.push(Stood { number, of });
                if mask.casts {
                    *node.cast::<pg_sys::RelabelType>() = *labelled(param.cast(), of);
                } else {
                    *node.cast::<pg_sys::Param>() = *param;
                }
                false
            }
            _ => pg_sys::expression_tree_walker(node, Some(replace), context),
        }
    }
}

/// `$n`.
///
/// # Safety
/// In a memory context of the tree's.
pub unsafe fn parameter(number: i32, of: pg_sys::Oid) -> *mut pg_sys::Param {
    // SAFETY: a node of that kind.
    unsafe {
        let param = tree::node::<pg_sys::Param>(pg_sys::NodeTag::T_Param);
        (*param).paramkind = pg_sys::ParamKind::PARAM_EXTERN;
        (*param).paramid = number;
        (*param).paramtype = of;
        (*param).paramtypmod = -1;
        (*param).location = -1;
        param
    }
}

/// `$n::type`, whatever type it has by itself.
///
/// # Safety
/// A valid expression.
pub unsafe fn labelled(node: *mut pg_sys::Node, of: pg_sys::Oid) -> *mut pg_sys::RelabelType {
    // SAFETY: as promised.
    unsafe {
        let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CAST;
        pg_sys::makeRelabelType(node.cast(), of, -1, pg_sys::InvalidOid, form)
    }
}

impl Printer<'_> {
    /// The number that a literal has in the normalised text, or that a parameter has anyway.
    ///
    /// # Safety
    /// A valid expression.
    pub unsafe fn number(&self, node: *mut pg_sys::Node) -> Option<i32> {
        // SAFETY: the tag says which struct it is.
        unsafe {
            let node = tree::uncast(node);
            if is_a(node, pg_sys::NodeTag::T_Param) {
                return Some((*node.cast::<pg_sys::Param>()).paramid);
            }
            if !is_a(node, pg_sys::NodeTag::T_Const) {
                return None;
            }
            self.numbers.get(&(*node.cast::<pg_sys::Const>()).location).copied()
        }
    }
}
