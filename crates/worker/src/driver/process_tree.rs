//! All processes of a host attempt, and how to kill them.
//!
//! The tree is known by its cgroup, which nothing leaves that is not allowed to write there. Where there is none, and
//! for what has left it nevertheless, it is known by its process group, by parentage, by a variable in the environment
//! and by its working directory. Orphans become children of this process ([`adopt_orphans`]), which is how a look tells
//! cheaply that nothing is left.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gaffer_protocol::boot_time::BootTime;
use gaffer_protocol::wire::KillReceipt;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::process::PidfdFlags;
use tokio::process::{Child, Command};

use super::cgroup::Cgroup;
use super::processes::{self, Belonging, ProcessInfo};
use crate::config::MARKER_VARIABLE;
use crate::job_user::{self, JobUser};

/// How long killed processes may take to exit; one that waits for a dead disk may never exit.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// Zombies not reaped within this time have no living parent that would.
const ZOMBIE_PATIENCE: Duration = Duration::from_secs(10);

/// The processes of one attempt.
#[derive(Debug)]
pub(crate) struct ProcessTree {
    belonging: Belonging,
    group: Pid,
    cgroup: Option<Cgroup>,
    /// Whose its further processes are; none for this process's own user.
    user: Option<Arc<JobUser>>,
}

impl ProcessTree {
    /// For a main process that leads its own group and carries `marker` (value of [`MARKER_VARIABLE`]).
    /// `started`: not after it started.
    pub fn new(
        leader: i32,
        marker: &str,
        directory: PathBuf,
        started: BootTime,
        cgroup: Option<Cgroup>,
    ) -> ProcessTree {
        let belonging = Belonging {
            leader: Some(leader),
            group: Some(leader),
            marker: format!("{MARKER_VARIABLE}={marker}"),
            directory: Some(directory),
            since_ticks: processes::ticks(started),
        };
        ProcessTree { belonging, group: Pid::from_raw(leader), cgroup, user: None }
    }

    /// The same, whose further processes are another user's.
    pub fn with_user(self, user: Option<Arc<JobUser>>) -> ProcessTree {
        ProcessTree { user, ..self }
    }

    /// Whose its further processes are; none for this process's own user.
    pub fn user(&self) -> Option<&JobUser> {
        self.user.as_deref()
    }

    /// Starts a further process in its cgroup, in a directory.
    pub fn spawn(&self, command: &mut Command, directory: &Path) -> std::io::Result<Child> {
        match &self.cgroup {
            Some(cgroup) => cgroup.spawn(command, directory, self.user()),
            None => job_user::spawn(command, directory, self.user()),
        }
    }

    /// Sends a signal to the group. The main process must not have been waited for.
    pub fn signal(&self, signal: Signal) {
        if let Err(errno) = killpg(self.group, signal) {
            tracing::debug!(group = self.group.as_raw(), %signal, %errno, "cannot signal a process group");
        }
    }

    /// Kills everything while the main process has not been waited for. Blocks.
    pub fn kill(&self) -> KillReceipt {
        // Stopped processes start no others while they are counted.
        self.signal(Signal::SIGSTOP);
        let found = self.find(&self.belonging);
        self.signal(Signal::SIGKILL);
        kill_until_gone(&self.belonging, found, || self.find(&self.belonging))
    }

    /// All processes of the attempt outside its cgroup, whose members were killed.
    fn find(&self, belonging: &Belonging) -> HashMap<i32, ProcessInfo> {
        let Some(cgroup) = &self.cgroup else { return processes::find(belonging) };
        cgroup.halt();
        let members = cgroup.members();
        let members: Vec<_> =
            members.into_iter().filter_map(|pid| Some((pid, processes::process(pid)?))).collect();
        cgroup.kill();
        // Those count as they were found, alive.
        processes::find(belonging).into_iter().chain(members).collect()
    }

    /// Whether the OOM killer killed a process of it.
    pub fn ran_out_of_memory(&self) -> bool {
        self.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory)
    }

    /// Whether anything may have outlived the main process, which has been waited for. Does not block, as it looks into
    /// no other process.
    pub fn may_have_survivors(&self) -> bool {
        self.has_members() || !processes::adopted_children().is_empty()
    }

    /// Whether anything outlived the main process, which has been waited for. Blocks.
    pub fn has_survivors(&self) -> bool {
        self.has_members() || ADOPTED.has_any_of(&self.belonging)
    }

    fn has_members(&self) -> bool {
        // Its number cannot be another's already: numbers are given out in turn.
        killpg(self.group, None) != Err(Errno::ESRCH)
            || self.cgroup.as_ref().is_some_and(|cgroup| !cgroup.members().is_empty())
    }

    /// Kills what outlived the main process; none if nothing did. Blocks.
    pub fn kill_survivors(&self) -> Option<KillReceipt> {
        if !self.has_survivors() {
            return None;
        }
        // While the group has members, its number is taken; a process with the leader's number is another one.
        let group_lives = killpg(self.group, None) != Err(Errno::ESRCH);
        let belonging = Belonging {
            leader: None,
            group: group_lives.then_some(self.group.as_raw()),
            ..self.belonging.clone()
        };
        Some(kill_until_gone(&belonging, self.find(&belonging), || self.find(&belonging)))
    }
}

