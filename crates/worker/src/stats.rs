//! Measures CPU, memory, load and disk of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gaffer_domain::quantity::Bytes;
use gaffer_protocol::wire::MachineStats;
use nix::sys::statvfs::statvfs;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::blocking::NoAnswer;

/// Time that all processors together have spent, in clock ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTimes {
    idle: u64,
    total: u64,
}

/// Number of OOM kills since boot, in all cgroups.
pub(crate) fn oom_kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub total: u64,
    pub available: u64,
}

/// Room on a file system in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub total: u64,
    pub used: u64,
    /// Free space for users other than root.
    pub available: u64,
}

/// How long a reading waits for the disk; then it has the state of the reading before.
const DISK_PATIENCE: Duration = Duration::from_secs(1);

/// Reads the machine's state; remembers the last reading, for the use of the processors is what lies between two.
pub(crate) struct StatsReader {
    disk: DiskWatch,
    last: Option<CpuTimes>,
}

/// Measures a disk that may not respond. At most one measurement is in progress.
pub(crate) struct DiskWatch {
    path: PathBuf,
    looking: Option<JoinHandle<Option<Disk>>>,
    latest: Option<Disk>,
}

impl DiskWatch {
    /// For the file system that holds `path`.
    pub fn new(path: &Path) -> DiskWatch {
        DiskWatch { path: path.to_owned(), looking: None, latest: None }
    }

    /// The present state; none if it cannot be measured. An error if there is no result in that time.
    pub async fn look(&mut self, limit: Duration) -> Result<Option<Disk>, NoAnswer> {
        let mut looking = self.looking.take().unwrap_or_else(|| {
            let path = self.path.clone();
            tokio::task::spawn_blocking(move || disk(&path))
        });
        match timeout(limit, &mut looking).await {
            Ok(looked) => {
                self.latest = looked.unwrap_or_default();
                Ok(self.latest)
            }
            Err(_) => {
                self.looking = Some(looking);
                Err(NoAnswer)
            }
        }
    }
}

impl StatsReader {
    /// For this machine and the file system that holds `disk_path`.
    pub fn new(disk_path: &Path) -> StatsReader {
        StatsReader { disk: DiskWatch::new(disk_path), last: None }
    }

    /// The present state. What cannot be read counts as 0: a worker without statistics is still a worker.
    pub async fn read(&mut self) -> MachineStats {
        let now = fs::read_to_string("/proc/stat").ok().as_deref().and_then(cpu_times);
        let cpu = match (self.last, now) {
            (Some(last), Some(now)) => Some(cpu_use(last, now)),
            _ => None,
        };
        self.last = now;
        let memory = memory().unwrap_or(Memory { total: 0, available: 0 });
        let disk = self.disk.look(DISK_PATIENCE).await.unwrap_or(self.disk.latest);
        let disk = disk.unwrap_or(Disk { total: 0, used: 0, available: 0 });
        MachineStats {
            cpu,
            memory_used: Bytes(memory.total.saturating_sub(memory.available)),
            memory_total: Bytes(memory.total),
            load: fs::read_to_string("/proc/loadavg").ok().as_deref().and_then(load).unwrap_or_default(),
            disk_used: Bytes(disk.used),
            disk_total: Bytes(disk.total),
        }
    }
}

