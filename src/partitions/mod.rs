//! Tables partitioned by ranges of time: what is known of one, and how a new partition is made. Read by the job that
//! rotates partitions, by the conversion of tables, by the functions that check and recommend. Reads catalogs only: no
//! table is locked here, and none is waited for, but by [`like`], which makes a table.

pub mod check;
mod default_rows;
mod differences;
mod index_faults;
mod jobs;
pub mod like;
mod mend;
pub mod questions;

use perf_core::partition::{range_of_numbers, range_of_uuids, At, EpochUnit, Key, Range};
use pgrx::pg_sys;

use crate::error::Error;
use crate::pg::partition_bound::{self, Bound, Edge};
use crate::pg::query;
use crate::pg::{ident, privilege};

/// From 2000-01-01, where the server counts from, back to 1970-01-01.
const SERVER_EPOCH_DAYS: i64 = 10_957;
const DAY_US: i64 = 86_400_000_000;
const SERVER_EPOCH_US: i64 = SERVER_EPOCH_DAYS * DAY_US;

/// A table partitioned by a range of one column that tells the time.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Of the table.
    pub oid: pg_sys::Oid,
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// The key, unquoted.
    pub column: String,
    /// Its type; for a bigint the unit that was asked for, or that its bounds suggest.
    pub key: Key,
    /// All of them, by lower bound, the default one last.
    pub partitions: Vec<Partition>,
}

/// A partition of one.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Of the table.
    pub oid: pg_sys::Oid,
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// What it holds; `None` for the default partition.
    pub range: Option<Range>,
    /// `pg_class.relkind`: r, p or f.
    pub relkind: u8,
    /// A concurrent detach of it was begun and has not ended.
    pub is_detaching: bool,
    /// As of the last VACUUM or ANALYZE.
    pub pages: i64,
}

impl Partition {
    /// Quoted and qualified.
    pub fn full_name(&self) -> String {
        ident::qualified(&self.schema, &self.name)
    }

    /// Whether it is the default partition.
    pub fn is_default(&self) -> bool {
        self.range.is_none()
    }
}

impl Parent {
    /// Quoted and qualified.
    pub fn full_name(&self) -> String {
        ident::qualified(&self.schema, &self.name)
    }

    /// The partition for all that has no other.
    pub fn default_partition(&self) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.is_default())
    }

    /// The one with the latest upper bound: what a new one is made like.
    pub fn newest(&self) -> Option<&Partition> {
        let bounded = self.partitions.iter().filter(|partition| partition.relkind != b'f' && !partition.is_detaching);
        bounded.max_by_key(|partition| partition.range.map_or(At::MIN, |range| range.lower))
    }

    /// What its partitions hold.
    pub fn ranges(&self) -> Vec<Range> {
        self.partitions.iter().filter_map(|partition| partition.range).collect()
    }

    /// Reads what there is to know; refuses what is not partitioned by a range of one column that tells the time. `epoch`
    /// is the unit of a bigint key, where that is known. Inside a transaction.
    pub fn read(argument: &'static str, oid: pg_sys::Oid, epoch: Option<EpochUnit>) -> Result<Parent, Error> {
        let table = Table::read(argument, oid)?;
        let full_name = ident::qualified(&table.schema, &table.name);
        let refuse = |what: &str, accepted: &str| Error::InvalidArgument {
            argument,
            value: format!("{full_name} {what}"),
            accepted: accepted.to_owned(),
        };
        if table.relkind != b'p' {
            let accepted = match table.relkind {
                b'r' => "A table that is partitioned by RANGE; CALL perf.partition_convert(relation, control, every) makes it one.",
                _ => "A table that is partitioned by RANGE.",
            };
            return Err(refuse(&format!("is {}", kind_name(table.relkind)), accepted));
        }
        let Some((column, type_oid)) = key_of(oid) else {
            return Err(Error::Unsupported {
                message: format!("{full_name} is not partitioned by RANGE of one column"),
                hint:
                    "Partitions are managed by time: PARTITION BY RANGE (a column), not of an expression or of several."
                        .to_owned(),
            });
        };
        let found = children(oid);
        let bounds: Vec<Option<Bound>> = found.iter().map(|partition| partition_bound::of(partition.oid)).collect();
        let key = match type_oid {
            pg_sys::DATEOID => Key::Date,
            pg_sys::TIMESTAMPOID => Key::Timestamp,
            pg_sys::TIMESTAMPTZOID => Key::Timestamptz,
            pg_sys::UUIDOID => Key::Uuid7,
            pg_sys::INT8OID => Key::Epoch(match epoch.or_else(|| unit_of(&bounds)) {
                Some(unit) => unit,
                None => {
                    return Err(Error::InvalidArgument {
                        argument: "epoch",
                        value: format!("not given, and no partition of {full_name} tells what its bigint key counts"),
                        accepted: "seconds, milliseconds, microseconds or nanoseconds since 1970.".to_owned(),
                    })
                }
            }),
            other => {
                return Err(refuse(
                    &format!("has the key {} of type {}", ident::quote(&column), partition_bound::type_name(other)),
                    "A key of type date, timestamp, timestamptz, uuid (version 7) or bigint (an epoch).",
                ))
            }
        };
        let mut partitions = Vec::with_capacity(found.len());
        for (mut partition, bound) in found.into_iter().zip(bounds) {
            partition.range = match bound {
                // Dropped since, or detached.
                None => continue,
                Some(Bound::Default) => None,
                Some(Bound::Range(lower, upper)) => Some(range_of(&lower, &upper, key)),
                Some(Bound::Other) => continue,
            };
            partitions.push(partition);
        }
        partitions.sort_by_key(|partition| partition.range.map_or((1, 0), |range| (0, range.lower)));
        Ok(Parent { oid, schema: table.schema, name: table.name, column, key, partitions })
    }
}

