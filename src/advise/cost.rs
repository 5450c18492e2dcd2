//! What resources there are and will be, and what they cost a month: `perf.cost_impact()`.
//!
//! Quantities are measured, or forecast from samples, or the owner's (basis policy); money comes from perf.price alone. Reads
//! with the rights of whoever asks; locks what those reads lock.

use perf_core::cost::{self, Line, Price, Resource, Total};
use pgrx::datum::Interval;

use super::{capacity, metrics, GIB, MEMORY_TOLERANCE};
use crate::collect;
use crate::error::Error;
use crate::pg::filesystem;
use crate::pg::query::{select_under_snapshot, Row};
use crate::pg::text::Text;

const HOURS_A_MONTH: f64 = 730.0;
const MEASURED: &str = "measured";
const FORECAST: &str = "forecast";
const POLICY: &str = "policy";
const SUM: &str = "sum";
/// Grades of a forecast that carry an amount, as perf.capacity_estimate() names them.
const SOUND: [&str; 3] = ["reconstructed", "supported", "low"];
/// The owner's replicas, of which some may be there already.
const REPLICA_ITEM: &str = "read_replica";
const INDEX_ITEM: &str = "index_storage";

/// One row of `perf.cost_impact()`.
pub struct Cost {
    pub item: String,
    pub quantity: Option<f64>,
    pub unit: Option<String>,
    pub unit_price: Option<f64>,
    pub monthly: Option<(f64, f64)>,
    pub currency: Option<String>,
    pub basis: String,
    pub note: Option<String>,
}

/// An amount that the server knows by itself.
struct Known {
    item: String,
    quantity: Option<f64>,
    unit: &'static str,
    basis: &'static str,
    note: String,
}

/// A row of perf.price.
struct Priced {
    item: String,
    kind: String,
    unit: String,
    quantity: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    currency: String,
    vcpus: Option<i32>,
    memory_bytes: Option<f64>,
    note: String,
}

/// Every row: what is there, what it costs, what is added, the sums, what the owner expects, machines and their prices.
pub fn impact() -> Result<Vec<Cost>, Error> {
    let prices = prices();
    let machine = Machine::measured();
    let mut known = present(&machine);
    known.extend(growth()?);
    let of_kind = |kind: &'static str| prices.iter().filter(move |price| price.kind == kind);
    let is_priced = |item: &str| {
        prices.iter().any(|p| p.item == item && p.quantity.is_none() && (p.kind == "current" || p.kind == "addition"))
    };
    let mut rows: Vec<Cost> = known.iter().filter(|known| !is_priced(&known.item)).map(without_price).collect();
    let replicas = known.iter().find(|known| known.item == "replicas_connected").and_then(|known| known.quantity);
    let current: Vec<(Line, String)> = of_kind("current").map(|price| priced(price, &known, None)).collect();
    let additions: Vec<(Line, String)> = of_kind("addition").map(|price| priced(price, &known, replicas)).collect();
    let added: Vec<Line> = additions.iter().map(|(line, _)| line.clone()).collect();
    let all: Vec<Line> = current.iter().chain(&additions).map(|(line, _)| line.clone()).collect();
    let has_current = !current.is_empty();
    rows.extend(current.into_iter().chain(additions).map(|(line, note)| with_price(line, &note)));
    rows.extend(sums("total_additions", &added));
    if has_current {
        rows.extend(sums("total_afterwards", &all));
    }
    rows.extend(of_kind("expected").map(|price| {
        let (line, note) = priced(price, &[], None);
        with_price(line, &joined(&[&note, "what the owner expects: no sum has it"]))
    }));
    rows.extend(of_kind("instance").map(|price| instance(price, &machine)));
    Ok(rows)
}

// ---- what there is ----

struct Machine {
    cores: Option<f64>,
    memory_bytes: Option<f64>,
}