/// The machine's memory; none if the kernel does not say.
pub(crate) fn memory() -> Option<Memory> {
    meminfo(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// Room on the file system that holds `path`; none if it cannot be asked. Blocks.
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let stat = statvfs(path).ok()?;
    // The fields are narrower on some machines.
    #[allow(clippy::useless_conversion)]
    let bytes = |blocks: u64| blocks.saturating_mul(u64::from(stat.fragment_size()));
    #[allow(clippy::useless_conversion)]
    let (all, free, available) =
        (u64::from(stat.blocks()), u64::from(stat.blocks_free()), u64::from(stat.blocks_available()));
    Some(Disk { total: bytes(all), used: bytes(all.saturating_sub(free)), available: bytes(available) })
}

/// The first line of /proc/stat: idle = idle + iowait; busy = user + nice + system + irq + softirq + steal. Guest
/// times are part of user times.
fn cpu_times(stat: &str) -> Option<CpuTimes> {
    let mut fields = stat.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let mut times = [0_u64; 8];
    for (at, time) in times.iter_mut().enumerate() {
        match fields.next() {
            Some(field) => *time = field.parse().ok()?,
            // Old kernels have no steal; all have the first four.
            None if at >= 4 => break,
            None => return None,
        }
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = times;
    let idle = idle + iowait;
    Some(CpuTimes { idle, total: idle + user + nice + system + irq + softirq + steal })
}

/// The busy share of the time between two readings, 0 to 1; 0 if nothing moved. iowait may go back.
fn cpu_use(last: CpuTimes, now: CpuTimes) -> f64 {
    let total = now.total.saturating_sub(last.total);
    let idle = now.idle.saturating_sub(last.idle).min(total);
    if total == 0 { 0.0 } else { (total - idle) as f64 / total as f64 }
}

/// /proc/meminfo. Kernels before 3.14 do not report available memory; free memory is the closest value.
fn meminfo(text: &str) -> Option<Memory> {
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let total = kib("MemTotal")?;
    let available = kib("MemAvailable").or_else(|| kib("MemFree"))?;
    Some(Memory { total: total * 1024, available: available * 1024 })
}

/// /proc/loadavg.
fn load(text: &str) -> Option<[f64; 3]> {
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse::<f64>().ok());
    Some([fields.next()??, fields.next()??, fields.next()??])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn cpu_times_count_iowait_as_idle_and_leave_guests_out() {
        let times = cpu_times("cpu  10 1 5 100 20 2 3 4 7 8\ncpu0 1 1 1 1 1 1 1 1 1 1\n").unwrap();
        assert_eq!(times, CpuTimes { idle: 120, total: 145 });
        assert_eq!(cpu_times("cpu  10 1 5 100\n").unwrap(), CpuTimes { idle: 100, total: 116 });
        assert_eq!(cpu_times("cpu  10 1 5\n"), None);
        assert_eq!(cpu_times("intr 10 1 5 100\n"), None);
        assert_eq!(cpu_times("cpu  10 x 5 100\n"), None);
        assert_eq!(cpu_times(""), None);
    }

    #[test]
    fn cpu_use_is_the_busy_share_between_two_readings() {
        let at = |idle, total| CpuTimes { idle, total };
        assert_eq!(cpu_use(at(100, 200), at(150, 300)), 0.5);
        assert_eq!(cpu_use(at(100, 200), at(100, 200)), 0.0, "nothing moved");
        assert_eq!(cpu_use(at(100, 200), at(90, 210)), 1.0, "iowait went back");
        assert_eq!(cpu_use(at(0, 0), at(10, 10)), 0.0);
    }

    #[test]
    fn meminfo_is_in_bytes() {
        let text = "MemTotal:       24638048 kB\nMemFree:        100 kB\nMemAvailable:   200 kB\n";
        assert_eq!(meminfo(text).unwrap(), Memory { total: 24_638_048 << 10, available: 200 << 10 });
        let old = "MemTotal: 8 kB\nMemFree: 4 kB\n";
        assert_eq!(meminfo(old).unwrap(), Memory { total: 8 << 10, available: 4 << 10 });
        assert_eq!(meminfo("MemFree: 4 kB\n"), None);
        assert_eq!(meminfo("MemTotal: many kB\nMemFree: 4 kB\n"), None);
    }

    #[test]
    fn load_has_three_numbers() {
        assert_eq!(load("0.52 0.58 1.59 1/389 12345\n"), Some([0.52, 0.58, 1.59]));
        assert_eq!(load("0.52 0.58"), None);
        assert_eq!(load("a b c"), None);
    }

    #[tokio::test]
    async fn this_machine_can_be_read() {
        let mut reader = StatsReader::new(Path::new("/"));
        assert_eq!(reader.read().await.cpu, None, "one reading says nothing");
        crate::tests::master::soon("a look at the disk", reader.disk.look(Duration::MAX)).await.unwrap();
        let stats = reader.read().await;
        assert!(stats.cpu.is_some_and(|cpu| (0.0..=1.0).contains(&cpu)));
        assert!(stats.memory_total.0 > stats.memory_used.0 && stats.memory_used.0 > 0);
        assert!(stats.disk_total.0 >= stats.disk_used.0 && stats.disk_total.0 > 0);
    }
}
