//! Determines how a container ended, across absences of the daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerState};
use bollard::query_parameters::WaitContainerOptions;
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use gaffer_domain::reason::{LostCause, ProcessEnd};

use super::super::Exit;
use super::daemon::{Daemon, is_away, status};
use crate::stats;

/// How long a daemon that behaves strangely is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// Offset of signal numbers in exit codes.
const SIGNAL_BASE: i64 = 128;
const MAX_SIGNAL: i64 = 64;

/// A daemon that shuts down stops its containers first, and the kernel kills for memory. If nobody here sent the
/// signals that these use, the cause is looked for this long.
const FAREWELL: Duration = Duration::from_secs(2);
const FAREWELL_LOOK: Duration = Duration::from_millis(100);
/// The signals of a daemon that goes down.
const FAREWELL_SIGNALS: [i32; 2] = [15, SIGKILL];
const SIGKILL: i32 = 9;

/// Waits for the end of a container and determines its cause. `was_told`: gaffer sent it a signal. `oom_kills`: the
/// kernel's counter before the start, if memory is limited and it is known.
pub(super) async fn watch(
    daemon: Arc<Daemon>,
    id: String,
    was_told: Arc<AtomicBool>,
    oom_kills: Option<u64>,
) -> Exit {
    match end_of(&daemon, &id).await {
        Exit::Process(ProcessEnd::Signal(signal))
            if FAREWELL_SIGNALS.contains(&signal) && !was_told.load(Ordering::Relaxed) =>
        {
            // The daemon misses the kernel's word now and then (Docker 20 about once in four times).
            if signal == SIGKILL && oom_kills.is_some_and(|before| stats::oom_kills() > Some(before)) {
                return Exit::OutOfMemory;
            }
            who_killed(&daemon, &id).await.unwrap_or(Exit::Process(ProcessEnd::Signal(signal)))
        }
        exit => exit,
    }
}

/// Looks whether the kernel or the daemon sent the signal that ended a container. Both may be known a little later only.
async fn who_killed(daemon: &Daemon, id: &str) -> Option<Exit> {
    let end = tokio::time::Instant::now() + FAREWELL;
    while tokio::time::Instant::now() < end {
        let Ok(docker) = daemon.client() else { return Some(Exit::Lost(LostCause::DaemonGone)) };
        match docker.inspect_container(id, None).await {
            Ok(inspected) if inspected.state.as_ref().is_some_and(|state| state.oom_killed == Some(true)) => {
                return Some(Exit::OutOfMemory);
            }
            Err(error) if is_away(&error) => {
                daemon.doubt(&error);
                return Some(Exit::Lost(LostCause::DaemonGone));
            }
            _ => tokio::time::sleep(FAREWELL_LOOK).await,
        }
    }
    None
}

