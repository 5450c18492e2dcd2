//! What a session may do that a connection shared between transactions breaks. The list is that of PgBouncer's
//! "Features" page under "SQL feature map for pooling modes".

use std::ffi::CStr;

/// Something that outlives a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// CREATE TEMP TABLE without ON COMMIT DROP.
    TemporaryTable,
    /// SET without LOCAL, set_config(..., false).
    SessionSetting,
    /// pg_advisory_lock and its kin without xact.
    AdvisoryLock,
    /// LISTEN.
    Listen,
    /// DECLARE ... WITH HOLD.
    HeldCursor,
    /// PREPARE as a statement. Those of the protocol are kept by PgBouncer since 1.21.
    PreparedStatement,
    /// LOAD.
    Load,
}

impl Feature {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Feature::TemporaryTable => "temporary table",
            Feature::SessionSetting => "SET for the session",
            Feature::AdvisoryLock => "session advisory lock",
            Feature::Listen => "LISTEN",
            Feature::HeldCursor => "cursor WITH HOLD",
            Feature::PreparedStatement => "PREPARE",
            Feature::Load => "LOAD",
        }
    }

    /// What to use instead.
    pub fn remedy(self) -> &'static str {
        match self {
            Feature::TemporaryTable => "create it with ON COMMIT DROP within one transaction",
            Feature::SessionSetting => "use SET LOCAL within the transaction, or ALTER ROLE ... SET",
            Feature::AdvisoryLock => "use pg_advisory_xact_lock",
            Feature::Listen => "listen on a connection that goes to the server directly",
            Feature::HeldCursor => "read it within its transaction",
            Feature::PreparedStatement => "prepare through the protocol, with max_prepared_statements above 0",
            Feature::Load => "set session_preload_libraries",
        }
    }
}

/// Settings that PgBouncer keeps for each client and sets itself when a client gets another connection, so that its own
/// statements are among those that the server sees (documentation of `track_extra_parameters`): what sets them, without the
/// values.
pub const FOLLOWED: [&CStr; 5] = [
    c"SET client_encoding",
    c"SET datestyle",
    c"SET timezone",
    c"SET standard_conforming_strings",
    c"SET application_name",
];
/// What SQL calls some of them: SET NAMES, SET TIME ZONE.
const ALIASES: [&str; 2] = ["names", "time"];

/// The setting that one of [`FOLLOWED`] sets.
pub fn followed_name(statement: &CStr) -> &CStr {
    let bytes = statement.to_bytes_with_nul();
    CStr::from_bytes_with_nul(bytes.strip_prefix(b"SET ").unwrap_or(bytes)).unwrap_or(statement)
}

/// What a statement uses that needs a session of its own. Sees words outside of strings, quoted names and comments; a
/// function that does it inside is not seen.
pub fn feature_of(sql: &str) -> Option<Feature> {
    let words = words(sql);
    let word = |n: usize| words.get(n).map_or("", String::as_str);
    let has = |w: &str| words.iter().any(|x| x == w);
    let temporary = |w: &str| w == "temp" || w == "temporary";
    match word(0) {
        "listen" => return Some(Feature::Listen),
        "load" => return Some(Feature::Load),
        "prepare" if word(1) != "transaction" => return Some(Feature::PreparedStatement),
        "declare" if words.windows(2).any(|w| w[0] == "with" && w[1] == "hold") => return Some(Feature::HeldCursor),
        "create" => {
            let scope = if matches!(word(1), "local" | "global") { word(2) } else { word(1) };
            let dropped = words.windows(3).any(|w| w[0] == "on" && w[1] == "commit" && w[2] == "drop");
            return (temporary(scope) && !dropped).then_some(Feature::TemporaryTable);
        }
        "set" if !matches!(word(1), "local" | "transaction" | "constraints") => {
            let is_named = word(1) == "session" && word(2) != "characteristics";
            let name = if is_named { word(2) } else { word(1) };
            let is_followed = FOLLOWED.iter().any(|one| followed_name(one).to_bytes() == name.as_bytes());
            return (!is_followed && !ALIASES.contains(&name)).then_some(Feature::SessionSetting);
        }
        "select" if words.windows(2).any(|w| w[0] == "into" && temporary(&w[1])) => {
            return Some(Feature::TemporaryTable)
        }
        _ => {}
    }
    const LOCKS: [&str; 4] =
        ["pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"];
    if LOCKS.iter().any(|l| has(l)) {
        return Some(Feature::AdvisoryLock);
    }
    // A normalised statement does not tell the last argument: only the literal true is known to be for the transaction.
    let at = words.iter().position(|w| w == "set_config")?;
    (!words[at..].iter().any(|w| w == "true")).then_some(Feature::SessionSetting)
}

