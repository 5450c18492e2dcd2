//! The swap: a partitioned table takes the place of a plain one, which becomes its first partition; and the way back. Each is
//! one transaction, in two parts. What can be made beside the table is made first, under SHARE UPDATE EXCLUSIVE, which keeps
//! its definition as it is while readers and writers go on. Then the locks that others wait for are taken in a burst, views
//! before tables as readers take them, and only names and belongings change hands: no row is looked at, but on the way back,
//! where rows of other partitions are moved into the first one.
//!
//! Called by the job inside that transaction, and by the plan, which shows it.

use std::time::Instant;

use perf_core::partition_convert::{free_name, Definition};
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::super::snapshots;
use super::copy::{self, Identity, ReplicaIdentity};
use super::facts::{self, Table};
use super::keys::Key;
use super::plan::{Settled, Step, BOUND_CHECK};
use super::{moved, obstacles};
use crate::act::executor::Failure;
use crate::pg::lock::{self, Exclusive};
use crate::pg::{background, ddl, ident, privilege};

/// Something that had a name which its counterpart has now.
#[derive(Clone, Debug)]
pub struct Renamed {
    /// `INDEX` or `STATISTICS`.
    kind: &'static str,
    /// Unquoted.
    schema: String,
    from: String,
    to: String,
}

impl Renamed {
    fn statement(&self, back: bool) -> String {
        let (from, to) = if back { (&self.to, &self.from) } else { (&self.from, &self.to) };
        format!("ALTER {} {} RENAME TO {}", self.kind, ident::qualified(&self.schema, from), ident::quote(to))
    }

    /// For the record.
    pub fn to_json(&self) -> Value {
        json!({ "kind": self.kind, "schema": self.schema, "from": self.from, "to": self.to })
    }

    /// From the record.
    pub fn from_json(value: &Value) -> Option<Renamed> {
        let string = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let kind = ["INDEX", "STATISTICS"].into_iter().find(|kind| string("kind").as_deref() == Some(kind))?;
        Some(Renamed { kind, schema: string("schema")?, from: string("from")?, to: string("to")? })
    }
}

/// A swap that has been thought through.
pub struct Swap {
    /// What changes its name.
    pub renamed: Vec<Renamed>,
    /// Some trigger runs for each row.
    pub has_row_triggers: bool,
    /// Name under which the new table is made, qualified and quoted.
    made_as: String,
    before: Vec<String>,
    burst: Burst,
    identities: Vec<Identity>,
    unlocked: Unlocked,
    /// What was given to the new table.
    properties: Vec<String>,
    /// Before and after the identity columns change hands.
    under: [Vec<String>; 2],
    /// The one among them that runs functions of the table's: those of its constraints and indexes.
    attach: String,
    full: String,
}

/// The locks that others wait for.
struct Burst {
    views: Vec<pg_sys::Oid>,
    referenced: Vec<pg_sys::Oid>,
    tables: Vec<pg_sys::Oid>,
    sequences: Vec<pg_sys::Oid>,
}

impl Burst {
    /// Takes all of them within `limit_ms`. When the last one was had.
    fn take(&self, limit_ms: i64) -> Instant {
        let started = Instant::now();
        let take = |relation: &pg_sys::Oid, mode: Exclusive| {
            // The limit is one for all: others wait for the sum.
            let left = limit_ms - i64::try_from(started.elapsed().as_millis()).unwrap_or(limit_ms);
            let left = i32::try_from(left.max(1)).unwrap_or(i32::MAX);
            privilege::with_lock_timeout(left, || lock::take(*relation, mode));
        };
        self.views.iter().for_each(|view| take(view, Exclusive::Access));
        self.referenced.iter().for_each(|table| take(table, Exclusive::ShareRow));
        self.tables.iter().for_each(|table| take(table, Exclusive::Access));
        // Last, as writers have them. Numbers of a sequence are taken without any lock on the table.
        self.sequences.iter().for_each(|sequence| take(sequence, Exclusive::Access));
        Instant::now()
    }
}

/// What others can change while they may not change the table's definition. Read before anything is made of it.
struct Unlocked {
    views: Vec<(pg_sys::Oid, String)>,
    identities: Vec<Identity>,
}

impl Unlocked {
    fn read(table: &Table) -> Unlocked {
        Unlocked { views: copy::views(table), identities: copy::identities(table) }
    }

