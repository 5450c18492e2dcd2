//! The conditions on a relation that an index could use: operators, lists, patterns, comparisons of rows, ORs. Reads planner
//! nodes and the syscache only.

use perf_core::index::needs::{Comparison, Filter};
use perf_core::index::pattern::{has_fixed_prefix, known_run, Language};
use perf_core::index::Key;
use pgrx::{is_a, pg_sys, PgList};

use super::place::{Place, CONDITIONS_MAX};
use super::subject::Subject;
use crate::pg::relation::btree_opclass;
use crate::pg::{ident, opclass};

/// Selectivity where the planner has none.
const UNKNOWN_SELECTIVITY: f64 = 0.1;
/// A partial index keeps less than this share of the rows.
const PARTIAL_SELECTIVITY_MAX: f64 = 0.2;
/// Letters and digits in a row that a trigram index needs of a pattern.
const TRIGRAM: usize = 3;
/// `^@`: the text begins with.
const STARTS_WITH_OPERATOR: u32 = 3877;

/// A condition under examination.
struct Condition {
    clause: *mut pg_sys::Node,
    selectivity: f64,
    /// All rows fulfil it, and few do.
    may_be_predicate: bool,
}

impl Place<'_> {
    /// What the conditions in one restriction ask for; `whole` when all rows must fulfil it.
    ///
    /// # Safety
    /// `info` is a restriction on this relation.
    pub unsafe fn filters(&mut self, info: *mut pg_sys::RestrictInfo, whole: bool) -> Vec<Filter> {
        // SAFETY: as promised; the selectivity of a restriction is a look-up in it, or computed as the planner does.
        let (clause, selectivity) = unsafe {
            let none = std::ptr::null_mut();
            let share = pg_sys::clause_selectivity(self.root, info.cast(), 0, pg_sys::JoinType::JOIN_INNER, none);
            ((*info).clause.cast::<pg_sys::Node>(), share)
        };
        let selectivity = if (0.0..=1.0).contains(&selectivity) { selectivity } else { UNKNOWN_SELECTIVITY };
        let may_be_predicate = whole && selectivity < PARTIAL_SELECTIVITY_MAX;
        let condition = Condition { clause, selectivity, may_be_predicate };
        // SAFETY: the tag says which struct it is.
        unsafe {
            match (*clause).type_ {
                pg_sys::NodeTag::T_OpExpr => {
                    let call = clause.cast::<pg_sys::OpExpr>();
                    let Some((subject, operator, other)) = self.sides(call) else { return Vec::new() };
                    if is_value(other) {
                        self.operator(&condition, &subject, operator, (*call).inputcollid, other)
                    } else {
                        Vec::new()
                    }
                }
                pg_sys::NodeTag::T_FuncExpr => self.function(&condition, clause.cast()).into_iter().collect(),
                _ => self.simple(&condition).into_iter().collect(),
            }
        }
    }

    /// `subject operator value`.
    ///
    /// # Safety
    /// `other` has one value for a whole scan.
    unsafe fn operator(
        &mut self,
        condition: &Condition,
        subject: &Subject,
        operator: pg_sys::Oid,
        collation: pg_sys::Oid,
        other: *mut pg_sys::Node,
    ) -> Vec<Filter> {
        // SAFETY: nodes of the planner's.
        unsafe {
            if let Some(strategy) = subject.strategy(operator, collation) {
                let is_equal = strategy == pg_sys::BTEqualStrategyNumber as i32;
                let comparison = if is_equal { Comparison::Equal } else { Comparison::Range };
                let mut filter = self.filter(condition, subject, comparison);
                if is_equal {
                    filter.hash_width = self.hash_width(subject, operator);
                    if condition.may_be_predicate && self.are_common(subject, operator, collation, other) {
                        filter.predicate = self.predicate(condition);
                    }
                }
                filter.ordered = self.is_ordered(subject, operator);
                return vec![filter];
            }
            let mut filters = Vec::new();
            let (pattern, language) = (constant_text(other), language_of(operator));
            if let (Some(pattern), Some(language)) = (&pattern, language) {
                filters.extend(self.prefix(condition, subject, pattern, language));
            }
            if !subject.collates(collation) {
                return filters;
            }
            let has_prefix = !filters.is_empty();
            for (class, takes_apart) in opclass::gin_classes(operator, subject.type_oid) {
                // A pattern of unknown language is plain text. What begins with known characters has the better index.
                let run = pattern.as_ref().map_or(0, |text| known_run(text, language.unwrap_or(Language::Prefix)));
                if !takes_apart || (run >= TRIGRAM && !has_prefix) {
                    filters.push(Filter { opclass: class, ..self.filter(condition, subject, Comparison::Contains) });
                }
            }
            filters
        }
    }

    /// `starts_with(subject, value)`.
    ///
    /// # Safety
    /// `call` is a function call on this relation.
    unsafe fn function(&mut self, condition: &Condition, call: *mut pg_sys::FuncExpr) -> Option<Filter> {
        // SAFETY: the argument list holds expressions.
        unsafe {
            if (*call).funcid.to_u32() != pg_sys::F_STARTS_WITH {
                return None;
            }
            let arguments = PgList::<pg_sys::Node>::from_pg((*call).args);
            let subject = self.subject(arguments.get_ptr(0)?)?;
            let pattern = constant_text(arguments.get_ptr(1)?)?;
            self.prefix(condition, &subject, &pattern, Language::Prefix)
        }
    }

    /// A text that begins with known characters: a range for an operator class that orders by bytes.
    fn prefix(
        &mut self,
        condition: &Condition,
        subject: &Subject,
        pattern: &str,
        language: Language,
    ) -> Option<Filter> {
        if !opclass::is_text(subject.type_oid) || !has_fixed_prefix(pattern, language) {
            return None;
        }
        let class = if opclass::orders_by_bytes(subject.collation) {
            0
        } else {
            opclass::pattern_ops(subject.type_oid)?.to_u32()
        };
        Some(Filter { opclass: class, ..self.filter(condition, subject, Comparison::Range) })
    }

    /// A condition that is neither an operator's nor a function's.
    ///
    /// # Safety
    /// The condition's clause is on this relation.
    unsafe fn simple(&mut self, condition: &Condition) -> Option<Filter> {
        let node = condition.clause;
        // SAFETY: the tag says which struct it is.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                    let list = node.cast::<pg_sys::ScalarArrayOpExpr>();
                    let (operator, collation) = ((*list).opno, (*list).inputcollid);
                    let arguments = PgList::<pg_sys::Node>::from_pg((*list).args);
                    let (subject, values) = (self.subject(arguments.get_ptr(0)?)?, arguments.get_ptr(1)?);
                    if !(*list).useOr || !is_value(values) {
                        return None;
                    }
                    let strategy = subject.strategy(operator, collation)?;
                    let is_equal = strategy == pg_sys::BTEqualStrategyNumber as i32;
                    let comparison = if is_equal { Comparison::In } else { Comparison::Range };
                    let mut filter = self.filter(condition, &subject, comparison);
                    if is_equal && condition.may_be_predicate && self.are_common(&subject, operator, collation, values)
                    {
                        filter.predicate = self.predicate(condition);
                    }
                    Some(filter)
                }
                pg_sys::NodeTag::T_NullTest => {
                    let test = node.cast::<pg_sys::NullTest>();
                    let subject = self.subject((*test).arg.cast())?;
                    btree_opclass(subject.type_oid)?;
                    let is_null = (*test).nulltesttype == pg_sys::NullTestType::IS_NULL;
                    let comparison = if is_null { Comparison::IsNull } else { Comparison::Range };
                    let mut filter = self.filter(condition, &subject, comparison);
                    filter.predicate = subject.column.and_then(|_| self.predicate(condition));
                    Some(filter)
                }
                // `(a, b) > (1, 2)`: a range of the first column, and of all of them in their order.
                pg_sys::NodeTag::T_RowCompareExpr => {
                    let subjects = self.row_subjects(node.cast())?;
                    Some(self.filter(condition, subjects.first()?, Comparison::Range))
                }
                // `flag`, `NOT flag`, `flag IS TRUE`.
                pg_sys::NodeTag::T_Var => self.flag(condition, node),
                pg_sys::NodeTag::T_BoolExpr => {
                    let not = node.cast::<pg_sys::BoolExpr>();
                    if (*not).boolop != pg_sys::BoolExprType::NOT_EXPR {
                        return None;
                    }
                    self.flag(condition, PgList::<pg_sys::Node>::from_pg((*not).args).get_ptr(0)?)
                }
                pg_sys::NodeTag::T_BooleanTest => {
                    let test = node.cast::<pg_sys::BooleanTest>();
                    let kind = (*test).booltesttype;
                    let is_value = kind == pg_sys::BoolTestType::IS_TRUE || kind == pg_sys::BoolTestType::IS_FALSE;
                    if is_value {
                        self.flag(condition, (*test).arg.cast())
                    } else {
                        None
                    }
                }
                _ => None,
            }
        }
    }

    /// A boolean column that is compared with true or false.
    ///
    /// # Safety
    /// `node` is an expression on this relation.
    unsafe fn flag(&mut self, condition: &Condition, node: *mut pg_sys::Node) -> Option<Filter> {
        // SAFETY: passed on.
        let subject = unsafe { self.subject(node)? };
        subject.column?;
        let mut filter = self.filter(condition, &subject, Comparison::Equal);
        // SAFETY: the clause is on this relation.
        filter.predicate = unsafe { self.predicate(condition) };
        Some(filter)
    }

    /// A filter with nothing special about it.
    fn filter(&mut self, condition: &Condition, subject: &Subject, comparison: Comparison) -> Filter {
        Filter {
            part: self.part(subject),
            comparison,
            selectivity: condition.selectivity,
            opclass: 0,
            predicate: None,
            hash_width: 0.0,
            ordered: false,
        }
    }

    /// The condition's number, if an index may have it as its predicate.
    ///
    /// # Safety
    /// The condition's clause is on this relation.
    unsafe fn predicate(&mut self, condition: &Condition) -> Option<u32> {
        // SAFETY: as promised; `is_own` says that it is an expression as `number` wants it.
        unsafe {
            (condition.may_be_predicate && self.is_own(condition.clause))
                .then(|| self.expressions.number(self.relation, condition.clause, self.varno))
        }
    }

    /// What a comparison of rows begins with, if an index on it can use it.
    ///
    /// # Safety
    /// `clause` is a comparison of rows on this relation.
    unsafe fn row_subjects(&self, clause: *mut pg_sys::RowCompareExpr) -> Option<Vec<Subject>> {
        // SAFETY: the lists are equally long: expressions left and right, operators, collations.
        unsafe {
            let mut sides = [(*clause).largs, (*clause).rargs].map(|list| PgList::<pg_sys::Node>::from_pg(list));
            let commuted = self.subject(sides[0].get_ptr(0)?).is_none();
            if commuted {
                sides.swap(0, 1);
            }
            let [keys, values] = sides;
            let operators = PgList::<pg_sys::Oid>::from_pg((*clause).opnos);
            let collations = PgList::<pg_sys::Oid>::from_pg((*clause).inputcollids);
            let mut subjects = Vec::new();
            for at in 0..keys.len() {
                let operator = operators.get_oid(at)?;
                let operator = if commuted { pg_sys::get_commutator(operator) } else { operator };
                let collation = collations.get_oid(at)?;
                let usable = self.subject(keys.get_ptr(at)?).filter(|subject| {
                    values.get_ptr(at).is_some_and(|value| is_value(value))
                        && subject.strategy(operator, collation).is_some()
                });
                match usable {
                    Some(subject) => subjects.push(subject),
                    None => break,
                }
            }
            (!subjects.is_empty()).then_some(subjects)
        }
    }

    /// The order that an index must have to serve a comparison of rows as a whole.
    ///
    /// # Safety
    /// `clause` is an expression on this relation.
    pub unsafe fn row_order(&mut self, clause: *mut pg_sys::Expr) -> Option<Vec<Key>> {
        // SAFETY: the tag says which struct it is.
        unsafe {
            if !is_a(clause.cast(), pg_sys::NodeTag::T_RowCompareExpr) {
                return None;
            }
            let subjects = self.row_subjects(clause.cast())?;
            Some(subjects.iter().map(|subject| Key::of(self.part(subject))).collect())
        }
    }

    /// The subject, the operator with the subject on its left, and the other side.
    ///
    /// # Safety
    /// `clause` is an operator expression.
    pub unsafe fn sides(&self, clause: *mut pg_sys::OpExpr) -> Option<(Subject, pg_sys::Oid, *mut pg_sys::Node)> {
        // SAFETY: as promised; the argument list holds expressions.
        unsafe {
            let arguments = PgList::<pg_sys::Node>::from_pg((*clause).args);
            if arguments.len() != 2 {
                return None;
            }
            let (left, right) = (arguments.get_ptr(0)?, arguments.get_ptr(1)?);
            if let Some(subject) = self.subject(left) {
                return Some((subject, (*clause).opno, right));
            }
            let subject = self.subject(right)?;
            let commuted = pg_sys::get_commutator((*clause).opno);
            (commuted != pg_sys::InvalidOid).then_some((subject, commuted, left))
        }
    }

    /// The arms of an OR: each the conditions in it that an index could use. Nothing when one arm has none.
    ///
    /// # Safety
    /// `clause` is the OR of a restriction on this relation.
    pub unsafe fn arms(&mut self, clause: *mut pg_sys::Expr) -> Vec<Vec<Filter>> {
        let mut arms = Vec::new();
        // SAFETY: an OR's arguments are restriction infos, or ANDs of restriction infos.
        unsafe {
            if !is_a(clause.cast(), pg_sys::NodeTag::T_BoolExpr) {
                return arms;
            }
            for arm in PgList::<pg_sys::Node>::from_pg((*clause.cast::<pg_sys::BoolExpr>()).args).iter_ptr() {
                let members = if is_a(arm, pg_sys::NodeTag::T_BoolExpr) {
                    PgList::<pg_sys::Node>::from_pg((*arm.cast::<pg_sys::BoolExpr>()).args).iter_ptr().collect()
                } else {
                    vec![arm]
                };
                let filters: Vec<Filter> = members
                    .into_iter()
                    .filter(|member| is_a(*member, pg_sys::NodeTag::T_RestrictInfo))
                    .flat_map(|member| self.filters(member.cast(), false))
                    .collect();
                if filters.is_empty() || arms.len() >= CONDITIONS_MAX {
                    return Vec::new();
                }
                arms.push(filters);
            }
        }
        arms
    }
}

