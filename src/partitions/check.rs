//! `perf.partition_check`: what is wrong with partitioned tables, each with the SQL that mends it. Called by that function.
//!
//! Locks nothing but what it counts rows of: default partitions, in ACCESS SHARE, and those only where that is to be had at
//! once. What somebody holds in ACCESS EXCLUSIVE is said to be unchecked rather than waited for.

use std::collections::HashMap;

use perf_core::partition::check::{self as rules, Faults, PARTITIONS_MAX};
use perf_core::partition::{plan, Every, Range, Ruler, Span, Wish};
use perf_core::schedule::DAY_US;
use pgrx::{pg_sys, PgSqlErrorCode};

use super::default_rows::Group;
use super::jobs::{self, Job};
use super::questions::is_taken;
use super::{default_rows, differences, index_faults, mend, Parent, Partition, Table};
use crate::act::executor::{subtransaction, Failure, QUERY_CANCELED};
use crate::act::tasks::partition::settings::Settings;
use crate::error::Error;
use crate::pg::zone::ServerZone;
use crate::pg::{ident, privilege, query};

/// How long a lock is waited for.
const LOCK_WAIT_MS: i32 = 20;
/// Rows of a default partition that are read, at least and at most.
const DEFAULT_ROWS: (i64, i64) = (10_000, 200_000);
/// Intervals of rows in a default partition that are named.
const GROUPS_MAX: usize = 20;
/// What becomes due is done by the next run or the one after: jobs of long intervals run by the hour.
const GRACE_US: i64 = DAY_US / 12;
const SHORT_GRACE_US: i64 = DAY_US / 96;
/// The settings of a table that no job manages, as far as any are needed.
const UNMANAGED_ZONE: &str = "UTC";

/// One row of the answer.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Quoted and qualified.
    pub parent: String,
    /// Its name.
    pub problem: String,
    /// More of it.
    pub detail: String,
    /// Statements that mend it, where SQL can.
    pub fix: Option<String>,
}

/// A table to be checked.
struct Subject {
    oid: pg_sys::Oid,
    full_name: String,
    name: String,
    schema: String,
    jobs: Vec<Job>,
}

/// Looks at one table, or at all that the current role may manage, as if it were then.
pub fn check(only: Option<pg_sys::Oid>, utc_us: i64) -> Result<Vec<Problem>, Error> {
    if let Some(only) = only {
        Table::read("relation", only)?.check_owner()?;
        Parent::read("relation", only, jobs::unit(only)?)?;
    }
    let mut all = jobs::all()?;
    let mut problems = Vec::new();
    let mut subjects = subjects(only, &all);
    for subject in &mut subjects {
        subject.jobs = all.remove(&subject.oid.to_u32()).unwrap_or_default();
    }
    if only.is_none() {
        problems.extend(all.into_values().flatten().filter(Job::is_target_gone).filter(Job::is_mine).map(gone));
    }
    let wanted = jobs::policy_tables()?;
    let tops: Vec<pg_sys::Oid> = subjects.iter().map(|subject| subject.oid).collect();
    let mut facts = by_table(&tops);
    for subject in &subjects {
        let before = problems.len();
        problems.extend(job_problems(subject, &wanted));
        match looked_at(subject, utc_us) {
            Ok(found) => problems.extend(found),
            Err(failure) => problems.push(unchecked(subject, &failure)),
        }
        problems.extend(
            facts
                .remove(&subject.oid.to_u32())
                .unwrap_or_default()
                .into_iter()
                .map(|one| Problem { parent: subject.full_name.clone(), ..one }),
        );
        problems[before..].sort_by_key(|problem| place(&problem.problem));
    }
    Ok(problems)
}

/// The most urgent first.
fn place(problem: &str) -> usize {
    const ORDER: [&str; 8] = [
        "no_partition_for_now",
        "job_owner_gone",
        "job_switched_off",
        "job_failing",
        "job_paused",
        "not_managed",
        "rows_in_default",
        "too_few_ahead",
    ];
    ORDER.iter().position(|known| *known == problem).unwrap_or(ORDER.len())
}