/// Makes this process the subreaper of orphaned descendants.
///
/// # Errors
/// When the kernel refuses, which Linux since 3.4 does not.
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Kills what is left of attempts of an earlier executor. Returns the number of killed processes per attempt, by
/// marker. Blocks.
///
/// `leaders`: main processes with the moments between which each started, and their markers.
pub(crate) fn kill_leftovers(token: &str, leaders: &[Leftover]) -> HashMap<String, KillReceipt> {
    let mut receipts = HashMap::new();
    for leftover in leaders {
        let leader = leftover.pid.filter(|pid| leftover.is_still(*pid));
        let belonging = Belonging {
            leader,
            group: leader,
            marker: format!("{MARKER_VARIABLE}={}", leftover.marker),
            directory: None,
            since_ticks: processes::ticks(leftover.after),
        };
        if let Some(leader) = leader {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGSTOP);
        }
        let found = processes::find(&belonging);
        if !found.is_empty() {
            let receipt = kill_until_gone(&belonging, found, || processes::find(&belonging));
            receipts.insert(leftover.marker.clone(), receipt);
        }
    }
    // Including attempts that are not in the journal.
    kill_marked(&format!("{token}/"));
    receipts
}

/// Kills every process with this marker (value of [`MARKER_VARIABLE`], or its beginning up to a `/`), and what these
/// started. Blocks.
pub(crate) fn kill_marked(marker: &str) -> KillReceipt {
    let marker = format!("{MARKER_VARIABLE}={marker}");
    let belonging = Belonging { leader: None, group: None, marker, directory: None, since_ticks: 0 };
    kill_until_gone(&belonging, processes::find(&belonging), || processes::find(&belonging))
}

/// Kills what a dead executor, of which this is the process id, was just starting: it never becomes a program of a task. What is one
/// already bears its marker. False if nothing was left to kill.
pub(crate) fn kill_what_was_being_started_by(executor: i32) -> bool {
    let starting = processes::being_started_in(executor);
    starting.iter().for_each(kill_exactly);
    !starting.is_empty()
}

/// Whether there is no such process, or one that has ended.
pub(crate) fn is_dead(pid: i32) -> bool {
    processes::process(pid).is_none_or(|process| process.is_zombie())
}

/// An attempt that an earlier process of this worker started.
#[derive(Debug)]
pub(crate) struct Leftover {
    /// Its main process, if that is known, which started after `after` and before `before`.
    pub pid: Option<i32>,
    pub after: BootTime,
    pub before: BootTime,
    /// Value of [`MARKER_VARIABLE`].
    pub marker: String,
}

impl Leftover {
    /// Whether the process id still belongs to the main process.
    fn is_still(&self, pid: i32) -> bool {
        // One tick of tolerance: the kernel rounds.
        let started = processes::ticks(self.after)..=processes::ticks(self.before) + 1;
        processes::process(pid).is_some_and(|process| started.contains(&process.start_ticks))
    }
}