    /// Looks again when everybody is kept away: what was committed meanwhile would not be taken along.
    fn refuse_changed(&self, table: &Table) -> Result<(), Failure> {
        let now = Unlocked::read(table);
        refuse_other(&self.views, &now.views, table)?;
        refuse_other(&self.identities, &now.identities, table)?;
        // What the look before had nothing against, but for what goes with the first partition's own check.
        let dependents: Vec<Step> = obstacles::dependents(table).into_iter().map(|one| one.step).collect();
        refuse_other(&[], dependents.iter().filter(|step| **step != Step::Bound).collect::<Vec<_>>().as_slice(), table)
    }
}

/// Fails as if a lock could not be had where two looks differ: the next try goes by what is there then.
fn refuse_other<T: PartialEq>(before: &[T], now: &[T], table: &Table) -> Result<(), Failure> {
    if before == now {
        return Ok(());
    }
    let message = format!("views, privileges or settings of {} were changed while its lock was waited for", table.full);
    Err(Failure::new("55P03", message))
}

/// Thinks the swap through. `keys` are the unique indexes that had no control column.
pub fn prepare(table: &Table, settled: &Settled, boundary: &str, keys: &[Key]) -> Swap {
    let unlocked = Unlocked::read(table);
    let control = &settled.control;
    let plain: Vec<&Key> = keys.iter().filter(|key| key.unique.constraint.is_none()).collect();
    let mut names: Vec<String> = Vec::new();
    let mut fresh = |base: &str, suffix: &str| {
        let name =
            free_name(base, suffix, |name| names.iter().any(|one| one == name) || facts::is_name_used(table, name));
        names.push(name.clone());
        name
    };
    let first = fresh(&table.name, "legacy");
    let made_as = ident::qualified(&table.schema, &fresh(&table.name, "partitioned"));
    let mut renamed = Vec::new();
    let mut before = Vec::new();
    let mut own = Vec::new();
    for index in copy::indexes(table) {
        let replaces = plain.iter().find(|key| key.new == index.name);
        if replaces.is_none() {
            let to = fresh(&index.name, "legacy");
            renamed.push(Renamed { kind: "INDEX", schema: table.schema.clone(), from: index.name.clone(), to });
        }
        if plain.iter().any(|key| key.unique.name == index.name) {
            continue;
        }
        let name = replaces.map_or(&index.name, |key| &key.unique.name);
        own.extend(index_statements(table, &index, name, &made_as));
    }
    for statistics in copy::statistics(table, &made_as) {
        let to = fresh(&statistics.name, "legacy");
        renamed.push(Renamed { kind: "STATISTICS", schema: statistics.schema, from: statistics.name, to });
        own.extend(statistics.statements);
    }
    before.extend(renamed.iter().map(|one| one.statement(false)));
    let tablespace = copy::tablespace(table).map_or_else(String::new, |name| format!(" TABLESPACE {name}"));
    before.push(format!(
        "CREATE TABLE {made_as} (LIKE {} INCLUDING COMMENTS INCLUDING COMPRESSION INCLUDING CONSTRAINTS INCLUDING DEFAULTS \
         INCLUDING GENERATED INCLUDING STORAGE) PARTITION BY RANGE ({}){tablespace}",
        table.full, control.name
    ));
    before.push(format!("ALTER TABLE {made_as} DROP CONSTRAINT {BOUND_CHECK}"));
    if let Some(owner) = &table.foreign_owner {
        before.push(format!("ALTER TABLE {made_as} OWNER TO {owner}"));
    }
    before.extend(own);
    before.extend(replica_identity(table, &plain, &made_as));
    let triggers = copy::triggers(table, &made_as);
    before.extend(triggers.iter().flat_map(|(_, statements)| statements.clone()));
    let properties = copy::properties(table, &made_as);
    before.extend(properties.iter().cloned());

    let first_full = ident::qualified(&table.schema, &first);
    let identities = copy::identities(table);
    let mut handing: Vec<String> = identities.iter().map(|identity| identity.drop(&table.full)).collect();
    handing.push(format!("ALTER TABLE {} RENAME TO {}", table.full, ident::quote(&first)));
    handing.push(format!("ALTER TABLE {made_as} RENAME TO {}", ident::quote(&table.name)));
    handing.extend(triggers.iter().map(|(name, _)| format!("DROP TRIGGER {name} ON {first_full}")));
    let mut after = copy::sequences(table, &table.full);
    after.extend(copy::foreign_keys(table, &table.full));
    let attach =
        format!("ALTER TABLE {} ATTACH PARTITION {first_full} FOR VALUES FROM (MINVALUE) TO ({boundary})", table.full);
    after.push(attach.clone());
    after.push(format!("ALTER TABLE {first_full} DROP CONSTRAINT {BOUND_CHECK}"));
    let views = copy::views(table);
    after.extend(views.iter().map(|(_, statement)| statement.clone()));
    after.extend(copy::publications(table, &first_full, &table.full));
    let burst = Burst {
        views: views.into_iter().map(|(oid, _)| oid).collect(),
        referenced: copy::referenced(table),
        tables: vec![table.oid],
        sequences: identities.iter().map(|identity| identity.oid).collect(),
    };
    let full = table.full.clone();
    Swap {
        unlocked,
        properties,
        renamed,
        has_row_triggers: copy::has_row_triggers(table),
        made_as,
        before,
        burst,
        identities,
        under: [handing, after],
        attach,
        full,
    }
}

