//! The values that an execution was given: its parameters, then its literals, in the order of the placeholders that the
//! normalised text has for them. Called for the few executions that somebody keeps. Values that would have to be computed
//! are not looked at: no code of others runs.

use super::sample;
use super::source::StatementText;
use pgrx::pg_sys;

/// A value.
pub enum Value<'a> {
    /// NULL.
    Null,
    /// Too long, not of a built-in type, or not there.
    Unknown,
    /// Its text form.
    Text(&'a [u8]),
}

/// Shows `each` the values, until it says no.
///
/// # Safety
/// `query` is `None` or a live descriptor.
pub unsafe fn each(query: Option<&pg_sys::QueryDesc>, text: &StatementText, mut each: impl FnMut(Value) -> bool) {
    // Values that come from a callback are not fetched: that may run code.
    // SAFETY: NULL or live with the descriptor.
    let params = query.and_then(|query| unsafe { query.params.as_ref() }).filter(|params| params.paramFetch.is_none());
    // SAFETY: the list holds `numParams` values behind its head.
    let params = params.map_or(&[][..], |params| unsafe { params.params.as_slice(params.numParams.max(0) as usize) });
    for number in 0..text.parameters() as usize {
        let value = params.get(number).and_then(sample::text_of);
        let goes_on = match (params.get(number), &value) {
            (Some(param), _) if param.isnull => each(Value::Null),
            (_, Some(value)) => each(Value::Text(value)),
            _ => each(Value::Unknown),
        };
        if !goes_on {
            return;
        }
    }
    text.each_value(|value| each(value.map_or(Value::Unknown, Value::Text)));
}
