//! A subquery in the list of a SELECT that sums up the rows of each row: summed up for all rows at once, and joined.

use std::ffi::c_void;

use perf_core::rewrite::Rule;
use pgrx::{is_a, pg_guard, pg_sys};

use super::subqueries::{is_only_aggregate, target};
use super::CONDITIONS_MAX;
use super::{tree, Finding, Look};
use crate::pg::ident;

/// Names of what takes the parts' places; quoted nowhere, and no name of a column.
const OUTER: &str = "each";
const INNER: &str = "summed";

/// Types of which equal values look alike, whichever comes first.
const EXACT: [pg_sys::Oid; 6] =
    [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::DATEOID, pg_sys::TIMESTAMPOID, pg_sys::TIMESTAMPTZOID];

/// # Safety
/// As for `predicates::look`.
pub unsafe fn find(look: &Look<'_>) -> Option<Finding> {
    // SAFETY: as promised.
    unsafe {
        let query = look.query;
        if (*query).commandType != pg_sys::CmdType::CMD_SELECT {
            return None;
        }
        let targets = tree::elements::<pg_sys::TargetEntry>((*query).targetList);
        let (place, link) = targets.iter().enumerate().find_map(|(at, one)| {
            let node = (**one).expr.cast::<pg_sys::Node>();
            let link = node.cast::<pg_sys::SubLink>();
            let is_scalar = is_a(node, pg_sys::NodeTag::T_SubLink)
                && (*link).subLinkType == pg_sys::SubLinkType::EXPR_SUBLINK
                && pg_sys::contain_vars_of_level((*link).subselect, 1);
            is_scalar.then_some((at, link))
        })?;
        let mut found = Finding::new(
            Rule::CorrelatedSubquery,
            "a subquery in the list of SELECT",
            "Join what it asks instead, summed up by the column it is asked for; for a few rows it is fine as it is, with an \
             index.",
        );
        let links = targets.iter().filter(|one| pg_sys::checkExprHasSubLink((***one).expr.cast())).count();
        if links == 1 && is_joinable(query) {
            found.written = joined(look, place, (*link).subselect.cast());
        }
        if found.written.is_some() {
            found.note =
                "Same rows, proven: each row finds one group at most, and none where the subquery finds no row. Many \
                          rows are summed up at once instead of one by one."
                    .to_owned();
        }
        Some(found)
    }
}

unsafe fn is_joinable(query: *mut pg_sys::Query) -> bool {
    // SAFETY: a valid query.
    unsafe {
        tree::is_plain(query)
            && (*query).sortClause.is_null()
            && (*query).cteList.is_null()
            && !pg_sys::contain_volatile_functions(query.cast())
    }
}

/// The one condition of a subquery by which it belongs to a row: its place, the row's side, its own side.
unsafe fn link_of(inner: *mut pg_sys::Query) -> Option<(usize, *mut pg_sys::Node, *mut pg_sys::Node)> {
    // SAFETY: a valid query.
    unsafe {
        let conditions = tree::conditions(inner);
        if conditions.len() >= CONDITIONS_MAX {
            return None;
        }
        let mut found = None;
        for (at, condition) in conditions.iter().enumerate() {
            if condition.query != inner || !pg_sys::contain_vars_of_level(*condition.place, 1) {
                continue;
            }
            let (sides, name) = tree::comparison(*condition.place)?;
            let is_outer = |node| pg_sys::contain_vars_of_level(node, 1) && !pg_sys::contain_vars_of_level(node, 0);
            let is_inner = |node| pg_sys::contain_vars_of_level(node, 0) && !pg_sys::contain_vars_of_level(node, 1);
            let (outer, own) = if is_outer(sides.left) && is_inner(sides.right) {
                (sides.left, sides.right)
            } else if is_outer(sides.right) && is_inner(sides.left) {
                (sides.right, sides.left)
            } else {
                return None;
            };
            let is_exact = EXACT.contains(&pg_sys::exprType(outer)) && EXACT.contains(&pg_sys::exprType(own));
            let is_simple = !pg_sys::checkExprHasSubLink(outer) && !pg_sys::checkExprHasSubLink(own);
            if found.is_some() || name != "=" || !is_exact || !is_simple {
                return None;
            }
            found = Some((at, outer, own));
        }
        found
    }
}

