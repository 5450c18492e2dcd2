//! Single conditions: what hides a column from its index, patterns, lists, and one search for many values. Each is a condition
//! that rows have to meet, so that false and NULL are the same to it.

use perf_core::rewrite::{commuted, pattern, unit_interval, Pattern, Rule, LONG_LIST, TRIGRAM};
use pgrx::{is_a, pg_sys};

use super::tree::{self, Condition};
use super::{Finding, Look, Written};
use crate::pg::evaluate;
use crate::pg::expressions::Expressions;
use crate::pg::ident;

/// # Safety
/// A look at a valid statement, in a subtransaction that is rolled back.
pub unsafe fn look(look: &mut Look<'_>) {
    // SAFETY: as promised; new conditions are made of copies.
    unsafe {
        for (at, condition) in tree::conditions(look.query).into_iter().enumerate() {
            let found = look.ask(|look| {
                hidden_column(look, at, &condition)
                    .or_else(|| wildcard(look, &condition))
                    .or_else(|| long_list(look, at, &condition))
            });
            look.findings.extend(found);
        }
    }
}

impl Look<'_> {
    /// The statement with another condition in the place of one.
    ///
    /// # Safety
    /// `at` is the place of a condition; the new one is nobody else's.
    pub unsafe fn with_condition(&self, at: usize, new: *mut pg_sys::Node) -> Option<*mut pg_sys::Query> {
        // SAFETY: a copy has its conditions in the same order.
        unsafe {
            let copy = tree::copy(self.query);
            let place = tree::conditions(copy).get(at)?.place;
            *place = new;
            Some(copy)
        }
    }
}

/// A column within an expression that is compared with a value.
struct Hidden {
    /// The expression, and the column in it.
    expression: *mut pg_sys::Node,
    var: *mut pg_sys::Var,
    column: (pg_sys::Oid, i16),
    /// How it is compared, with the column's side on the left.
    operator: String,
    value: *mut pg_sys::Node,
}

unsafe fn hidden(condition: &Condition) -> Option<Hidden> {
    // SAFETY: nodes of a valid statement.
    unsafe {
        let (comparison, name) = tree::comparison(*condition.place)?;
        let (expression, value, operator) = if tree::is_value(comparison.right) {
            (comparison.left, comparison.right, name)
        } else if tree::is_value(comparison.left) {
            (comparison.right, comparison.left, commuted(&name)?.to_owned())
        } else {
            return None;
        };
        commuted(&operator)?;
        let expression = tree::unlabelled(expression);
        let is_hiding = [pg_sys::NodeTag::T_FuncExpr, pg_sys::NodeTag::T_OpExpr, pg_sys::NodeTag::T_CoerceViaIO];
        let may_be = is_hiding.contains(&(*expression).type_)
            && !pg_sys::checkExprHasSubLink(expression)
            && !pg_sys::contain_aggs_of_level(expression, 0)
            && !pg_sys::contain_volatile_functions(expression);
        if !may_be {
            return None;
        }
        let vars = tree::elements::<pg_sys::Var>(pg_sys::pull_vars_of_level(expression, 0));
        let [var] = vars[..] else { return None };
        let column = tree::column(var.cast(), condition.query)?;
        Some(Hidden { expression, var, column, operator, value })
    }
}

unsafe fn hidden_column(look: &Look<'_>, at: usize, condition: &Condition) -> Option<Finding> {
    // SAFETY: nodes of a valid statement.
    unsafe {
        let hidden = hidden(condition)?;
        let call = hidden.expression.cast::<pg_sys::FuncExpr>();
        let is_implicit = is_a(hidden.expression, pg_sys::NodeTag::T_FuncExpr)
            && (*call).funcformat == pg_sys::CoercionForm::COERCE_IMPLICIT_CAST
            && tree::unlabelled(tree::elements::<pg_sys::Node>((*call).args)[0]) == hidden.var.cast();
        let name = tree::column_name(hidden.column);
        let mut found = if is_implicit {
            let note = "Send the value in the type of the column, or cast it: the column is not converted then.";
            Finding::new(Rule::ImplicitCast, name, note)
        } else {
            let note = "Compare the column itself with a value, or with a range of values; or make an index on the expression.";
            Finding::new(Rule::FunctionOnColumn, name, note)
        };
        found.indexed = Some(hidden.column);
        let new = whole_number(&hidden).or_else(|| day(&hidden)).or_else(|| truncated(&hidden, look));
        if let Some(new) = new {
            found.note = new.note.to_owned();
            found.changes_result = new.changes_result;
            found.fixed = new.fixed;
            found.written = look.with_condition(at, new.condition).and_then(|query| look.printer.write(query));
        }
        if found.written.is_none() && !is_implicit {
            found.ddl = expression_index(&hidden);
        }
        Some(found)
    }
}