/// Runs `body` where it can fail without harm, and waits for no lock. A cancel is meant for the whole.
pub fn unharmed<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    subtransaction(|| privilege::with_lock_timeout(LOCK_WAIT_MS, body)).inspect_err(|failure| {
        if failure.sqlstate == QUERY_CANCELED {
            pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_QUERY_CANCELED, failure.message.clone());
        }
    })
}

/// A table that somebody keeps locked, or that is gone since.
fn unchecked(subject: &Subject, failure: &Failure) -> Problem {
    Problem {
        parent: subject.full_name.clone(),
        problem: "not_checked".to_owned(),
        detail: failure.message.clone(),
        fix: None,
    }
}

/// The tables that the current role may manage, and that are managed, or partitioned by time.
fn subjects(only: Option<pg_sys::Oid>, jobs: &HashMap<u32, Vec<Job>>) -> Vec<Subject> {
    let managed: Vec<pg_sys::Oid> = jobs.keys().map(|oid| pg_sys::Oid::from(*oid)).collect();
    privilege::with_own_path(|| {
        query::run_with(
            c"SELECT c.oid, n.nspname::text, c.relname::text
                FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
               WHERE p.partstrat = 'r' AND p.partnatts = 1 AND c.relpersistence <> 't' AND n.nspname <> 'perf'
                 AND pg_has_role(c.relowner, 'USAGE')
                 AND (c.oid = $1 OR $1 IS NULL
                      AND (c.oid = ANY ($2) OR NOT c.relispartition
                                               AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)))
               ORDER BY n.nspname, c.relname",
            &[only.into(), managed.clone().into()],
            |row| {
                let (schema, name) = (row.string(2), row.string(3));
                Subject {
                    oid: row.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid),
                    full_name: ident::qualified(&schema, &name),
                    name,
                    schema,
                    jobs: Vec::new(),
                }
            },
        )
        .1
    })
}

/// Differences and indexes of all tables at once; one by one when one of them is in the way.
fn by_table(tops: &[pg_sys::Oid]) -> HashMap<u32, Vec<Problem>> {
    let read = |tops: &[pg_sys::Oid]| {
        unharmed(|| {
            let mut found = differences::of(tops);
            found.extend(index_faults::of(tops));
            Ok(found)
        })
    };
    let mut problems: HashMap<u32, Vec<Problem>> = HashMap::new();
    let mut add = |top: pg_sys::Oid, problem: String, detail: String, fix: Option<String>| {
        let one = Problem { parent: String::new(), problem, detail, fix };
        problems.entry(top.to_u32()).or_default().push(one);
    };
    if tops.is_empty() {
        return problems;
    }
    match read(tops) {
        Ok(found) => found.into_iter().for_each(|one| add(one.top, one.problem, one.detail, one.fix)),
        Err(_) => {
            for top in tops {
                match read(&[*top]) {
                    Ok(found) => found.into_iter().for_each(|one| add(one.top, one.problem, one.detail, one.fix)),
                    Err(failure) => add(*top, "not_checked".to_owned(), failure.message, None),
                }
            }
        }
    }
    problems
}

fn gone(job: Job) -> Problem {
    Problem {
        parent: job.target.to_string(),
        problem: "table_gone".to_owned(),
        detail: format!("job {} manages a table that does not exist any more", job.job_id),
        fix: Some(format!("SELECT perf.job_unschedule({})", job.job_id)),
    }
}

