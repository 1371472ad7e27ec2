//! Stops a server that an earlier run left behind. Called only while the data directory is locked, so the master of
//! that server is dead.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::StartError;
use super::program::STOP_STEPS;

/// After SIGKILL, and the time for a disk that is slow to let go of its processes.
const PATIENCE_KILLED: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// Makes the cluster free for a new server: ends the server of a killed gaffer (which is ending already where the kernel
/// has told it), ends the children of a killed server (a long query does not notice that its server is gone, and holds the
/// shared memory), and removes the stale `postmaster.pid`, whose process id may be another process's by now.
pub(super) async fn end(cluster: &Path) -> Result<(), StartError> {
    let pid_file = cluster.join("postmaster.pid");
    // An orderly stop removes the file last, so without it there is nothing to end.
    let Ok(text) = fs::read_to_string(&pid_file) else { return Ok(()) };
    let recorded = text.lines().next().and_then(|line| line.trim().parse().ok()).map(Pid::from_raw);
    if let Some(server) = recorded
        && processes(cluster)?.contains(&server)
    {
        tracing::warn!(pid = %server, "stopping a Postgres server left by an earlier run");
        for (signal, patience) in STOP_STEPS {
            send(server, signal);
            if gone(patience, || Ok(!processes(cluster)?.contains(&server))).await? {
                break;
            }
        }
    }
    end_processes(cluster).await?;
    match fs::remove_file(&pid_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StartError::file("remove", &pid_file)(error))
        }
        _ => Ok(()),
    }
}

/// Removes clusters that were never finished. One that an interrupted initdb is just leaving may resist; the next start
/// gets it.
pub(super) async fn remove_unfinished(clusters: &[PathBuf]) -> Result<(), StartError> {
    for cluster in clusters {
        tracing::warn!(directory = %cluster.display(), "removing an incomplete Postgres cluster");
        end_processes(cluster).await?;
        // One that was being restored has a separate data directory.
        end_processes(&cluster.join("postgres/cluster")).await?;
        if let Err(error) = fs::remove_dir_all(cluster) {
            tracing::warn!(directory = %cluster.display(), %error, "cannot remove it yet");
        }
    }
    Ok(())
}

async fn end_processes(cluster: &Path) -> Result<(), StartError> {
    let all_gone = gone(PATIENCE_KILLED, || {
        let left = processes(cluster)?;
        left.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
        Ok(left.is_empty())
    });
    if all_gone.await? {
        return Ok(());
    }
    let pids: Vec<String> = processes(cluster)?.iter().map(Pid::to_string).collect();
    Err(StartError::Leftovers { cluster_dir: cluster.to_owned(), pids: pids.join(" ") })
}

fn send(pid: Pid, signal: Signal) {
    // It may end at this very moment.
    let _ = kill(pid, signal);
}

async fn gone(
    patience: Duration,
    is_gone: impl Fn() -> Result<bool, StartError>,
) -> Result<bool, StartError> {
    let deadline = Instant::now() + patience;
    while !is_gone()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(true)
}

/// The Postgres processes of the cluster: a server and its children have it as their current directory. (Zombies
/// have none.) The program name excludes shells.
#[cfg(target_os = "linux")]
pub(super) fn processes(cluster: &Path) -> Result<Vec<Pid>, StartError> {
    use std::os::unix::fs::MetadataExt;
    let cluster = match fs::metadata(cluster) {
        Ok(it) => it,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StartError::file("read", cluster)(error)),
    };
    let is_in_cluster = |process: &Path| {
        fs::metadata(process.join("cwd"))
            .is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (cluster.dev(), cluster.ino()))
            && fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim_end() == "postgres")
    };
    // Without /proc, dead processes cannot be recognised, and a second server would corrupt the cluster.
    let entries = fs::read_dir("/proc").map_err(StartError::file("read", Path::new("/proc")))?.flatten();
    Ok(entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, path)| is_in_cluster(path))
        .map(|(pid, _)| Pid::from_raw(pid))
        .collect())
}

/// The same without /proc. macOS comes with lsof.
#[cfg(not(target_os = "linux"))]
pub(super) fn processes(cluster: &Path) -> Result<Vec<Pid>, StartError> {
    let lsof =
        std::process::Command::new("lsof").args(["-a", "-c", "postgres", "-d", "cwd", "-F", "pn"]).output();
    let output = lsof.map_err(StartError::file("run", Path::new("lsof")))?;
    // Lines of one field each: `p` and a process id, then `n` and the directory.
    let (mut pid, mut found) = (None, Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match line.split_at_checked(1) {
            Some(("p", id)) => pid = id.parse().ok().map(Pid::from_raw),
            Some(("n", dir)) if Path::new(dir) == cluster => found.extend(pid),
            _ => {}
        }
    }
    Ok(found)
}
