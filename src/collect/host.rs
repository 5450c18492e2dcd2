//! Measures the host every five minutes: disks, processors, memory, pressure, cgroup v2. Reads small text files of /proc and
//! /sys and asks for free space; what a host does not have is simply not measured. Called by the sampler; takes no lock.

use super::sampler::Take;
use crate::pg::filesystem;
use perf_core::host;

/// The root of cgroup v2 on every common distribution and in containers.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Free and used space of the filesystems of the data directory, of WAL and of each tablespace (oid, name).
pub fn disks(take: &mut Take, tablespaces: &[(u32, String)]) {
    let mut places = vec![("data".to_owned(), ".".to_owned()), ("wal".to_owned(), "pg_wal".to_owned())];
    places.extend(tablespaces.iter().map(|(oid, name)| (format!("tablespace:{name}"), format!("pg_tblspc/{oid}"))));
    for (object, path) in places {
        if let Some(space) = filesystem::space(&path) {
            take.value("disk_used_bytes", &object, space.used_bytes);
            take.value("disk_available_bytes", &object, space.available_bytes);
        }
    }
}

/// Processors, load and memory of the host.
pub fn machine(take: &mut Take) {
    if let Some(ticks) = read("/proc/stat").and_then(|t| host::cpu_ticks(&t)) {
        // Both are counters of one clock: used share = growth of busy / growth of total.
        let total = take.grown("cpu_total_ticks", "", ticks.total, 0);
        let busy = take.grown("cpu_busy_ticks", "", ticks.busy, 0);
        if let (Some((busy, _)), Some((total, _))) = (busy, total) {
            if total > 0.0 {
                take.value("cpu_used_pct", "", (100.0 * busy / total).clamp(0.0, 100.0));
            }
        }
    }
    take.measured("load_1min", "", read("/proc/loadavg").and_then(|t| host::load_1min(&t)));
    if let Some(text) = read("/proc/meminfo") {
        take.measured("memory_total_bytes", "", host::meminfo_bytes(&text, "MemTotal"));
        take.measured("memory_available_bytes", "", host::meminfo_bytes(&text, "MemAvailable"));
    }
    for (metric, file) in [
        ("pressure_cpu_pct", "/proc/pressure/cpu"),
        ("pressure_memory_pct", "/proc/pressure/memory"),
        ("pressure_io_pct", "/proc/pressure/io"),
    ] {
        take.measured(metric, "", read(file).and_then(|t| host::pressure_some_60s(&t)));
    }
}

/// Limits and use of the cgroup the server runs in.
pub fn cgroup(take: &mut Take) {
    let Some(text) = read("/proc/self/cgroup") else { return };
    let Some(path) = host::cgroup_path(&text) else { return };
    let file = |name: &str| read(&format!("{CGROUP_ROOT}{}/{name}", path.trim_end_matches('/')));
    if let Some(text) = file("cpu.stat") {
        if let Some(usage_us) = host::keyed(&text, "usage_usec") {
            let cores = take.rate("cgroup_cpu_cores", "", usage_us / 1e6, 0);
            take.measured("cgroup_cpu_cores", "", cores);
        }
        if let Some(throttled_us) = host::keyed(&text, "throttled_usec") {
            let share = take.rate("cgroup_throttled_pct", "", throttled_us / 1e6, 0);
            take.measured("cgroup_throttled_pct", "", share.map(|s| 100.0 * s));
        }
    }
    take.measured("cgroup_cpu_limit_cores", "", file("cpu.max").and_then(|t| host::cpu_max(&t)));
    take.measured("cgroup_memory_bytes", "", file("memory.current").and_then(|t| host::single(&t)));
    take.measured("cgroup_memory_limit_bytes", "", file("memory.max").and_then(|t| host::single(&t)));
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}
