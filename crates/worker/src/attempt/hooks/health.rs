//! Hook: repeats the health checks of a task beside it, and reports each result.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::future::BoxFuture;
use gaffer_domain::health::{CheckKind, Health, HealthState, Outcome};
use gaffer_domain::spec::{HealthCheck, PortProtocol, Probe};
use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::health::{CheckResult, Checked};
use gaffer_protocol::wire::{Ended, PublishedPort};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::super::probe::{Answer, Asked, ask};
use super::{Attempt, Hook};
use crate::driver::{Exec, Started};

/// In the start period, a task that has not passed yet is checked this often.
const WHILE_STARTING: Duration = Duration::from_secs(1);

/// None runs before the start, and while the attempt is being stopped.
#[derive(Default)]
pub(super) struct HealthChecks {
    running: Vec<AbortOnDropHandle<()>>,
}

impl HealthChecks {
    /// `since`: from when on the start period counts. `is_whole`: nobody has made checks of the attempt before.
    fn begin(&mut self, attempt: &Attempt, started: &mut Started, since: BootTime, is_whole: bool) {
        let definition = &attempt.start.definition;
        let exec: Option<Arc<dyn Exec>> = started.exec.take().map(Arc::from);
        let published = started.container.as_ref().map(|facts| facts.ports.clone()).unwrap_or_default();
        let checks = [(CheckKind::Health, &definition.health), (CheckKind::Readiness, &definition.readiness)];
        for (kind, check) in checks {
            let Some(check) = check.clone() else { continue };
            let port = port_of(&check, attempt, |target| {
                let is_it =
                    |port: &&PublishedPort| (port.container, port.protocol) == (target, PortProtocol::Tcp);
                published.iter().find(is_it).map(|port| port.host)
            });
            let attempt = attempt.clone();
            let checking = Checking { attempt, kind, check, port, exec: exec.clone(), since, is_whole };
            self.running.push(AbortOnDropHandle::new(tokio::spawn(checking.run())));
        }
    }
}

impl Hook for HealthChecks {
    fn concern(&self) -> &'static str {
        "health checks"
    }

    fn after_start<'a>(&'a mut self, attempt: &'a Attempt, started: &'a mut Started) -> BoxFuture<'a, ()> {
        self.begin(attempt, started, BootTime::now(), true);
        Box::pin(ready(()))
    }

    /// They begin anew; the master knows what they said before. When it started is known to no more than when it began to be
    /// prepared.
    fn adopted<'a>(&'a mut self, attempt: &'a Attempt, started: &'a mut Started) -> BoxFuture<'a, ()> {
        self.begin(attempt, started, attempt.began.boot, false);
        Box::pin(ready(()))
    }

    /// What a task answers while it ends says nothing.
    fn before_stop<'a>(&'a mut self, _attempt: &'a Attempt) -> BoxFuture<'a, ()> {
        self.running.clear();
        Box::pin(ready(()))
    }

    fn after_end<'a>(&'a mut self, _attempt: &'a Attempt, _ended: &'a Ended) -> BoxFuture<'a, ()> {
        self.running.clear();
        Box::pin(ready(()))
    }
}

/// The port of this machine at which a check asks; none if it asks at none, or the port is not known.
fn port_of(check: &HealthCheck, attempt: &Attempt, published: impl Fn(u16) -> Option<u16>) -> Option<u16> {
    let (Probe::Http { port, .. } | Probe::Tcp { port }) = &check.probe else { return None };
    match port.parse::<u16>() {
        Ok(number) if attempt.start.definition.shares_network() => Some(number),
        Ok(number) => published(number),
        Err(_) => {
            let mut assigned = attempt.start.assigned_ports.iter();
            assigned.find(|assigned| assigned.name == *port).map(|assigned| assigned.port)
        }
    }
}

/// One check of an attempt.
struct Checking {
    attempt: Attempt,
    kind: CheckKind,
    check: HealthCheck,
    port: Option<u16>,
    exec: Option<Arc<dyn Exec>>,
    since: BootTime,
    is_whole: bool,
}

impl Checking {
    async fn run(self) {
        let mut health = Health::default();
        let mut next = Instant::now();
        loop {
            sleep_until(next).await;
            // Waiting for a turn is not the task's time.
            let Ok(turn) = self.attempt.context.checks.acquire().await else { return };
            let (at, began) = (Utc::now(), Instant::now());
            let answer = self.ask().await;
            drop(turn);
            let interval = self.check.interval.to_std();
            let Some(answer) = answer else {
                next = began + interval;
                continue;
            };
            let after_millis = BootTime::now().as_micros().saturating_sub(self.since.as_micros()) / 1000;
            let result = CheckResult {
                at,
                after_millis,
                passed: answer.passed,
                took_micros: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
                detail: self.attempt.redacted(answer.detail),
            };
            let before = health;
            health = health.after((&self.check).into(), Outcome { passed: result.passed, after_millis });
            // The clock of the machine, so that numbers grow over a restart of this process as well.
            let number = BootTime::now().as_micros();
            let (attempt, is_whole) = (self.attempt.reference(), self.is_whole);
            let checked = Checked { attempt, check: self.kind, number, before, is_whole, result };
            self.attempt.progress.checked(checked);
            let is_early =
                health.state == HealthState::Starting && after_millis < self.check.start_period.as_millis();
            next = began + if is_early { interval.min(WHILE_STARTING) } else { interval };
        }
    }

    async fn ask(&self) -> Option<Answer> {
        let limit = self.check.timeout.to_std();
        let asked = match (&self.check.probe, self.port, &self.exec) {
            (Probe::Http { path, status, headers, .. }, Some(port), _) => {
                Asked::Http { port, path, status: *status, headers }
            }
            (Probe::Tcp { .. }, Some(port), _) => Asked::Tcp { port },
            (Probe::Command { command }, _, Some(exec)) => {
                Asked::Command { exec: exec.as_ref(), check: self.kind, command }
            }
            (Probe::Command { .. }, _, None) => {
                return Some(Answer::failed("the driver of the task runs no program beside it"));
            }
            (Probe::Http { port, .. } | Probe::Tcp { port }, None, _) => {
                return Some(Answer::failed(format!(
                    "port {port} of the task is not reachable on its worker"
                )));
            }
        };
        ask(asked, limit).await
    }
}
