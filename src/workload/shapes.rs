//! What the captured statements of the current database touch, and by what. Owns nothing; reads the table under its own
//! locks, then analyses one text after another (`pg::statement_shape`) within a time limit.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use perf_core::normalized::with_casts;
use pgrx::pg_sys;

use crate::error::Error;
use crate::indexes::OWN_SCHEMA;
use crate::memory;
use crate::memory::samples::{self, Sample};
use crate::memory::statements::Key;
use crate::memory::survey::{self, Snapshot};
use crate::pg::names::current_database;
use crate::pg::query::select_with;
use crate::pg::role;
use crate::pg::statement_shape::{self, Shape, Source, Unclear};

/// Statements looked at, at most, by measured time.
const STATEMENTS_MAX: usize = 2_000;
/// Samples tried where the normalised text is no SQL any more, at most.
const SAMPLES_MAX: usize = 2;
/// Search paths that a role's statements were sampled with that are tried for another one, at most.
const PATHS_MAX: usize = 3;
/// The server's default search path.
const USUAL_PATH: &str = "\"$user\", public";
/// Never wait longer for a lock that somebody else holds.
const LOCK_TIMEOUT_MS: u32 = 20;
/// Time for all statements together.
const BUDGET: Duration = Duration::from_secs(5);
/// How names of the server's schema and of its catalogs begin.
const CATALOG: &str = "pg_";
/// How the server checks a foreign key; nobody's statement.
const FOREIGN_KEY_CHECK: &str = "SELECT 1 FROM ONLY ";

/// One statement, and what was measured of it.
pub struct Shaped {
    /// The server's query id.
    pub queryid: u64,
    /// Role that runs it.
    pub userid: pg_sys::Oid,
    /// A client sent it, rather than a function.
    pub toplevel: bool,
    /// Normalised.
    pub text: String,
    /// Executions.
    pub calls: f64,
    /// Time of all executions, planning included.
    pub total_ms: f64,
    /// Rows returned or changed, of all executions.
    pub rows: f64,
    /// Blocks found in the buffer cache or read, by all executions.
    pub blocks: f64,
    /// The search path it was sent with, if that was kept.
    pub search_path: Option<String>,
    /// What it touches.
    pub shape: Shape,
}

/// All statements that tell something.
#[derive(Default)]
pub struct Shapes {
    /// Those that were understood, the heaviest first.
    pub statements: Vec<Shaped>,
    /// Time of all statements, understood or not; utility statements apart, and functions around captured ones.
    pub total_ms: f64,
    /// Statements that were not understood.
    pub unclear: usize,
    /// Their time.
    pub unclear_ms: f64,
    /// Why the heaviest of them was not.
    pub unclear_why: Option<String>,
    /// Statements that touch no table by themselves, by queryid and whether a client sent them: utility statements, checks
    /// of foreign keys, and calls of functions whose statements are captured. True: they may do anything.
    pub apart: HashMap<(u64, bool), bool>,
    /// Those of them that ask something of perf_opt itself.
    pub own: HashSet<(u64, bool)>,
    /// Statements of roles that the caller could not become.
    pub hidden: usize,
    /// Their time.
    pub hidden_ms: f64,
    /// Hours between the first and the last execution.
    pub hours: Option<f64>,
}

impl Shapes {
    /// Share of the time that was not understood or may not be looked at, 0..1.
    pub fn missing_share(&self) -> f64 {
        if self.total_ms > 0.0 {
            (self.unclear_ms + self.hidden_ms) / self.total_ms
        } else {
            0.0
        }
    }

    /// What is missing, as a sentence; empty when nothing is.
    pub fn caveat(&self) -> String {
        let mut parts = Vec::new();
        let share = |ms: f64| if self.total_ms > 0.0 { 100.0 * ms / self.total_ms } else { 0.0 };
        if self.unclear > 0 {
            let why = self.unclear_why.as_deref().unwrap_or_default();
            let share = share(self.unclear_ms);
            parts.push(format!("{} statements with {share:.1} % of the time are not understood ({why})", self.unclear));
        }
        if self.hidden > 0 {
            let share = share(self.hidden_ms);
            parts.push(format!(
                "{} statements with {share:.1} % of the time are of other roles, or of dropped ones",
                self.hidden
            ));
        }
        parts.join("; ")
    }
}

