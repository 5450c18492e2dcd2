//! Settings are changed, or put back: the worker's part for changes of the kind `setting`. Each statement runs at top level as
//! the role that asked, as ALTER SYSTEM has to; what the server has in files is read anew at the end. Locks what the
//! statements lock.

use serde_json::{json, Value};

use crate::act::change::setting;
use crate::act::change::store::Change;
use crate::act::executor::{self, Failure};

const RELOAD: &str = "SELECT pg_catalog.pg_reload_conf()";

/// Makes the change: what is to be kept of it, and what to say.
pub fn carry_out(change: &Change) -> Result<(Value, Option<String>), Failure> {
    for piece in executor::transaction(|| Ok(executor::pieces(&change.ddl)))? {
        executor::statement(&piece.sql)?;
    }
    let settings = setting::of(change);
    if settings.iter().any(|one| one.place.is_server) {
        executor::statement(RELOAD)?;
    }
    let is_of_sessions = settings.iter().any(|one| !one.place.is_server);
    Ok((json!({}), is_of_sessions.then(|| "counts for sessions that begin from now on".to_owned())))
}

/// Puts back what is not as it was yet.
pub fn take_back(change: &Change) -> Result<(), Failure> {
    let (statements, reload) = executor::transaction(|| Ok(setting::left_to_undo(change)?))?;
    for sql in &statements {
        executor::statement(sql)?;
    }
    if reload {
        executor::statement(RELOAD)?;
    }
    Ok(())
}