/// What keeps a table from being managed.
fn job_problems(subject: &Subject, wanted: &[String]) -> Vec<Problem> {
    let problem = |problem: &str, detail: String, fix: Option<String>| Problem {
        parent: subject.full_name.clone(),
        problem: problem.to_owned(),
        detail,
        fix,
    };
    let Some(job) = subject.jobs.first() else {
        let is_wanted = wanted.contains(&subject.name);
        let fix =
            format!("SELECT * FROM perf.partition_policy_apply(ARRAY[{}]::name[])", ident::literal(&subject.schema));
        return is_wanted
            .then(|| {
                problem("not_managed", "perf.partition_policy names it, and no job manages it".to_owned(), Some(fix))
            })
            .into_iter()
            .collect();
    };
    let id = job.job_id;
    let again =
        || Settings::from_options(&job.options).ok().map(|settings| mend::manage(&subject.full_name, &settings));
    if job.is_owner_gone {
        return vec![problem("job_owner_gone", format!("the owner of job {id} does not exist any more"), again())];
    }
    if !job.may_manage {
        let detail = format!("{} runs job {id}, and may not act as the owner of the table", job.owner);
        return vec![problem("job_owner_denied", detail, again())];
    }
    let mut found = Vec::new();
    if !job.is_enabled {
        let detail = format!("job {id} was switched off since it could not run: {}", job.message());
        found.push(problem("job_switched_off", detail, again()));
    } else if let Some(until) = &job.paused_until {
        let until = if until == "infinity" { "until it is resumed".to_owned() } else { format!("until {until}") };
        found.push(problem(
            "job_paused",
            format!("job {id} is paused {until}"),
            Some(format!("SELECT perf.job_resume({id})")),
        ));
    }
    if job.is_enabled && job.failures > 0 {
        let detail = format!("job {id} has failed {} times in a row: {}", job.failures, job.message());
        found.push(problem("job_failing", detail, Some(mend::tick(&subject.full_name))));
    }
    found
}

/// How a table is taken to be managed.
struct Rule {
    every: Every,
    wish: Wish,
    zone: ServerZone,
    settings: Option<Settings>,
}

/// The job's settings; what the partitions tell where there is none.
fn rule(parent: &Parent, settings: Option<Settings>) -> Result<Option<Rule>, Failure> {
    if let Some(settings) = settings {
        return Ok(Some(Rule {
            every: settings.every,
            wish: settings.wish(),
            zone: settings.zone()?,
            settings: Some(settings),
        }));
    }
    let zone = ServerZone::named("time_zone", UNMANAGED_ZONE)?;
    let every = rules::guess_every(parent.key, &zone, &parent.ranges());
    Ok(every.map(|every| Rule { every, wish: Wish::default(), zone, settings: None }))
}

fn grace_us(every: Every) -> i64 {
    let Span { months, days, micros } = every.span();
    if months == 0 && days == 0 && micros < DAY_US {
        SHORT_GRACE_US
    } else {
        GRACE_US
    }
}

/// What is wrong with the ranges and the default partition of one table.
fn looked_at(subject: &Subject, utc_us: i64) -> Result<Vec<Problem>, Failure> {
    let read = || {
        let settings = subject.jobs.first().map(|job| Settings::from_options(&job.options)).transpose()?;
        let parent = Parent::read("relation", subject.oid, settings.as_ref().and_then(|settings| settings.epoch))?;
        let rule = rule(&parent, settings)?;
        Ok((parent, rule))
    };
    let (parent, rule) = unharmed(read)?;
    let Some(rule) = rule else { return without_rule(&parent, utc_us) };
    let ruler = Ruler { every: rule.every, key: parent.key, zone: &rule.zone };
    let look = Look { parent: &parent, ruler, rule: &rule, utc_us };
    let mut found = unharmed(|| Ok(look.ranges()))?;
    if let Some(default) = default_to_read(&parent) {
        let settings_max = rule.settings.as_ref().map_or(0, |settings| settings.max_move_rows.saturating_add(1));
        let rows_max = settings_max.clamp(DEFAULT_ROWS.0, DEFAULT_ROWS.1);
        match unharmed(|| Ok(default_rows::of(&parent, default, &ruler, rows_max))) {
            Ok((groups, is_cut)) => found.extend(unharmed(|| Ok(look.default_rows(default, &groups, is_cut)))?),
            Err(failure) => found.push(not_counted(&parent, default, &failure)),
        }
    }
    Ok(found)
}