/// Reads and analyses the captured statements of the current database. Callers see what their own statements touch, and
/// those of roles whose rights they have; of no others, whatever they may read: analysing a text can run code.
pub fn read() -> Result<Shapes, Error> {
    memory::require()?;
    let database = current_database();
    let kept: HashMap<_, _> = samples::of_database(database).into_iter().collect();
    let mut captured: Vec<Snapshot> =
        survey::snapshot(Some(database), true).into_iter().filter(|item| !item.is_other).collect();
    captured.sort_by_key(|item| std::cmp::Reverse(item.time_ns()));
    let has_nested = captured.iter().any(|item| !item.key.toplevel);
    let first = captured.iter().map(|item| item.counters.first_seen).filter(|at| *at > 0).min();
    let last = captured.iter().map(|item| item.counters.last_seen).max();
    let mut shapes = Shapes {
        hours: first.zip(last).map(|(first, last)| (last - first) as f64 / 3_600e6).filter(|hours| *hours > 0.0),
        ..Shapes::default()
    };
    let deadline = Instant::now() + BUDGET;
    for (number, item) in captured.iter().enumerate() {
        let text = item.text.as_ref().map(|text| text.to_utf8()).unwrap_or_default();
        let user = pg_sys::Oid::from(item.key.userid);
        let ms = item.time_ns() as f64 * 1e-6;
        if item.counters.calls == 0 {
            continue;
        }
        let id = (item.key.queryid, item.key.toplevel);
        if !item.key.toplevel && text.starts_with(FOREIGN_KEY_CHECK) {
            shapes.apart.entry(id).or_insert(false);
            continue;
        }
        // Whoever may read a text may not therefore run what analysing it runs.
        if !role::may_plan_as(user) {
            shapes.hidden += 1;
            shapes.hidden_ms += ms;
            shapes.total_ms += ms;
            continue;
        }
        let found = if number >= STATEMENTS_MAX || Instant::now() >= deadline {
            Err(Unclear::Failed("there was no time for it".to_owned()))
        } else {
            queried(item, &text, kept.get(&item.key).map_or(&[], Vec::as_slice), None)
        };
        let found = match found {
            // Neither is what is asked of perf_opt itself anybody's workload.
            Ok(shape) if shape.is_of_extension() => {
                shapes.apart.entry(id).or_insert(false);
                shapes.own.insert(id);
                continue;
            }
            Ok(shape) if shape.tables.is_empty() && shape.calls_functions && item.key.toplevel => {
                if has_nested {
                    // Its time is that of the statements in the functions.
                    *shapes.apart.entry(id).or_insert(false) |= shape.volatile;
                    continue;
                }
                Err(Unclear::Failed("what functions do was not captured: see perf_opt.track".to_owned()))
            }
            other => other,
        };
        match found {
            Ok(shape) => {
                shapes.total_ms += ms;
                shapes.statements.push(Shaped {
                    queryid: item.key.queryid,
                    userid: user,
                    toplevel: item.key.toplevel,
                    text,
                    calls: item.counters.calls as f64,
                    total_ms: ms,
                    rows: item.counters.rows as f64,
                    blocks: (item.counters.usage.shared_blks_hit + item.counters.usage.shared_blks_read) as f64,
                    search_path: kept.get(&item.key).and_then(|kept| kept.first()).map(path_of),
                    shape,
                });
            }
            Err(Unclear::Utility) => *shapes.apart.entry(id).or_insert(false) |= !is_harmless(&text),
            Err(Unclear::Failed(why)) => {
                shapes.total_ms += ms;
                shapes.unclear += 1;
                shapes.unclear_ms += ms;
                shapes.unclear_why.get_or_insert(why);
            }
        }
    }
    Ok(shapes)
}

