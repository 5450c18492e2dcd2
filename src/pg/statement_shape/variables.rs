//! Parameters whose types the statement itself tells, and variables of a function around it, which are taken for more of
//! them. Lives as long as the analysis of one statement.

use std::ffi::{c_int, c_void, CStr};
use std::ptr;

use pgrx::{pg_guard, pg_sys, PgList};

unsafe extern "C-unwind" {
    /// Lets `$n` have types that are found out: of the server's parser, and not among the bindings.
    fn setup_parse_variable_parameters(state: *mut pg_sys::ParseState, types: *mut *mut pg_sys::Oid, count: *mut c_int);
}

/// Types of parameters during an analysis.
pub(super) struct Parameters {
    types: *mut pg_sys::Oid,
    count: c_int,
    /// Parameters of the text.
    known: usize,
    /// Names that no column has are variables.
    variables: bool,
    names: Vec<Vec<u8>>,
}

thread_local! {
    /// Those of the analysis in progress: the parser has no room for them besides its own.
    static CURRENT: std::cell::Cell<*mut Parameters> = const { std::cell::Cell::new(ptr::null_mut()) };
}

impl Drop for Parameters {
    fn drop(&mut self) {
        CURRENT.set(ptr::null_mut());
    }
}

impl Parameters {
    /// # Safety
    /// The current memory context outlives the analysis.
    pub(super) unsafe fn new(types: &[pg_sys::Oid], known: usize, variables: bool) -> Parameters {
        let mut array: *mut pg_sys::Oid = ptr::null_mut();
        if !types.is_empty() {
            // SAFETY: palloc'd with room for all of them; the parser may repalloc it.
            unsafe {
                array = pg_sys::palloc0(size_of_val(types)).cast();
                ptr::copy_nonoverlapping(types.as_ptr(), array, types.len());
            }
        }
        Parameters { types: array, count: types.len() as c_int, known, variables, names: Vec::new() }
    }

    /// Whether the statement has any.
    pub(super) fn any(&self) -> bool {
        self.count > 0
    }

    /// The number of the parameter that a variable is.
    fn number_of(&mut self, name: Vec<u8>) -> usize {
        let at = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        self.known + at + 1
    }
}

/// What the parser calls first.
#[pg_guard]
#[allow(ffi_unwind_calls, reason = "inside a guard that takes errors")]
pub(super) unsafe extern "C-unwind" fn set_up(state: *mut pg_sys::ParseState, argument: *mut c_void) {
    // SAFETY: called by the parser with the `Parameters` that it was given; they live through the analysis.
    unsafe {
        let parameters = argument.cast::<Parameters>();
        let (types, count) = (&raw mut (*parameters).types, &raw mut (*parameters).count);
        pg_sys::ffi::pg_guard_ffi_boundary(|| setup_parse_variable_parameters(state, types, count));
        if (*parameters).variables {
            CURRENT.set(parameters);
            (*state).p_post_columnref_hook = Some(variable);
        }
    }
}

/// What the parser calls for every name of a column: of the server's if it found one.
#[pg_guard]
#[allow(ffi_unwind_calls, reason = "inside a guard that takes errors")]
unsafe extern "C-unwind" fn variable(
    state: *mut pg_sys::ParseState,
    reference: *mut pg_sys::ColumnRef,
    found: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
    let parameters = CURRENT.get();
    if !found.is_null() || parameters.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: called by the parser with valid nodes; the fields of a name are strings, and a star at the end of some.
    unsafe {
        let mut name = Vec::new();
        for field in PgList::<pg_sys::Node>::from_pg((*reference).fields).iter_ptr() {
            if (*field).type_ != pg_sys::NodeTag::T_String {
                return ptr::null_mut();
            }
            name.extend_from_slice(CStr::from_ptr((*field.cast::<pg_sys::String>()).sval).to_bytes_with_nul());
        }
        let Some(as_parameter) = (*state).p_paramref_hook else { return ptr::null_mut() };
        let node = pg_sys::palloc0(size_of::<pg_sys::ParamRef>()).cast::<pg_sys::ParamRef>();
        (*node).type_ = pg_sys::NodeTag::T_ParamRef;
        (*node).number = (*parameters).number_of(name) as c_int;
        (*node).location = (*reference).location;
        pg_sys::ffi::pg_guard_ffi_boundary(|| as_parameter(state, node))
    }
}