struct New {
    condition: *mut pg_sys::Node,
    note: &'static str,
    changes_result: bool,
    fixed: Option<&'static str>,
}

/// A whole number compared with a numeric.
unsafe fn whole_number(hidden: &Hidden) -> Option<New> {
    // SAFETY: nodes of a valid statement; the value may be written several times.
    unsafe {
        if !is_a(hidden.expression, pg_sys::NodeTag::T_FuncExpr) || hidden.operator != "=" {
            return None;
        }
        let (least, most) = match (*hidden.expression.cast::<pg_sys::FuncExpr>()).funcid.to_u32() {
            pg_sys::F_NUMERIC_INT2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
            pg_sys::F_NUMERIC_INT4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            pg_sys::F_NUMERIC_INT8 => (i64::MIN, i64::MAX),
            _ => return None,
        };
        if pg_sys::exprType(hidden.value) != pg_sys::NUMERICOID || !is_of_the_column(hidden) {
            return None;
        }
        let of = (*hidden.var).vartype;
        let value = || tree::copy(hidden.value);
        let bound = |number: i64| tree::literal(&number.to_string(), pg_sys::NUMERICOID);
        let fits = tree::all([
            tree::operator(c"=", value(), tree::call(pg_sys::F_TRUNC_NUMERIC, pg_sys::NUMERICOID, [value()])),
            tree::operator(c">=", value(), bound(least)),
            tree::operator(c"<=", value(), bound(most)),
        ]);
        let when = tree::node::<pg_sys::CaseWhen>(pg_sys::NodeTag::T_CaseWhen);
        (*when).expr = fits.cast();
        (*when).result = tree::cast(value(), of).cast();
        (*when).location = -1;
        let case = tree::node::<pg_sys::CaseExpr>(pg_sys::NodeTag::T_CaseExpr);
        (*case).casetype = of;
        (*case).args = tree::list([when]);
        (*case).defresult = pg_sys::makeNullConst(of, -1, pg_sys::InvalidOid).cast();
        (*case).location = -1;
        Some(New {
            condition: tree::operator(c"=", tree::copy(hidden.var).cast(), case.cast()),
            note:
                "Same rows, proven for every value: one with a fraction, or out of the range of the column, equals no \
                   whole number. Simpler, where the application knows it is whole: send it as an integer.",
            changes_result: false,
            fixed: None,
        })
    }
}

/// Whether the function has the column itself for its first argument, and not something computed from it.
///
/// # Safety
/// The expression is a function call of a valid statement.
unsafe fn is_of_the_column(hidden: &Hidden) -> bool {
    // SAFETY: as promised.
    unsafe {
        let call = hidden.expression.cast::<pg_sys::FuncExpr>();
        let args = tree::elements::<pg_sys::Node>((*call).args);
        args.first().is_some_and(|column| tree::unlabelled(*column) == hidden.var.cast())
    }
}

/// The note on results that depend on clocks that go back.
const CLOCK_GOES_BACK: &str =
    "Same rows, but where the clock of the session's time zone goes back over midnight: dates do \
    not follow each other then. The value has to be finite.";
const PROVEN_RANGE: &str =
    "Same rows, proven for every finite value that a timestamp can hold, whether or not the column has \
    NULLs.";

/// The day of a time compared with a day.
unsafe fn day(hidden: &Hidden) -> Option<New> {
    // SAFETY: nodes of a valid statement; the value may be written several times.
    unsafe {
        if !is_a(hidden.expression, pg_sys::NodeTag::T_FuncExpr)
            || pg_sys::exprType(hidden.value) != pg_sys::DATEOID
            || !is_of_the_column(hidden)
        {
            return None;
        }
        let has_zone = match (*hidden.expression.cast::<pg_sys::FuncExpr>()).funcid.to_u32() {
            pg_sys::F_DATE_TIMESTAMP => false,
            pg_sys::F_DATE_TIMESTAMPTZ => true,
            _ => return None,
        };
        let of = (*hidden.var).vartype;
        let start = || tree::cast(tree::copy(hidden.value), of);
        let end = || tree::cast(tree::operator(c"+", tree::copy(hidden.value), tree::integer(1)), of);
        let column = || tree::copy(hidden.var).cast::<pg_sys::Node>();
        let condition = match hidden.operator.as_str() {
            "=" => tree::all([tree::operator(c">=", column(), start()), tree::operator(c"<", column(), end())]),
            "<" => tree::operator(c"<", column(), start()),
            "<=" => tree::operator(c"<", column(), end()),
            ">" => tree::operator(c">=", column(), end()),
            ">=" => tree::operator(c">=", column(), start()),
            _ => return None,
        };
        Some(New {
            condition,
            note: if has_zone { CLOCK_GOES_BACK } else { PROVEN_RANGE },
            changes_result: has_zone,
            fixed: None,
        })
    }
}