/// Whether a statement is about this extension alone: advice is on the workload, not on who looks at it. What functions ask of
/// the server without reading a table is nobody's workload either, and mostly that of this extension's; where it cannot be
/// analysed there is no advice on it in any case. `kept`: samples of it.
pub fn is_own(item: &Snapshot, text: &str, kept: &[Sample]) -> bool {
    let nested = !item.key.toplevel;
    // Most statements cannot be: no need to analyse them.
    let is_named = text_has(text, OWN_SCHEMA)
        || (nested && text_has(text, CATALOG))
        || kept.iter().any(|sample| text_has(&path_of(sample), OWN_SCHEMA));
    if !is_named || !(begins_as_query(text) || begins_as(text, &["call"])) {
        return false;
    }
    match shape_of(item, text, kept, None) {
        Ok(shape) if nested => shape.is_of_nobody(),
        Ok(shape) => shape.is_of_extension(),
        Err(_) => nested,
    }
}

fn text_has(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// What some captured statements of the current database touch, by queryid and whether a client sent them; `None` for one
/// that was not understood, or never as `fits` wants it. One that is not kept is left out. For a process that may become
/// any role.
pub fn of_statements(
    wanted: &HashSet<(u64, bool)>,
    fits: impl Fn((u64, bool), &Shape) -> bool,
) -> HashMap<(u64, bool), Option<Shape>> {
    let database = current_database();
    let kept: HashMap<_, _> = samples::of_database(database).into_iter().collect();
    let paths = Paths::read(database, &kept);
    let mut found = HashMap::new();
    for item in survey::snapshot(Some(database), true) {
        let id = (item.key.queryid, item.key.toplevel);
        if item.is_other || !wanted.contains(&id) || found.get(&id).is_some_and(Option::is_some) {
            continue;
        }
        let text = item.text.as_ref().map(|text| text.to_utf8()).unwrap_or_default();
        let kept = kept.get(&item.key).map_or(&[][..], Vec::as_slice);
        let shape = if kept.is_empty() {
            let of_path = |path: String| queried(&item, &text, kept, Some(&path)).ok();
            paths.of(&item.key).into_iter().filter_map(of_path).find(|shape| fits(id, shape))
        } else {
            queried(&item, &text, kept, None).ok().filter(|shape| fits(id, shape))
        };
        found.insert(id, shape);
    }
    found
}

/// Where to look names up that were sent with a search path that was not kept: short executions are not sampled, and the path
/// of this process says nothing of it.
struct Paths {
    /// Of a role's statements, by whether a client sent them: the paths they were sampled with, the most frequent first.
    sampled: HashMap<(u32, bool), Vec<String>>,
    /// What is set for a role here, or for all (0); what counts first is first.
    set: Vec<(u32, String)>,
}

impl Paths {
    fn read(database: u32, kept: &HashMap<Key, Vec<Sample>>) -> Paths {
        let mut counts: HashMap<(u32, bool), HashMap<String, usize>> = HashMap::new();
        for (key, samples) in kept {
            let of_role = counts.entry((key.userid, key.toplevel)).or_default();
            for path in samples.iter().map(path_of).filter(|path| !path.is_empty()) {
                *of_role.entry(path).or_default() += 1;
            }
        }
        let by_count = |paths: HashMap<String, usize>| {
            let mut paths: Vec<(String, usize)> = paths.into_iter().collect();
            paths.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            paths.into_iter().map(|(path, _)| path).collect()
        };
        let sampled = counts.into_iter().map(|(of, paths)| (of, by_count(paths))).collect();
        let set = select_with(
            c"SELECT s.setrole, pg_catalog.substr(c.setting, 13)
                FROM pg_catalog.pg_db_role_setting s CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c (setting)
               WHERE s.setdatabase OPERATOR(pg_catalog.=) ANY (ARRAY[0, $1]::pg_catalog.oid[])
                 AND pg_catalog.starts_with(c.setting, 'search_path=')
               ORDER BY s.setrole OPERATOR(pg_catalog.=) 0::pg_catalog.oid, s.setdatabase OPERATOR(pg_catalog.=) 0::pg_catalog.oid",
            &[pg_sys::Oid::from(database).into()],
            |row| Some((row.get::<pg_sys::Oid>(1)?.to_u32(), row.string(2))),
        );
        Paths { sampled, set }
    }

    /// Those that a statement may have had, the likeliest first. What functions send may have had the path of their client,
    /// but what a client sends never has that of a function.
    fn of(&self, key: &Key) -> Vec<String> {
        let sampled =
            |toplevel| self.sampled.get(&(key.userid, toplevel)).into_iter().flatten().take(PATHS_MAX).cloned();
        let set = self.set.iter().find(|(role, _)| *role == key.userid || *role == 0).map(|(_, path)| path.clone());
        let mut paths: Vec<String> = Vec::new();
        let nested = (!key.toplevel).then(|| sampled(false)).into_iter().flatten();
        for path in nested.chain(sampled(true)).chain(set).chain([USUAL_PATH.to_owned()]) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }
}

fn path_of(sample: &Sample) -> String {
    sample.search_path.to_utf8()
}

/// The shape of a statement that is a query, or has one.
fn queried(item: &Snapshot, text: &str, kept: &[Sample], usual: Option<&str>) -> Result<Shape, Unclear> {
    // A normalised utility statement need not parse: `CREATE FUNCTION ... AS $1`.
    if begins_as_query(text) {
        shape_of(item, text, kept, usual)
    } else {
        Err(Unclear::Utility)
    }
}

/// Looks at the normalised text, whose literals are known by number; where that is no SQL any more (`numeric($1)`), at one
/// that was sent. `usual` is the search path where none was kept; without it, that of this process.
fn shape_of(item: &Snapshot, text: &str, kept: &[Sample], usual: Option<&str>) -> Result<Shape, Unclear> {
    let look = |text: &str, search_path: Option<&str>, parameters: &[pg_sys::Oid]| {
        statement_shape::of(&Source {
            text,
            search_path: search_path.filter(|path| !path.is_empty()),
            role: pg_sys::Oid::from(item.key.userid),
            nested: !item.key.toplevel,
            parameters,
            lock_timeout_ms: LOCK_TIMEOUT_MS,
        })
    };
    let path = kept.first().map(path_of);
    let first = look(&with_casts(text), path.as_deref().or(usual), &[]);
    let Err(Unclear::Failed(_)) = first else { return first };
    for sample in kept.iter().take(SAMPLES_MAX) {
        let types: Vec<pg_sys::Oid> = sample.params.iter().map(|param| pg_sys::Oid::from(param.type_oid)).collect();
        if let Ok(shape) = look(&sample.text.to_utf8(), Some(&sample.search_path.to_utf8()), &types) {
            return Ok(shape);
        }
    }
    first
}

fn begins_as_query(text: &str) -> bool {
    const KNOWN: [&str; 12] = [
        "select", "insert", "update", "delete", "merge", "with", "values", "table", "explain", "declare", "prepare",
        "copy",
    ];
    begins_as(text, &KNOWN)
}

/// Whether a utility statement is one of a session or transaction that does nothing by itself.
fn is_harmless(text: &str) -> bool {
    const KNOWN: [&str; 19] = [
        "begin",
        "start",
        "commit",
        "end",
        "rollback",
        "abort",
        "savepoint",
        "release",
        "set",
        "reset",
        "show",
        "discard",
        "deallocate",
        "close",
        "fetch",
        "move",
        "prepare",
        "declare",
        "execute",
    ];
    begins_as(text, &KNOWN)
}

fn begins_as(text: &str, known: &[&str]) -> bool {
    let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let word: String = start.chars().take_while(char::is_ascii_alphabetic).collect();
    known.iter().any(|known| word.eq_ignore_ascii_case(known))
}
