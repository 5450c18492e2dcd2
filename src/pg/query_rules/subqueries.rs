//! Queries within a statement: counted where existence is asked, excluded by NOT IN, sorted in vain, run once for each row.
//! And the query that a join becomes when only its existence matters.

use perf_core::rewrite::{commuted, existence, Rule};
use pgrx::{is_a, pg_sys};

use super::tree::{self, Condition};
use super::CONDITIONS_MAX;
use super::{correlated, Finding, Look};

/// # Safety
/// As for `predicates::look`.
pub unsafe fn look(look: &mut Look<'_>) {
    // SAFETY: as promised.
    unsafe {
        for (at, condition) in tree::conditions(look.query).into_iter().enumerate() {
            let found = look.ask(|look| counted(look, at, &condition).or_else(|| excluded(look, at, &condition)));
            look.findings.extend(found);
        }
        let found = [
            look.ask(|look| counted_alone(look)),
            look.ask(|look| sorted(look)),
            look.ask(|look| correlated::find(look)),
        ];
        look.findings.extend(found.into_iter().flatten());
    }
}

const NUMBER: &str = "the number that the count is compared with";
const EXISTENCE: &str = "Same answer, proven: EXISTS ends at the first row.";

/// Whether a query is `SELECT count(*) FROM ...`, and nothing else.
unsafe fn counts_rows(query: *mut pg_sys::Query) -> bool {
    // SAFETY: a valid query.
    unsafe {
        let one = &*query;
        let targets = tree::elements::<pg_sys::TargetEntry>(one.targetList);
        let [target] = targets[..] else { return false };
        is_only_aggregate(query) && is_count((*target).expr.cast())
    }
}

/// Whether a query sums up all of its rows into one, and does nothing else.
///
/// # Safety
/// A valid query.
pub unsafe fn is_only_aggregate(query: *mut pg_sys::Query) -> bool {
    // SAFETY: as promised.
    unsafe {
        let copy = *query;
        let mut without = copy;
        without.hasAggs = false;
        copy.hasAggs && copy.sortClause.is_null() && tree::is_plain(&raw mut without)
    }
}

unsafe fn is_count(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a valid node; the tag says which struct it is.
    unsafe {
        let aggregate = node.cast::<pg_sys::Aggref>();
        is_a(node, pg_sys::NodeTag::T_Aggref)
            && (*aggregate).aggfnoid.to_u32() == pg_sys::F_COUNT_
            && (*aggregate).aggfilter.is_null()
            && (*aggregate).agglevelsup == 0
    }
}

/// What comparing the count on either side of an operator with a written number asks.
unsafe fn asks(
    look: &Look<'_>,
    node: *mut pg_sys::Node,
    is_counted: impl Fn(*mut pg_sys::Node) -> bool,
) -> Option<(*mut pg_sys::Node, bool)> {
    // SAFETY: nodes of a valid statement.
    unsafe {
        let (sides, name) = tree::comparison(node)?;
        let (count, number, name) = if is_counted(sides.left) {
            (sides.left, sides.right, name)
        } else if is_counted(sides.right) {
            (sides.right, sides.left, commuted(&name)?.to_owned())
        } else {
            return None;
        };
        // A parameter may be another number next time.
        if !is_a(tree::uncast(number), pg_sys::NodeTag::T_Const) {
            return None;
        }
        let number = tree::value(number, look.source.parameters)?.parse().ok()?;
        Some((count, existence(&name, number)?))
    }
}

/// `(SELECT count(*) ...) > 0` as a condition.
unsafe fn counted(look: &Look<'_>, at: usize, condition: &Condition) -> Option<Finding> {
    // SAFETY: nodes of a valid statement; what is changed is a copy.
    unsafe {
        let is_counted = |node: *mut pg_sys::Node| {
            is_a(node, pg_sys::NodeTag::T_SubLink) && {
                let link = node.cast::<pg_sys::SubLink>();
                (*link).subLinkType == pg_sys::SubLinkType::EXPR_SUBLINK && counts_rows((*link).subselect.cast())
            }
        };
        let (link, exists) = asks(look, *condition.place, is_counted)?;
        let link = tree::copy(link.cast::<pg_sys::SubLink>());
        only_existence((*link).subselect.cast());
        (*link).subLinkType = pg_sys::SubLinkType::EXISTS_SUBLINK;
        let new = negated(link.cast(), !exists);
        let mut found = Finding::new(Rule::CountForExistence, "count(*) of a subquery", EXISTENCE);
        found.fixed = Some(NUMBER);
        found.written = look.with_condition(at, new).and_then(|query| look.printer.write(query));
        Some(found)
    }
}