/// Kills the found processes, and whatever they start meanwhile, until none is left or the time is up.
fn kill_until_gone(
    belonging: &Belonging,
    found: HashMap<i32, ProcessInfo>,
    find: impl Fn() -> HashMap<i32, ProcessInfo>,
) -> KillReceipt {
    let deadline = Instant::now() + KILL_PATIENCE;
    let mut pause = Duration::from_millis(1);
    let mut killed: HashSet<(i32, u64)> = HashSet::new();
    let mut found = found;
    loop {
        let living: Vec<ProcessInfo> =
            found.values().filter(|process| !process.is_zombie()).copied().collect();
        if let Some(group) = belonging.group
            && living.iter().any(|process| process.group == group)
        {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        for process in &living {
            kill_exactly(process);
            killed.insert((process.pid, process.start_ticks));
        }
        reap(belonging, &found);
        if living.is_empty() || Instant::now() >= deadline {
            let left = living.len();
            return KillReceipt { killed: count(killed.len() - left), left: count(left) };
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
        found = find();
    }
}

/// Kills this process and none that has got its number since.
pub(super) fn kill_exactly(process: &ProcessInfo) {
    let Some(pid) = rustix::process::Pid::from_raw(process.pid) else { return };
    // The handle refers to the current process with this id; kernels before 5.3 have none.
    let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty());
    if processes::process(process.pid).is_none_or(|now| now.start_ticks != process.start_ticks) {
        return;
    }
    let killed = match handle {
        Ok(handle) => rustix::process::pidfd_send_signal(handle, rustix::process::Signal::KILL),
        Err(_) => rustix::process::kill_process(pid, rustix::process::Signal::KILL),
    };
    if let Err(errno) = killed {
        tracing::debug!(pid = process.pid, %errno, "cannot kill a process");
    }
}

/// Reaps an attempt's orphans. The main process has its own waiter.
fn reap(belonging: &Belonging, found: &HashMap<i32, ProcessInfo>) {
    let own_pid = processes::own_pid();
    for process in found.values() {
        if process.is_zombie() && process.parent == own_pid && Some(process.pid) != belonging.leader {
            let _ = waitpid(Pid::from_raw(process.pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Known orphans adopted by this process. Children belong to a process, not to a worker in it.
static ADOPTED: LazyLock<Adopted> = LazyLock::new(Adopted::default);

#[derive(Debug, Default)]
struct Adopted {
    /// The marker variable of each adopted child, as far as one has been looked at; none: it carries none.
    markers: Mutex<HashMap<i32, Option<String>>>,
    /// Since when each has been dead.
    dead: Mutex<HashMap<(i32, u64), Instant>>,
}

impl Adopted {
    /// Whether a living orphan belongs there.
    fn has_any_of(&self, belonging: &Belonging) -> bool {
        let children: HashSet<i32> = processes::adopted_children().into_iter().collect();
        let mut markers = self.markers.lock().unwrap_or_else(PoisonError::into_inner);
        // A number that is not listed any more may come back as another process.
        markers.retain(|pid, _| children.contains(pid));
        children.iter().any(|pid| {
            if !markers.contains_key(pid) {
                // The dead have an empty environment, and so has for a moment who is about to become another program: of
                // neither is anything to be remembered, but where the living one works tells.
                let Some(environment) = processes::environment(*pid).filter(|bytes| !bytes.is_empty()) else {
                    return processes::process(*pid).is_some_and(|process| !process.is_zombie())
                        && belonging.houses(*pid);
                };
                markers.insert(*pid, marker_in(&environment));
            }
            match markers.get(pid) {
                Some(Some(marker)) => *marker == belonging.marker,
                _ => belonging.houses(*pid),
            }
        })
    }

    fn reap_forsaken(&self, now: Instant) {
        let children = processes::adopted_children();
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        let zombies: Vec<ProcessInfo> =
            children.into_iter().filter_map(processes::process).filter(ProcessInfo::is_zombie).collect();
        let key = |process: &ProcessInfo| (process.pid, process.start_ticks);
        let present: HashSet<(i32, u64)> = zombies.iter().map(key).collect();
        dead.retain(|zombie, _| present.contains(zombie));
        for zombie in present {
            let since = *dead.entry(zombie).or_insert(now);
            if now.duration_since(since) >= ZOMBIE_PATIENCE {
                let _ = waitpid(Pid::from_raw(zombie.0), Some(WaitPidFlag::WNOHANG));
            }
        }
    }
}

fn marker_in(environment: &[u8]) -> Option<String> {
    let mut variables = environment.split(|byte| *byte == 0);
    let found = variables.find(|variable| {
        variable.strip_prefix(MARKER_VARIABLE.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
    })?;
    Some(String::from_utf8_lossy(found).into_owned())
}

/// Reaps orphans that have been zombies for long, when their own parents would have reaped them. Called every few
/// seconds; cheap without zombies.
pub(crate) fn reap_forsaken_orphans() {
    ADOPTED.reap_forsaken(Instant::now());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::process::Command;

    use super::*;
    use crate::tests::master::until;

    /// Adopted children belong to a process, and workers of other tests look after those of this one: so this test runs
    /// in a separate process.
    #[tokio::test]
    async fn the_dead_that_nobody_waits_for_are_waited_for_after_a_while() {
        const ALONE: &str = "GAFFER_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name =
                "driver::process_tree::tests::the_dead_that_nobody_waits_for_are_waited_for_after_a_while";
            let mut alone = Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && told.contains("1 passed"), "{told}");
            return;
        }
        adopt_orphans().unwrap();
        // The shell exits at once; its child is adopted by this process and exits.
        let output = Command::new("sh").args(["-c", "sleep 0.01 >/dev/null & echo $!"]).output().unwrap();
        let pid: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        until("a zombie", || processes::process(pid).is_some_and(|process| process.is_zombie())).await;
        assert!(processes::adopted_children().contains(&pid));
        let now = Instant::now();
        ADOPTED.reap_forsaken(now);
        assert!(processes::process(pid).is_some(), "somebody may still wait for it");
        ADOPTED.reap_forsaken(now + ZOMBIE_PATIENCE);
        assert_eq!(processes::process(pid), None);
    }

    #[tokio::test]
    async fn a_number_that_is_another_process_by_now_is_not_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let own = processes::process(i32::try_from(child.id()).unwrap()).unwrap();
        kill_exactly(&ProcessInfo { start_ticks: own.start_ticks + 1, ..own });
        assert!(child.try_wait().unwrap().is_none());
        kill_exactly(&own);
        until("its end", || child.try_wait().unwrap().is_some()).await;
    }
}