impl Machine {
    /// Of the host, or what the container may use of it.
    fn measured() -> Machine {
        Machine { cores: collect::host::cores().map(f64::from), memory_bytes: collect::host::memory_bytes() }
    }
}

fn present(machine: &Machine) -> Vec<Known> {
    let known = |item: &str, quantity: Option<f64>, unit, note: &str| Known {
        item: item.to_owned(),
        quantity,
        unit,
        basis: MEASURED,
        note: note.to_owned(),
    };
    let gib = |bytes: Option<f64>| bytes.map(|bytes| bytes / GIB);
    let sizes = metrics::measure(|name| matches!(name, "database_size_bytes" | "wal_size_bytes"), false);
    let size = |name: &str| sizes.iter().find(|row| row.name == name);
    let (database, wal) = (size("database_size_bytes"), size("wal_size_bytes"));
    let mut present = vec![
        known("database_size", gib(database.and_then(|row| row.value)), "GiB", "of the current database"),
        known("index_size", gib(index_bytes()), "GiB", "part of database_size"),
        known(
            "wal_size",
            gib(wal.and_then(|row| row.value)),
            "GiB",
            wal.and_then(|row| row.note.as_deref()).unwrap_or("as the collector has measured it"),
        ),
    ];
    for (item, path, note) in volumes() {
        let space = filesystem::space(&path);
        let used = space.map_or(String::new(), |s| format!("{:.1} GiB of it used", s.used_bytes / GIB));
        present.push(known(&item, gib(space.map(|s| s.total_bytes)), "GiB", &joined(&[&used, &note])));
    }
    let replicas = replicas();
    let note = if replicas.is_none() { "not visible to the current role" } else { "" };
    present.push(known("replicas_connected", replicas, "replica", note));
    present.push(known("cores", machine.cores, "core", "that the server may use"));
    present.push(known("memory", gib(machine.memory_bytes), "GiB", "that the server may use"));
    present
}

/// Item, path and note of every filesystem that the server writes to, each once.
fn volumes() -> Vec<(String, String, String)> {
    let mut volumes: Vec<(Option<u64>, String, String, String)> = Vec::new();
    for (object, path) in metrics::places() {
        let item = format!("disk:{object}");
        let device = filesystem::space(&path).map(|space| space.device);
        match volumes.iter_mut().find(|volume| device.is_some() && volume.0 == device) {
            Some(volume) => volume.3 = joined(&[&volume.3, &format!("also {item}")]),
            None => volumes.push((device, item, path, String::new())),
        }
    }
    volumes.into_iter().map(|(_, item, path, note)| (item, path, note)).collect()
}

/// Bytes of the indexes of users' tables. Those whose table somebody has locked for himself are passed over.
fn index_bytes() -> Option<f64> {
    select_under_snapshot(
        c"SELECT coalesce(sum(pg_catalog.pg_relation_size(c.oid)), 0)::float8
            FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_index AS i ON i.indexrelid = c.oid
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
           WHERE c.relkind = 'i' AND c.relpersistence <> 't'
             AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'perf')
             AND (c.oid NOT IN (SELECT l.relation FROM pg_catalog.pg_locks AS l
                                 WHERE l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL))",
        |row| row.get::<f64>(1),
    )
    .pop()
}

/// Standbys: what replays WAL, and does so physically. A subscription, an archive of WAL and a base backup are no
/// replicas to read from. None where the current role does not see what a connection is for.
pub(super) fn replicas() -> Option<f64> {
    select_under_snapshot(
        c"SELECT CASE WHEN bool_and(r.state IS NOT NULL) IS NOT FALSE
                      THEN count(*) FILTER (WHERE r.state <> 'backup' AND r.replay_lsn IS NOT NULL
                             AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS s
                                              WHERE s.active_pid = r.pid AND s.slot_type = 'logical')) END::float8
            FROM pg_catalog.pg_stat_replication AS r",
        |row| row.get::<f64>(1),
    )
    .pop()
}

