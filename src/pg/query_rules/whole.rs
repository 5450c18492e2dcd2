//! The statement as one: how far it skips, what it selects, which of its tables it reads without a bound in time, OR and
//! DISTINCT at its top.

use perf_core::rewrite::{Rule, DEEP_OFFSET};
use pgrx::{is_a, pg_sys};

use super::tree;
use super::{Finding, Look};
use crate::pg::ident;

/// A table that the outermost query reads.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub relation: pg_sys::Oid,
    /// A condition is on a column that is a date or a time.
    pub has_time_bound: bool,
    /// It is asked for by an equality with a value.
    pub is_pinned: bool,
}

/// # Safety
/// As for `predicates::look`.
pub unsafe fn look(look: &mut Look<'_>) {
    // SAFETY: as promised.
    unsafe {
        let found = [
            look.ask(|look| offset(look)),
            look.ask(|look| star(look)),
            look.ask(|look| or_across(look)),
            look.ask(|look| distinct(look)),
        ];
        look.findings.extend(found.into_iter().flatten());
    }
}

/// The tables of the outermost query of a SELECT.
///
/// # Safety
/// A valid query.
pub unsafe fn reads(query: *mut pg_sys::Query) -> Vec<Read> {
    // SAFETY: as promised; numbers of variables are places in the range table.
    unsafe {
        if (*query).commandType != pg_sys::CmdType::CMD_SELECT || !(*query).limitCount.is_null() {
            return Vec::new();
        }
        let entries = tree::elements::<pg_sys::RangeTblEntry>((*query).rtable);
        let mut found: Vec<(i32, Read)> = (1..)
            .zip(&entries)
            .filter(|(_, entry)| (***entry).rtekind == pg_sys::RTEKind::RTE_RELATION)
            .map(|(number, entry)| {
                (number, Read { relation: (**entry).relid, has_time_bound: false, is_pinned: false })
            })
            .collect();
        for condition in tree::conditions(query) {
            if condition.query != query {
                continue;
            }
            let is_equality = tree::comparison(*condition.place).is_some_and(|(sides, name)| {
                name == "=" && (tree::is_value(sides.left) || tree::is_value(sides.right))
            });
            for var in tree::elements::<pg_sys::Var>(pg_sys::pull_vars_of_level(*condition.place, 0)) {
                let times = [pg_sys::DATEOID, pg_sys::TIMESTAMPOID, pg_sys::TIMESTAMPTZOID];
                if let Some((_, read)) = found.iter_mut().find(|(number, _)| *number == (*var).varno) {
                    read.has_time_bound |= times.contains(&(*var).vartype);
                    read.is_pinned |= is_equality;
                }
            }
        }
        found.into_iter().map(|(_, read)| read).collect()
    }
}

unsafe fn offset(look: &Look<'_>) -> Option<Finding> {
    // SAFETY: nodes of a valid statement; what is changed is a copy.
    unsafe {
        let skipped = (*look.query).limitOffset;
        if skipped.is_null() {
            return None;
        }
        let rows: i64 = tree::value(skipped, look.source.parameters)?.parse().ok()?;
        if rows < DEEP_OFFSET {
            return None;
        }
        let first = tree::copy(look.query);
        (*first).limitOffset = std::ptr::null_mut();
        let mut found = Finding::new(
            Rule::DeepOffset,
            format!("an OFFSET of {DEEP_OFFSET} rows or more"),
            "Only the application knows the last row it has shown: begin after that one (WHERE (sort columns) > (its values) \
             ORDER BY sort columns LIMIT n), with a unique column last. cost_after is that of the first page, which every page \
             costs then.",
        );
        found.written = look.printer.write(first);
        found.is_bound = true;
        Some(found)
    }
}

unsafe fn star(look: &Look<'_>) -> Option<Finding> {
    // SAFETY: a valid parse tree; tags say which structs nodes are.
    unsafe {
        if !is_a(look.raw, pg_sys::NodeTag::T_SelectStmt) {
            return None;
        }
        let select = look.raw.cast::<pg_sys::SelectStmt>();
        let is_star = |target: &*mut pg_sys::ResTarget| {
            let value = (**target).val;
            !value.is_null() && is_a(value, pg_sys::NodeTag::T_ColumnRef) && {
                let fields = tree::elements::<pg_sys::Node>((*value.cast::<pg_sys::ColumnRef>()).fields);
                fields.last().is_some_and(|last| is_a(*last, pg_sys::NodeTag::T_A_Star))
            }
        };
        if !tree::elements::<pg_sys::ResTarget>((*select).targetList).iter().any(is_star) {
            return None;
        }
        let entries = tree::elements::<pg_sys::RangeTblEntry>((*look.query).rtable);
        let table = entries.iter().find(|entry| (***entry).rtekind == pg_sys::RTEKind::RTE_RELATION)?;
        let name = ident::relation((**table).relid)?;
        let mut found = Finding::new(
            Rule::SelectStar,
            name,
            "Which columns are used only the application knows: name them. Where an index has them all the table is not read \
             at all, and long values that are kept apart (TOAST) are not fetched.",
        );
        found.indexed = None;
        Some(found)
    }
}

