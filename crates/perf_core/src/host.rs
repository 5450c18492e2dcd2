//! Reads the text files by which Linux tells about the host: /proc and cgroup v2. Pure parsing; a field that is not there
//! is None, never zero.

/// CPU time of all processors together since the host started, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuTicks {
    /// Neither idle nor waiting for I/O.
    pub busy: f64,
    /// All.
    pub total: f64,
}

/// The first line of /proc/stat.
pub fn cpu_ticks(proc_stat: &str) -> Option<CpuTicks> {
    let line = proc_stat.lines().find(|l| l.starts_with("cpu "))?;
    // user nice system idle iowait irq softirq steal; guest times are contained in user and nice.
    let ticks: Vec<f64> = line.split_ascii_whitespace().skip(1).take(8).map_while(|f| f.parse().ok()).collect();
    let (&idle, total) = (ticks.get(3)?, ticks.iter().sum::<f64>());
    let waiting = ticks.get(4).copied().unwrap_or(0.0);
    Some(CpuTicks { busy: total - idle - waiting, total })
}

/// A field of /proc/meminfo in bytes.
pub fn meminfo_bytes(meminfo: &str, field: &str) -> Option<f64> {
    let rest = meminfo.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: f64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// The load average of the last minute in /proc/loadavg.
pub fn load_1min(loadavg: &str) -> Option<f64> {
    loadavg.split_ascii_whitespace().next()?.parse().ok()
}

/// A counter of a flat keyed file such as cpu.stat of a cgroup.
pub fn keyed(text: &str, key: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A file with one number; `max` (no limit) is None.
pub fn single(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|v: &f64| v.is_finite())
}

/// Processors a cgroup may use: quota / period of cpu.max. None without a limit.
pub fn cpu_max(text: &str) -> Option<f64> {
    let mut fields = text.split_ascii_whitespace();
    let (quota, period): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (period > 0.0 && quota.is_finite()).then_some(quota / period)
}

/// Share of the last minute in percent in which some task waited: `some avg60` of a pressure file.
pub fn pressure_some_60s(text: &str) -> Option<f64> {
    let line = text.lines().find(|l| l.starts_with("some "))?;
    line.split_ascii_whitespace().find_map(|f| f.strip_prefix("avg60=")?.parse().ok())
}

/// Path of the cgroup v2 directory of a process, from /proc/self/cgroup, below the mount point.
pub fn cgroup_path(proc_cgroup: &str) -> Option<&str> {
    let path = proc_cgroup.lines().find_map(|l| l.strip_prefix("0::"))?.trim();
    // A path outside of the namespace's root begins with /..: nothing of ours is there.
    (path.starts_with('/') && !path.split('/').any(|part| part == "..")).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_linux_writes() {
        let stat = "cpu  100 10 50 800 40 5 5 0 7 0\ncpu0 1 1 1 1\nintr 5\n";
        assert_eq!(cpu_ticks(stat), Some(CpuTicks { busy: 170.0, total: 1010.0 }));
        assert_eq!(meminfo_bytes("MemTotal:  2048 kB\nMemAvailable: 1 kB\n", "MemTotal"), Some(2_097_152.0));
        assert_eq!(load_1min("0.52 0.58 0.59 1/467 12345\n"), Some(0.52));
        assert_eq!(keyed("usage_usec 12\nnr_throttled 3\n", "nr_throttled"), Some(3.0));
        assert_eq!((single("12345\n"), single("max\n")), (Some(12345.0), None));
        assert_eq!((cpu_max("150000 100000\n"), cpu_max("max 100000\n")), (Some(1.5), None));
        let pressure =
            "some avg10=0.00 avg60=1.25 avg300=0.10 total=1\nfull avg10=0.00 avg60=0.50 avg300=0.00 total=1\n";
        assert_eq!(pressure_some_60s(pressure), Some(1.25));
        assert_eq!(cgroup_path("12:cpu:/x\n0::/system.slice/pg.service\n"), Some("/system.slice/pg.service"));
        assert_eq!(cgroup_path("0::/../../etc\n"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics_on_any_text(text in ".{0,200}") {
            let _ = (cpu_ticks(&text), meminfo_bytes(&text, "MemTotal"), load_1min(&text), keyed(&text, "a"));
            let _ = (single(&text), cpu_max(&text), pressure_some_60s(&text), cgroup_path(&text));
            let _ = cpu_ticks(&format!("cpu {text}"));
        }
    }
}
