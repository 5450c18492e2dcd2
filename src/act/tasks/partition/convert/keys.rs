//! Unique indexes without the control column, which a partitioned table cannot have: each gets a second one with it, built
//! concurrently. A constraint takes the new index in a short transaction of its own; an index by itself stays with the first
//! partition. And the way back.
//!
//! Called by the job, outside of any transaction where it builds and drops indexes, inside where it says so.

use perf_core::partition_convert::{free_name, Definition};
use serde_json::{json, Value};

use super::facts::{self, Control, Table, Unique};
use super::obstacles::Obstacle;
use super::plan::Step;
use crate::pg::ident;

/// A key that gets the control column.
#[derive(Clone, Debug)]
pub struct Key {
    /// As it was.
    pub unique: Unique,
    /// Name of the new index, unquoted.
    pub new: String,
    /// What it is on, for people.
    pub columns: String,
    /// The control column, quoted.
    pub control: String,
}

/// The keys that need it: those that `known` remembers, and whatever else there is.
pub fn wanted(table: &Table, control: &Control, known: &[Key]) -> Vec<Key> {
    let mut keys = known.to_vec();
    for unique in facts::uniques_without(table, control) {
        if keys.iter().any(|key| key.unique.name == unique.name) {
            continue;
        }
        let is_used = |name: &str| facts::is_name_used(table, name) || keys.iter().any(|key| key.new == name);
        let new = free_name(&unique.name, "partitioned", is_used);
        let columns = unique.parsed(table).map_or_else(|| unique.name.clone(), |parsed| format!("({})", parsed.keys()));
        keys.push(Key { unique, new, columns, control: control.name.clone() });
    }
    keys
}

/// Indexes whose definition is not understood, and publications that the wider keys do not fit.
pub fn obstacles(table: &Table, control: &Control) -> Vec<Obstacle> {
    let uniques = facts::uniques_without(table, control);
    let lists = if uniques.is_empty() { Vec::new() } else { facts::narrow_publications(table, control) };
    let lists = lists.into_iter().map(|publication| Obstacle {
        step: Step::Keys,
        sqlstate: "0A000",
        message: format!(
            "the column list of publication {publication} lacks {}, which rows are going to be told apart by",
            control.name
        ),
        hint: "Add the column to the list, or use REPLICA IDENTITY FULL without a list.".to_owned(),
    });
    let strange = uniques.into_iter().filter(|unique| unique.parsed(table).is_none());
    strange
        .map(|unique| Obstacle {
            step: Step::Keys,
            sqlstate: "0A000",
            message: format!("the definition of index {} is not understood", ident::quote(&unique.name)),
            hint: unique.definition,
        })
        .chain(lists)
        .collect()
}

impl Key {
    fn definition(&self, table: &Table) -> Option<Definition> {
        self.unique.parsed(table)
    }

    /// Builds the new index.
    pub fn build(&self, table: &Table) -> String {
        let name = ident::quote(&self.new);
        let with_key = self.definition(table).map(|parsed| parsed.with_key(&self.control));
        with_key.map_or_else(String::new, |parsed| parsed.statement(true, &name, &table.full))
    }

    /// Builds the old index again.
    pub fn build_back(&self, table: &Table) -> String {
        let name = ident::quote(&self.new);
        self.definition(table).map_or_else(String::new, |parsed| parsed.statement(true, &name, &table.full))
    }

    /// The beginning of the statement that gives a table the constraint.
    pub fn addition(&self, target: &str, definition: &str) -> String {
        format!("ALTER TABLE {target} ADD CONSTRAINT {} {definition}", ident::quote(&self.unique.name))
    }

    /// Such a statement, with the control column among the keys.
    pub fn with_control(&self, statement: &str) -> String {
        let with = format!("{}, {})", self.columns.trim_end_matches(')'), self.control);
        statement.replacen(&self.columns, &with, 1)
    }

    /// For an index by itself, what makes its counterpart of the same name.
    pub fn counterpart(&self, table: &Table, target: &str) -> Option<String> {
        let parsed = self.definition(table).filter(|_| self.unique.constraint.is_none())?;
        Some(parsed.with_key(&self.control).statement(false, &ident::quote(&self.unique.name), target))
    }

    /// Makes the constraint use the index that is called `new`, whichever way.
    pub fn swap(&self, table: &Table) -> Vec<String> {
        let kind = if self.unique.constraint == Some('p') { "PRIMARY KEY" } else { "UNIQUE" };
        let name = ident::quote(&self.unique.name);
        let mut statements = vec![format!(
            "ALTER TABLE {} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {kind} USING INDEX {}{}",
            table.full,
            ident::quote(&self.new),
            self.unique.options
        )];
        statements.extend(self.unique.restore.iter().cloned());
        statements
    }

    /// Drops the index that is called `new`.
    pub fn drop(&self, table: &Table) -> String {
        format!("DROP INDEX CONCURRENTLY IF EXISTS {}", ident::qualified(&table.schema, &self.new))
    }

    /// For the record.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.unique.name, "constraint": self.unique.constraint.map(String::from), "options": self.unique.options,
            "definition": self.unique.definition, "restore": self.unique.restore, "new": self.new,
            "columns": self.columns, "control": self.control,
        })
    }

    /// From the record.
    pub fn from_json(value: &Value) -> Option<Key> {
        let string = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let restore = value.get("restore").and_then(Value::as_array)?;
        Some(Key {
            unique: Unique {
                name: string("name")?,
                constraint: string("constraint").and_then(|kind| kind.chars().next()),
                options: string("options")?,
                definition: string("definition")?,
                restore: restore.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            },
            new: string("new")?,
            columns: string("columns")?,
            control: string("control")?,
        })
    }
}
