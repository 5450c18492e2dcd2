//! Small files in the data directory, and how the server was shut down before it started. Called in the postmaster and the
//! processes it starts, whose working directory it is. Locks nothing.

use std::fs;

/// Where the server itself keeps what it writes at a shutdown and reads at the next start.
const DIRECTORY: &str = "pg_stat";
/// The state of the cluster in pg_control: behind the identifier (8 bytes) and two versions (4 each).
const STATE_AT: usize = 16;
const DB_SHUTDOWNED: u32 = 1;
/// What is there where the server begins from a backup or as a standby: what it was before says nothing then.
const SIGNALS: [&str; 3] = ["standby.signal", "recovery.signal", "backup_label"];

/// Whether the cluster was shut down as a primary, and nothing has happened to it since. At the start of the postmaster and
/// at its end.
pub fn was_shut_down() -> bool {
    let state = fs::read("global/pg_control").ok();
    let state = state.and_then(|bytes| Some(u32::from_ne_bytes(bytes.get(STATE_AT..STATE_AT + 4)?.try_into().ok()?)));
    state == Some(DB_SHUTDOWNED) && !SIGNALS.iter().any(|name| fs::exists(name).unwrap_or(true))
}

/// What [`leave`] has written; `None`: nothing ever was. What cannot be read is empty.
pub fn left(name: &str) -> Option<Vec<u8>> {
    match fs::read(format!("{DIRECTORY}/{name}")) {
        Ok(bytes) => Some(bytes),
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => None,
        Err(_) => Some(Vec::new()),
    }
}

/// Writes a small file for the next start, whatever happens until then.
pub fn leave(name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let path = format!("{DIRECTORY}/{name}");
    let unfinished = format!("{path}.new");
    fs::write(&unfinished, bytes)?;
    fs::File::open(&unfinished)?.sync_all()?;
    fs::rename(unfinished, path)?;
    fs::File::open(DIRECTORY)?.sync_all()
}

/// The command line that the server was started with, as the server has written it down; empty where it has not.
pub fn command_line() -> String {
    fs::read("postmaster.opts").map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
