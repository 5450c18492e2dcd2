//! Writes a detached partition to a file: CSV with a header, compressed with zstd, that COPY can load again. The file
//! is read back, and what it holds is compared with what was written to it, before the table is dropped; all of it in
//! one transaction, so that a crash at any moment leaves the table, and the next run writes the file anew.
//!
//! Called by the expiry of partitions, in the worker of a run only. Locks the table in SHARE ROW EXCLUSIVE while it is
//! written, so that nobody changes it, and no other run writes to the same file, and in ACCESS EXCLUSIVE to drop it.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use perf_core::partition::expiry;
use pgrx::pg_sys;

use super::expire::{explained, lock_detached, tree_bytes};
use super::expire_state::{self, Expired};
use super::ground::Ground;
use super::Look;
use crate::act::executor::{self, Failure};
use crate::act::runs::run;
use crate::error::Error;
use crate::guc;
use crate::pg::compressed_file::{read_back, sync_directory, Content, Sink};
use crate::pg::query::text;
use crate::pg::{background, ddl, ident, privilege, query};

const ARCHIVES: &std::ffi::CStr = c"partition_archive";
/// Names tried for a file.
const NAMES_MAX: u32 = 1_000;
/// What filesystems without hard links say.
const NO_LINKS: [ErrorKind; 2] = [ErrorKind::PermissionDenied, ErrorKind::Unsupported];
/// What a file is called while it is written ends in.
const PARTIAL: &str = ".partial";
/// Rows are written so that they mean the same to whoever loads them, whatever the session's settings are.
const SETTINGS: &str = "SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; \
                        SET LOCAL timezone = 'UTC'; SET LOCAL bytea_output = 'hex'; \
                        SET LOCAL extra_float_digits = 3; SET LOCAL xmloption = 'content'";

/// The directory for files; an error when there is none to write to, or the current role may not have the server write
/// files.
pub fn directory() -> Result<PathBuf, Failure> {
    check_settings()?;
    let path = PathBuf::from(guc::archive_directory());
    let failed = |error: std::io::Error| of_directory(&path, &error);
    let about = std::fs::metadata(&path).map_err(failed)?;
    if !about.is_dir() {
        return Err(of_directory(&path, &std::io::Error::from(std::io::ErrorKind::NotADirectory)));
    }
    let probe = path.join(format!(".perf_opt_{}{PARTIAL}", background::my_pid()));
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(&probe).map_err(failed)?;
    std::fs::remove_file(&probe).map_err(failed)?;
    Ok(path)
}

fn of_directory(path: &Path, error: &std::io::Error) -> Failure {
    Failure {
        hint: Some("The server must be able to write there.".to_owned()),
        ..Failure::new("58030", format!("perf_opt.archive_directory {}: {error}", path.display()))
    }
}

/// What can be said without looking at the directory.
pub fn check_settings() -> Result<(), Error> {
    let role = privilege::current_role();
    let may = query::run_with(
        c"SELECT pg_catalog.pg_has_role($1, 'pg_write_server_files', 'USAGE')",
        &[role.into()],
        |row| row.get::<bool>(1).unwrap_or(false),
    );
    if !may.1.contains(&true) && !privilege::is_superuser(role) {
        return Err(Error::Denied {
            message: "permission denied to archive partitions to files of the server".to_owned(),
            hint: "Only superusers and members of pg_write_server_files may; archive_to => 'schema' is for everybody."
                .to_owned(),
        });
    }
    let path = guc::archive_directory();
    if path.is_empty() {
        return Err(Error::WrongState {
            message: "perf_opt.archive_directory is not set".to_owned(),
            hint: "A superuser sets it to an absolute path that the server may write to.".to_owned(),
        });
    }
    if !Path::new(&path).is_absolute() {
        return Err(Error::WrongState {
            message: format!("perf_opt.archive_directory is \"{path}\", which is not an absolute path"),
            hint: "A superuser sets it to an absolute path that the server may write to.".to_owned(),
        });
    }
    Ok(())
}

/// Removes what an interrupted run has left of a file.
pub fn remove_partial(expired: &Expired) {
    if let Some(file) = &expired.file {
        let _ = std::fs::remove_file(partial(Path::new(file)));
    }
}

