#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::metrics::Metrics;
use crate::metrics::text::Format;

/// Fails on its first run, has more to do after its second, and nothing after that.
struct Example {
    runs: Arc<AtomicU32>,
    wake: Wake,
}

impl Background for Example {
    const NAME: &'static str = "example";
    const DESCRIPTION: &'static str = "does nothing in particular";

    fn period(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    fn wake(&self) -> Option<Wake> {
        Some(self.wake.clone())
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        match self.runs.fetch_add(1, Ordering::SeqCst) {
            0 => Err(StoreError::Unreadable("a mess".to_owned())),
            1 => Ok(Ran { done: 7, again_after: Some(Duration::ZERO) }),
            _ => Ok(Ran::default()),
        }
    }
}

#[tokio::test]
async fn a_loop_tries_again_goes_on_and_can_be_woken_and_its_status_tells() {
    let (runs, wake) = (Arc::new(AtomicU32::new(0)), Wake::default());
    let (metrics, shutdown) = (Metrics::default(), CancellationToken::new());
    let statuses = Statuses::new(metrics.loops.clone());
    let task = statuses.start(Example { runs: runs.clone(), wake: wake.clone() }, shutdown.clone());
    let ran = async |count: u64| {
        let looking = async {
            loop {
                let (_, status) = statuses.all().into_iter().next().unwrap();
                if status.runs >= count {
                    return (status.last.unwrap().result, status.failing_since.is_some());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), looking).await.expect("the loop runs again")
    };
    let (result, is_failing) = ran(1).await;
    assert!(result.unwrap_err().contains("a mess") && is_failing);
    // The second run says that there is more to do, so the third follows at once.
    assert_eq!(ran(3).await, (Ok(0), false));
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    wake.call();
    assert_eq!(ran(4).await, (Ok(0), false));
    shutdown.cancel();
    task.await.unwrap();
    let text = metrics.text(Format::OpenMetrics);
    for line in [
        "gaffer_loop_runs_total{loop=\"example\",result=\"error\"} 1",
        "gaffer_loop_processed_total{loop=\"example\"} 7",
        "gaffer_loop_failing{loop=\"example\"} 0",
        "gaffer_loop_period_seconds{loop=\"example\"} 3600.0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
    }
}
