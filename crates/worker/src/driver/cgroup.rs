//! A cgroup for each host attempt: no process escapes from it, and its limits apply to all of them together.
//!
//! With version 1 each controller has its own hierarchy: `pids` (or else `freezer`) tracks processes, `cpu` and `memory`
//! are added if there is a limit. Version 2 has one hierarchy for all. If neither is writable, only
//! [`super::process_tree`] finds the processes of an attempt.

mod hierarchy;
mod pool;

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::Resources;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::job_user::{self, JobUser};
use hierarchy::Hierarchies;
use pool::{Pool, Reuse, Room};

/// The most processes and threads of one attempt: more than honest work needs, fewer than bring a machine down.
const MAX_PIDS: u64 = 4_096;
/// The span of time in which a limited attempt has its share of the processors, in microseconds: the kernel's own.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// How many processors this machine has for this process. To ask the kernel takes as long as to open three files.
static PROCESSORS: LazyLock<u64> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(u64::MAX, |cpus| cpus.get() as u64));
/// The file that limits the number of processes, with version 1.
const PIDS_FILE: &str = "pids.max";
/// The file with the weight of a cgroup, with version 1.
const WEIGHT_FILE: &str = "cpu.shares";
/// The most that the kernel knows.
const MAX_NICE: u8 = 19;
/// What a process of each niceness from 0 weighs, for cgroups of version 1: the kernel's own `sched_prio_to_weight`.
const WEIGHTS: [u16; MAX_NICE as usize + 1] =
    [1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15];

/// Where this worker makes its cgroups.
pub(crate) struct Cgroups(Kind);

enum Kind {
    One { tracking: Arc<Pool>, cpu: Option<Arc<Pool>>, memory: Option<Arc<Pool>> },
    Two { dir: PathBuf, has_limits: bool, next: AtomicU64 },
}

/// The cgroup of one attempt. Is given back with this, if nothing is in it any more.
#[derive(Debug)]
pub(crate) struct Cgroup {
    version: Version,
    /// Holds all processes of the attempt.
    tracking: PathBuf,
    /// Counts OOM kills; none without a limit.
    memory: Option<PathBuf>,
    /// How often a process was started in it.
    starts: AtomicU32,
    /// Nothing was in it after the first one was.
    was_left: AtomicBool,
}

#[derive(Debug)]
enum Version {
    /// One of each controller that takes part.
    One { rooms: Vec<(Arc<Pool>, Room)>, is_halted: AtomicBool },
    /// Where a process goes in.
    Two { door: File },
}

impl Cgroups {
    /// Finds where cgroups can be made, and kills all that an earlier process of the same owner left in its own. None if
    /// they cannot be made.
    pub fn open(owner: &str) -> Option<Cgroups> {
        let mut hierarchies = Hierarchies::find()?;
        let name = format!("gaffer-{owner}");
        let made: io::Result<()> = hierarchies.all().try_for_each(|base| {
            let dir = base.join(&name);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    sweep(&dir);
                    Ok(())
                }
                made => made,
            }
        });
        hierarchies.delegate(&name);
        match made.and_then(|()| Kind::open(hierarchies, &name)) {
            Ok(kind) => Some(Cgroups(kind)),
            Err(error) => {
                tracing::debug!(%error, "cannot create cgroups");
                None
            }
        }
    }

    /// One with limits for what is reserved: memory if any, processors if fewer than the machine has. Niceness counts
    /// among the processes of a cgroup only, so that the cgroup is as nice as they are.
    pub fn take(&self, resources: Resources, nice: u8) -> io::Result<Cgroup> {
        let limits = Limits::of(resources, nice);
        match &self.0 {
            Kind::Two { dir, has_limits, next } => {
                let tracking = dir.join(next.fetch_add(1, Ordering::Relaxed).to_string());
                fs::create_dir(&tracking)?;
                let door = open_to_write(&tracking.join("cgroup.procs"))?;
                let memory = limits.memory.filter(|_| *has_limits).map(|_| tracking.clone());
                // Dropped half made, it takes down what there is.
                let cgroup = Cgroup::new(Version::Two { door }, tracking, memory);
                if *has_limits {
                    limits.write_two(&cgroup.tracking)?;
                }
                Ok(cgroup)
            }
            Kind::One { tracking: pool, cpu, memory } => {
                let room = pool.take(MAX_PIDS)?;
                let tracking = room.dir().to_owned();
                let rooms = vec![(pool.clone(), room)];
                let version = Version::One { rooms, is_halted: AtomicBool::new(false) };
                let mut cgroup = Cgroup::new(version, tracking, None);
                if let Some(pool) = cpu.as_ref().filter(|_| limits.cpu_micros.is_some() || nice > 0) {
                    let quota = limits.cpu_micros.map_or("-1".to_owned(), |micros| micros.to_string());
                    match cgroup.join(pool, quota) {
                        // One that is used again has the weight of the attempt before. Its processes are nice without it.
                        Ok(room) => drop(room.set(WEIGHT_FILE, limits.weight())),
                        // Only the weight was wanted, and not every kernel has quotas.
                        Err(_) if limits.cpu_micros.is_none() => {}
                        Err(error) => return Err(error),
                    }
                }
                if let (Some(pool), Some(bytes)) = (memory, limits.memory) {
                    let dir = cgroup.join(pool, bytes)?.dir().to_owned();
                    // Without swap beyond it. Not every kernel counts swap.
                    let _ = write(&dir.join("memory.memsw.limit_in_bytes"), bytes);
                    cgroup.memory = Some(dir);
                }
                Ok(cgroup)
            }
        }
    }
}

