//! Measures the host every five minutes: disks, processors, memory, pressure, cgroup. Reads small text files of /proc and
//! /sys and asks for free space; what a host does not have is simply not measured. Called by the sampler, and by whoever
//! asks for the number of cores; takes no lock.

use super::sampler::Take;
use crate::pg::filesystem;
use perf_core::host;

/// Object and path of the data directory, of WAL and of each tablespace (oid, name).
pub fn places(tablespaces: Vec<(u32, String)>) -> Vec<(String, String)> {
    let mut places = vec![("data".to_owned(), ".".to_owned()), ("wal".to_owned(), "pg_wal".to_owned())];
    places.extend(tablespaces.iter().map(|(oid, name)| (format!("tablespace:{name}"), format!("pg_tblspc/{oid}"))));
    places
}

/// Free and used space of the filesystems of the places.
pub fn disks(take: &mut Take, tablespaces: Vec<(u32, String)>) {
    for (object, path) in places(tablespaces) {
        if let Some(space) = filesystem::space(&path) {
            take.value("disk_used_bytes", &object, space.used_bytes);
            take.value("disk_available_bytes", &object, space.available_bytes);
        }
    }
}

/// Load and memory of the host; use and limits of the cgroup the server runs in; processors, as far as the server may use
/// them; and who waits for what, in the cgroup, or else on the host.
pub fn machine(take: &mut Take) {
    let stat = read("/proc/stat");
    let ticks = stat.as_deref().and_then(host::cpu_ticks).and_then(|ticks| {
        // Both are counters of one clock: used share = growth of busy / growth of total.
        let total = take.grown("cpu_total_ticks", "", ticks.total, 0);
        let busy = take.grown("cpu_busy_ticks", "", ticks.busy, 0);
        Some((busy?.0, total?.0))
    });
    let cgroup = host::cgroup(read);
    let cores = cgroup.cpu_s.and_then(|cpu_s| take.rate("cgroup_cpu_cores", "", cpu_s, 0));
    let cpus = stat.as_deref().and_then(host::cpus);
    take.measured("cpu_used_pct", "", host::cpu_used_pct(ticks, cpus, cores, cgroup.cpu_limit_cores));
    take.measured("load_1min", "", read("/proc/loadavg").and_then(|t| host::load_1min(&t)));
    if let Some(text) = read("/proc/meminfo") {
        take.measured("memory_total_bytes", "", host::meminfo_bytes(&text, "MemTotal"));
        take.measured("memory_available_bytes", "", host::meminfo_bytes(&text, "MemAvailable"));
    }
    take.measured("cgroup_cpu_cores", "", cores);
    let throttled = cgroup.throttled_s.and_then(|s| take.rate("cgroup_throttled_pct", "", s, 0));
    take.measured("cgroup_throttled_pct", "", throttled.map(|share| 100.0 * share));
    take.measured("cgroup_cpu_limit_cores", "", cgroup.cpu_limit_cores);
    take.measured("cgroup_memory_bytes", "", cgroup.memory_bytes);
    take.measured("cgroup_memory_limit_bytes", "", cgroup.memory_limit_bytes);
    for (metric, of_cgroup, file) in [
        ("pressure_cpu_pct", cgroup.pressure_cpu_pct, "/proc/pressure/cpu"),
        ("pressure_memory_pct", cgroup.pressure_memory_pct, "/proc/pressure/memory"),
        ("pressure_io_pct", cgroup.pressure_io_pct, "/proc/pressure/io"),
    ] {
        take.measured(metric, "", of_cgroup.or_else(|| host::pressure_some_60s(&read(file)?)));
    }
}

/// Processors that the server may use: those of the host, or what its cgroup leaves it. None where neither is known.
pub fn cores() -> Option<u32> {
    let cpus = read("/proc/stat").and_then(|text| host::cpus(&text));
    let limit = host::cgroup(read).cpu_limit_cores.map(|cores| (cores.ceil() as u32).max(1));
    cpus.into_iter().chain(limit).min()
}

/// The same; where neither is known, those that this process may run on.
pub fn cores_or_own() -> u32 {
    let own = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    cores().unwrap_or_else(own)
}

/// Memory that the server may use, in bytes: that of the host, or what its cgroup leaves it. None where neither is known.
pub fn memory_bytes() -> Option<f64> {
    let total = read("/proc/meminfo").and_then(|text| host::meminfo_bytes(&text, "MemTotal"));
    total.into_iter().chain(host::cgroup(read).memory_limit_bytes).reduce(f64::min)
}

/// A file of the host, below `perf_opt.host_root`.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(format!("{}{path}", crate::guc::host_root())).ok()
}