/// What any relation is.
#[derive(Clone, Debug)]
pub struct Table {
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// Who owns it.
    pub owner: pg_sys::Oid,
    /// `pg_class.relkind`.
    pub relkind: u8,
    /// `pg_class.relpersistence`: p, u or t.
    pub persistence: u8,
}

impl Table {
    /// Reads it; an error when there is none.
    pub fn read(argument: &'static str, oid: pg_sys::Oid) -> Result<Table, Error> {
        let found = privilege::with_own_path(|| {
            query::run_with(
                c"SELECT n.nspname::text, c.relname::text, c.relowner, c.relkind::text, c.relpersistence::text
                    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
                &[oid.into()],
                |row| Table {
                    schema: row.string(1),
                    name: row.string(2),
                    owner: row.get::<pg_sys::Oid>(3).unwrap_or(pg_sys::InvalidOid),
                    relkind: first_byte(&row.string(4)),
                    persistence: first_byte(&row.string(5)),
                },
            )
        });
        found.1.into_iter().next().ok_or_else(|| Error::InvalidArgument {
            argument,
            value: format!("no relation has OID {}", oid.to_u32()),
            accepted: "An existing table.".to_owned(),
        })
    }

    /// Refuses a role that is not its owner, nor a member of it.
    pub fn check_owner(&self) -> Result<(), Error> {
        if privilege::has_rights_of(self.owner) {
            return Ok(());
        }
        Err(Error::Denied {
            message: format!("must be owner of table {}", ident::qualified(&self.schema, &self.name)),
            hint: "Its owner, a member of that role or a superuser may change how it is partitioned.".to_owned(),
        })
    }
}

/// What a kind of relation is called, with its article.
pub fn kind_name(relkind: u8) -> &'static str {
    match relkind {
        b'r' => "a plain table",
        b'p' => "a partitioned table",
        b'v' => "a view",
        b'm' => "a materialized view",
        b'f' => "a foreign table",
        b'i' | b'I' => "an index",
        b'S' => "a sequence",
        b'c' => "a composite type",
        _ => "not a table",
    }
}

fn first_byte(text: &str) -> u8 {
    text.bytes().next().unwrap_or(b' ')
}

/// Name and base type of the only key, where it is a column of a range.
fn key_of(parent: pg_sys::Oid) -> Option<(String, pg_sys::Oid)> {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"SELECT a.attname::text, a.atttypid FROM pg_partitioned_table p
                JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
               WHERE p.partrelid = $1 AND p.partstrat = 'r' AND p.partnatts = 1",
            &[parent.into()],
            |row| Some((row.string(1), row.get::<pg_sys::Oid>(2)?)),
        )
    });
    let (column, type_oid) = found.1.into_iter().flatten().next()?;
    Some((column, partition_bound::base_type(type_oid)))
}

/// The partitions, without their bounds.
fn children(parent: pg_sys::Oid) -> Vec<Partition> {
    privilege::with_own_path(|| {
        query::run_with(
            c"SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, i.inhdetachpending, c.relpages::int8
                FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE i.inhparent = $1",
            &[parent.into()],
            |row| Partition {
                oid: row.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid),
                schema: row.string(2),
                name: row.string(3),
                range: None,
                relkind: first_byte(&row.string(4)),
                is_detaching: row.get::<bool>(5).unwrap_or(false),
                pages: row.get::<i64>(6).unwrap_or(0),
            },
        )
        .1
    })
}

/// What a bigint key counts, judged by any bound.
fn unit_of(bounds: &[Option<Bound>]) -> Option<EpochUnit> {
    let edges = bounds.iter().flatten().flat_map(|bound| match bound {
        Bound::Range(lower, upper) => vec![lower, upper],
        _ => Vec::new(),
    });
    let mut numbers = edges.filter_map(|edge| if let Edge::Number(number) = edge { Some(*number) } else { None });
    numbers.find_map(EpochUnit::guess)
}

/// What a partition covers on the key's line. What is unknown is taken for as wide as can be, so that nothing is made over it
/// and nothing of it expires.
fn range_of(lower: &Edge, upper: &Edge, key: Key) -> Range {
    let number = |edge: &Edge| if let Edge::Number(number) = edge { Some(*number) } else { None };
    let uuid = |edge: &Edge| if let Edge::Uuid(uuid) = edge { Some(*uuid) } else { None };
    match key {
        Key::Epoch(unit) => range_of_numbers(unit, number(lower), number(upper)),
        Key::Uuid7 => range_of_uuids(uuid(lower).as_ref(), uuid(upper).as_ref()),
        _ => Range { lower: at(lower).unwrap_or(At::MIN), upper: at(upper).unwrap_or(At::MAX) },
    }
}

/// Where a date or a timestamp lies; `None` for what is none.
fn at(edge: &Edge) -> Option<At> {
    match edge {
        Edge::Min | Edge::Date(i32::MIN) | Edge::Timestamp(i64::MIN) => Some(At::MIN),
        Edge::Max | Edge::Date(i32::MAX) | Edge::Timestamp(i64::MAX) => Some(At::MAX),
        Edge::Date(days) => Some((i64::from(*days) + SERVER_EPOCH_DAYS).saturating_mul(DAY_US)),
        Edge::Timestamp(us) => Some(us.saturating_add(SERVER_EPOCH_US)),
        _ => None,
    }
}