/// An index, or a constraint, of `table` for the partitioned one.
fn index_statements(table: &Table, index: &copy::Index, name: &str, target: &str) -> Vec<String> {
    let (old, new) = (ident::quote(&index.name), ident::quote(name));
    let full = ident::qualified(&table.schema, name);
    let mut statements = Vec::new();
    match &index.constraint {
        Some(definition) => statements.push(format!("ALTER TABLE {target} ADD CONSTRAINT {new} {definition}")),
        None => {
            let parsed = Definition::parse(&index.definition, &old, &table.full);
            statements.extend(parsed.map(|parsed| parsed.statement(false, &new, target)));
        }
    }
    let [of_index, of_constraint] = &index.comments;
    statements.extend(of_index.iter().map(|comment| format!("COMMENT ON INDEX {full} IS {comment}")));
    let constraint = of_constraint.iter();
    statements.extend(constraint.map(|comment| format!("COMMENT ON CONSTRAINT {new} ON {target} IS {comment}")));
    statements
}

fn replica_identity(table: &Table, plain: &[&Key], target: &str) -> Option<String> {
    match copy::replica_identity(table) {
        ReplicaIdentity::Default => None,
        ReplicaIdentity::Fixed(what) => Some(format!("ALTER TABLE {target} REPLICA IDENTITY {what}")),
        ReplicaIdentity::Index(index) => {
            // An index by itself has a counterpart of the same name, whether or not that got the control column.
            let old = plain.iter().find(|key| key.new == index).map_or(index, |key| key.unique.name.clone());
            Some(format!("ALTER TABLE {target} REPLICA IDENTITY USING INDEX {}", ident::quote(&old)))
        }
    }
}

/// What a swap has come to.
pub struct Done {
    /// The partitioned table.
    pub parent: pg_sys::Oid,
    /// When others began to be kept waiting.
    pub locked: Instant,
}

impl Swap {
    /// All statements, for people, as they will be when `keys` have the control column.
    pub fn shown(&self, table: &Table, keys: &[Key]) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for statement in &self.before {
            let of = |key: &&Key| statement.starts_with(&key.addition(&self.made_as, ""));
            all.push(match keys.iter().find(of) {
                Some(key) => key.with_control(statement),
                None => statement.clone(),
            });
        }
        all.extend(keys.iter().filter_map(|key| key.counterpart(table, &self.made_as)));
        all.push(format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", self.full));
        all.extend(self.under[0].iter().cloned());
        all.extend(self.identities.iter().flat_map(|identity| identity.add(&self.full, "...")));
        all.extend(self.under[1].iter().cloned());
        all
    }

    /// Does it. The table is locked in SHARE UPDATE EXCLUSIVE since before it was thought through.
    pub fn run(&self, table: &Table, limit_ms: i64) -> Result<Done, Failure> {
        self.before.iter().for_each(|statement| run(statement));
        let parent =
            ddl::value::<pg_sys::Oid>(&format!("SELECT {}::pg_catalog.regclass", ident::literal(&self.made_as)));
        let parent = parent.ok_or_else(|| Failure::new("XX000", format!("{} was not made", self.made_as)))?;
        let locked = self.burst.take(limit_ms);
        self.unlocked.refuse_changed(table)?;
        let states: Vec<String> = self.identities.iter().map(Identity::state).collect();
        self.under[0].iter().for_each(|statement| run(statement));
        // GRANT waits for no lock of the table's, but for whoever has changed its entry in the catalog, as we have by now.
        refuse_other(&self.properties, &copy::properties(table, &self.made_as), table)?;
        for (identity, state) in self.identities.iter().zip(&states) {
            identity.add(&self.full, state).iter().for_each(|statement| run(statement));
        }
        for statement in &self.under[1] {
            match *statement == self.attach {
                true => privilege::as_relation_owner(parent, || run(statement)),
                false => run(statement),
            }
        }
        Ok(Done { parent, locked })
    }
}

