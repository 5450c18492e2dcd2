//! Tools for analysed trees: where their conditions are, and how to make new nodes. Nodes live in the current memory context.

use std::ffi::{c_void, CStr, CString};
use std::ptr;

use pgrx::{is_a, pg_guard, pg_sys, IntoDatum, PgList};

use super::CONDITIONS_MAX;
use crate::pg::ident;
use crate::pg::planner::Parameter;

/// A condition that every row of a query meets: one of those that AND holds together.
#[derive(Clone, Copy)]
pub struct Condition {
    /// Where the tree has it.
    pub place: *mut *mut pg_sys::Node,
    /// The query it is a condition of.
    pub query: *mut pg_sys::Query,
}

/// All queries of a statement, the outermost first; in the same order for a copy of it.
///
/// # Safety
/// A valid query.
pub unsafe fn queries(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::Query> {
    #[pg_guard]
    unsafe extern "C-unwind" fn collect(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: called with the nodes of a valid query and the list that `queries` lends.
        unsafe {
            if is_a(node, pg_sys::NodeTag::T_Query) {
                (*context.cast::<Vec<*mut pg_sys::Query>>()).push(node.cast());
                return pg_sys::query_tree_walker(node.cast(), Some(collect), context, 0);
            }
            pg_sys::expression_tree_walker(node, Some(collect), context)
        }
    }
    let mut found = vec![query];
    // SAFETY: as promised; the walker keeps no pointer beyond the call.
    unsafe { pg_sys::query_tree_walker(query, Some(collect), (&raw mut found).cast(), 0) };
    found
}

/// The conditions of a statement, at every level, in the same order for a copy of it.
///
/// # Safety
/// A valid query.
pub unsafe fn conditions(query: *mut pg_sys::Query) -> Vec<Condition> {
    let mut found = Vec::new();
    // SAFETY: as promised.
    unsafe {
        for level in queries(query) {
            if !(*level).jointree.is_null() {
                from((*level).jointree.cast(), level, &mut found);
            }
        }
    }
    found.truncate(CONDITIONS_MAX);
    found
}

/// # Safety
/// `node` is in the join tree of `query`.
unsafe fn from(node: *mut pg_sys::Node, query: *mut pg_sys::Query, found: &mut Vec<Condition>) {
    // SAFETY: the tag says which struct a node is.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_FromExpr => {
                let from_expr = node.cast::<pg_sys::FromExpr>();
                for item in PgList::<pg_sys::Node>::from_pg((*from_expr).fromlist).iter_ptr() {
                    from(item, query, found);
                }
                ands(&raw mut (*from_expr).quals, query, found);
            }
            pg_sys::NodeTag::T_JoinExpr => {
                let join = node.cast::<pg_sys::JoinExpr>();
                // What is below an outer join is not met by every row above it, but by every row that it looks at; what it
                // joins by is a condition on pairs only.
                if (*join).jointype == pg_sys::JoinType::JOIN_INNER {
                    from((*join).larg, query, found);
                    from((*join).rarg, query, found);
                    ands(&raw mut (*join).quals, query, found);
                }
            }
            _ => {}
        }
    }
}

/// # Safety
/// `place` holds NULL or a condition of `query`.
unsafe fn ands(place: *mut *mut pg_sys::Node, query: *mut pg_sys::Query, found: &mut Vec<Condition>) {
    // SAFETY: see the function's contract; a list's cells stay where they are while nobody adds to it.
    unsafe {
        let node = *place;
        if node.is_null() {
            return;
        }
        if is_and(node) {
            let list = (*node.cast::<pg_sys::BoolExpr>()).args;
            for at in 0..(*list).length as usize {
                ands((&raw mut (*(*list).elements.add(at)).ptr_value).cast(), query, found);
            }
        } else {
            found.push(Condition { place, query });
        }
    }
}

/// # Safety
/// A valid node.
unsafe fn is_and(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag says which struct it is.
    unsafe {
        is_a(node, pg_sys::NodeTag::T_BoolExpr)
            && (*node.cast::<pg_sys::BoolExpr>()).boolop == pg_sys::BoolExprType::AND_EXPR
    }
}

/// # Safety
/// A valid node.
pub unsafe fn copy<T>(node: *mut T) -> *mut T {
    // SAFETY: as promised.
    unsafe { pg_sys::copyObjectImpl(node.cast_const().cast()).cast() }
}