/// `date_trunc` compared with a time.
unsafe fn truncated(hidden: &Hidden, look: &Look<'_>) -> Option<New> {
    // SAFETY: nodes of a valid statement; the value may be written several times.
    unsafe {
        if !is_a(hidden.expression, pg_sys::NodeTag::T_FuncExpr) || hidden.operator != "=" {
            return None;
        }
        let call = hidden.expression.cast::<pg_sys::FuncExpr>();
        let function = (*call).funcid.to_u32();
        let has_zone = match function {
            pg_sys::F_DATE_TRUNC_TEXT_TIMESTAMP => false,
            pg_sys::F_DATE_TRUNC_TEXT_TIMESTAMPTZ => true,
            _ => return None,
        };
        let args = tree::elements::<pg_sys::Node>((*call).args);
        let [unit, column] = args[..] else { return None };
        let of = (*hidden.var).vartype;
        // A unit that comes as a parameter may be another one next time.
        let is_fixed = is_a(tree::uncast(unit), pg_sys::NodeTag::T_Const);
        if !is_fixed || tree::unlabelled(column) != hidden.var.cast() || pg_sys::exprType(hidden.value) != of {
            return None;
        }
        let name = tree::value(unit, look.source.parameters)?;
        let step = unit_interval(&name)?;
        let value = || tree::copy(hidden.value);
        // The unit is part of what makes this right, so it is written rather than a number for it.
        let unit = tree::literal(&name, pg_sys::TEXTOID);
        let interval = tree::literal(step, pg_sys::INTERVALOID);
        let condition = tree::all([
            tree::operator(c">=", tree::copy(hidden.var).cast(), value()),
            tree::operator(c"<", tree::copy(hidden.var).cast(), tree::operator(c"+", value(), interval)),
            tree::operator(c"=", value(), tree::call(function, of, [unit, value()])),
        ]);
        Some(New {
            condition,
            note: if has_zone { CLOCK_GOES_BACK } else { PROVEN_RANGE },
            changes_result: has_zone,
            fixed: Some("the unit that it is sent with"),
        })
    }
}

/// An index on the expression, where the server allows one and nobody's code would run to plan it.
unsafe fn expression_index(hidden: &Hidden) -> Option<String> {
    // SAFETY: nodes of a valid statement.
    unsafe {
        let is_usable = !pg_sys::contain_mutable_functions(hidden.expression)
            && evaluate::is_trusted(hidden.expression)
            && !tree::has_secret(hidden.expression);
        if !is_usable {
            return None;
        }
        let mut expressions = Expressions::default();
        let number = expressions.number(hidden.column.0, hidden.expression, (*hidden.var).varno);
        let (table, key) = (ident::relation(hidden.column.0)?, expressions.key_text(number));
        (!key.is_empty()).then(|| format!("CREATE INDEX CONCURRENTLY ON {table} ({key})"))
    }
}

unsafe fn wildcard(look: &Look<'_>, condition: &Condition) -> Option<Finding> {
    // SAFETY: nodes of a valid statement.
    unsafe {
        let (comparison, name) = tree::comparison(*condition.place)?;
        if name != "~~" && name != "~~*" {
            return None;
        }
        let column = tree::column(comparison.left, condition.query)?;
        let text = tree::value(comparison.right, look.source.parameters)?;
        let Pattern::Open(longest) = pattern(&text) else { return None };
        let mut found = Finding::new(
            Rule::LeadingWildcard,
            tree::column_name(column),
            "No equivalent can be derived: drop the wildcard where the beginning is known, search by words (tsvector), or \
             make a trigram index.",
        );
        if longest >= TRIGRAM {
            let key = tree::attribute_name(column);
            found.ddl = trigram_class()
                .zip(ident::relation(column.0))
                .map(|(class, table)| format!("CREATE INDEX CONCURRENTLY ON {table} USING gin ({key} {class})"));
        } else {
            found
                .note
                .push_str(" The pattern has less than three characters in a row: a trigram index is no help either.");
        }
        if found.ddl.is_none() && longest >= TRIGRAM {
            found.note.push_str(" For the latter CREATE EXTENSION pg_trgm first.");
        }
        Some(found)
    }
}