fn partial(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(PARTIAL);
    PathBuf::from(name)
}

/// Writes it, and drops it. What became of it; `None` when it is somebody else's by now.
pub fn to_file(look: &Look, expired: &Expired) -> Result<Option<String>, Failure> {
    // Rather now than after an hour of writing: what depends on the table would stop its drop.
    look.ground.read(|| can_be_dropped(expired))?;
    let file = look.ground.step(&[], || file_for(expired, expired.file.as_deref()))?;
    match written(expired, &file)? {
        Written::Done(detail) => Ok(Some(detail)),
        Written::Gone => Ok(None),
        Written::Taken => {
            // Somebody's file has come to the name: it is left, and another name is noted before it is used.
            let file = look.ground.step(&[], || file_for(expired, None))?;
            match written(expired, &file)? {
                Written::Done(detail) => Ok(Some(detail)),
                Written::Gone => Ok(None),
                Written::Taken => Err(exists(&file)),
            }
        }
    }
}

/// What became of a try with one name.
enum Written {
    /// It is in the file, and dropped; more of it.
    Done(String),
    /// The table is somebody else's by now.
    Gone,
    /// The name is another file's. Nothing was changed.
    Taken,
}

/// SQLSTATE of a file that is there already.
const DUPLICATE_FILE: &str = "58P02";

fn exists(file: &Path) -> Failure {
    Failure::new(DUPLICATE_FILE, format!("{} exists already", file.display()))
}

/// Writes it to a file that was noted, and drops it, in one transaction.
fn written(expired: &Expired, file: &Path) -> Result<Written, Failure> {
    let is_taken = Cell::new(false);
    let outcome = executor::transaction(|| {
        let locked = Ground::Inside.step(&[expired.oid], || lock_detached(expired, "SHARE ROW EXCLUSIVE"))?;
        if !locked {
            return Ok(Written::Gone);
        }
        let columns = columns(expired);
        let encoding = encoding();
        let temporary = partial(file);
        // A crash may have left it as a second name of the file itself, which is not to be written over.
        remove(&temporary)?;
        let (rows, content) = write(expired, &columns, &encoding, &temporary)?;
        verify(&temporary, rows, &content)?;
        let file_bytes =
            std::fs::metadata(&temporary).map(|about| about.len()).map_err(|error| of(&temporary, &error))?;
        if !publish(expired, &temporary, file, &content)? {
            is_taken.set(true);
            return Err(exists(file));
        }
        let directory = file.parent().unwrap_or(Path::new("/"));
        sync_directory(directory).map_err(|error| of_directory(directory, &error))?;
        let table_bytes = tree_bytes(expired.oid);
        record(expired, &columns, &encoding, file, rows, &content, table_bytes, file_bytes)?;
        Ground::Inside.step(&[expired.oid], || {
            ddl::run(&format!("DROP TABLE {}", expired.full_name()));
            Ok(())
        })?;
        expired.forget()?;
        Ok(Written::Done(format!(
            "{}; {rows} rows, {table_bytes} bytes, are in {} of {file_bytes} bytes now",
            expired.bounds,
            file.display()
        )))
    });
    if outcome.is_err() {
        let _ = std::fs::remove_file(partial(file));
    }
    match outcome {
        Err(_) if is_taken.get() => Ok(Written::Taken),
        outcome => outcome,
    }
}

/// Gives what was written its name, never in place of anything but the same content, which an interrupted run has left.
/// False when the name is another file's.
fn publish(expired: &Expired, temporary: &Path, file: &Path, content: &Content) -> Result<bool, Failure> {
    let Err(error) = std::fs::hard_link(temporary, file) else {
        remove(temporary)?;
        return Ok(true);
    };
    let is_free = !is_there(file);
    if !is_free && (expire_state::is_named(&file.to_string_lossy(), expired.oid)? || !holds(file, content)) {
        return Ok(false);
    }
    // Without hard links a new name can only be had by a rename.
    let can_rename = !is_free || NO_LINKS.contains(&error.kind());
    if !can_rename {
        return Err(of(file, &error));
    }
    std::fs::rename(temporary, file).map_err(|error| of(file, &error))?;
    Ok(true)
}

