//! What expressions of a finished plan take to evaluate. Reads expression nodes; nothing is locked.

use pgrx::{pg_guard, pg_sys, PgList};

/// What evaluating a list of expressions once takes.
#[derive(Default)]
pub struct Effort {
    /// On types that fit in a register.
    pub operations: f64,
    /// On numeric.
    pub numeric: f64,
    /// On types of variable length.
    pub text: f64,
    /// Pattern matches, and functions that make a value of variable length.
    pub text_functions: f64,
    /// The plans that they ask.
    pub subplans: Vec<*mut pg_sys::SubPlan>,
}

impl Effort {
    /// What `node` takes.
    ///
    /// # Safety
    /// `node` is NULL, an expression or a list of expressions of a finished plan.
    pub unsafe fn of(node: *mut pg_sys::Node) -> Effort {
        let mut effort = Effort::default();
        // SAFETY: the walker reads only.
        unsafe { walk(node, (&raw mut effort).cast()) };
        effort
    }

    fn count(&mut self, type_oid: pg_sys::Oid, result: pg_sys::Oid) {
        if type_oid == pg_sys::NUMERICOID || result == pg_sys::NUMERICOID {
            self.numeric += 1.0;
            return;
        }
        // SAFETY: a syscache lookup; zero for no such type.
        let length = unsafe { pg_sys::get_typlen(type_oid) };
        if length == -1 {
            self.text += 1.0;
        } else {
            self.operations += 1.0;
        }
    }
}

/// As many elements of an array are put into a hash table, and no longer tried one by one.
const HASHED_ELEMENTS: usize = 9;

/// How many elements the array has that is the second of `arguments`; one when it is not known.
///
/// # Safety
/// `arguments` are those of a comparison with an array.
unsafe fn elements(arguments: *mut pg_sys::List) -> usize {
    // SAFETY: a constant that is not NULL holds an array here.
    unsafe {
        let array = PgList::<pg_sys::Node>::from_pg(arguments).get_ptr(1).unwrap_or(std::ptr::null_mut());
        if array.is_null() || (*array).type_ != pg_sys::NodeTag::T_Const || (*array.cast::<pg_sys::Const>()).constisnull
        {
            return 1;
        }
        let array = (*array.cast::<pg_sys::Const>()).constvalue.cast_mut_ptr::<pg_sys::varlena>();
        let array = pg_sys::pg_detoast_datum(array).cast::<pg_sys::ArrayType>();
        let dimensions = (*array).ndim;
        let lengths = array.cast::<u8>().add(std::mem::size_of::<pg_sys::ArrayType>()).cast::<i32>();
        usize::try_from(pg_sys::ArrayGetNItems(dimensions, lengths)).unwrap_or(1).max(1)
    }
}

/// Adds what one node does to the [`Effort`] behind `context`.
#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut std::ffi::c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: `context` is the effort that `Effort::of` lent; the tag says which struct a node is.
    unsafe {
        let effort = &mut *context.cast::<Effort>();
        let first = |list: *mut pg_sys::List| {
            PgList::<pg_sys::Node>::from_pg(list).get_ptr(0).map_or(pg_sys::InvalidOid, |arg| pg_sys::exprType(arg))
        };
        match (*node).type_ {
            pg_sys::NodeTag::T_OpExpr | pg_sys::NodeTag::T_DistinctExpr | pg_sys::NodeTag::T_NullIfExpr => {
                let expression = node.cast::<pg_sys::OpExpr>();
                // iclikesel, icnlikesel, regexeqsel to icregexnesel with likesel among them, prefixsel.
                let support = pg_sys::get_oprrest((*expression).opno).to_u32();
                if matches!(support, 1814 | 1815 | 1818..=1823 | 3437) {
                    effort.text_functions += 1.0;
                } else {
                    effort.count(first((*expression).args), (*expression).opresulttype);
                }
            }
            pg_sys::NodeTag::T_FuncExpr => {
                let expression = node.cast::<pg_sys::FuncExpr>();
                let result = (*expression).funcresulttype;
                if result != pg_sys::NUMERICOID && pg_sys::get_typlen(result) == -1 {
                    effort.text_functions += 1.0;
                } else {
                    effort.count(first((*expression).args), result);
                }
            }
            pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                let expression = node.cast::<pg_sys::ScalarArrayOpExpr>();
                // Those asked for are tried one by one, half of them on average, unless they are many.
                for _ in 0..(elements((*expression).args) / 2).clamp(1, HASHED_ELEMENTS / 2) {
                    effort.count(first((*expression).args), pg_sys::BOOLOID);
                }
                effort.operations += 1.0;
            }
            pg_sys::NodeTag::T_Aggref => {
                let aggregate = node.cast::<pg_sys::Aggref>();
                let argument = PgList::<pg_sys::TargetEntry>::from_pg((*aggregate).args)
                    .get_ptr(0)
                    .map_or(pg_sys::INT8OID, |entry| pg_sys::exprType((*entry).expr.cast()));
                effort.count(argument, pg_sys::InvalidOid);
            }
            pg_sys::NodeTag::T_CaseExpr | pg_sys::NodeTag::T_CoalesceExpr | pg_sys::NodeTag::T_NullTest => {
                effort.operations += 1.0;
            }
            pg_sys::NodeTag::T_SubPlan => {
                effort.subplans.push(node.cast());
            }
            _ => {}
        }
        pg_sys::expression_tree_walker(node, Some(walk), context)
    }
}
