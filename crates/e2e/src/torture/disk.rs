//! More output than the worker's disk and network can take: it waits, and dropped output is counted at its
//! position. No process dies or grows without bound.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{Job, Task};
use nix::unistd::Pid;
use rand::Rng as _;
use serde_json::json;
use tokio::time::sleep;

use super::fleet::{Fleet, Part, Setup, Ways};
use super::namespaces::Ground;
use super::plan::Plan;
use super::scenario::Flood;
use super::trial::Trial;
use super::verdict::{Verdict, named};

/// Two workers with a small disk; the second is told that it is large. The third has a slow network.
const SMALL: usize = 0;
const DECEIVED: usize = 1;
const SLOW: usize = 2;
const DISK: &str = "size=24m,mode=0755";
const RATE: &str = "1mbit";
/// What each of the tasks on a small disk writes: all of them together do not fit.
const FLOOD_BYTES: u64 = 8 << 20;
const FLOODS: u32 = 4;
/// What goes through the slow network takes some seconds, or packs well.
const TRICKLE_BYTES: u64 = 512 << 10;
const YES_BYTES: u64 = 16 << 20;
/// For so long the master is away while the disks fill.
const ABSENCE: Duration = Duration::from_secs(6);
/// The most memory that an agent or an executor may ever have used.
const MEMORY_LIMIT_MIB: u64 = 256;
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(120);

/// Fills the disks again and again.
pub async fn run(plan: &Plan) -> Verdict {
    match Disks::mount().and_then(|disks| Ok((disks, Ground::make(3)?))) {
        Ok((disks, ground)) => on_small_disks(plan, disks, ground).await,
        Err(reason) => {
            let mut verdict = Verdict::default();
            verdict.figure(format!("SKIPPED, NOT TESTED: full disks and slow networks: {reason}"));
            verdict
        }
    }
}

async fn on_small_disks(plan: &Plan, disks: Disks, ground: Ground) -> Verdict {
    let slow = ground.spaces()[SLOW].limit(RATE);
    let mut environment = vec![Vec::new(); 3];
    environment[DECEIVED] = vec![("GAFFER_SPOOL_LIMIT", "1GiB")];
    let setup = Setup {
        ways: Ways::Namespaces(ground),
        worker_root: Some(disks.root.path().to_owned()),
        environment,
        ..Setup::plain()
    };
    let plan = Plan { workers: 3, ..plan.clone() };
    let mut trial = Trial::begin(&plan, setup).await;
    let parts = |fleet: &Fleet| -> Vec<Option<Pid>> {
        let each = (0..3).flat_map(|number| [Part::Agent(number), Part::Executor(number)]);
        each.map(|part| fleet.pid(part)).collect()
    };
    let before = parts(&trial.fleet);
    let (end, mut jobs, mut most) = (Instant::now() + plan.duration, Vec::new(), [0; 2]);
    let mut free = disks.free();
    while Instant::now() < end {
        let mut round = Vec::new();
        for (worker, bytes, count, is_yes) in [
            (SMALL, FLOOD_BYTES, FLOODS, false),
            (DECEIVED, FLOOD_BYTES, FLOODS, false),
            (SLOW, TRICKLE_BYTES, 1, false),
            (SLOW, YES_BYTES, 1, true),
        ] {
            let seed: u64 = trial.rng.random();
            let flood = if is_yes { Flood::yes(bytes) } else { Flood::random(seed, bytes) };
            let mut spec = trial.spec(&flood.act());
            spec["datacenters"] = json!([Fleet::name(worker)]);
            spec["count"] = count.into();
            // A master that is away for longer than this is no fault of the disk.
            spec["lost_after"] = json!("60s");
            round.push((trial.fleet.submit(&spec, seed).await, flood));
        }
        trial.fleet.kill_master(0).await;
        trial.faults += 1;
        let absent = Instant::now();
        while absent.elapsed() < ABSENCE {
            look(&before, &mut most);
            free = free.min(disks.free());
            sleep(PROBE_INTERVAL).await;
        }
        trial.fleet.revive_master(0);
        // The others end as the network allows, below.
        for (job, _) in &round[..2] {
            let begun = Instant::now();
            while begun.elapsed() < PATIENCE && !is_over(&trial.fleet, *job).await {
                look(&before, &mut most);
                free = free.min(disks.free());
                sleep(PROBE_INTERVAL).await;
            }
        }
        jobs.extend(round);
    }
    let keys: Vec<(i64, u64)> = jobs.iter().map(|(job, _)| (*job, 0)).collect();
    let tasks = trial.fleet.settle(&keys, PATIENCE).await;
    look(&before, &mut most);
    let mut verdict = trial.judge(&[], &[]).await;
    verdict.tasks = tasks.len();
    let (mut bytes, mut missing, mut failures) = (0, 0, 0);
    for (_, task) in &tasks {
        let Some((_, flood)) = jobs.iter().find(|(job, _)| *job == task.job.0) else { continue };
        if task.state != "completed" {
            let reason = task.reason.as_ref().map_or("", |reason| reason.message.as_str());
            verdict.lost.push(format!("{} is {}: {reason}", named(task), task.state));
            continue;
        }
        failures += task.attempt - 1;
        match counted(&trial.fleet, task, &flood.bytes()).await {
            Ok(lost) => {
                bytes += flood.bytes().len();
                missing += lost;
            }
            Err(gap) => verdict.wrong_outputs.push(format!("{}: {gap}", named(task))),
        }
    }
    verdict.figure(format!(
        "output {bytes} bytes, missing and counted so {missing}, attempts that failed {failures}"
    ));
    verdict.figure(format!("least room on a disk: {} KiB", free >> 10));
    let [agent, executor] = most.map(|kib| kib >> 10);
    verdict.promise(
        agent.max(executor) <= MEMORY_LIMIT_MIB,
        format!("most memory of an agent {agent} MiB, of an executor {executor} MiB"),
    );
    verdict
        .promise(parts(&trial.fleet) == before, "agents and executors are those of the beginning".to_owned());
    verdict.promise(slow.is_ok(), format!("the third worker's network: {RATE} {slow:?}"));
    let verdict = trial.end(verdict).await;
    drop(disks);
    verdict
}

