//! Conditions of a query that hold for every row: which equalities of columns and values are in them.

use pgrx::pg_sys;

use super::query::{each, Walker};
use super::resolve::{self, Value};
use super::Pin;

impl Walker {
    /// Conditions that hold for every row.
    ///
    /// # Safety
    /// The node is NULL or valid, and of this level.
    pub(super) unsafe fn conditions(&mut self, level: usize, node: *mut pg_sys::Node) {
        if node.is_null() || self.too_large {
            return;
        }
        // SAFETY: as promised.
        unsafe {
            pg_sys::check_stack_depth();
            match (*node).type_ {
                pg_sys::NodeTag::T_List => {
                    for one in each::<pg_sys::Node>(node.cast()) {
                        self.conditions(level, one);
                    }
                }
                pg_sys::NodeTag::T_BoolExpr => {
                    let both = node.cast::<pg_sys::BoolExpr>();
                    match (*both).boolop {
                        pg_sys::BoolExprType::AND_EXPR => self.conditions(level, (*both).args.cast()),
                        pg_sys::BoolExprType::OR_EXPR => self.any_of(level, both),
                        _ => self.expression(level, node),
                    }
                }
                pg_sys::NodeTag::T_OpExpr if is_equality(node.cast()) => {
                    let sides = each::<pg_sys::Node>((*node.cast::<pg_sys::OpExpr>()).args);
                    let left = self.side(level, sides[0]);
                    let right = self.side(level, sides[1]);
                    self.equal(left, right);
                }
                pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                    self.expression(level, node);
                    if let Some(pin) = self.one_of(level, node.cast()) {
                        self.shape.pins.push(pin);
                    }
                }
                pg_sys::NodeTag::T_SubLink => {
                    let link = node.cast::<pg_sys::SubLink>();
                    match (*link).subLinkType {
                        pg_sys::SubLinkType::EXISTS_SUBLINK => {
                            self.query((*link).subselect.cast(), Some(level));
                        }
                        pg_sys::SubLinkType::ANY_SUBLINK => {
                            let inner = self.query((*link).subselect.cast(), Some(level));
                            self.tested(level, inner, (*link).testexpr);
                        }
                        _ => self.expression(level, node),
                    }
                }
                _ => self.expression(level, node),
            }
        }
    }

    /// One side of an equality.
    unsafe fn side(&mut self, level: usize, node: *mut pg_sys::Node) -> Value {
        // SAFETY: as for `conditions`.
        unsafe {
            if (*node).type_ == pg_sys::NodeTag::T_SubLink {
                let link = node.cast::<pg_sys::SubLink>();
                if (*link).subLinkType == pg_sys::SubLinkType::EXPR_SUBLINK {
                    let inner = self.query((*link).subselect.cast(), Some(level));
                    return self.output(inner, 1);
                }
            }
            self.expression(level, node);
            self.resolve(level, node)
        }
    }

    fn equal(&mut self, left: Value, right: Value) {
        match (left, right) {
            (Value::Columns(left), Value::Columns(right)) => {
                for a in &left {
                    self.shape.joins.extend(right.iter().filter(|b| *b != a).map(|b| (*a, *b)));
                }
            }
            (Value::Columns(columns), Value::Slots(slots)) | (Value::Slots(slots), Value::Columns(columns)) => {
                let pins = columns.into_iter().map(|column| Pin { column, slots: slots.clone() });
                self.shape.pins.extend(pins);
            }
            _ => {}
        }
    }

    /// What IN (SELECT ...) compares with.
    pub(super) unsafe fn tested(&mut self, level: usize, inner: usize, test: *mut pg_sys::Node) {
        if test.is_null() {
            return;
        }
        // SAFETY: as for `conditions`.
        unsafe {
            match (*test).type_ {
                pg_sys::NodeTag::T_BoolExpr => {
                    for one in each::<pg_sys::Node>((*test.cast::<pg_sys::BoolExpr>()).args) {
                        self.tested(level, inner, one);
                    }
                }
                pg_sys::NodeTag::T_OpExpr if is_equality(test.cast()) => {
                    let sides = each::<pg_sys::Node>((*test.cast::<pg_sys::OpExpr>()).args);
                    self.expression(level, sides[0]);
                    let outer = self.resolve(level, sides[0]);
                    if let Some(number) = resolve::sublink_column(sides[1]) {
                        let found = self.output(inner, number);
                        self.equal(outer, found);
                    }
                }
                _ => self.expression(level, test),
            }
        }
    }

    /// `a = 1 OR a = 2`.
    unsafe fn any_of(&mut self, level: usize, either: *mut pg_sys::BoolExpr) {
        // SAFETY: as for `conditions`.
        unsafe {
            self.expression(level, either.cast());
            let mut all: Option<Pin> = None;
            for arm in each::<pg_sys::Node>((*either).args) {
                let found = match (*arm).type_ {
                    pg_sys::NodeTag::T_OpExpr if is_equality(arm.cast()) => {
                        let sides = each::<pg_sys::Node>((*arm.cast::<pg_sys::OpExpr>()).args);
                        match (self.resolve(level, sides[0]), self.resolve(level, sides[1])) {
                            (Value::Columns(columns), Value::Slots(slots))
                            | (Value::Slots(slots), Value::Columns(columns))
                                if columns.len() == 1 =>
                            {
                                Some(Pin { column: columns[0], slots })
                            }
                            _ => None,
                        }
                    }
                    pg_sys::NodeTag::T_ScalarArrayOpExpr => self.one_of(level, arm.cast()),
                    _ => None,
                };
                match (&mut all, found) {
                    (_, None) => return,
                    (None, found) => all = found,
                    (Some(all), Some(found)) if all.column == found.column => all.slots.extend(found.slots),
                    _ => return,
                }
            }
            self.shape.pins.extend(all);
        }
    }

    /// `a IN (1, 2)` and `a = ANY ($1)`.
    unsafe fn one_of(&mut self, level: usize, node: *mut pg_sys::ScalarArrayOpExpr) -> Option<Pin> {
        // SAFETY: as for `conditions`.
        unsafe {
            let sides = each::<pg_sys::Node>((*node).args);
            let (left, right) = (*sides.first()?, *sides.get(1)?);
            if !(*node).useOr || !is_equal_operator((*node).opno, left) {
                return None;
            }
            let Value::Columns(columns) = self.resolve(level, left) else { return None };
            let [column] = columns[..] else { return None };
            let elements = resolve::elements_of(right);
            let mut slots = Vec::new();
            match elements {
                Some(elements) => {
                    for element in elements {
                        match self.resolve(level, element) {
                            Value::Slots(more) => slots.extend(more),
                            _ => return None,
                        }
                    }
                }
                // One value with several in it: nobody knows which.
                None => match self.resolve(level, right) {
                    Value::Slots(_) => slots.extend([self.fresh_slot(), self.fresh_slot()]),
                    _ => return None,
                },
            }
            slots.sort_unstable();
            slots.dedup();
            Some(Pin { column, slots })
        }
    }
}

/// Whether an operator holds two values equal.
unsafe fn is_equality(node: *mut pg_sys::OpExpr) -> bool {
    // SAFETY: a valid node; an operator has one argument or two.
    unsafe {
        let sides = each::<pg_sys::Node>((*node).args);
        sides.len() == 2 && is_equal_operator((*node).opno, sides[0])
    }
}

unsafe fn is_equal_operator(operator: pg_sys::Oid, left: *mut pg_sys::Node) -> bool {
    // SAFETY: syscache look-ups for a valid node.
    unsafe {
        let of = pg_sys::exprType(left);
        pg_sys::op_hashjoinable(operator, of) || pg_sys::op_mergejoinable(operator, of)
    }
}
