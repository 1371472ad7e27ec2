//! The real program as processes: `gaffer dev`, more workers, and client commands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::cluster::give_cluster;
use crate::eventually;

/// The `gaffer` program that was built beside this test or program.
pub fn program() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    // Tests are one directory deeper.
    let found = this.ancestors().skip(1).take(2).map(|dir| dir.join("gaffer")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no gaffer beside {}: build it with `cargo build`", this.display()))
}

/// A command of the program that knows nothing of this machine's settings.
pub fn command(args: &[&str]) -> Command {
    bare_command(&program(), args)
}

/// The same of a program that lies elsewhere.
pub fn bare_command(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    for name in ["PATH", "HOME", "TMPDIR", "LANG", "CARGO_HOME", "RUSTUP_HOME"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command
}

/// A directory for an installation, reachable for the user that Postgres runs as.
pub fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("gaffer-e2e-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// The process that keeps the attempts of the worker with this data directory, if one lives.
pub fn executor(worker_dir: &Path) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(worker_dir.join("lock")).ok()?.trim().parse().ok()?;
    // The number may be another's by now.
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    words.split(|byte| *byte == 0).any(|word| word == b"executor").then_some(Pid::from_raw(pid))
}

/// The agent of a running `gaffer worker`.
pub fn agent(worker: Pid) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{worker}/task/{worker}/children")).ok()?;
    // A shell that became the worker may have left it other children.
    let is_agent = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"worker")
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_agent).map(Pid::from_raw)
}

/// The watchdog of a running executor.
pub fn watchdog(executor: Pid) -> Option<Pid> {
    let children = std::fs::read_dir(format!("/proc/{executor}/task")).ok()?.flatten();
    let children = children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> = children
        .flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<i32>>())
        .collect();
    let is_watchdog = |pid: &&i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"watchdog")
    };
    pids.iter().find(is_watchdog).copied().map(Pid::from_raw)
}

/// Ends the executor of the worker with this data directory as the kernel would, and waits until it has ended.
pub async fn kill_executor(worker_dir: &Path) {
    let Some(pid) = executor(worker_dir) else { return };
    let _ = kill(pid, Signal::SIGKILL);
    eventually("the executor has ended", async || executor(worker_dir).is_none().then_some(())).await;
}

/// A running `gaffer dev`. What it has not been told to end is killed with this, and so is its executor.
pub struct Dev {
    child: Child,
    worker_dir: PathBuf,
    /// What `dev.env` says.
    pub env: BTreeMap<String, String>,
    /// A client of its API.
    pub client: Client,
}

impl Dev {
    /// Starts it on a data directory and waits until it is ready. If that is empty, it gets a database cluster, which
    /// takes longer to make than to copy.
    pub async fn start(data_dir: &Path) -> Dev {
        Dev::start_with(data_dir, &[]).await
    }

    /// The same with more variables in its environment.
    pub async fn start_with(data_dir: &Path, variables: &[(&str, &str)]) -> Dev {
        give_cluster(data_dir).await;
        Dev::start_from_nothing(data_dir, variables).await
    }