/// Whether a file has a content.
fn holds(file: &Path, content: &Content) -> bool {
    let is_file = std::fs::symlink_metadata(file).is_ok_and(|about| about.is_file());
    is_file && read_back(file, background::check_for_interrupts).is_ok_and(|found| found == *content)
}

/// Whether there is anything of a name, be it a link to nowhere.
fn is_there(path: &Path) -> bool {
    !matches!(std::fs::symlink_metadata(path), Err(error) if error.kind() == ErrorKind::NotFound)
}

/// Removes a file, if there is one.
fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(of(path, &error)),
        _ => Ok(()),
    }
}

/// Tries to drop the table, and takes it back.
fn can_be_dropped(expired: &Expired) -> Result<(), Failure> {
    const TAKEN_BACK: &str = "perf_opt: taken back";
    let tried = Ground::Inside.step::<()>(&[expired.oid], || {
        if lock_detached(expired, "ACCESS EXCLUSIVE")? {
            ddl::run(&format!("DROP TABLE {}", expired.full_name()));
        }
        Err(Failure::new("00000", TAKEN_BACK))
    });
    match tried {
        Err(failure) if failure.message != TAKEN_BACK => Err(failure),
        _ => Ok(()),
    }
}

/// The file that it goes to, remembered from before it is there: the `noted` one, if it can be that still, or else one
/// whose name is free.
fn file_for(expired: &Expired, noted: Option<&str>) -> Result<PathBuf, Failure> {
    let directory = directory()?;
    if let Some(file) = noted.map(PathBuf::from) {
        if file.parent() == Some(&directory) && !expire_state::is_named(&file.to_string_lossy(), expired.oid)? {
            return Ok(file);
        }
        remove_partial(expired);
    }
    for n in 1..=NAMES_MAX {
        let file = directory.join(expiry::file_name(&expired.stem, n));
        let name = file.to_string_lossy();
        if !is_there(&file) && !is_there(&partial(&file)) && !expire_state::is_named(&name, expired.oid)? {
            expired.note_file(&name)?;
            return Ok(file);
        }
    }
    Err(Failure::new(
        DUPLICATE_FILE,
        format!("{NAMES_MAX} names for {} are taken", directory.join(&expired.stem).display()),
    ))
}

fn of(path: &Path, error: &std::io::Error) -> Failure {
    let sqlstate = if error.kind() == std::io::ErrorKind::StorageFull { "53100" } else { "58030" };
    Failure::new(sqlstate, format!("{}: {error}", path.display()))
}

/// Columns that COPY can load again: what is generated is generated anew.
fn columns(expired: &Expired) -> String {
    columns_of(expired).join(", ")
}

fn columns_of(expired: &Expired) -> Vec<String> {
    let found = query::run_with(
        c"SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
           WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2
             AND NOT a.attisdropped AND a.attgenerated OPERATOR(pg_catalog.=) ''::pg_catalog.\"char\"
           ORDER BY a.attnum",
        &[expired.oid.into()],
        |row| ident::quote(&row.string(1)),
    );
    found.1
}

/// UTF-8, which every database can load, unless nobody knows what the bytes of this one mean.
fn encoding() -> String {
    match ddl::value::<crate::pg::text::Text>("SELECT pg_catalog.getdatabaseencoding()::pg_catalog.text") {
        Some(name) if name.0 == "SQL_ASCII" => name.0,
        _ => "UTF8".to_owned(),
    }
}

/// The foreign tables of a partition that is not one itself, whose rows the server gives only to a query: one of somebody
/// else's, if there is one. A query runs functions that its owner chooses, with the rights to write files.
pub fn unreadable(partition: pg_sys::Oid) -> Option<String> {
    let role = privilege::current_role();
    let foreign = leaves(partition).into_iter().filter(|(_, is_foreign)| *is_foreign);
    let others = foreign.map(|(leaf, _)| leaf).find(|leaf| privilege::relation_owner(*leaf) != role);
    others.map(|leaf| ident::relation(leaf).unwrap_or_default())
}

