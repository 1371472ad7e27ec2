//! The memory of the measured master: from the kernel where its process is ours, else from its metrics.

use std::time::Duration;

use tokio::time::sleep;

use super::Bench;
use super::installation::Installation;
use super::processes::resident_kib;
use crate::client::Query;
use crate::failure::Failure;

/// The metric that all programs have for it.
const METRIC: &str = "process_resident_memory_bytes";
/// How often it is looked at.
const OF_PROCESS: Duration = Duration::from_millis(50);
const BY_METRICS: Duration = Duration::from_millis(500);

/// Where it can be read.
pub enum MasterMemory<'a> {
    /// A scratch installation: master and agent are one process.
    Process(u32),
    Metrics(&'a Installation),
}

impl<'a> MasterMemory<'a> {
    pub fn of(bench: &Bench<'a>) -> MasterMemory<'a> {
        match bench.scratch.and_then(super::scratch::Scratch::pid) {
            Some(pid) => MasterMemory::Process(pid),
            None => MasterMemory::Metrics(bench.installation),
        }
    }

    /// What is in use now, in MiB.
    ///
    /// # Errors
    /// Errors of the API, most often because the key may not read metrics; [`Failure::Local`] if neither it nor the system tells.
    pub async fn mebibytes(&self) -> Result<f64, Failure> {
        let bytes = match self {
            MasterMemory::Process(pid) => resident_kib(*pid).map(|kib| kib * 1024.0),
            MasterMemory::Metrics(installation) => {
                value(&installation.client.get(&["metrics"], &Query::new()).await?.text()?)
            }
        };
        let unknown = || Failure::Local("nothing tells the memory of the master".to_owned());
        bytes.map(|bytes| bytes / f64::from(1 << 20)).ok_or_else(unknown)
    }

    /// Does some work; returns also the highest value of that time.
    ///
    /// # Errors
    /// The second value: as [`MasterMemory::mebibytes`].
    pub async fn highest_during<T>(&self, work: impl Future<Output = T>) -> (T, Result<f64, Failure>) {
        let pause = match self {
            MasterMemory::Process(_) => OF_PROCESS,
            MasterMemory::Metrics(_) => BY_METRICS,
        };
        highest_during(async || self.mebibytes().await, pause, work).await
    }
}

/// Reads once before the work, and again and again beside it: the work does not wait for a reading.
async fn highest_during<T>(
    read: impl AsyncFn() -> Result<f64, Failure>,
    pause: Duration,
    work: impl Future<Output = T>,
) -> (T, Result<f64, Failure>) {
    let mut work = std::pin::pin!(work);
    let mut highest = read().await;
    loop {
        let reading = async {
            sleep(pause).await;
            read().await
        };
        tokio::select! {
            done = &mut work => return (done, highest),
            // One reading that fails does not matter.
            now = reading => if let (Ok(before), Ok(now)) = (&mut highest, now) {
                *before = before.max(now);
            },
        }
    }
}

/// The value in the text of all metrics.
fn value(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(METRIC)?.strip_prefix(' '))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn work_does_not_wait_until_memory_was_read() {
        let (readings, reading) = (Cell::new(0), Notify::new());
        let read = async || {
            readings.set(readings.get() + 1);
            match readings.get() {
                1 => Ok(3.0),
                2 => Ok(5.0),
                3 => Err(Failure::Local("not now".to_owned())),
                _ => {
                    reading.notify_one();
                    std::future::pending().await
                }
            }
        };
        // It ends only after a reading has begun that never ends.
        let work = async {
            reading.notified().await;
            "done"
        };
        let (done, highest) = highest_during(read, Duration::ZERO, work).await;
        assert_eq!((done, highest.ok()), ("done", Some(5.0)));
    }

    #[tokio::test]
    async fn memory_is_read_from_metrics_and_from_the_kernel() {
        let text =
            "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 1048576\n# EOF\n";
        assert_eq!(value(text), Some(1_048_576.0));
        assert_eq!(value("process_resident_memory_bytes_other 1\n"), None);
        let own = MasterMemory::Process(std::process::id());
        let (done, highest) = own.highest_during(std::future::ready(7)).await;
        assert_eq!(done, 7);
        assert!(highest.is_ok_and(|mebibytes| mebibytes > 0.0));
    }
}