impl Kind {
    fn open(hierarchies: Hierarchies, name: &str) -> io::Result<Kind> {
        Ok(match hierarchies {
            Hierarchies::Two { base, limits } => {
                Kind::Two { dir: base.join(name), has_limits: limits, next: AtomicU64::new(1) }
            }
            Hierarchies::One { tracking, has_pids, cpu, memory } => {
                let pool = |base: PathBuf, limit_file, reuse| {
                    Pool::open(&base, name, limit_file, reuse).map(Arc::new)
                };
                Kind::One {
                    tracking: pool(tracking, has_pids.then_some(PIDS_FILE), Reuse::AsTheyAre)?,
                    cpu: cpu
                        .map(|base| pool(base, Some("cpu.cfs_quota_us"), Reuse::WithFreshLimit))
                        .transpose()?,
                    memory: memory
                        .map(|base| pool(base, Some("memory.limit_in_bytes"), Reuse::Never))
                        .transpose()?,
                }
            }
        })
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if let Kind::Two { dir, .. } = &self.0 {
            // Stays while something is in it.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// What cgroups cannot do on this machine, for the operator; none if nothing is missing.
pub(crate) fn shortcoming() -> Option<String> {
    match Hierarchies::find() {
        None => Some(
            "this worker cannot create cgroups: CPU and memory of host tasks are not limited, and detached \
             processes can survive their task"
                .to_owned(),
        ),
        Some(hierarchies) if !hierarchies.have_limits() => Some(
            "this worker cannot use the cgroup controllers cpu, memory and pids: resources of host tasks \
             are not limited"
                .to_owned(),
        ),
        Some(_) => None,
    }
}

/// What cgroups are to hold an attempt to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// Microseconds of processor time in each period.
    cpu_micros: Option<u64>,
    /// Bytes.
    memory: Option<u64>,
    /// How it yields to others.
    nice: u8,
}

impl Limits {
    fn of(resources: Resources, nice: u8) -> Limits {
        let Resources { cpu, memory: Bytes(memory), .. } = resources;
        let is_share = cpu > Cpu::default() && u64::from(cpu.millis()) < PROCESSORS.saturating_mul(1000);
        let cpu_micros = is_share.then(|| {
            // The kernel refuses less than a millisecond.
            (u64::from(cpu.millis()) * CPU_PERIOD_MICROS / 1000).max(1_000)
        });
        Limits { cpu_micros, memory: (memory > 0).then_some(memory), nice: nice.min(MAX_NICE) }
    }

    /// The weight of its niceness.
    fn weight(self) -> u16 {
        WEIGHTS[usize::from(self.nice)]
    }

    fn write_two(self, dir: &Path) -> io::Result<()> {
        write(&dir.join("pids.max"), MAX_PIDS)?;
        if let Some(quota) = self.cpu_micros {
            write(&dir.join("cpu.max"), format_args!("{quota} {CPU_PERIOD_MICROS}"))?;
        }
        if self.nice > 0 {
            // Its processes are nice without it.
            let _ = write(&dir.join("cpu.weight.nice"), self.nice);
        }
        if let Some(bytes) = self.memory {
            write(&dir.join("memory.max"), bytes)?;
            let _ = write(&dir.join("memory.swap.max"), 0);
        }
        Ok(())
    }
}

impl Cgroup {
    fn new(version: Version, tracking: PathBuf, memory: Option<PathBuf>) -> Cgroup {
        Cgroup { version, tracking, memory, starts: AtomicU32::new(0), was_left: AtomicBool::new(false) }
    }

    /// Lets one of that controller take part.
    fn join(&mut self, pool: &Arc<Pool>, limit: impl Display) -> io::Result<&mut Room> {
        let Version::One { rooms, .. } = &mut self.version else {
            return Err(io::Error::other("only cgroups of version 1 are joined"));
        };
        let place = rooms.len();
        rooms.push((pool.clone(), pool.take(limit)?));
        Ok(&mut rooms[place].1)
    }

    /// Starts a process inside the cgroup from its first instruction, in a directory.
    pub fn spawn(
        &self,
        command: &mut Command,
        directory: &Path,
        user: Option<&JobUser>,
    ) -> io::Result<Child> {
        self.starts.fetch_add(1, Ordering::Relaxed);
        match &self.version {
            Version::One { rooms, .. } => {
                let _visit = Visit::begin(rooms)?;
                job_user::spawn(command, directory, user)
            }
            Version::Two { door } => {
                enter_before_exec(command, door.try_clone()?.into());
                job_user::spawn(command, directory, user)
            }
        }
    }

    /// The processes in it; zombies are in none.
    pub fn members(&self) -> Vec<i32> {
        let own = std::process::id();
        let Ok(procs) = fs::read_to_string(self.tracking.join("cgroup.procs")) else { return Vec::new() };
        // The thread that starts one is there for a moment.
        let pids = procs.lines().filter_map(|line| line.parse().ok());
        let members: Vec<i32> = pids.filter(|pid: &i32| u32::try_from(*pid) != Ok(own)).collect();
        if members.is_empty() && self.starts.load(Ordering::Relaxed) > 0 {
            self.was_left.store(true, Ordering::Relaxed);
        }
        members
    }

    /// Prevents new processes, so that a listing is complete.
    pub fn halt(&self) {
        let _ = match &self.version {
            Version::One { is_halted, .. } => {
                is_halted.store(true, Ordering::Relaxed);
                write(&self.tracking.join(PIDS_FILE), 0)
            }
            Version::Two { .. } => write(&self.tracking.join("cgroup.freeze"), 1),
        };
    }

    /// Kills everything in it.
    pub fn kill(&self) {
        let at_once = matches!(self.version, Version::Two { .. })
            && write(&self.tracking.join("cgroup.kill"), 1).is_ok();
        if !at_once {
            for pid in self.members() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            if matches!(self.version, Version::Two { .. }) {
                let _ = write(&self.tracking.join("cgroup.freeze"), 0);
            }
        }
    }

    /// Whether the OOM killer killed a process in it.
    pub fn ran_out_of_memory(&self) -> bool {
        let Some(dir) = &self.memory else { return false };
        let file = match self.version {
            Version::One { .. } => "memory.oom_control",
            Version::Two { .. } => "memory.events",
        };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse::<u64>().ok()).is_some_and(|count| count > 0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        match &mut self.version {
            Version::One { rooms, is_halted } => {
                let is_halted = *is_halted.get_mut();
                // What was left by all cannot start anything, unless somebody else did.
                let is_empty = *self.was_left.get_mut() && *self.starts.get_mut() == 1;
                for (pool, mut room) in rooms.drain(..) {
                    if is_halted {
                        room.forget(PIDS_FILE);
                    }
                    pool.give_back(room, is_empty);
                }
            }
            Version::Two { .. } => {
                // Stays while something is in it: the next process of this worker looks again.
                let _ = fs::remove_dir(&self.tracking);
            }
        }
    }
}

/// This thread's membership in cgroups (version 1), where threads can be members: processes that it starts are born
/// there.
struct Visit<'a>(&'a [(Arc<Pool>, Room)]);

impl Visit<'_> {
    fn begin(rooms: &[(Arc<Pool>, Room)]) -> io::Result<Visit<'_>> {
        let visit = Visit(rooms);
        rooms.iter().try_for_each(|(_, room)| room.enter())?;
        Ok(visit)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        for (pool, _) in self.0 {
            if let Err(error) = pool.go_home() {
                tracing::error!(%error, "a thread of this worker cannot leave an attempt's cgroup");
            }
        }
    }
}