/// Whether `node` has one value for a whole scan.
///
/// # Safety
/// `node` is an expression.
unsafe fn is_value(node: *mut pg_sys::Node) -> bool {
    // SAFETY: read-only walks over a valid expression.
    unsafe { !pg_sys::contain_var_clause(node) && !pg_sys::contain_volatile_functions(node) }
}

/// The text that `node` is, if it is a known one.
///
/// # Safety
/// `node` is an expression.
unsafe fn constant_text(node: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: the tag says which struct it is; the datum is of a text type.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_Const) {
            return None;
        }
        let constant = node.cast::<pg_sys::Const>();
        if (*constant).constisnull || !opclass::is_text((*constant).consttype) {
            return None;
        }
        ident::owned(pg_sys::text_to_cstring((*constant).constvalue.cast_mut_ptr()))
    }
}

/// The language of the patterns that an operator compares with.
fn language_of(operator: pg_sys::Oid) -> Option<Language> {
    match operator.to_u32() {
        pg_sys::OID_TEXT_LIKE_OP | pg_sys::OID_BPCHAR_LIKE_OP => Some(Language::Like),
        pg_sys::OID_TEXT_REGEXEQ_OP | pg_sys::OID_BPCHAR_REGEXEQ_OP => Some(Language::Regex),
        STARTS_WITH_OPERATOR => Some(Language::Prefix),
        _ => None,
    }
}