/// The elements of a list.
///
/// # Safety
/// NULL or a list of pointers to such nodes.
pub unsafe fn elements<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    // SAFETY: as promised.
    unsafe { PgList::<T>::from_pg(list).iter_ptr().collect() }
}

/// A list.
pub fn list<T>(nodes: impl IntoIterator<Item = *mut T>) -> *mut pg_sys::List {
    let mut list = PgList::<T>::new();
    for node in nodes {
        list.push(node);
    }
    list.into_pg()
}

/// A comparison, by operators of the server.
#[derive(Clone, Copy)]
pub struct Comparison {
    pub node: *mut pg_sys::OpExpr,
    pub left: *mut pg_sys::Node,
    pub right: *mut pg_sys::Node,
}

/// An operator of the server's own with two sides, and its name.
///
/// # Safety
/// A valid node.
pub unsafe fn comparison(node: *mut pg_sys::Node) -> Option<(Comparison, String)> {
    // SAFETY: the tag says which struct it is.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_OpExpr) {
            return None;
        }
        let operator = node.cast::<pg_sys::OpExpr>();
        let args = elements::<pg_sys::Node>((*operator).args);
        let [left, right] = args[..] else { return None };
        if (*operator).opno.to_u32() >= pg_sys::FirstNormalObjectId {
            return None;
        }
        let name = ident::owned(pg_sys::get_opname((*operator).opno))?;
        Some((Comparison { node: operator, left, right }, name))
    }
}

/// Below casts that change no bit.
///
/// # Safety
/// A valid node.
pub unsafe fn unlabelled(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the tag says which struct it is.
    unsafe {
        while is_a(node, pg_sys::NodeTag::T_RelabelType) {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        node
    }
}

/// The column of a table that a node is, with the table, if it is one of this query's own.
///
/// # Safety
/// A valid node of that query.
pub unsafe fn column(node: *mut pg_sys::Node, query: *mut pg_sys::Query) -> Option<(pg_sys::Oid, i16)> {
    // SAFETY: the tag says which struct it is; a variable's number is a place in its query's range table.
    unsafe {
        let node = unlabelled(node);
        if !is_a(node, pg_sys::NodeTag::T_Var) {
            return None;
        }
        let var = node.cast::<pg_sys::Var>();
        if (*var).varlevelsup != 0 || (*var).varattno <= 0 {
            return None;
        }
        let entry = entry(query, (*var).varno)?;
        ((*entry).rtekind == pg_sys::RTEKind::RTE_RELATION).then(|| ((*entry).relid, (*var).varattno))
    }
}

/// An entry of a query's range table, counted from 1.
///
/// # Safety
/// A valid query.
pub unsafe fn entry(query: *mut pg_sys::Query, number: i32) -> Option<*mut pg_sys::RangeTblEntry> {
    // SAFETY: as promised.
    unsafe {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).get_ptr(at)
    }
}

/// `table.column`, as far as it matters to a reader.
pub fn column_name(column: (pg_sys::Oid, i16)) -> String {
    let table = ident::relation_parts(column.0).map_or_else(String::new, |(_, name)| ident::quote(&name));
    format!("{table}.{}", attribute_name(column))
}

/// A column's name, quoted.
pub fn attribute_name(column: (pg_sys::Oid, i16)) -> String {
    // SAFETY: a look-up that gives NULL for what does not exist.
    let name = unsafe { ident::owned(pg_sys::get_attname(column.0, column.1, true)) };
    ident::quote(&name.unwrap_or_default())
}

/// Whether an expression is the same for every row of its query, and may be written twice: no columns, no subqueries, nothing
/// volatile.
///
/// # Safety
/// A valid expression.
pub unsafe fn is_value(node: *mut pg_sys::Node) -> bool {
    // SAFETY: as promised.
    unsafe {
        !pg_sys::contain_vars_of_level(node, 0)
            && !pg_sys::checkExprHasSubLink(node)
            && !pg_sys::contain_aggs_of_level(node, 0)
            && !pg_sys::contain_volatile_functions(node)
    }
}