/// A table whose partitions follow no rule, or that has none: what can be told of it all the same.
fn without_rule(parent: &Parent, utc_us: i64) -> Result<Vec<Problem>, Failure> {
    let existing = parent.ranges();
    if existing.is_empty() {
        return Ok(Vec::new());
    }
    let zone = ServerZone::named("time_zone", UNMANAGED_ZONE)?;
    // Gives names to what is between partitions; nothing is cut by it.
    let ruler = Ruler { every: Every::Day, key: parent.key, zone: &zone };
    let problem = |problem: &str, detail: String, fix: Option<String>| Problem {
        parent: parent.full_name(),
        problem: problem.to_owned(),
        detail,
        fix,
    };
    let mut found = Vec::new();
    let now = ruler.now(utc_us);
    if !existing.iter().any(|range| range.contains(now)) {
        let detail = "no partition for now, and those that there are do not tell how long one is to be: \
                      perf.partition_manage(parent, every) makes them";
        found.push(problem("no_partition_for_now", detail.to_owned(), None));
    }
    for hole in rules::holes_between(&existing) {
        let detail = format!("no partition {}", mend::span(parent, &hole));
        found.push(problem("gap", detail, unharmed(|| Ok(mend::partition(parent, &ruler, &hole, None)))?));
    }
    if let Some(default) = default_to_read(parent) {
        let default_name = default.full_name();
        match unharmed(|| Ok(default_rows::of(parent, default, &ruler, DEFAULT_ROWS.0))) {
            Ok((groups, _)) if groups.is_empty() => {}
            Ok((groups, is_cut)) => {
                let at_least = if is_cut { "at least " } else { "" };
                let rows: i64 = groups.iter().map(|group| group.rows).sum();
                found.push(problem("rows_in_default", format!("{at_least}{rows} rows in {default_name}"), None));
            }
            Err(failure) => found.push(not_counted(parent, default, &failure)),
        }
    }
    Ok(found)
}

/// The default partition, where its rows can be counted: what is, or may lead to, a foreign table is not asked, since nobody
/// knows whose code answers, and when.
fn default_to_read(parent: &Parent) -> Option<&Partition> {
    parent.default_partition().filter(|default| !default.is_detaching && default.relkind == b'r')
}

fn not_counted(parent: &Parent, default: &Partition, failure: &Failure) -> Problem {
    Problem {
        parent: parent.full_name(),
        problem: "default_not_checked".to_owned(),
        detail: format!("rows in {} were not counted: {}", default.full_name(), failure.message),
        fix: None,
    }
}

struct Look<'a> {
    parent: &'a Parent,
    ruler: Ruler<'a>,
    rule: &'a Rule,
    utc_us: i64,
}