/// `SELECT count(*) > 0 FROM ...` as the statement.
unsafe fn counted_alone(look: &Look<'_>) -> Option<Finding> {
    // SAFETY: nodes of a valid statement; what is changed is a copy.
    unsafe {
        let targets = tree::elements::<pg_sys::TargetEntry>((*look.query).targetList);
        let [target] = targets[..] else { return None };
        if !is_only_aggregate(look.query) {
            return None;
        }
        let (_, exists) = asks(look, (*target).expr.cast(), |node| is_count(node))?;
        let inner = tree::copy(look.query);
        only_existence(inner);
        let outer = empty_query();
        let shown = tree::copy(target);
        (*shown).expr = negated(sublink(inner), !exists).cast();
        (*outer).targetList = tree::list([shown]);
        (*outer).hasSubLinks = true;
        let mut found = Finding::new(Rule::CountForExistence, "count(*) of the statement", EXISTENCE);
        found.fixed = Some(NUMBER);
        found.written = look.printer.write(outer);
        Some(found)
    }
}

/// Makes a query that counted one that is asked for existence only.
unsafe fn only_existence(query: *mut pg_sys::Query) {
    // SAFETY: a valid query that is the caller's to change.
    unsafe {
        (*query).hasAggs = false;
        (*query).targetList = tree::list([target(tree::integer(1), 1)]);
    }
}

/// # Safety
/// A valid expression.
pub unsafe fn target(node: *mut pg_sys::Node, number: i16) -> *mut pg_sys::TargetEntry {
    // SAFETY: as promised; the name is a constant of the server's.
    unsafe { pg_sys::makeTargetEntry(node.cast(), number, pg_sys::pstrdup(c"?column?".as_ptr()), false) }
}

unsafe fn sublink(query: *mut pg_sys::Query) -> *mut pg_sys::Node {
    // SAFETY: a node of that kind.
    unsafe {
        let link = tree::node::<pg_sys::SubLink>(pg_sys::NodeTag::T_SubLink);
        (*link).subLinkType = pg_sys::SubLinkType::EXISTS_SUBLINK;
        (*link).subselect = query.cast();
        (*link).location = -1;
        link.cast()
    }
}

fn negated(node: *mut pg_sys::Node, negate: bool) -> *mut pg_sys::Node {
    if negate {
        tree::logic(pg_sys::BoolExprType::NOT_EXPR, [node])
    } else {
        node
    }
}

/// A SELECT without anything.
unsafe fn empty_query() -> *mut pg_sys::Query {
    // SAFETY: nodes of those kinds.
    unsafe {
        let query = tree::node::<pg_sys::Query>(pg_sys::NodeTag::T_Query);
        (*query).commandType = pg_sys::CmdType::CMD_SELECT;
        (*query).canSetTag = true;
        (*query).jointree = tree::node::<pg_sys::FromExpr>(pg_sys::NodeTag::T_FromExpr);
        query
    }
}

/// `x NOT IN (SELECT y ...)`.
unsafe fn excluded(look: &Look<'_>, at: usize, condition: &Condition) -> Option<Finding> {
    // SAFETY: nodes of a valid statement; what is changed is a copy.
    unsafe {
        let node = *condition.place;
        let is_not = is_a(node, pg_sys::NodeTag::T_BoolExpr)
            && (*node.cast::<pg_sys::BoolExpr>()).boolop == pg_sys::BoolExprType::NOT_EXPR;
        let link = if is_not { *tree::cell((*node.cast::<pg_sys::BoolExpr>()).args, 0)? } else { return None };
        if !is_a(link, pg_sys::NodeTag::T_SubLink) {
            return None;
        }
        let link = link.cast::<pg_sys::SubLink>();
        if (*link).subLinkType != pg_sys::SubLinkType::ANY_SUBLINK {
            return None;
        }
        let mut found = Finding::new(
            Rule::NotIn,
            "NOT IN (SELECT ...)",
            "One NULL in the subquery and no row is found at all. Where that is not meant, write NOT EXISTS, which can be an \
             anti join; it is the same only where neither side can be NULL.",
        );
        if let Some((new, columns)) = anti_join(link, condition.query) {
            found.written = look.with_condition(at, new).and_then(|query| look.printer.write(query));
            found.not_null = columns;
        }
        Some(found)
    }
}

