//! The one error type of the SQL surface and its one map to SQLSTATE, message and HINT.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::PgSqlErrorCode;

use crate::pg::text;

/// Everything a public function can refuse with.
#[derive(Debug)]
pub enum Error {
    /// An argument has a value outside of what is accepted: argument, value, what is accepted.
    InvalidArgument { argument: &'static str, value: String, accepted: String },
    /// An argument, or an element of it, is NULL and may not be.
    NullArgument { argument: &'static str },
    /// Capture is not running because the library was not preloaded.
    NotPreloaded,
    /// The server is in a state in which this cannot be done.
    WrongState { message: String, hint: String },
    /// Nothing can be written here: a standby, or a read-only transaction.
    ReadOnly { message: String, hint: String },
    /// Not supported here.
    Unsupported { message: String, hint: String },
    /// A named object does not exist.
    UndefinedObject { message: String, hint: String },
    /// A name is taken.
    DuplicateObject { message: String, hint: String },
    /// The current role may not do this.
    Denied { message: String, hint: String },
    /// The disk is too full.
    NoRoom { message: String, hint: String },
    /// A named column does not exist.
    UndefinedColumn { message: String, hint: String },
}

impl Error {
    /// Raises the error. Call only where no lock is held and nothing with a destructor is live.
    pub fn raise(self) -> ! {
        let (code, message, hint) = self.parts();
        ErrorReport::new(code, text::message(message), "perf_opt")
            .set_hint(text::message(hint))
            .report(pgrx::PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// The message alone, for a log or a status row.
    pub fn message(self) -> String {
        self.parts().1
    }

    /// SQLSTATE, message, hint.
    pub fn parts(self) -> (PgSqlErrorCode, String, String) {
        match self {
            Error::InvalidArgument { argument, value, accepted } => (
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("invalid value for argument \"{argument}\": {value}"),
                accepted,
            ),
            Error::NullArgument { argument } => (
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                format!("argument \"{argument}\" must not be NULL or contain NULL"),
                "Give a value, or leave out an argument that has a default.".to_owned(),
            ),
            Error::NotPreloaded => (
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "perf_opt must be loaded via \"shared_preload_libraries\"".to_owned(),
                "Add shared_preload_libraries = 'perf_opt' to postgresql.conf and restart the server.".to_owned(),
            ),
            Error::WrongState { message, hint } => {
                (PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message, hint)
            }
            Error::Unsupported { message, hint } => (PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message, hint),
            Error::ReadOnly { message, hint } => (PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION, message, hint),
            Error::Denied { message, hint } => (PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message, hint),
            Error::NoRoom { message, hint } => (PgSqlErrorCode::ERRCODE_DISK_FULL, message, hint),
            Error::UndefinedColumn { message, hint } => (PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN, message, hint),
            Error::DuplicateObject { message, hint } => (PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT, message, hint),
            Error::UndefinedObject { message, hint } => (PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, message, hint),
        }
    }
}
