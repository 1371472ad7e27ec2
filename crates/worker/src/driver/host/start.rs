//! Starts one process on a thread that may hang in any file access: working directory, program, or the kernel's
//! exec. It can be abandoned at any point; an abandoned start never executes an instruction of the task.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use gaffer_domain::spec::Action;
use gaffer_protocol::boot_time::BootTime;
use nix::unistd::gettid;
use rustix::process::{getpriority_process, setpriority_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::super::cgroup::{Cgroup, Cgroups};
use super::super::process_tree::{self, ProcessTree};
use super::super::processes::{self, ProcessInfo};
use super::super::program::{self, Program};
use super::super::stuck::Stuck;
use super::super::{Assignment, Directories, Exec, InputSink, StartError, Started};
use super::HostProcess;
use super::exec::{HostExec, Starting};
use super::pipe::{Pipe, Pipes};
use crate::blocking::{BlockingThreads, PATIENCE};
use crate::job_user::{self, JobUser};

/// How often a start that was given up while the kernel loads the program is looked at.
const PROBE_INTERVAL: Duration = Duration::from_millis(2);
/// How long a killed process may take to leave the kernel before it counts as one that cannot be killed.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// A start in progress, shared by its thread and the waiting caller.
pub(super) struct Start {
    assignment: Assignment,
    inherited: Arc<BTreeMap<String, String>>,
    user: Option<Arc<JobUser>>,
    cgroups: Option<Arc<Cgroups>>,
    check_threads: BlockingThreads,
    stuck: Stuck,
    runtime: Handle,
    stage: Mutex<Stage>,
}

enum Stage {
    /// Has no thread yet.
    Queued,
    /// Looks at a file, or a directory.
    Looking(String),
    /// The kernel makes a process of the program; none knows its number before it has.
    Spawning {
        program: String,
        /// The thread that waits for it.
        thread: i32,
        /// It was killed on its way.
        killed: Option<ProcessInfo>,
    },
    /// There is a process.
    Spawned,
    /// The caller has given up: no process may be created, and an existing one must be killed.
    GivenUp,
    Over(Result<Started, StartError>),
}

/// How far giving up is.
enum GivingUp {
    Done,
    /// This has been killed, and the kernel has not let go of it.
    Killed(ProcessInfo),
    /// The thread has just come back.
    Over(Box<Result<Started, StartError>>),
    NotYet,
}

impl Start {
    /// Must be called inside a Tokio runtime.
    pub fn new(
        assignment: Assignment,
        inherited: Arc<BTreeMap<String, String>>,
        user: Option<Arc<JobUser>>,
        cgroups: Option<Arc<Cgroups>>,
        check_threads: BlockingThreads,
        stuck: Stuck,
    ) -> Start {
        let stage = Mutex::new(Stage::Queued);
        Start {
            assignment,
            inherited,
            user,
            cgroups,
            check_threads,
            stuck,
            runtime: Handle::current(),
            stage,
        }
    }

    /// Does it, and leaves the result for [`Self::take_result`]. Blocks, for ever if a file system does.
    pub fn run(&self) {
        let result = self.start();
        let started = result.as_ref().ok().map(|started| started.pid);
        *self.stage() = Stage::Over(result);
        if let Some(pid) = started {
            self.assignment.on_start.tell(pid);
        }
    }

    /// Waits until it has started and its thread does not come back, because the disk that is to keep this does not respond: what
    /// runs must not be unsupervised for long.
    pub async fn overdue(&self) {
        let mut has_started = false;
        loop {
            sleep(PATIENCE / 2).await;
            let had_started = has_started;
            has_started = matches!(&*self.stage(), Stage::Over(Ok(_)));
            if has_started && had_started {
                return;
            }
        }
    }

    /// To be called once [`Self::run`] has come back, or is [overdue](Self::overdue).
    pub fn take_result(&self) -> Result<Started, StartError> {
        match std::mem::replace(&mut *self.stage(), Stage::GivenUp) {
            Stage::Over(result) => result,
            _ => Err(StartError::cancelled()),
        }
    }

    /// What keeps it from starting.
    pub fn obstacle(&self) -> String {
        match &*self.stage() {
            Stage::Queued => "too many other starts hang".to_owned(),
            Stage::Looking(at) => format!("{at} does not respond"),
            Stage::Spawning { program, .. } => format!("the kernel has not loaded {program} yet"),
            Stage::Spawned | Stage::GivenUp | Stage::Over(_) => "it is about to start".to_owned(),
        }
    }

    /// Gives up the start. After this returns, the task never executes, unless it started at the last moment.
    pub async fn give_up(&self, note: &(dyn Fn(String) + Send + Sync)) -> Result<Started, StartError> {
        let why = format!("not started: {}", self.obstacle());
        let deadline = Instant::now() + KILL_PATIENCE;
        let mut was_killed = false;
        loop {
            match self.end_waiting() {
                GivingUp::Over(result) if result.is_ok() || !was_killed => return *result,
                GivingUp::Over(_) | GivingUp::Done => break,
                GivingUp::Killed(process) if Instant::now() >= deadline => {
                    self.stuck.add(move || processes::lives(&process));
                    break;
                }
                GivingUp::Killed(_) => was_killed = true,
                GivingUp::NotYet => {}
            }
            sleep(PROBE_INTERVAL).await;
        }
        note(why.clone());
        Err(StartError::other(why))
    }

    /// A step towards giving up.
    fn end_waiting(&self) -> GivingUp {
        let mut stage = self.stage();
        match &mut *stage {
            Stage::Queued | Stage::Looking(_) | Stage::GivenUp => {
                *stage = Stage::GivenUp;
                GivingUp::Done
            }
            // Killed before it is another program, it never becomes one, however long the kernel needs to end it.
            Stage::Spawning { thread, killed, .. } => {
                *killed = killed.take().or_else(|| processes::being_started_by(*thread));
                match *killed {
                    Some(process) => {
                        process_tree::kill_exactly(&process);
                        GivingUp::Killed(process)
                    }
                    None => GivingUp::NotYet,
                }
            }
            Stage::Spawned => GivingUp::NotYet,
            Stage::Over(_) => {
                drop(stage);
                GivingUp::Over(Box::new(self.take_result()))
            }
        }
    }

    fn start(&self) -> Result<Started, StartError> {
        let Assignment { start, marker, directories, .. } = &self.assignment;
        let definition = &start.definition;
        let Some(directories) = directories else {
            return Err(StartError::other("it has no scratch directory"));
        };
        let environment = program::environment(&self.inherited, &self.assignment, directories);
        let path = environment.get("PATH").map_or("", String::as_str);
        let found = job_user::with_rights_of(self.user.as_deref(), || -> Result<_, StartError> {
            let directory = self.directory(definition.workdir.as_deref(), directories)?;
            let program = self.program(&definition.action, directory, directories.script.as_deref(), path)?;
            Ok((directory, program))
        });
        let (directory, program) = found.map_err(|error| {
            StartError::other(format!("cannot look for its program as the user that it runs as: {error}"))
        })??;
        let cgroup = self
            .cgroups
            .as_ref()
            .map(|cgroups| cgroups.take(definition.resources, definition.nice))
            .transpose();
        let cgroup = cgroup.map_err(|error| StartError::other(format!("cannot make a cgroup: {error}")))?;
        let started = BootTime::now();
        let mut command = program.command(&environment);
        let stdin = definition.stdin.then(|| self.stdin(&mut command)).transpose()?.flatten();
        let pipe = || Pipe::new().map_err(|error| StartError::other(format!("cannot make a pipe: {error}")));
        let ((stdout, of_stdout), (stderr, of_stderr)) = (pipe()?, pipe()?);
        if let Some(user) = &self.user {
            let owned = user.own_pipe(&of_stdout).and_then(|()| user.own_pipe(&of_stderr));
            owned.map_err(|error| StartError::other(format!("cannot hand over a pipe: {error}")))?;
        }
        command.stdout(of_stdout).stderr(of_stderr);
        let mut child =
            self.spawn_nice(definition.nice, &program, directory, &mut command, cgroup.as_ref())?;
        // It holds the ends that the process has, too: they would keep the pipes open.
        drop(command);
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| StartError::other("the new process has no process id"))?;
        let input = child.stdin.take().or(stdin);
        let user = self.user.clone();
        let tree = ProcessTree::new(pid, marker, directories.work.clone(), started, cgroup).with_user(user);
        if let Err(given_up) = self.enter(Stage::Spawned) {
            // The main process is dead; if it executed another program for a moment, this kills what it started.
            tree.kill();
            return Err(given_up);
        }
        let tree = Arc::new(tree);
        let exec = definition.has_command_check().then(|| HostExec {
            environment: Arc::new(environment),
            directory: directory.to_owned(),
            tree: tree.clone(),
            threads: self.check_threads.clone(),
            starting: Starting::default(),
        });
        let process = HostProcess { child, tree, killed: None, stuck: self.stuck.clone() };
        Ok(Started {
            input: input.map(|input| Box::pin(input) as InputSink),
            process: Box::new(process),
            output: Box::new(Pipes::new(stdout, stderr)),
            pid: Some(pid),
            container: None,
            exec: exec.map(|exec| Box::new(exec) as Box<dyn Exec>),
        })
    }

    /// Gives the process a standard input. Returns the other end, unless the child has it.
    fn stdin(&self, command: &mut Command) -> Result<Option<ChildStdin>, StartError> {
        let Some(user) = &self.user else {
            command.stdin(Stdio::piped());
            return Ok(None);
        };
        let failed = |error| StartError::other(format!("cannot make a standard input: {error}"));
        let (reader, writer) = io::pipe().map_err(failed)?;
        user.own_pipe(&reader).map_err(failed)?;
        command.stdin(reader);
        let _runtime = self.runtime.enter();
        ChildStdin::from_std(OwnedFd::from(writer).into()).map(Some).map_err(failed)
    }

    fn directory<'a>(
        &self,
        wanted: Option<&'a str>,
        directories: &'a Directories,
    ) -> Result<&'a Path, StartError> {
        let Some(path) = wanted else { return Ok(&directories.work) };
        self.look_at(format!("the working directory {path}"))?;
        program::work_directory(path)
    }

    fn program(
        &self,
        action: &Action,
        directory: &Path,
        script: Option<&Path>,
        path: &str,
    ) -> Result<Program, StartError> {
        match (action, script) {
            (Action::Command(command), _) => {
                let name = command.first().map_or("", String::as_str);
                self.look_at(format!("the file of the program {name}"))?;
                program::find(command, directory, path)
            }
            (Action::Script(_), Some(script)) => {
                self.look_at("the file of the script, or of its interpreter,".to_owned())?;
                program::interpreter(script)
            }
            (Action::Script(_), None) => Err(StartError::other("the script was not written to a file")),
        }
    }

    /// Makes the process on a thread that has its niceness, which it inherits, and ends then: without privileges a thread
    /// can become nicer, but never less so.
    fn spawn_nice(
        &self,
        nice: u8,
        program: &Program,
        directory: &Path,
        command: &mut Command,
        cgroup: Option<&Cgroup>,
    ) -> Result<Child, StartError> {
        if nice == 0 {
            return self.spawn(program, directory, command, cgroup);
        }
        let failed = |error| StartError::other(format!("cannot start with niceness {nice}: {error}"));
        thread::scope(|scope| {
            let start = || {
                let own = getpriority_process(None).map_err(|error| failed(error.into()))?;
                setpriority_process(None, own.max(i32::from(nice))).map_err(|error| failed(error.into()))?;
                self.spawn(program, directory, command, cgroup)
            };
            let starter = thread::Builder::new().name("host-nice".to_owned()).spawn_scoped(scope, start);
            starter.map_err(failed)?.join().unwrap_or_else(|_| Err(failed(io::Error::other("a panic"))))
        })
    }

    /// Makes the process, unless nobody waits for it any more.
    fn spawn(
        &self,
        program: &Program,
        directory: &Path,
        command: &mut Command,
        cgroup: Option<&Cgroup>,
    ) -> Result<Child, StartError> {
        let (name, thread) = (program.path.display().to_string(), gettid().as_raw());
        self.enter(Stage::Spawning { program: name, thread, killed: None })?;
        let _runtime = self.runtime.enter();
        let spawned = match cgroup {
            Some(cgroup) => cgroup.spawn(command, directory, self.user.as_deref()),
            None => job_user::spawn(command, directory, self.user.as_deref()),
        };
        spawned.map_err(|error| refused(&program.name, &error))
    }

    fn look_at(&self, what: String) -> Result<(), StartError> {
        self.enter(Stage::Looking(what))
    }

    /// Enters the next stage, unless the caller has given up.
    fn enter(&self, next: Stage) -> Result<(), StartError> {
        let mut stage = self.stage();
        if matches!(*stage, Stage::GivenUp | Stage::Spawning { killed: Some(_), .. }) {
            return Err(StartError::cancelled());
        }
        *stage = next;
        Ok(())
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the kernel cannot start an existing, executable program.
fn refused(name: &str, error: &io::Error) -> StartError {
    match error.kind() {
        io::ErrorKind::NotFound => StartError {
            exit_code: 126,
            message: format!("not executable: {name} (its interpreter or loader is missing)"),
        },
        io::ErrorKind::PermissionDenied => StartError::not_executable(name),
        _ if error.raw_os_error() == Some(nix::libc::ENOEXEC) => StartError {
            exit_code: 126,
            message: format!(
                "not executable: {name} (neither a program for this machine nor a script with a #! line)"
            ),
        },
        _ => StartError::other(format!("cannot start {name}: {error}")),
    }
}