/// NOT EXISTS for a NOT IN, and the columns that must be without NULLs for it.
unsafe fn anti_join(
    link: *mut pg_sys::SubLink,
    query: *mut pg_sys::Query,
) -> Option<(*mut pg_sys::Node, Vec<(pg_sys::Oid, i16)>)> {
    // SAFETY: nodes of a valid statement; what is changed are copies.
    unsafe {
        let inner = (*link).subselect.cast::<pg_sys::Query>();
        let (test, name) = tree::comparison((*link).testexpr)?;
        let compared = test.right;
        let is_compared = is_a(tree::uncast(compared), pg_sys::NodeTag::T_Param)
            && (*tree::uncast(compared).cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_SUBLINK;
        let targets = tree::elements::<pg_sys::TargetEntry>((*inner).targetList);
        let shown = targets.iter().find(|target| !(***target).resjunk)?;
        let fits = name == "=" && is_compared && is_searchable(inner);
        if !fits || tree::has_outer_join(query) || tree::has_outer_join(inner) {
            return None;
        }
        let left = tree::column(test.left, query)?;
        let right = tree::column((**shown).expr.cast(), inner)?;
        let outside = tree::copy(test.left);
        pg_sys::IncrementVarSublevelsUp(outside, 1, 0);
        // What the server put around the subquery's value to compare it goes around the column.
        let inside = with_inner(compared, tree::copy((**shown).expr.cast::<pg_sys::Node>()));
        let equal = tree::copy(test.node);
        (*equal).args = tree::list([outside, inside]);
        let inner = tree::copy(inner);
        (*inner).sortClause = std::ptr::null_mut();
        (*inner).distinctClause = std::ptr::null_mut();
        let from = (*inner).jointree;
        (*from).quals = if (*from).quals.is_null() { equal.cast() } else { tree::all([(*from).quals, equal.cast()]) };
        (*inner).targetList = tree::list([target(tree::integer(1), 1)]);
        Some((negated(sublink(inner), true), vec![left, right]))
    }
}

/// Casts around a parameter, around what takes its place.
unsafe fn with_inner(node: *mut pg_sys::Node, inner: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: a valid expression of casts; what is changed is a copy.
    unsafe {
        if is_a(node, pg_sys::NodeTag::T_RelabelType) {
            let label = tree::copy(node.cast::<pg_sys::RelabelType>());
            (*label).arg = with_inner((*label).arg.cast(), inner).cast();
            return label.cast();
        }
        if is_a(node, pg_sys::NodeTag::T_FuncExpr) {
            let call = tree::copy(node.cast::<pg_sys::FuncExpr>());
            if let Some(first) = tree::cell((*call).args, 0) {
                *first = with_inner(*first, inner);
            }
            return call.cast();
        }
        inner
    }
}

/// Whether another condition can be added to a query of rows.
unsafe fn is_searchable(query: *mut pg_sys::Query) -> bool {
    // SAFETY: a valid query.
    unsafe {
        let mut without = *query;
        without.distinctClause = std::ptr::null_mut();
        tree::is_plain(&raw mut without) && !(*query).hasDistinctOn && !(*query).jointree.is_null()
    }
}

/// ORDER BY in a subquery whose order nobody sees.
unsafe fn sorted(look: &Look<'_>) -> Option<Finding> {
    // SAFETY: nodes of a valid statement; a copy has its queries in the same order.
    unsafe {
        let levels = tree::queries(look.query);
        let in_vain = in_vain(&levels);
        let copy = tree::copy(look.query);
        let mut copies = tree::queries(copy);
        let mut any = false;
        for (at, level) in levels.iter().enumerate().skip(1) {
            if in_vain.contains(level) {
                (*copies[at]).sortClause = std::ptr::null_mut();
                any = true;
            }
        }
        if !any {
            return None;
        }
        let mut found = Finding::new(
            Rule::OrderInSubquery,
            "ORDER BY in a subquery",
            "Same rows, proven: what uses them depends on no order. Drop that ORDER BY.",
        );
        found.written = look.printer.write(copy);
        Some(found)
    }
}

/// The subqueries that sort rows which are used in no order.
unsafe fn in_vain(levels: &[*mut pg_sys::Query]) -> Vec<*mut pg_sys::Query> {
    // SAFETY: valid queries.
    unsafe {
        let is_sorted = |query: &pg_sys::Query| {
            !query.sortClause.is_null()
                && query.limitCount.is_null()
                && query.limitOffset.is_null()
                && !query.hasDistinctOn
                && query.rowMarks.is_null()
                && query.setOperations.is_null()
                && !query.hasTargetSRFs
        };
        let mut found = Vec::new();
        for level in levels {
            if (**level).commandType != pg_sys::CmdType::CMD_SELECT || !sees_no_order(*level) {
                continue;
            }
            for entry in tree::elements::<pg_sys::RangeTblEntry>((**level).rtable) {
                let is_subquery = (*entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY;
                if is_subquery && is_sorted(&*(*entry).subquery) {
                    found.push((*entry).subquery);
                }
            }
        }
        found
    }
}

/// Whether a query's result is the same in whatever order it gets its rows.
unsafe fn sees_no_order(query: *mut pg_sys::Query) -> bool {
    // SAFETY: a valid query.
    unsafe {
        let one = &*query;
        let is_cut = !one.limitCount.is_null() || !one.limitOffset.is_null() || one.hasDistinctOn;
        if is_cut || one.hasWindowFuncs || one.hasTargetSRFs || pg_sys::contain_volatile_functions(query.cast()) {
            return false;
        }
        let sums = one.hasAggs || !one.groupClause.is_null();
        if !sums && one.sortClause.is_null() {
            return false;
        }
        !one.hasAggs || correlated::aggregates_see_no_order(query)
    }
}

/// The query with one of its two tables asked for existence only.
///
/// # Safety
/// As for `predicates::look`; the numbers are of two tables, which alone or with the inner join of them make up FROM.
pub unsafe fn semi_join(look: &Look<'_>, kept: i32, tested: i32) -> Option<*mut pg_sys::Query> {
    // SAFETY: nodes of a valid statement; what is changed is a copy, whose variables all belong to it.
    unsafe {
        let outer = tree::copy(look.query);
        if !(*outer).havingQual.is_null()
            || !(*outer).groupClause.is_null()
            || (*outer).hasAggs
            || (*outer).hasWindowFuncs
            || (*outer).hasTargetSRFs
            || !(*outer).rowMarks.is_null()
            || !(*outer).setOperations.is_null()
            || pg_sys::contain_volatile_functions(outer.cast())
        {
            return None;
        }
        let entries = tree::elements::<pg_sys::RangeTblEntry>((*outer).rtable);
        for var in tree::elements::<pg_sys::Var>(pg_sys::pull_vars_of_level(outer.cast(), 0)) {
            if (*var).varno != kept && (*var).varno != tested {
                return None;
            }
            // Written as itself, whatever it was called by.
            (*var).varnosyn = (*var).varno as pg_sys::Index;
            (*var).varattnosyn = (*var).varattno;
        }
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        let conditions = tree::conditions(outer);
        // There may be more of them, and all have to be written again.
        if conditions.len() >= CONDITIONS_MAX {
            return None;
        }
        for condition in conditions.iter().filter(|condition| condition.query == outer) {
            let node = *condition.place;
            let vars = tree::elements::<pg_sys::Var>(pg_sys::pull_vars_of_level(node, 0));
            if !vars.iter().any(|var| (**var).varno == tested) {
                stay.push(node);
                continue;
            }
            if pg_sys::checkExprHasSubLink(node) {
                return None;
            }
            for var in vars {
                if (*var).varno == kept {
                    (*var).varlevelsup = 1;
                } else {
                    (*var).varno = 1;
                    (*var).varnosyn = 1;
                }
            }
            go.push(node);
        }
        let reference = |number: i32| {
            let reference = tree::node::<pg_sys::RangeTblRef>(pg_sys::NodeTag::T_RangeTblRef);
            (*reference).rtindex = number;
            reference
        };
        let inner = empty_query();
        (*inner).rtable = tree::list([tree::copy(entries[usize::try_from(tested).ok()? - 1])]);
        (*inner).targetList = tree::list([target(tree::integer(1), 1)]);
        (*(*inner).jointree).fromlist = tree::list([reference(1)]);
        (*(*inner).jointree).quals = pg_sys::make_ands_explicit(tree::list(go)).cast();
        stay.push(sublink(inner));
        (*(*outer).jointree).fromlist = tree::list([reference(kept)]);
        (*(*outer).jointree).quals = pg_sys::make_ands_explicit(tree::list(stay)).cast();
        (*outer).hasSubLinks = true;
        // A join that is in no FROM any more cannot be named.
        for entry in entries.iter().filter(|entry| (***entry).rtekind == pg_sys::RTEKind::RTE_JOIN) {
            (**entry).rtekind = pg_sys::RTEKind::RTE_RESULT;
            (**entry).joinaliasvars = std::ptr::null_mut();
        }
        Some(outer)
    }
}