unsafe fn joined(look: &Look<'_>, place: usize, inner: *mut pg_sys::Query) -> Option<super::Written> {
    // SAFETY: nodes of a valid statement; what is changed are copies.
    unsafe {
        if !is_only_aggregate(inner) || !(*inner).cteList.is_null() {
            return None;
        }
        let shown = tree::elements::<pg_sys::TargetEntry>((*inner).targetList);
        let [aggregate] = shown[..] else { return None };
        let aggregate = (*aggregate).expr.cast::<pg_sys::Node>();
        if !is_a(aggregate, pg_sys::NodeTag::T_Aggref) {
            return None;
        }
        let call = aggregate.cast::<pg_sys::Aggref>();
        // What these say of no rows is known: 0 a count, NULL the others.
        if (*call).agglevelsup != 0 || !is_exact(call) {
            return None;
        }
        let is_count = ident::owned(pg_sys::get_func_name((*call).aggfnoid))? == "count";
        let (at, outer_key, own_key) = link_of(inner)?;
        // The rest of the subquery must be the same for every row.
        let rest = tree::copy(inner);
        *tree::conditions(rest).get(at)?.place = pg_sys::makeBoolConst(true, false);
        if pg_sys::contain_vars_of_level(rest.cast(), 1) {
            return None;
        }
        let key = target(tree::copy(own_key), 1);
        (*key).ressortgroupref = 1;
        let group = tree::node::<pg_sys::SortGroupClause>(pg_sys::NodeTag::T_SortGroupClause);
        (*group).tleSortGroupRef = 1;
        (*rest).targetList = tree::list([key, target(tree::copy(aggregate), 2)]);
        (*rest).groupClause = tree::list([group]);

        let outer = tree::copy(look.query);
        let value = tree::copy(outer_key);
        pg_sys::IncrementVarSublevelsUp(value, -1, 1);
        let targets = tree::elements::<pg_sys::TargetEntry>((*outer).targetList);
        (**targets.get(place)?).expr = value.cast();
        (*outer).hasSubLinks = true;
        let names: Vec<String> = targets
            .iter()
            .filter(|one| !(***one).resjunk)
            .map(|one| {
                let name = (**one).resname;
                if name.is_null() {
                    "?column?".to_owned()
                } else {
                    ident::from_server(std::ffi::CStr::from_ptr(name))
                }
            })
            .collect();
        let parts = [outer, rest];
        look.printer.write_texts(&parts, &parts, None, |parts| glued(parts, &names, place, is_count))
    }
}

/// Both parts in one statement.
fn glued(parts: &[String], names: &[String], place: usize, is_count: bool) -> String {
    let [outer, inner] = parts else { return String::new() };
    let value = if is_count { format!("COALESCE({INNER}.v, 0)") } else { format!("{INNER}.v") };
    let shown: Vec<String> = (names.iter().enumerate())
        .map(|(at, name)| {
            let own = format!("{OUTER}.c{}", at + 1);
            format!("{} AS {}", if at == place { &value } else { &own }, ident::quote(name))
        })
        .collect();
    let columns: Vec<String> = (1..=names.len()).map(|number| format!("c{number}")).collect();
    format!(
        "SELECT {}\nFROM ({outer}) AS {OUTER} ({})\nLEFT JOIN ({inner}) AS {INNER} (k, v) \
         ON {INNER}.k OPERATOR(pg_catalog.=) {OUTER}.c{}",
        shown.join(", "),
        columns.join(", "),
        place + 1
    )
}

/// Whether no aggregate of a query depends on the order of its rows.
///
/// # Safety
/// A valid query.
pub unsafe fn aggregates_see_no_order(query: *mut pg_sys::Query) -> bool {
    #[pg_guard]
    unsafe extern "C-unwind" fn sees_order(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: called with nodes of a valid query.
        unsafe {
            if is_a(node, pg_sys::NodeTag::T_Query) {
                return false;
            }
            is_a(node, pg_sys::NodeTag::T_Aggref) && !is_exact(node.cast())
                || pg_sys::expression_tree_walker(node, Some(sees_order), context)
        }
    }
    // SAFETY: as promised.
    unsafe {
        let one = &*query;
        !sees_order(one.targetList.cast(), std::ptr::null_mut()) && !sees_order(one.havingQual, std::ptr::null_mut())
    }
}

/// Whether an aggregate gives the same in whatever order it gets its rows.
unsafe fn is_exact(aggregate: *mut pg_sys::Aggref) -> bool {
    // SAFETY: a valid aggregate; its arguments are a list of targets.
    unsafe {
        let function = (*aggregate).aggfnoid;
        if function.to_u32() >= pg_sys::FirstNormalObjectId {
            return false;
        }
        let name = ident::owned(pg_sys::get_func_name(function)).unwrap_or_default();
        let args = tree::elements::<pg_sys::TargetEntry>((*aggregate).args);
        let of = args.first().map(|arg| pg_sys::exprType((**arg).expr.cast()));
        let is_exact = of.is_some_and(|of| EXACT.contains(&of));
        match name.as_str() {
            "count" | "bool_and" | "bool_or" | "every" => true,
            "sum" | "avg" => is_exact || of == Some(pg_sys::NUMERICOID),
            "min" | "max" => is_exact,
            _ => false,
        }
    }
}