/// With version 2 only processes can be members: the new process enters before its exec.
fn enter_before_exec(command: &mut Command, door: OwnedFd) {
    let enter = move || {
        rustix::io::write(&door, b"0")?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; `enter` makes one write to a descriptor
    // that was opened before, and neither allocates nor locks.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(enter);
    }
}

/// Kills all that is in the cgroups below `dir`, and removes them.
fn sweep(dir: &Path) {
    /// Each round kills what the one before had started meanwhile.
    const ROUNDS: usize = 100;
    let own = std::process::id();
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = child.path();
        if !path.is_dir() {
            continue;
        }
        let _ = write(&path.join("pids.max"), 0);
        for _ in 0..ROUNDS {
            let _ = write(&path.join("cgroup.kill"), 1);
            let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            let pids = procs.lines().filter_map(|line| line.parse::<i32>().ok());
            for pid in pids.filter(|pid| u32::try_from(*pid) != Ok(own)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            match fs::remove_dir(&path) {
                Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                _ => break,
            }
        }
    }
}

fn open_to_write(path: &Path) -> io::Result<File> {
    File::options().write(true).open(path)
}

fn write(path: &Path, value: impl Display) -> io::Result<()> {
    // At once: the kernel takes each write as a whole.
    open_to_write(path)?.write_all(value.to_string().as_bytes())
}

#[cfg(test)]
mod tests;