async fn end_of(daemon: &Daemon, id: &str) -> Exit {
    let mut lost_sight_at = None;
    let code = loop {
        let docker = daemon.up().await;
        match wait(&docker, id).await {
            Ok(code) => break code,
            Err(error) if status(&error) == Some(404) => return Exit::Lost(LostCause::ContainerRemoved),
            Err(error) => {
                lost_sight_at.get_or_insert_with(Utc::now);
                if is_away(&error) {
                    daemon.doubt(&error);
                } else {
                    tracing::warn!(container = id, %error, "cannot wait for the container; retrying");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    };
    loop {
        let docker = daemon.up().await;
        match docker.inspect_container(id, None).await {
            Ok(inspected) => return judge(code, lost_sight_at, &inspected),
            // It goes down, and the container with it: its exit code is the daemon's doing.
            Err(error) if is_away(&error) => {
                lost_sight_at.get_or_insert_with(Utc::now);
                daemon.doubt(&error);
            }
            // Podman 4 gives a state right after the end that cannot be read: then the code is all there is.
            Err(_) => return Exit::Process(end(code)),
        }
    }
}

async fn wait(docker: &Docker, id: &str) -> Result<i64, Error> {
    let options = WaitContainerOptions { condition: "not-running".to_owned() };
    match docker.wait_container(id, Some(options)).next().await {
        Some(Ok(response)) => Ok(response.status_code),
        Some(Err(Error::DockerContainerWaitError { code, .. })) => Ok(code),
        Some(Err(error)) => Err(error),
        None => Err(Error::RequestTimeoutError),
    }
}

/// `lost_sight_at`: since when the daemon had not been there all the time.
fn judge(code: i64, lost_sight_at: Option<DateTime<Utc>>, inspected: &ContainerInspectResponse) -> Exit {
    let Some(state) = &inspected.state else { return Exit::Process(end(code)) };
    // Independent of the exit code: a shell whose child was OOM-killed may exit with 0.
    if state.oom_killed == Some(true) {
        return Exit::OutOfMemory;
    }
    // Podman 4 waits in vain for some that have ended already, but remembers their code.
    let end = end(if code < 0 { state.exit_code.unwrap_or(code) } else { code });
    let was_farewell = matches!(end, ProcessEnd::Signal(signal) if FAREWELL_SIGNALS.contains(&signal));
    let went_with = |at| was_farewell || finished(state).is_none_or(|finished| finished >= at);
    if lost_sight_at.is_some_and(went_with) {
        return Exit::Lost(LostCause::DaemonGone);
    }
    Exit::Process(end)
}

fn finished(state: &ContainerState) -> Option<DateTime<Utc>> {
    state.finished_at.as_deref()?.parse().ok()
}

/// A container killed by a signal reports an exit code; one that exits with the same code is indistinguishable.
fn end(code: i64) -> ProcessEnd {
    match i32::try_from(code) {
        Ok(code) if code > SIGNAL_BASE as i32 && i64::from(code) <= SIGNAL_BASE + MAX_SIGNAL => {
            ProcessEnd::Signal(code - SIGNAL_BASE as i32)
        }
        Ok(code) => ProcessEnd::Code(code),
        Err(_) => ProcessEnd::Code(i32::MAX),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn inspected(oom_killed: bool, finished_at: &str) -> ContainerInspectResponse {
        let state = ContainerState {
            oom_killed: Some(oom_killed),
            finished_at: Some(finished_at.to_owned()),
            ..ContainerState::default()
        };
        ContainerInspectResponse { state: Some(state), ..ContainerInspectResponse::default() }
    }

    #[test]
    fn an_end_has_its_cause() {
        let at = "2026-01-01T00:00:10.5Z";
        let exit = |code| judge(code, None, &inspected(false, at));
        assert_eq!(exit(0), Exit::Process(ProcessEnd::Code(0)));
        assert_eq!(exit(3), Exit::Process(ProcessEnd::Code(3)));
        assert_eq!(exit(128), Exit::Process(ProcessEnd::Code(128)));
        assert_eq!(exit(137), Exit::Process(ProcessEnd::Signal(9)));
        assert_eq!(exit(255), Exit::Process(ProcessEnd::Code(255)));
        let mut remembered = inspected(false, at);
        if let Some(state) = &mut remembered.state {
            state.exit_code = Some(7);
        }
        assert_eq!(judge(-1, None, &remembered), Exit::Process(ProcessEnd::Code(7)));
        assert_eq!(judge(137, None, &inspected(true, at)), Exit::OutOfMemory);
        assert_eq!(judge(0, None, &inspected(true, at)), Exit::OutOfMemory);
    }

    #[test]
    fn what_ended_while_the_daemon_was_away_was_taken_along() {
        let lost_sight_at = "2026-01-01T00:00:10Z".parse().ok();
        let at = |finished| judge(0, lost_sight_at, &inspected(false, finished));
        assert_eq!(at("2026-01-01T00:00:09.9Z"), Exit::Process(ProcessEnd::Code(0)));
        assert_eq!(at("2026-01-01T00:00:10.1Z"), Exit::Lost(LostCause::DaemonGone));
        assert_eq!(at(""), Exit::Lost(LostCause::DaemonGone));
    }
}