/// The operator class of pg_trgm, if it is here.
fn trigram_class() -> Option<String> {
    let found = crate::pg::catalog::value::<crate::pg::text::Text>(
        "SELECT n.nspname::pg_catalog.text
           FROM pg_catalog.pg_opclass c
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.opcnamespace
           JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) c.oid
            AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_opclass'::pg_catalog.regclass
            AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
            AND e.extname OPERATOR(pg_catalog.=) 'pg_trgm'::pg_catalog.name
          WHERE c.opcname OPERATOR(pg_catalog.=) 'gin_trgm_ops'::pg_catalog.name",
        &[],
    );
    found.ok().flatten().map(|schema| ident::qualified(&schema.0, "gin_trgm_ops"))
}

unsafe fn long_list(look: &Look<'_>, at: usize, condition: &Condition) -> Option<Finding> {
    // SAFETY: nodes of a valid statement; the tag says which struct a node is.
    unsafe {
        if !is_a(*condition.place, pg_sys::NodeTag::T_ScalarArrayOpExpr) {
            return None;
        }
        let within = (*condition.place).cast::<pg_sys::ScalarArrayOpExpr>();
        let args = tree::elements::<pg_sys::Node>((*within).args);
        let [left, right] = args[..] else { return None };
        if !is_a(right, pg_sys::NodeTag::T_ArrayExpr) {
            return None;
        }
        let array = right.cast::<pg_sys::ArrayExpr>();
        let values = tree::elements::<pg_sys::Node>((*array).elements);
        if values.len() < LONG_LIST || !values.iter().all(|value| tree::is_value(*value)) {
            return None;
        }
        let name = tree::column(left, condition.query).map_or_else(String::new, tree::column_name);
        let mut found = Finding::new(
            Rule::LongInList,
            format!("{} values for {name}", values.len()),
            "Same rows, proven: send the values as one array. It is one statement then, whatever the number of values. The \
             planner's cost is the same; what is saved is sending, parsing and planning.",
        );
        let first = look.printer.number(values[0])?;
        let shown = tree::copy(within);
        let parameter = super::print::parameter(first, pg_sys::TEXTOID).cast();
        *tree::cell((*shown).args, 1)? = super::print::labelled(parameter, (*array).array_typeid).cast();
        let shown = look.with_condition(at, shown.cast())?;
        found.written = look.printer.write_both(look.query, shown, (first, (*array).array_typeid));
        Some(found)
    }
}

/// The statement for several values of the one it searches by.
///
/// # Safety
/// As for `look`.
pub unsafe fn batch(look: &Look<'_>, values: usize) -> Option<Written> {
    // SAFETY: nodes of a valid statement.
    unsafe {
        if !tree::is_plain(look.query) || !(*look.query).sortClause.is_null() {
            return None;
        }
        let mut searches = Vec::new();
        for (at, condition) in tree::conditions(look.query).into_iter().enumerate() {
            let Some((comparison, name)) = tree::comparison(*condition.place).filter(|_| condition.query == look.query)
            else {
                continue;
            };
            let of_column = tree::column(comparison.left, condition.query);
            if let (Some(column), "=", Some(number)) = (of_column, name.as_str(), look.printer.number(comparison.right))
            {
                searches.push((at, column, comparison, number));
            }
        }
        let [(at, column, comparison, number)] = searches[..] else { return None };
        // Which row answers which value is known by the column only.
        let is_told = tree::elements::<pg_sys::TargetEntry>((*look.query).targetList)
            .iter()
            .any(|target| !(**target).resjunk && tree::column((**target).expr.cast(), look.query) == Some(column));
        let element = pg_sys::exprType(comparison.right);
        let array = pg_sys::get_array_type(element);
        if !is_told || array == pg_sys::InvalidOid {
            return None;
        }
        let within = |right: *mut pg_sys::Node| {
            let new = tree::node::<pg_sys::ScalarArrayOpExpr>(pg_sys::NodeTag::T_ScalarArrayOpExpr);
            (*new).opno = (*comparison.node).opno;
            (*new).useOr = true;
            (*new).inputcollid = (*comparison.node).inputcollid;
            (*new).args = tree::list([tree::copy(comparison.left), right]);
            (*new).location = -1;
            new.cast::<pg_sys::Node>()
        };
        let all = tree::node::<pg_sys::ArrayExpr>(pg_sys::NodeTag::T_ArrayExpr);
        (*all).array_typeid = array;
        (*all).element_typeid = element;
        (*all).elements = tree::list((0..values).map(|_| tree::copy(comparison.right)));
        (*all).location = -1;
        let sample = look.with_condition(at, within(all.cast()))?;
        let parameter = super::print::parameter(number, pg_sys::TEXTOID).cast();
        let shown = look.with_condition(at, within(super::print::labelled(parameter, array).cast()))?;
        look.printer.write_both(sample, shown, (number, array))
    }
}
