//! Ends what an earlier server left. Only called with the lock on the data directory held: whatever still uses the cluster
//! then has lost its gaffer.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::StartError;

/// After SIGKILL, and the time for a disk that is slow to let go of its processes.
const PATIENCE_KILLED: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Makes the cluster free for a new server: ends the server of a killed gaffer (which is ending already where the kernel
/// has told it), ends the children of a killed server (a long query does not notice that its server is gone, and holds the
/// shared memory), and removes the stale `postmaster.pid`, whose process id may be another process's by now.
pub(super) async fn end(cluster: &Path) -> Result<(), StartError> {
    let pid_file = cluster.join("postmaster.pid");
    let Some(server) = recorded_server(&pid_file) else { return Ok(()) };
    if processes(cluster, server).contains(&server) {
        tracing::warn!(pid = %server, "ending the Postgres server of a gaffer that is gone");
        for (signal, patience) in super::supervisor::STOP_STEPS {
            let _ = kill(server, signal);
            if gone(patience, || !processes(cluster, server).contains(&server)).await {
                break;
            }
        }
    }
    end_processes(cluster, server).await?;
    match fs::remove_file(&pid_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StartError::file("remove", &pid_file)(error)),
        _ => Ok(()),
    }
}

/// Removes a cluster that was never finished.
pub(super) async fn remove_unfinished(cluster: &Path) -> Result<(), StartError> {
    if fs::symlink_metadata(cluster).is_err() {
        return Ok(());
    }
    tracing::warn!(directory = %cluster.display(), "removing a Postgres cluster whose making was interrupted");
    // Nothing records the processes of an initdb; 0 is nobody's process id.
    end_processes(cluster, Pid::from_raw(0)).await?;
    fs::remove_dir_all(cluster).map_err(StartError::file("remove", cluster))
}

async fn end_processes(cluster: &Path, server: Pid) -> Result<(), StartError> {
    let all_gone = gone(PATIENCE_KILLED, || {
        let left = processes(cluster, server);
        for pid in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        left.is_empty()
    });
    if all_gone.await {
        return Ok(());
    }
    let pids: Vec<String> = processes(cluster, server).iter().map(Pid::to_string).collect();
    Err(StartError::Leftovers { cluster_dir: cluster.to_owned(), pids: pids.join(" ") })
}

async fn gone(patience: Duration, mut is_gone: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !is_gone() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// The first line of `postmaster.pid`. A file without one is stale like any other: 0 is nobody's process id.
fn recorded_server(pid_file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(pid_file).ok()?;
    let pid = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
    Some(Pid::from_raw(pid.filter(|pid| *pid > 0).unwrap_or(0)))
}

/// The Postgres processes that live in the cluster: a server and each of its children have it as their current directory.
/// (A zombie has none.) The name keeps somebody's shell out that was left there.
#[cfg(target_os = "linux")]
fn processes(cluster: &Path, _server: Pid) -> Vec<Pid> {
    use std::os::unix::fs::MetadataExt;
    let Ok(cluster) = fs::metadata(cluster) else { return Vec::new() };
    let is_in_cluster = |process: &Path| {
        fs::metadata(process.join("cwd")).is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (cluster.dev(), cluster.ino()))
            && fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim_end() == "postgres")
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, path)| is_in_cluster(path))
        .map(|(pid, _)| Pid::from_raw(pid))
        .collect()
}

/// Without /proc only the recorded server can be told, by its name.
#[cfg(not(target_os = "linux"))]
fn processes(_cluster: &Path, server: Pid) -> Vec<Pid> {
    if server.as_raw() == 0 || kill(server, None) == Err(nix::errno::Errno::ESRCH) {
        return Vec::new();
    }
    let ps = std::process::Command::new("ps").args(["-o", "state=,comm=", "-p", &server.to_string()]).output();
    let line = ps.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if line.ends_with("postgres") && !line.starts_with('Z') { vec![server] } else { Vec::new() }
}