impl Look<'_> {
    fn problem(&self, problem: &str, detail: String, fix: Option<String>) -> Problem {
        Problem { parent: self.parent.full_name(), problem: problem.to_owned(), detail, fix }
    }

    fn span(&self, range: &Range) -> String {
        mend::span(self.parent, range)
    }

    /// What the job does at once, or what a user has to do where no job is.
    fn by_tick(&self) -> Option<String> {
        self.rule.settings.as_ref().map(|_| mend::tick(&self.parent.full_name()))
    }

    fn ranges(&self) -> Vec<Problem> {
        let existing = self.parent.ranges();
        let faults = rules::faults(&self.ruler, &existing, &self.rule.wish, self.utc_us, grace_us(self.rule.every));
        let by_hand = |range: &Range| mend::partition(self.parent, &self.ruler, range, None);
        let mut found = Vec::new();
        if let Some(now) = &faults.now {
            let fate = match self.parent.default_partition() {
                Some(default) => format!("rows of now go to {}", default.full_name()),
                None => "rows of now are refused".to_owned(),
            };
            let fix = self.by_tick().or_else(|| Some(self.manage_unmanaged()));
            found.push(self.problem("no_partition_for_now", format!("no partition {}: {fate}", self.span(now)), fix));
        }
        found.extend(self.ahead(&faults));
        let gaps = if self.rule.settings.is_some() { faults.gaps.clone() } else { rules::holes_between(&existing) };
        for gap in &gaps {
            let fix = self.by_tick().or_else(|| by_hand(gap));
            found.push(self.problem("gap", format!("no partition {}", self.span(gap)), fix));
        }
        for gap in faults.wide_gaps.iter().filter(|_| self.rule.settings.is_some()) {
            let detail = format!("no partition {}, which would take more than are made at once", self.span(gap));
            found.push(self.problem("gap", detail, by_hand(gap)));
        }
        found.extend(self.bounds(&faults));
        if existing.len() > PARTITIONS_MAX {
            let detail = format!(
                "{} partitions: planning a statement that reads them all takes long; from {PARTITIONS_MAX} on wider \
                 intervals or a shorter retention are better",
                existing.len()
            );
            found.push(self.problem("too_many_partitions", detail, None));
        }
        found.extend(self.taken_names(&existing));
        found
    }

    fn ahead(&self, faults: &Faults) -> Option<Problem> {
        let (first, last) = (faults.ahead.first()?, faults.ahead.last()?);
        let settings = self.rule.settings.as_ref()?;
        let missing = Range { lower: first.lower, upper: last.upper };
        let (count, premake) = (faults.ahead.len(), settings.premake);
        let detail = format!("{count} of {premake} partitions ahead are missing, {}", self.span(&missing));
        Some(self.problem("too_few_ahead", detail, self.by_tick()))
    }

    /// Of partitions that there are.
    fn bounds(&self, faults: &Faults) -> Vec<Problem> {
        let bounded: Vec<&Partition> = self.parent.partitions.iter().filter(|one| one.range.is_some()).collect();
        let named =
            |at: &usize| bounded.get(*at).map(|one| (one.full_name(), one.range.map(|range| self.span(&range))));
        let on_expire = self.rule.settings.as_ref().map_or("", |settings| settings.on_expire.name());
        let expired = faults.expired.iter().filter_map(named).map(|(name, span)| {
            let detail = format!(
                "{name} {} is beyond the retention, and still attached (on_expire is {on_expire})",
                span.unwrap_or_default()
            );
            self.problem("expired", detail, self.by_tick())
        });
        let odd = faults.odd.iter().filter_map(named).map(|(name, span)| {
            let every = self.rule.every;
            let detail = format!(
                "{name} {} is not cut where intervals ({every}) are; that does no harm",
                span.unwrap_or_default()
            );
            self.problem("odd_bounds", detail, None)
        });
        expired.chain(odd).collect()
    }

    /// Names that partitions to come would have, and others have already.
    fn taken_names(&self, existing: &[Range]) -> Vec<Problem> {
        let Some(settings) = &self.rule.settings else { return Vec::new() };
        let wish = Wish { premake: settings.premake.saturating_add(1).min(COMING_MAX), ..self.rule.wish.clone() };
        let coming = plan(&self.ruler, existing, &wish, self.utc_us).create;
        let schema = self.parent.newest().map_or(&self.parent.schema, |newest| &newest.schema);
        let name = |range: &Range| perf_core::partition::name(&self.parent.name, &self.ruler, range);
        let taken = coming.iter().take(COMING_MAX as usize).map(name).filter(|name| is_taken(schema, name));
        taken
            .map(|name| {
                let detail = format!(
                    "{} exists already: the partition that is to have this name gets another one",
                    ident::qualified(schema, &name)
                );
                self.problem("name_taken", detail, None)
            })
            .collect()
    }

    fn default_rows(&self, default: &Partition, groups: &[Group], is_cut: bool) -> Vec<Problem> {
        let existing = self.parent.ranges();
        let planned = plan(&self.ruler, &existing, &self.rule.wish, self.utc_us).create;
        let at_least = if is_cut { "at least " } else { "" };
        let default_name = default.full_name();
        let mut found: Vec<Problem> = groups.iter().take(GROUPS_MAX).map(|group| match &group.range {
            None => {
                let detail = format!("{at_least}{} rows in {default_name} have a key that is NULL or infinite, and can be nowhere else", group.rows);
                self.problem("rows_in_default", detail, None)
            }
            Some(range) => {
                let mut detail = format!("{at_least}{} rows in {default_name} {}", group.rows, self.span(range));
                let fix = match &self.rule.settings {
                    Some(settings) if planned.contains(range) && group.rows <= settings.max_move_rows => self.by_tick(),
                    Some(settings) if planned.contains(range) => {
                        detail.push_str(", more than max_move_rows allows: others wait while they are moved");
                        let more = Settings { max_move_rows: MOVE_ROWS_MAX, ..settings.clone() };
                        let parent = self.parent.full_name();
                        Some(format!("{};\n{}", mend::manage(&parent, &more), mend::tick(&parent)))
                    }
                    _ => mend::partition(self.parent, &self.ruler, range, Some(default)),
                };
                if fix.is_none() {
                    detail.push_str("; a foreign key of another table refers to this one: drop it while they are moved by hand");
                }
                self.problem("rows_in_default", detail, fix)
            }
        }).collect();
        if groups.len() > GROUPS_MAX {
            let detail = format!("{default_name} holds rows of {} more intervals", groups.len() - GROUPS_MAX);
            found.push(self.problem("rows_in_default", detail, None));
        }
        found
    }

    /// A table that looks as if it were kept by hand.
    fn manage_unmanaged(&self) -> String {
        let parent = self.parent.full_name();
        let every = ident::literal(&self.rule.every.to_string());
        format!("SELECT perf.partition_manage({}, {every});\n{}", ident::literal(&parent), mend::tick(&parent))
    }
}