/// Words in lower case, without strings, quoted names and comments.
fn words(sql: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut rest = sql.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\'' | '"' => {
                rest.by_ref().find(|x| *x == c);
                words.push(String::new());
            }
            '-' if rest.peek() == Some(&'-') => {
                rest.by_ref().find(|x| *x == '\n');
                words.push(String::new());
            }
            '/' if rest.peek() == Some(&'*') => {
                let mut last = ' ';
                rest.next();
                rest.by_ref().find(|x| std::mem::replace(&mut last, *x) == '*' && *x == '/');
                words.push(String::new());
            }
            c if c.is_alphanumeric() || c == '_' || c == '$' => {
                if let Some(word) = words.last_mut() {
                    word.extend(c.to_lowercase());
                }
            }
            _ => words.push(String::new()),
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_statements() {
        use Feature::*;
        for (sql, want) in [
            ("LISTEN jobs", Some(Listen)),
            ("  /* note * / */ listen \"X\"", Some(Listen)),
            ("-- set x\nSELECT 1", None),
            ("SELECT 'set_config'", None),
            ("SET search_path = a", Some(SessionSetting)),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Some(SessionSetting)),
            ("SET LOCAL search_path = a", None),
            ("SET SESSION search_path = a", Some(SessionSetting)),
            ("SET application_name='x'; SET client_encoding='UTF8'", None),
            ("SET SESSION DateStyle = 'ISO'", None),
            ("SET TIME ZONE 'UTC'", None),
            ("SET NAMES 'UTF8'", None),
            ("SET TRANSACTION READ ONLY", None),
            ("SET CONSTRAINTS ALL DEFERRED", None),
            ("SELECT set_config('a.b', $1, false)", Some(SessionSetting)),
            ("SELECT set_config($1, $2, $3)", Some(SessionSetting)),
            ("SELECT set_config('a.b', 'x', true)", None),
            ("CREATE TEMP TABLE t (a int)", Some(TemporaryTable)),
            ("create local temporary table t (a int)", Some(TemporaryTable)),
            ("CREATE TEMP TABLE t (a int) ON COMMIT DROP", None),
            ("CREATE TABLE temp (a int)", None),
            ("SELECT a INTO TEMP t FROM u", Some(TemporaryTable)),
            ("SELECT pg_advisory_lock($1)", Some(AdvisoryLock)),
            ("SELECT pg_catalog.pg_try_advisory_lock(1, 2)", Some(AdvisoryLock)),
            ("SELECT pg_advisory_xact_lock($1)", None),
            ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Some(HeldCursor)),
            ("DECLARE c CURSOR FOR SELECT 1", None),
            ("PREPARE p AS SELECT 1", Some(PreparedStatement)),
            ("PREPARE TRANSACTION 'x'", None),
            ("LOAD 'auto_explain'", Some(Load)),
            ("UPDATE t SET a = 1", None),
            ("", None),
            ("'", None),
        ] {
            assert_eq!(feature_of(sql), want, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(sql in "\\PC{0,60}") {
            let _ = feature_of(&sql);
        }

        #[test]
        fn strings_and_comments_say_nothing(text in "[a-z _(]{0,30}") {
            for sql in [format!("SELECT '{text}'"), format!("SELECT 1 AS \"{text}\""), format!("SELECT 1 /*{text}*/")] {
                prop_assert_eq!(feature_of(&sql), None);
            }
        }
    }
}