/// The conditions that an OR puts together, and the first column that they are on; None where all are on the same.
unsafe fn arms_of(node: *mut pg_sys::Node) -> Option<(Vec<*mut pg_sys::Node>, (i32, i16))> {
    // SAFETY: a node of a valid statement; the tag says which struct it is.
    unsafe {
        let either = node.cast::<pg_sys::BoolExpr>();
        if !is_a(node, pg_sys::NodeTag::T_BoolExpr) || (*either).boolop != pg_sys::BoolExprType::OR_EXPR {
            return None;
        }
        let arms = tree::elements::<pg_sys::Node>((*either).args);
        let columns_of = |arm: *mut pg_sys::Node| {
            let vars = tree::elements::<pg_sys::Var>(pg_sys::pull_vars_of_level(arm, 0));
            let mut columns: Vec<(i32, i16)> = vars.iter().map(|var| ((**var).varno, (**var).varattno)).collect();
            columns.sort_unstable();
            columns.dedup();
            columns
        };
        let first = columns_of(*arms.first()?);
        let mut differ = false;
        for arm in &arms {
            let columns = columns_of(*arm);
            if columns.is_empty() {
                return None;
            }
            differ |= columns != first;
        }
        differ.then_some((arms, *first.first()?))
    }
}

unsafe fn or_across(look: &Look<'_>) -> Option<Finding> {
    // SAFETY: nodes of a valid statement; what is changed are copies.
    unsafe {
        let conditions = tree::conditions(look.query);
        let mut own = conditions.iter().enumerate().filter(|(_, condition)| condition.query == look.query);
        let (at, (arms, first)) = own.find_map(|(at, one)| Some((at, arms_of(*one.place)?)))?;
        let what = tree::column_name_of(look.query, first)?;
        let mut found = Finding::new(
            Rule::OrAcrossColumns,
            what,
            "Write a query for each condition and put them together by UNION ALL, each without the rows of those before it.",
        );
        let splits = arms.len() <= ARMS_MAX
            && (*look.query).sortClause.is_null()
            && (*look.query).cteList.is_null()
            && tree::is_plain(look.query)
            && !pg_sys::contain_volatile_functions(look.query.cast());
        if splits {
            let mut parts = Vec::new();
            for (number, arm) in arms.iter().enumerate() {
                let mut all = vec![tree::copy(*arm)];
                for before in &arms[..number] {
                    let test = tree::node::<pg_sys::BooleanTest>(pg_sys::NodeTag::T_BooleanTest);
                    (*test).arg = tree::copy(*before).cast();
                    (*test).booltesttype = pg_sys::BoolTestType::IS_NOT_TRUE;
                    (*test).location = -1;
                    all.push(test.cast());
                }
                let new = if number == 0 { all[0] } else { tree::all(all) };
                parts.push(look.with_condition(at, new)?);
            }
            found.written = look.printer.write_texts(&parts, &parts, None, |parts| parts.join("\nUNION ALL\n"));
            found.note =
                "Same rows, proven, NULLs or not: a row that meets several conditions comes from the first only."
                    .to_owned();
        }
        Some(found)
    }
}

/// Conditions of an OR that are made queries of their own, at most.
const ARMS_MAX: usize = 4;

unsafe fn distinct(look: &Look<'_>) -> Option<Finding> {
    // SAFETY: nodes of a valid statement; what is changed is a copy.
    unsafe {
        let query = look.query;
        if (*query).distinctClause.is_null() || (*query).hasDistinctOn {
            return None;
        }
        let entries = tree::elements::<pg_sys::RangeTblEntry>((*query).rtable);
        let tables: Vec<i32> = (1..)
            .zip(&entries)
            .filter(|(_, entry)| (***entry).rtekind == pg_sys::RTEKind::RTE_RELATION)
            .map(|(number, _)| number)
            .collect();
        let [one, other] = tables[..] else { return None };
        // Nothing but the two tables and the inner join that holds them.
        let others = entries.iter().any(|entry| {
            !matches!((**entry).rtekind, pg_sys::RTEKind::RTE_RELATION | pg_sys::RTEKind::RTE_JOIN)
                || (**entry).lateral
                || !(**entry).tablesample.is_null()
                || ((**entry).rtekind == pg_sys::RTEKind::RTE_JOIN
                    && (**entry).jointype != pg_sys::JoinType::JOIN_INNER)
        });
        let vars = tree::elements::<pg_sys::Var>(pg_sys::pull_vars_of_level((*query).targetList.cast(), 0));
        let shows = |table: i32| vars.iter().any(|var| (**var).varno == table);
        let (kept, tested) = match (shows(one), shows(other)) {
            (true, false) => (one, other),
            (false, true) => (other, one),
            _ => return None,
        };
        if others {
            return None;
        }
        let name = ident::relation((*tree::entry(query, tested)?).relid)?;
        let mut found = Finding::new(
            Rule::DistinctOverJoin,
            name,
            "Nothing is selected from that table: ask by EXISTS whether it has a row, instead of joining it.",
        );
        found.written = super::subqueries::semi_join(look, kept, tested).and_then(|new| look.printer.write(new));
        if found.written.is_some() {
            found.note =
                "Same rows, proven: nothing is selected from that table, so it matters only whether it has a row. \
                          DISTINCT stays; drop it where a unique column is selected."
                    .to_owned();
        }
        Some(found)
    }
}