    /// The same, which has to make everything by itself.
    pub async fn start_from_nothing(data_dir: &Path, variables: &[(&str, &str)]) -> Dev {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(data_dir.join("dev.log")).unwrap();
        let ready = data_dir.join("dev.env");
        let _ = std::fs::remove_file(&ready);
        let mut command = command(&["dev"]);
        command
            .env("GAFFER_DATA_DIR", data_dir)
            .env("GAFFER_DASHBOARD_ADDR", "127.0.0.1:0")
            .env("GAFFER_API_ADDR", "127.0.0.1:0")
            .env("GAFFER_WORKER_ADDR", "127.0.0.1:0")
            .env("GAFFER_LOG", "info")
            .envs(variables.iter().copied())
            // Its own group, as a terminal would give it one.
            .process_group(0)
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut child = command.spawn().unwrap();
        let env = eventually("gaffer dev is ready", async || {
            if let Some(status) = child.try_wait().unwrap() {
                let log = std::fs::read_to_string(data_dir.join("dev.log")).unwrap_or_default();
                panic!("gaffer dev ended with {status}:\n{log}");
            }
            let text = std::fs::read_to_string(&ready).ok()?;
            let lines = text.lines().filter_map(|line| line.split_once('='));
            Some(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>())
        })
        .await;
        let client = Client::new(&env["GAFFER_URL"], &env["GAFFER_KEY"]);
        Dev { child, worker_dir: data_dir.join("worker"), env, client }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap() as i32)
    }

    /// Kills it, without a chance to do anything. What keeps its attempts lives on, for the next one on this directory.
    pub async fn kill(mut self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
        self.child.wait().await.unwrap();
        self.worker_dir = PathBuf::new();
    }

    /// Kills it with what keeps its attempts.
    pub async fn kill_with_executor(mut self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
        self.child.wait().await.unwrap();
        kill_executor(&self.worker_dir).await;
    }

    /// Ends it as Ctrl-C does; returns its exit code.
    pub async fn interrupt(mut self) -> Option<i32> {
        kill(self.pid(), Signal::SIGINT).unwrap();
        self.child.wait().await.unwrap().code()
    }

    /// A client command that talks to it.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.env("GAFFER_URL", &self.env["GAFFER_URL"]).env("GAFFER_KEY", &self.env["GAFFER_KEY"]);
        command
    }

    /// Starts another worker for it, with its own data directory.
    pub async fn add_worker(&self, name: &str, data_dir: &Path) -> WorkerProcess {
        self.add_worker_with(name, data_dir, &[]).await
    }

    /// The same with more variables in its environment.
    pub async fn add_worker_with(
        &self,
        name: &str,
        data_dir: &Path,
        variables: &[(&str, &str)],
    ) -> WorkerProcess {
        let mut worker = command(&["worker"]);
        worker.envs(variables.iter().copied());
        self.add_worker_by(worker, name, data_dir).await
    }

    /// The same, started by this command, with the key that it has or a new one.
    pub async fn add_worker_by(&self, worker: Command, name: &str, data_dir: &Path) -> WorkerProcess {
        let key = serde_json::json!({"kind": "worker", "name": name});
        self.add_worker_with_key(&key, worker, name, data_dir).await
    }

    /// The same with a new key like this, unless it has one.
    pub async fn add_worker_with_key(
        &self,
        key: &serde_json::Value,
        mut worker: Command,
        name: &str,
        data_dir: &Path,
    ) -> WorkerProcess {
        if !worker.as_std().get_envs().any(|(variable, _)| variable == "API_KEY") {
            let key = self.client.post("/keys", key).await;
            worker.env("API_KEY", key.body["key"].as_str().unwrap());
        }
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(data_dir.join("worker.log")).unwrap();
        let child = worker
            .env("MASTER_URL", &self.env["MASTER_URL"])
            .env("GAFFER_WORKER_NAME", name)
            .env("GAFFER_DATA_DIR", data_dir)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let worker = WorkerProcess { child, data_dir: data_dir.to_owned() };
        eventually(&format!("worker {name} is online"), async || {
            // One that was killed a moment ago may still count as online: this one must have got as far as to dial.
            worker.agent()?;
            let listed = self.client.get(&format!("/workers/{name}")).await;
            (listed.body["state"] == "online").then_some(())
        })
        .await;
        worker
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        if let Some(pid) = executor(&self.worker_dir) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// A running `gaffer worker`. What it has not been told to end is killed with this.
pub struct WorkerProcess {
    child: Child,
    data_dir: PathBuf,
}

impl WorkerProcess {
    /// The process that was started.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().unwrap() as i32)
    }

    /// Its process that talks to the master.
    pub fn agent(&self) -> Option<Pid> {
        agent(self.pid())
    }

    /// Its process that keeps the attempts.
    pub fn executor(&self) -> Option<Pid> {
        executor(&self.data_dir)
    }

    /// Ends it as Ctrl-C does, or as a service manager; returns its exit code.
    pub async fn end(mut self, signal: Signal) -> Option<i32> {
        kill(self.pid(), signal).unwrap();
        let code = self.child.wait().await.unwrap().code();
        self.data_dir = PathBuf::new();
        code
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        if let Some(pid) = self.executor() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
