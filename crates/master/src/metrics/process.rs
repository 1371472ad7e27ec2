//! This process, by the names that all programs have for it, and its version.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use gaffer_protocol::wire::PROTOCOL_VERSION;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};

use super::registrar::{FloatGauge, Gauge, Label, Registrar, SecondsCounter};

const VERSION: Label = Label::new("version", "version of the program");
const MICROS_PER_SEC: f64 = 1_000_000.0;

#[derive(Debug, Clone)]
pub struct ProcessMetrics {
    cpu: SecondsCounter,
    memory: Gauge,
    open_files: Gauge,
    most_files: Gauge,
}

impl ProcessMetrics {
    pub fn register(registrar: &mut Registrar) -> ProcessMetrics {
        let version = [(VERSION, env!("CARGO_PKG_VERSION"))];
        registrar.info("gaffer_build_info", version, "Version of this master");
        let protocol: Gauge =
            registrar.gauge("gaffer_protocol_version", "Version of the protocol that workers must speak");
        protocol.set(PROTOCOL_VERSION.into());
        let started: FloatGauge =
            registrar.float_gauge("process_start_time_seconds", "When the master was started");
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        ProcessMetrics {
            cpu: registrar.seconds_counter(
                "process_cpu_seconds_total",
                "Processor time of the master, without that of Postgres",
            ),
            memory: registrar.gauge("process_resident_memory_bytes", "Resident memory of the master"),
            open_files: registrar.gauge("process_open_fds", "Open files, with connections"),
            most_files: registrar.gauge("process_max_fds", "Limit on open files"),
        }
    }

    /// Asks the kernel.
    pub fn look(&self) {
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let times = [usage.user_time(), usage.system_time()];
            let seconds: f64 =
                times.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / MICROS_PER_SEC).sum();
            // Two readers may be here at once; neither takes it back.
            let earlier = self.cpu.get();
            if seconds > earlier {
                self.cpu.inner().store(seconds.to_bits(), Ordering::Relaxed);
            }
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(kib) = resident_kib(&status) {
            self.memory.set(kib.saturating_mul(1_024));
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            self.open_files.set(i64::try_from(files.count()).unwrap_or(i64::MAX));
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            self.most_files.set(i64::try_from(soft).unwrap_or(i64::MAX));
        }
    }
}

fn resident_kib(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status_of_the_process() {
        let status = "Name:\tgaffer\nVmPeak:\t  200000 kB\nVmRSS:\t   40960 kB\nThreads:\t9\n";
        assert_eq!(resident_kib(status), Some(40_960));
        assert_eq!(resident_kib("Name:\tgaffer\n"), None);
    }
}
