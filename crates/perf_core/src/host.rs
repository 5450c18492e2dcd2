//! Reads the text files by which Linux tells about the host and the container: /proc, cgroup v2, and v1 where that is what
//! there is. Pure: files come through a closure; a field that is not there is None, never zero.

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

/// Share in percent of the processors a server may use that were busy: those of its cgroup where that has fewer than the
/// host, else those of the host, whoever used them. None where what counts is not known.
///
/// `host` is the growth of busy and of all ticks, `cores_used` are those the cgroup used over the same time.
pub fn cpu_used_pct(
    host: Option<(f64, f64)>,
    cpus: Option<u32>,
    cores_used: Option<f64>,
    limit_cores: Option<f64>,
) -> Option<f64> {
    let limit = limit_cores.filter(|limit| cpus.is_none_or(|cpus| *limit < f64::from(cpus)));
    let (used, all) = match limit {
        Some(limit) => (cores_used?, limit),
        None => host?,
    };
    (all > 0.0).then(|| (100.0 * used / all).clamp(0.0, 100.0))
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

/// Processors of the host in /proc/stat; None when it lists none.
pub fn cpus(proc_stat: &str) -> Option<u32> {
    let is_cpu = |l: &&str| l.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    u32::try_from(proc_stat.lines().filter(is_cpu).count()).ok().filter(|n| *n > 0)
}

/// Path of a cgroup v1 controller's directory of a process, from /proc/self/cgroup, below the controller's mount point.
pub fn cgroup_v1_path<'a>(proc_cgroup: &'a str, controller: &str) -> Option<&'a str> {
    let path = proc_cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers.split(',').any(|one| one == controller).then_some(path.trim())
    })?;
    (path.starts_with('/') && !path.split('/').any(|part| part == "..")).then_some(path)
}

/// What is known of the cgroup of a process. Pressure is the share of the last minute in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cgroup {
    /// CPU time used, a counter in seconds.
    pub cpu_s: Option<f64>,
    /// Time in which it was not let run, a counter in seconds.
    pub throttled_s: Option<f64>,
    /// Processors it may use. None: no limit.
    pub cpu_limit_cores: Option<f64>,
    /// Memory in use.
    pub memory_bytes: Option<f64>,
    /// Memory it may use. None: no limit.
    pub memory_limit_bytes: Option<f64>,
    /// Some task waited for a processor.
    pub pressure_cpu_pct: Option<f64>,
    /// Some task waited for memory.
    pub pressure_memory_pct: Option<f64>,
    /// Some task waited for I/O.
    pub pressure_io_pct: Option<f64>,
}

/// Where cgroups are mounted on every common distribution and in containers.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// cgroup v1 writes a number near the largest one where there is no limit.
const NO_LIMIT_BYTES: f64 = (1u64 << 60) as f64;

/// What the cgroup of this process says of it; `read` gives the text of a file by its path.
///
/// A limit may be set at any level above, and the lowest one holds. In a container the directory of the path may not be
/// there, since the container sees its own as the root.
pub fn cgroup(read: impl Fn(&str) -> Option<String>) -> Cgroup {
    let Some(of_process) = read("/proc/self/cgroup") else { return Cgroup::default() };
    let v2 = cgroup_path(&of_process).map(|path| cgroup_v2(&read, path)).unwrap_or_default();
    if v2 != Cgroup::default() {
        return v2;
    }
    cgroup_v1(&read, &of_process)
}

/// The directories of a path and of all above it, nearest first, below `root`.
fn upwards<'a>(root: &'a str, path: &'a str) -> impl Iterator<Item = String> + 'a {
    let path = path.trim_end_matches('/');
    let ends = path.char_indices().rev().filter(|(_, c)| *c == '/').map(|(at, _)| at);
    std::iter::once(path.len()).chain(ends).map(move |end| format!("{root}{}", &path[..end]))
}

fn least(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.filter(|v| *v > 0.0).min_by(f64::total_cmp)
}