/// What a literal or a parameter says, as text; None where it is NULL or not known.
///
/// # Safety
/// A valid expression.
pub unsafe fn value(node: *mut pg_sys::Node, parameters: &[Parameter]) -> Option<String> {
    // SAFETY: the tag says which struct it is; only types of the server's own are printed.
    unsafe {
        let node = uncast(node);
        if is_a(node, pg_sys::NodeTag::T_Param) {
            let param = node.cast::<pg_sys::Param>();
            let at = usize::try_from((*param).paramid).ok()?.checked_sub(1)?;
            let is_outer = (*param).paramkind == pg_sys::ParamKind::PARAM_EXTERN;
            return parameters.get(at).filter(|_| is_outer)?.value.clone();
        }
        if !is_a(node, pg_sys::NodeTag::T_Const) {
            return None;
        }
        let literal = node.cast::<pg_sys::Const>();
        if (*literal).constisnull || (*literal).consttype.to_u32() >= pg_sys::FirstNormalObjectId {
            return None;
        }
        let (mut output, mut is_long) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo((*literal).consttype, &mut output, &mut is_long);
        ident::owned(pg_sys::OidOutputFunctionCall(output, (*literal).constvalue))
    }
}

/// Below casts that the server put in.
///
/// # Safety
/// A valid expression.
pub unsafe fn uncast(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the tag says which struct it is; a cast has what it casts as its first argument.
    unsafe {
        loop {
            node = unlabelled(node);
            if !is_a(node, pg_sys::NodeTag::T_FuncExpr) {
                return node;
            }
            let call = node.cast::<pg_sys::FuncExpr>();
            let is_cast = (*call).funcformat == pg_sys::CoercionForm::COERCE_IMPLICIT_CAST;
            match elements::<pg_sys::Node>((*call).args).first() {
                Some(inner) if is_cast => node = *inner,
                _ => return node,
            }
        }
    }
}

/// An operator of the server's, by name.
///
/// # Safety
/// Valid expressions.
pub unsafe fn operator(name: &CStr, left: *mut pg_sys::Node, right: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: as promised; names are copied into the tree's context.
    unsafe {
        let names = list([string(c"pg_catalog"), string(name)]);
        let state = pg_sys::make_parsestate(ptr::null_mut());
        pg_sys::make_op(state, names, left, right, ptr::null_mut(), -1).cast()
    }
}

unsafe fn string(text: &CStr) -> *mut pg_sys::Node {
    // SAFETY: copied by the first call.
    unsafe { pg_sys::makeString(pg_sys::pstrdup(text.as_ptr())).cast() }
}

/// A cast, written as one.
///
/// # Safety
/// A valid expression of a type that can be cast so.
pub unsafe fn cast(node: *mut pg_sys::Node, to: pg_sys::Oid) -> *mut pg_sys::Node {
    // SAFETY: as promised.
    unsafe {
        let of = pg_sys::exprType(node);
        if of == to {
            return node;
        }
        let (explicit, format) =
            (pg_sys::CoercionContext::COERCION_EXPLICIT, pg_sys::CoercionForm::COERCE_EXPLICIT_CAST);
        pg_sys::coerce_to_target_type(pg_sys::make_parsestate(ptr::null_mut()), node, of, to, -1, explicit, format, -1)
    }
}

/// A call of a function of the server's.
pub fn call(
    function: u32,
    result: pg_sys::Oid,
    args: impl IntoIterator<Item = *mut pg_sys::Node>,
) -> *mut pg_sys::Node {
    let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
    let (none, function) = (pg_sys::InvalidOid, pg_sys::Oid::from(function));
    // SAFETY: allocates a node.
    unsafe { pg_sys::makeFuncExpr(function, result, list(args), none, none, form).cast() }
}

/// A number of type integer.
pub fn integer(number: i32) -> *mut pg_sys::Node {
    let (of, none) = (pg_sys::INT4OID, pg_sys::InvalidOid);
    // SAFETY: allocates a node for a value that is passed as such.
    unsafe { pg_sys::makeConst(of, -1, none, 4, pg_sys::Datum::from(number), false, true).cast() }
}

/// A literal of a type.
///
/// # Safety
/// The text is one of that type.
pub unsafe fn literal(text: &str, of: pg_sys::Oid) -> *mut pg_sys::Node {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: the text is copied; what is read of it is of the type wanted.
    unsafe {
        if of == pg_sys::TEXTOID {
            let value = text.to_str().unwrap_or_default().to_owned().into_datum().unwrap_or(pg_sys::Datum::from(0));
            return pg_sys::makeConst(of, -1, pg_sys::DEFAULT_COLLATION_OID, -1, value, false, false).cast();
        }
        let value = pg_sys::Datum::from(pg_sys::pstrdup(text.as_ptr()));
        let unknown = pg_sys::makeConst(pg_sys::UNKNOWNOID, -1, pg_sys::InvalidOid, -2, value, false, false);
        cast(unknown.cast(), of)
    }
}