/// What will come on top, from the forecasts of perf.capacity_estimate().
fn growth() -> Result<Vec<Known>, Error> {
    let ahead = [("6_months", 6), ("1_year", 12)];
    let asked = ahead.map(|(_, months)| Interval::new(months, 0, 0).ok());
    let mut growth = Vec::new();
    for estimate in capacity::estimate(&capacity::horizons(Some(asked.to_vec()))?)? {
        let months = estimate.horizon.interval.months();
        let Some((name, _)) = ahead.iter().find(|(_, ahead)| *ahead == months) else { continue };
        let item = match estimate.metric {
            "database_size" => format!("database_growth_{name}"),
            "disk_used" => format!("disk_growth_{name}"),
            _ => continue,
        };
        let sound = SOUND.contains(&estimate.quality);
        let grown = estimate.projected.zip(estimate.current_value).filter(|_| sound);
        let note = match sound {
            true => format!("quality {}; see perf.capacity_estimate()", estimate.quality),
            false => estimate.action,
        };
        growth.push(Known {
            item,
            quantity: grown.map(|(then, now)| (then - now).max(0.0) / GIB),
            unit: "GiB",
            basis: FORECAST,
            note,
        });
    }
    Ok(growth)
}

// ---- what it costs ----

fn prices() -> Vec<Priced> {
    let read = |row: &Row| {
        Some(Priced {
            item: row.string(1),
            kind: row.string(2),
            unit: row.string(3),
            quantity: row.get::<f64>(4),
            low: row.get::<f64>(5),
            high: row.get::<f64>(6),
            currency: row.string(7),
            vcpus: row.get::<i32>(8),
            memory_bytes: row.get::<f64>(9),
            note: row.get::<Text>(10).unwrap_or_default().0,
        })
    };
    select_under_snapshot(
        c"SELECT item, kind, resource_unit, quantity, unit_price_low::float8, unit_price_high::float8, currency, vcpus,
                 memory_bytes::float8, note
            FROM perf.price ORDER BY kind, item",
        read,
    )
}