fn cgroup_v2(read: &impl Fn(&str) -> Option<String>, path: &str) -> Cgroup {
    let nearest = |name: &str| upwards(CGROUP_ROOT, path).find_map(|dir| read(&format!("{dir}/{name}")));
    let all = |name: &str| {
        let files: Vec<String> = upwards(CGROUP_ROOT, path).filter_map(|dir| read(&format!("{dir}/{name}"))).collect();
        files.into_iter()
    };
    let cpu = nearest("cpu.stat");
    let microseconds = |key: &str| Some(keyed(cpu.as_deref()?, key)? / 1e6);
    let pressure = |name: &str| nearest(name).and_then(|t| pressure_some_60s(&t));
    Cgroup {
        cpu_s: microseconds("usage_usec"),
        throttled_s: microseconds("throttled_usec"),
        cpu_limit_cores: least(all("cpu.max").filter_map(|t| cpu_max(&t))),
        memory_bytes: nearest("memory.current").and_then(|t| single(&t)),
        memory_limit_bytes: least(all("memory.max").filter_map(|t| single(&t))),
        pressure_cpu_pct: pressure("cpu.pressure"),
        pressure_memory_pct: pressure("memory.pressure"),
        pressure_io_pct: pressure("io.pressure"),
    }
}

fn cgroup_v1(read: &impl Fn(&str) -> Option<String>, of_process: &str) -> Cgroup {
    let dirs = |controller: &str| -> Vec<String> {
        let Some(path) = cgroup_v1_path(of_process, controller) else { return Vec::new() };
        upwards(&format!("{CGROUP_ROOT}/{controller}"), path).collect()
    };
    let nearest = |controller: &str, name: &str| dirs(controller).iter().find_map(|dir| read(&format!("{dir}/{name}")));
    let quota = |dir: &String| {
        let number = |name: &str| read(&format!("{dir}/{name}")).and_then(|t| single(&t));
        let (quota, period) = (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?);
        // Without a limit the quota is -1.
        (quota > 0.0 && period > 0.0).then_some(quota / period)
    };
    let memory_limit = |dir: &String| {
        let limit = single(&read(&format!("{dir}/memory.limit_in_bytes"))?)?;
        (limit < NO_LIMIT_BYTES).then_some(limit)
    };
    Cgroup {
        cpu_s: nearest("cpuacct", "cpuacct.usage").and_then(|t| Some(single(&t)? / 1e9)),
        throttled_s: nearest("cpu", "cpu.stat").and_then(|t| Some(keyed(&t, "throttled_time")? / 1e9)),
        cpu_limit_cores: least(dirs("cpu").iter().filter_map(quota)),
        memory_bytes: nearest("memory", "memory.usage_in_bytes").and_then(|t| single(&t)),
        memory_limit_bytes: least(dirs("memory").iter().filter_map(memory_limit)),
        ..Cgroup::default()
    }
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

    fn files<'a>(known: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |path| known.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
    }

    #[test]
    fn a_limit_above_holds_and_a_missing_directory_is_the_containers_root() {
        let pressure = "some avg10=0.00 avg60=2.50 avg300=0.00 total=1\n";
        let nested = [
            ("/proc/self/cgroup", "0::/a.slice/b.service\n"),
            ("/sys/fs/cgroup/a.slice/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/a.slice/b.service/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/a.slice/b.service/cpu.stat", "usage_usec 3000000\nthrottled_usec 500000\n"),
            ("/sys/fs/cgroup/a.slice/b.service/memory.current", "4096\n"),
            ("/sys/fs/cgroup/a.slice/b.service/memory.max", "9000\n"),
            ("/sys/fs/cgroup/a.slice/memory.max", "8192\n"),
            ("/sys/fs/cgroup/a.slice/b.service/io.pressure", pressure),
        ];
        let found = cgroup(files(&nested));
        assert_eq!((found.cpu_s, found.throttled_s, found.cpu_limit_cores), (Some(3.0), Some(0.5), Some(1.5)));
        assert_eq!((found.memory_bytes, found.memory_limit_bytes), (Some(4096.0), Some(8192.0)));
        assert_eq!((found.pressure_io_pct, found.pressure_cpu_pct), (Some(2.5), None));
        let contained = [("/proc/self/cgroup", "0::/docker/abc\n"), ("/sys/fs/cgroup/cpu.max", "50000 100000\n")];
        assert_eq!(cgroup(files(&contained)).cpu_limit_cores, Some(0.5));
        assert_eq!(cgroup(files(&[])), Cgroup::default());
        assert_eq!(cgroup(files(&[("/proc/self/cgroup", "0::/../x\n")])), Cgroup::default());
    }

    #[test]
    fn version_1_is_read_where_it_is_what_there_is() {
        let known = [
            ("/proc/self/cgroup", "12:memory:/x/y\n4:cpu,cpuacct:/x\n1:name=systemd:/\n0::/\n"),
            ("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu/x/cpu.stat", "nr_periods 1\nnr_throttled 0\nthrottled_time 2000000000\n"),
            ("/sys/fs/cgroup/cpuacct/x/cpuacct.usage", "7000000000\n"),
            ("/sys/fs/cgroup/memory/x/y/memory.usage_in_bytes", "100\n"),
            ("/sys/fs/cgroup/memory/x/y/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        let want = Cgroup {
            cpu_s: Some(7.0),
            throttled_s: Some(2.0),
            cpu_limit_cores: Some(2.5),
            memory_bytes: Some(100.0),
            ..Cgroup::default()
        };
        assert_eq!(cgroup(files(&known)), want);
        assert_eq!(cgroup_v1_path("4:cpu,cpuacct:/x\n", "acct"), None);
    }

    #[test]
    fn what_a_cgroup_may_use_counts_where_it_is_less_than_the_host() {
        let busy_host = Some((90.0, 100.0));
        assert_eq!(cpu_used_pct(busy_host, Some(64), Some(0.1), Some(2.0)), Some(5.0));
        assert_eq!(cpu_used_pct(Some((3.0, 100.0)), Some(64), Some(2.02), Some(2.0)), Some(100.0));
        assert_eq!(cpu_used_pct(busy_host, Some(64), Some(0.1), None), Some(90.0));
        assert_eq!(cpu_used_pct(busy_host, Some(2), Some(0.1), Some(4.0)), Some(90.0));
        assert_eq!(cpu_used_pct(busy_host, Some(64), None, Some(2.0)), None);
        assert_eq!(cpu_used_pct(None, None, Some(1.0), Some(2.0)), Some(50.0));
        assert_eq!(cpu_used_pct(Some((0.0, 0.0)), Some(1), None, None), None);
    }

    #[test]
    fn processors_are_counted() {
        assert_eq!(cpus("cpu  1 2 3\ncpu0 1\ncpu1 1\ncpufreq 3\nintr 1\n"), Some(2));
        assert_eq!(cpus("cpu  1 2 3\n"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics_on_any_file(path in "[/a.]{0,8}", text in ".{0,80}") {
            let _ = cgroup(|name| Some(if name.ends_with("self/cgroup") { format!("0::{path}\n1:cpu:{path}") } else { text.clone() }));
            let _ = cgroup(|name| name.ends_with("self/cgroup").then(|| text.clone()));
            let _ = cpus(&text);
        }

        #[test]
        fn nothing_panics_on_any_text(text in ".{0,200}") {
            let _ = (cpu_ticks(&text), meminfo_bytes(&text, "MemTotal"), load_1min(&text), keyed(&text, "a"));
            let _ = (single(&text), cpu_max(&text), pressure_some_60s(&text), cgroup_path(&text));
            let _ = cpu_ticks(&format!("cpu {text}"));
        }
    }
}