fn run(statement: &str) {
    background::check_for_interrupts();
    ddl::run(statement);
}

/// What the way back has moved.
pub struct Undone {
    /// Rows that came from other partitions.
    pub rows: u64,
    /// When others began to be kept waiting.
    pub locked: Instant,
}

/// Goes back: `first` becomes a table by itself again, called as the partitioned one is. Both are locked in SHARE UPDATE
/// EXCLUSIVE already.
pub fn undo(parent: &Table, first: &Table, renamed: &[Renamed], limit_ms: i64) -> Result<Undone, Failure> {
    let aside = free_name(&parent.name, "partitioned", |name| facts::is_name_used(parent, name));
    let aside_full = ident::qualified(&parent.schema, &aside);
    let unlocked = Unlocked::read(parent);
    let (views, identities) = (copy::views(parent), copy::identities(parent));
    let triggers = copy::triggers(parent, &parent.full);
    let publications = copy::publications(parent, &aside_full, &parent.full);
    let sequences = copy::sequences(parent, &parent.full);
    let columns = copy::columns(parent);
    let security = copy::force_row_security(first);
    let others = moved::others(parent, first);
    let mut tables = vec![parent.oid, first.oid];
    tables.extend(others.iter().copied());
    let burst = Burst {
        views: views.iter().map(|(oid, _)| *oid).collect(),
        referenced: copy::referenced(parent),
        tables,
        sequences: identities.iter().map(|identity| identity.oid).collect(),
    };
    let locked = burst.take(limit_ms);
    unlocked.refuse_changed(parent)?;
    moved::refuse_pending(parent)?;
    let expected = moved::count(&others);
    if expected > 0 {
        snapshots::give_way(None, limit_ms)?;
    }
    let states: Vec<String> = identities.iter().map(Identity::state).collect();
    identities.iter().for_each(|identity| run(&identity.drop(&parent.full)));
    let detach = format!("ALTER TABLE {} DETACH PARTITION {}", parent.full, first.full);
    privilege::as_relation_owner(parent.oid, || run(&detach));
    // The owner sees and writes all rows here, whatever policies say.
    run(&format!("ALTER TABLE {} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY", parent.full));
    if security {
        run(&format!("ALTER TABLE {} NO FORCE ROW LEVEL SECURITY", first.full));
    }
    // Deferred checks of the moved rows would keep the table from being altered. What its constraints and generated columns
    // call is run as the table's owner, who has defined them.
    run("SET CONSTRAINTS ALL IMMEDIATE");
    let rows = privilege::as_relation_owner(first.oid, || {
        ddl::run(&format!("INSERT INTO {} ({columns}) SELECT {columns} FROM {}", first.full, parent.full))
    });
    if rows != expected {
        let message = format!("{rows} rows of {} were moved where its partitions hold {expected}", parent.full);
        return Err(Failure::new("XX000", message));
    }
    if security {
        run(&format!("ALTER TABLE {} FORCE ROW LEVEL SECURITY", first.full));
    }
    run(&format!("ALTER TABLE {} RENAME TO {}", parent.full, ident::quote(&aside)));
    run(&format!("ALTER TABLE {} RENAME TO {}", first.full, ident::quote(&parent.name)));
    sequences.iter().for_each(|statement| run(statement));
    views.iter().for_each(|(_, statement)| run(statement));
    publications.iter().for_each(|statement| run(statement));
    run(&format!("DROP TABLE {aside_full}"));
    for one in renamed.iter().filter(|one| facts::is_name_used_in(&one.schema, &one.to)) {
        run(&one.statement(true));
    }
    for (identity, state) in identities.iter().zip(&states) {
        identity.add(&parent.full, state).iter().for_each(|statement| run(statement));
    }
    triggers.iter().flat_map(|(_, statements)| statements).for_each(|statement| run(statement));
    Ok(Undone { rows, locked })
}