/// AND, OR or NOT.
pub fn logic(kind: pg_sys::BoolExprType::Type, args: impl IntoIterator<Item = *mut pg_sys::Node>) -> *mut pg_sys::Node {
    // SAFETY: allocates a node.
    unsafe { pg_sys::makeBoolExpr(kind, list(args), -1).cast() }
}

/// All of several conditions.
pub fn all(args: impl IntoIterator<Item = *mut pg_sys::Node>) -> *mut pg_sys::Node {
    logic(pg_sys::BoolExprType::AND_EXPR, args)
}

/// A new node of a kind, with zeros.
///
/// # Safety
/// The tag is that of `T`, of which zeros are a valid value.
pub unsafe fn node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: as promised; every node begins with its tag.
    unsafe {
        let node = pg_sys::palloc0(size_of::<T>()).cast::<pg_sys::Node>();
        (*node).type_ = tag;
        node.cast()
    }
}

/// Whether a query is a plain SELECT of rows from its FROM: nothing that sums up, sorts out, cuts off or locks.
///
/// # Safety
/// A valid query.
pub unsafe fn is_plain(query: *mut pg_sys::Query) -> bool {
    // SAFETY: as promised.
    unsafe {
        let one = &*query;
        one.commandType == pg_sys::CmdType::CMD_SELECT
            && !one.hasAggs
            && !one.hasWindowFuncs
            && !one.hasTargetSRFs
            && !one.hasModifyingCTE
            && one.groupClause.is_null()
            && one.groupingSets.is_null()
            && one.havingQual.is_null()
            && one.distinctClause.is_null()
            && one.limitCount.is_null()
            && one.limitOffset.is_null()
            && one.rowMarks.is_null()
            && one.setOperations.is_null()
    }
}

/// Whether a query has an outer join.
///
/// # Safety
/// A valid query.
pub unsafe fn has_outer_join(query: *mut pg_sys::Query) -> bool {
    // SAFETY: as promised.
    unsafe {
        elements::<pg_sys::RangeTblEntry>((*query).rtable).iter().any(|entry| {
            (**entry).rtekind == pg_sys::RTEKind::RTE_JOIN && (**entry).jointype != pg_sys::JoinType::JOIN_INNER
        })
    }
}

/// Where a list has an element, counted from 0.
///
/// # Safety
/// NULL or a list of pointers.
pub unsafe fn cell(list: *mut pg_sys::List, at: usize) -> Option<&'static mut *mut pg_sys::Node> {
    // SAFETY: as promised; the caller uses it before the list changes.
    unsafe {
        if list.is_null() || at >= (*list).length as usize {
            return None;
        }
        Some(&mut *(&raw mut (*(*list).elements.add(at)).ptr_value).cast())
    }
}

/// The name of a column by its place in a query's range table; None for what is no table.
///
/// # Safety
/// A valid query.
pub unsafe fn column_name_of(query: *mut pg_sys::Query, (number, column): (i32, i16)) -> Option<String> {
    // SAFETY: as promised.
    unsafe {
        let entry = entry(query, number)?;
        ((*entry).rtekind == pg_sys::RTEKind::RTE_RELATION).then(|| column_name(((*entry).relid, column)))
    }
}

/// Whether an expression has literals other than whole numbers, NULL, true and false: nobody is to read those.
///
/// # Safety
/// A valid expression.
pub unsafe fn has_secret(node: *mut pg_sys::Node) -> bool {
    #[pg_guard]
    unsafe extern "C-unwind" fn is_secret(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: called with the nodes of a valid expression; the tag says which struct one is.
        unsafe {
            if is_a(node, pg_sys::NodeTag::T_Const) {
                let literal = node.cast::<pg_sys::Const>();
                let is_plain = matches!((*literal).consttype, pg_sys::INT4OID | pg_sys::BOOLOID);
                return !is_plain && !(*literal).constisnull;
            }
            pg_sys::expression_tree_walker(node, Some(is_secret), context)
        }
    }
    // SAFETY: as promised.
    unsafe { is_secret(node, ptr::null_mut()) }
}

/// All tables of a statement, at every level.
///
/// # Safety
/// A valid query.
pub unsafe fn relations(query: *mut pg_sys::Query) -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    // SAFETY: as promised.
    unsafe {
        for level in queries(query) {
            for entry in elements::<pg_sys::RangeTblEntry>((*level).rtable) {
                if (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION && !found.contains(&(*entry).relid) {
                    found.push((*entry).relid);
                }
            }
        }
    }
    found
}