/// What `perf.health` says of managed tables.
pub struct Summary {
    /// How many there are.
    pub managed: usize,
    /// How many of them were looked at.
    pub looked_at: usize,
    /// What needs somebody, in half sentences.
    pub problems: Vec<String>,
}

/// Managed tables that need somebody: without a partition for now, with rows in a default partition as far as statistics
/// know, or whose job does not run. Reads catalogs only, and of so many tables.
pub fn summary(utc_us: i64) -> Summary {
    let all = jobs::all().unwrap_or_default();
    let mut problems = Vec::new();
    let mut looked_at = 0;
    let mut by_table: Vec<&Job> =
        all.values().filter_map(|jobs| jobs.first()).filter(|job| !job.is_target_gone()).collect();
    by_table.sort_by_key(|job| job.job_id);
    for job in by_table.iter().take(SUMMARY_MAX) {
        let oid = pg_sys::Oid::from(job.target);
        let Ok(settings) = Settings::from_options(&job.options) else { continue };
        let (Ok(parent), Ok(zone)) = (Parent::read("parent", oid, settings.epoch), settings.zone()) else { continue };
        looked_at += 1;
        let name = parent.full_name();
        let now = settings.ruler(parent.key, &zone).now(utc_us);
        if !parent.ranges().iter().any(|range| range.contains(now)) {
            problems.push(format!("{name} has no partition for now"));
        }
        if let Some(default) = parent.default_partition().filter(|default| live_rows(default.oid) > 0) {
            problems.push(format!("{} holds rows", default.full_name()));
        }
        if !job.runs() {
            problems.push(format!("the job of {name} does not run"));
        } else if job.failures > 0 {
            problems.push(format!("the job of {name} fails"));
        }
    }
    Summary { managed: by_table.len(), looked_at, problems }
}

/// Rows of a table as its statistics have them.
fn live_rows(table: pg_sys::Oid) -> i64 {
    let read = || query::run_with(c"SELECT pg_stat_get_live_tuples($1)", &[table.into()], |row| row.get::<i64>(1)).1;
    privilege::with_own_path(read).into_iter().flatten().next().unwrap_or(0)
}

/// Tables looked at for a summary.
const SUMMARY_MAX: usize = 100;
/// Intervals to come whose names are looked up.
const COMING_MAX: u32 = 20;
/// The most that `max_move_rows` may be.
const MOVE_ROWS_MAX: i64 = 100_000_000;