/// What holds the rows of a table, its own partitions or itself, and whether that is a foreign table.
fn leaves(table: pg_sys::Oid) -> Vec<(pg_sys::Oid, bool)> {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"WITH RECURSIVE below (relid) AS (
                  SELECT $1::oid UNION ALL SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.relid)
              SELECT c.oid, c.relkind = 'f' FROM below b JOIN pg_class c ON c.oid = b.relid WHERE c.relkind <> 'p'
               ORDER BY c.oid",
            &[table.into()],
            |row| Some((row.get::<pg_sys::Oid>(1)?, row.get::<bool>(2).unwrap_or(false))),
        )
    });
    found.1.into_iter().flatten().collect()
}

/// What is copied, one after the other, to make one file: the header, and then the rows of each leaf as they are. To plan a
/// query of a table is to run functions that its owner has chosen, with the rights of whoever may write files; COPY of a
/// table plans nothing, and refuses a view.
fn sources(expired: &Expired, columns: &str) -> Result<Vec<String>, Failure> {
    if let Some(leaf) = unreadable(expired.oid) {
        return Err(Failure::new(
            "42501",
            format!("{leaf} is a foreign table of somebody else's than the job's owner"),
        ));
    }
    let names = columns_of(expired).iter().map(|name| format!("NULL AS {name}")).collect::<Vec<_>>().join(", ");
    let mut sources = vec![format!("(SELECT {names} WHERE false)")];
    for (leaf, is_foreign) in leaves(expired.oid) {
        let Some(name) = ident::relation(leaf) else { continue };
        sources.push(match is_foreign {
            true => format!("(SELECT {columns} FROM {name})"),
            false => format!("{name} ({columns})"),
        });
    }
    Ok(sources)
}

/// Has the server write all rows. How many, and what came out.
fn write(expired: &Expired, columns: &str, encoding: &str, path: &Path) -> Result<(u64, Content), Failure> {
    ddl::run(SETTINGS);
    let sources = sources(expired, columns)?;
    let sink = Sink::start(path).map_err(|error| of(path, &error))?;
    let (target, encoding) = (ident::literal(&sink.target()), ident::literal(encoding));
    let copy = |(index, source): (usize, &String)| {
        let header = index == 0;
        ddl::run(&format!("COPY {source} TO {target} WITH (FORMAT csv, HEADER {header}, ENCODING {encoding})"))
    };
    // With its end, or its failure, the server has closed its side.
    let copied =
        executor::subtransaction(|| Ok(privilege::with_own_path(|| sources.iter().enumerate().map(copy).sum::<u64>())));
    let written = sink.finish();
    match (written, copied) {
        // That the pipe was closed is what the server says then.
        (Err(error), _) => Err(of(path, &error)),
        (Ok(_), Err(failure)) => Err(explained(failure)),
        (Ok(content), Ok(rows)) => Ok((rows, content)),
    }
}

/// Reads the file back, and compares.
fn verify(path: &Path, rows: u64, written: &Content) -> Result<(), Failure> {
    let found = read_back(path, background::check_for_interrupts).map_err(|error| of(path, &error))?;
    if found != *written || found.records != rows + 1 {
        let message = format!(
            "{}: {rows} rows were written, {} bytes with SHA-256 {}, but the file holds {}, {} bytes with {}",
            path.display(),
            written.bytes,
            written.sha256,
            found.records.saturating_sub(1),
            found.bytes,
            found.sha256
        );
        return Err(Failure::new("58030", message));
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "a row of a table")]
fn record(
    expired: &Expired,
    columns: &str,
    encoding: &str,
    file: &Path,
    rows: u64,
    content: &Content,
    table_bytes: i64,
    file_bytes: u64,
) -> Result<(), Error> {
    let owner = privilege::current_role();
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    privilege::as_owner(ARCHIVES, || {
        run(
            c"INSERT INTO perf.partition_archive (owner, parent, relation, bounds, columns, file, encoding, rows,
                                                  table_bytes, content_bytes, file_bytes, sha256)
              VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            &[
                owner.into(),
                text(&expired.parent_name),
                text(&expired.full_name()),
                text(&expired.bounds),
                text(columns),
                text(&file.to_string_lossy()),
                text(encoding),
                number(rows).into(),
                table_bytes.into(),
                number(content.bytes).into(),
                number(file_bytes).into(),
                text(&content.sha256),
            ],
        );
        Ok(())
    })
}