/// Remarks one after the other; empty ones left out.
fn joined(parts: &[&str]) -> String {
    let parts: Vec<&str> =
        parts.iter().map(|part| part.trim_end_matches('.')).filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

/// The row of the price table with its quantity, which is the server's own where the table leaves it open.
fn priced(price: &Priced, known: &[Known], replicas: Option<f64>) -> (Line, String) {
    priced_as(price, price.quantity, known, replicas)
}

/// The same with another quantity than the table's.
fn priced_as(price: &Priced, quantity: Option<f64>, known: &[Known], replicas: Option<f64>) -> (Line, String) {
    let own = known.iter().find(|known| known.item == price.item);
    let (quantity, basis, said) = match (quantity, own) {
        (Some(wanted), _) if price.item == REPLICA_ITEM => {
            let there = replicas.unwrap_or(0.0);
            let said = (there > 0.0).then(|| format!("{wanted} wanted, {there} connected"));
            (Some((wanted - there).max(0.0)), POLICY, said.unwrap_or_default())
        }
        (Some(quantity), _) => (Some(quantity), POLICY, String::new()),
        (None, Some(own)) if own.unit == price.unit => (own.quantity, own.basis, own.note.clone()),
        (None, Some(own)) => (None, own.basis, format!("the server measures it in {}", own.unit)),
        (None, None) => (None, POLICY, "the server does not measure it: give a quantity".to_owned()),
    };
    let indexes = known.iter().find(|known| known.item == "index_size" && price.item == INDEX_ITEM);
    let indexes = indexes
        .and_then(|known| known.quantity)
        .map_or(String::new(), |gib| format!("the indexes there are take {gib:.3} GiB"));
    let resource = Resource { item: price.item.clone(), quantity, unit: price.unit.clone(), basis: basis.to_owned() };
    let at = Price {
        item: price.item.clone(),
        unit: price.unit.clone(),
        low: price.low,
        high: price.high,
        currency: price.currency.clone(),
    };
    let note = joined(&[&said, &indexes, &price.note]);
    (cost::line(&resource, &[at]), note)
}

fn noted(note: String) -> Option<String> {
    (!note.is_empty()).then_some(note)
}

fn without_price(known: &Known) -> Cost {
    let missing = if known.quantity.is_none() { "not measured" } else { "no price in perf.price" };
    Cost {
        item: known.item.clone(),
        quantity: known.quantity,
        unit: Some(known.unit.to_owned()),
        unit_price: None,
        monthly: None,
        currency: None,
        basis: known.basis.to_owned(),
        note: noted(joined(&[missing, &known.note])),
    }
}

fn with_price(line: Line, note: &str) -> Cost {
    let range = match line.unit_price {
        Some((low, high)) if low < high => format!("{low} to {high} {} each", line.currency.as_deref().unwrap_or("")),
        _ => String::new(),
    };
    Cost {
        note: noted(joined(&[line.note.as_deref().unwrap_or(""), &range, note])),
        item: line.item,
        quantity: line.quantity,
        unit: Some(line.unit),
        unit_price: line.unit_price.filter(|(low, high)| low == high).map(|(low, _)| low),
        monthly: line.monthly,
        currency: line.currency,
        basis: line.basis,
    }
}

fn amount((low, high): (f64, f64)) -> String {
    if low == high {
        low.to_string()
    } else {
        format!("{low} to {high}")
    }
}

/// The sum of the parts, a row for each currency; none where nothing has a price.
fn sums(item: &str, lines: &[Line]) -> Vec<Cost> {
    let totals: Vec<Total> = cost::totals(lines).into_iter().filter(|total| total.currency.is_some()).collect();
    let several = totals.len() > 1;
    let row = |total: Total| {
        let parts: Vec<String> = lines
            .iter()
            .filter(|line| line.currency == total.currency)
            .filter_map(|line| Some((line, line.monthly?)))
            .map(|(line, range)| format!("{} {}", line.item, amount(range)))
            .collect();
        let lacking = match (total.missing.is_empty(), total.priced) {
            (false, Some(range)) => format!(
                "not known as a whole: no cost for {}; the others come to {}",
                total.missing.join(", "),
                amount(range)
            ),
            _ => String::new(),
        };
        let others = if several { "amounts of other currencies are not in it" } else { "" };
        Cost {
            item: item.to_owned(),
            quantity: None,
            unit: None,
            unit_price: None,
            monthly: total.monthly,
            currency: total.currency,
            basis: SUM.to_owned(),
            note: noted(joined(&[&lacking, &parts.join(" + "), others])),
        }
    };
    totals.into_iter().map(row).collect()
}

/// A size of machine: for comparison, in no sum.
fn instance(price: &Priced, machine: &Machine) -> Cost {
    let a_month = if price.unit.ends_with("-hour") { HOURS_A_MONTH } else { 1.0 };
    let (mut line, note) = priced_as(price, price.quantity.or(Some(a_month)), &[], None);
    let is_same = |of: Option<f64>, here: Option<f64>, tolerance: f64| {
        of.zip(here).is_some_and(|(of, here)| (of - here).abs() <= tolerance * of)
    };
    let here = is_same(price.vcpus.map(f64::from), machine.cores, 0.0)
        && is_same(price.memory_bytes, machine.memory_bytes, MEMORY_TOLERANCE);
    let size = match (price.vcpus, price.memory_bytes) {
        (Some(vcpus), Some(bytes)) => format!("{vcpus} vCPUs, {:.0} GiB", bytes / GIB),
        _ => String::new(),
    };
    if here {
        line.basis = MEASURED.to_owned();
    }
    let same = if here { "the size of the machine this server runs on" } else { "" };
    with_price(line, &joined(&[&size, same, "for comparison: no sum has it", &note]))
}