async fn is_over(fleet: &Fleet, job: i64) -> bool {
    fleet.ask::<Job>(&format!("/jobs/{job}")).await.is_some_and(|job| job.finished_at.is_some())
}

/// Notes the most memory that agents and executors have ever had, in KiB.
fn look(parts: &[Option<Pid>], most: &mut [u64; 2]) {
    for (place, pid) in parts.iter().enumerate() {
        let Some(pid) = pid else { continue };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak = peak.and_then(|kib| kib.parse().ok()).unwrap_or(0);
        most[place % 2] = peak.max(most[place % 2]);
    }
}

/// Compares an output with what was written: each byte is at its place, or a marker is, and gives the number of the
/// latter; or else says what is wrong.
async fn counted(fleet: &Fleet, task: &Task, expected: &[u8]) -> Result<usize, String> {
    let (mut at, mut missing) = (0, 0);
    for data in fleet.output(task).await {
        let found = data.text.unwrap_or_default();
        if data.offset != at as u64 {
            return Err(format!("there is nothing from {at} to {}", data.offset));
        }
        let until = at + found.len();
        // The tasks write nothing there: this stands for what is missing, and is as long as that.
        if data.stream == Stream::Stderr {
            let is_marker = found.trim_start().starts_with("[gaffer: ") || found.trim().is_empty();
            if !is_marker {
                return Err(format!("at {at} there is {:?}", found.chars().take(80).collect::<String>()));
            }
            missing += found.len();
        } else if expected.get(at..until) != Some(found.as_bytes()) {
            return Err(format!(
                "wrong from {at} to {until}: {:?}",
                found.chars().take(80).collect::<String>()
            ));
        }
        at = until;
    }
    if at == expected.len() { Ok(missing) } else { Err(format!("{at} bytes of {}", expected.len())) }
}

/// Where the workers' data directories lie, two of them on disks of their own.
struct Disks {
    root: tempfile::TempDir,
}

impl Disks {
    fn mount() -> Result<Disks, String> {
        let root =
            tempfile::Builder::new().prefix("gaffer-disks-").tempdir().map_err(|error| error.to_string())?;
        std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(|error| error.to_string())?;
        let disks = Disks { root };
        for path in disks.small() {
            std::fs::create_dir(&path).map_err(|error| error.to_string())?;
            call("mount", &["-t", "tmpfs", "-o", DISK, "gaffer-torture"], &path)?;
        }
        Ok(disks)
    }

    fn small(&self) -> [PathBuf; 2] {
        [SMALL, DECEIVED].map(|number| self.root.path().join(Fleet::name(number)))
    }

    /// Room on the fuller of the two.
    fn free(&self) -> u64 {
        let free = self.small().map(|path| {
            nix::sys::statvfs::statvfs(&path).map_or(0, |disk| disk.blocks_available() * disk.fragment_size())
        });
        free[0].min(free[1])
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for path in self.small() {
            let _ = call("umount", &["--lazy"], &path);
        }
    }
}

fn call(program: &str, arguments: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new(program).args(arguments).arg(path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}
