//! The processes that faults strike: a master, its workers, the connections of its database.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gaffer_protocol::rest::{Job, Page, Task};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::network::{Break, Network};
use crate::client::Client;
use crate::gaffer::{bare_command, keeper, kill_keeper, link};
use crate::stage::Stage;

const WORKERS: usize = 4;
/// How long anything may take to answer again after a fault.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(100);

pub struct Fleet {
    program: PathBuf,
    dir: tempfile::TempDir,
    database_url: String,
    ports: [u16; 3],
    worker_key: String,
    client: Client,
    master: Child,
    workers: Vec<Child>,
    /// Each worker's way to the master.
    networks: Vec<Network>,
    /// Processes that stand still.
    frozen: Vec<Pid>,
}

/// What may stand still.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    Link(usize),
    Keeper(usize),
    Master,
}

impl Fleet {
    pub async fn start(program: &Path) -> Fleet {
        // A master in this process makes the keys, and goes.
        let stage = Stage::set().await;
        let (worker_key, user_key) = (stage.worker_key.clone(), stage.client.key().to_owned());
        let database_url = stage.strike().await;
        let ports = free_ports();
        let client = Client::new(&format!("http://127.0.0.1:{}", ports[1]), &user_key);
        let dir = tempfile::Builder::new().prefix("gaffer-torture-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let program = program.to_owned();
        let mut networks = Vec::new();
        for _ in 0..WORKERS {
            networks.push(Network::start(ports[2]).await);
        }
        let master = spawn_master(&program, &database_url, ports, dir.path());
        let (workers, frozen) = (Vec::new(), Vec::new());
        let mut fleet = Fleet {
            program,
            dir,
            database_url,
            ports,
            worker_key,
            client,
            master,
            workers,
            networks,
            frozen,
        };
        for number in 0..WORKERS {
            let worker = fleet.spawn_worker(number);
            fleet.workers.push(worker);
        }
        fleet
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    fn spawn_worker(&self, number: usize) -> Child {
        let mut command = self.command("worker");
        command
            .env("MASTER_URL", format!("ws://127.0.0.1:{}", self.networks[number].port()))
            .env("API_KEY", &self.worker_key)
            .env("GAFFER_DATA_DIR", self.worker_dir(number))
            .env("GAFFER_WORKER_NAME", format!("worker-{number}"))
            .env("GAFFER_DRIVERS", "host")
            .env("GAFFER_CPU", "8");
        command.spawn().unwrap()
    }

    fn command(&self, role: &str) -> Command {
        logged(bare_command(&self.program, &[role]), self.dir.path(), role)
    }

    /// Kills the part of a worker that talks to the master; the worker starts another one.
    pub fn kill_link(&self, number: usize) {
        if let Some(pid) = self.pid(Part::Link(number)) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Kills all processes of a worker, and starts another one.
    pub async fn kill_worker(&mut self, number: usize) {
        let link = self.pid(Part::Link(number));
        self.workers[number].kill().await.unwrap();
        if let Some(link) = link {
            let _ = kill(link, Signal::SIGKILL);
        }
        kill_keeper(&self.worker_dir(number)).await;
        self.workers[number] = self.spawn_worker(number);
    }

    fn worker_dir(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("worker-{number}"))
    }

    /// None while it is not there.
    fn pid(&self, part: Part) -> Option<Pid> {
        let pid = |child: &Child| child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        match part {
            Part::Link(number) => link(pid(&self.workers[number])?),
            Part::Keeper(number) => keeper(&self.worker_dir(number)),
            Part::Master => pid(&self.master),
        }
    }

    pub async fn kill_master(&mut self) {
        self.master.kill().await.unwrap();
        self.master = spawn_master(&self.program, &self.database_url, self.ports, self.dir.path());
    }

    /// Makes a process stand still, and lets it go on after so long.
    pub fn freeze(&mut self, part: Part, duration: Duration) {
        let Some(pid) = self.pid(part) else { return };
        let _ = kill(pid, Signal::SIGSTOP);
        self.frozen.push(pid);
        tokio::spawn(async move {
            sleep(duration).await;
            // It may have been killed meanwhile.
            let _ = kill(pid, Signal::SIGCONT);
        });
    }

    /// Breaks the way between a worker and the master for so long.
    pub fn cut_network(&self, number: usize, kind: Break, duration: Duration) {
        self.networks[number].strike(kind, duration);
    }

    pub async fn cut_database(&self) {
        let mut connection = PgConnection::connect(&self.database_url).await.unwrap();
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query(cut).execute(&mut connection).await.unwrap();
    }

    /// Lets everything go on that was stopped.
    pub async fn mend(&mut self) {
        self.networks.iter().for_each(Network::mend);
        for pid in self.frozen.drain(..) {
            let _ = kill(pid, Signal::SIGCONT);
        }
    }

    /// Submits until it is accepted; the key makes that one job, however often it takes.
    pub async fn submit(&self, spec: &Value, key: u64) -> i64 {
        let answer = self
            .patiently("a job to be accepted", async || {
                let request = self.client.request(Method::POST, "/jobs").json(spec);
                let answer = request.header("idempotency-key", key.to_string()).send().await.ok()?;
                let is_accepted = answer.status().is_success();
                assert!(
                    is_accepted || answer.status().is_server_error(),
                    "a good job is refused: {}",
                    answer.status()
                );
                if is_accepted { answer.json::<Value>().await.ok() } else { None }
            })
            .await;
        answer["id"].as_i64().unwrap()
    }

    /// Tasks of these jobs that are not over, as far as anybody can tell now.
    pub async fn waiting(&self, jobs: &[(i64, u64)]) -> u64 {
        let Some((last, _)) = jobs.last() else { return 0 };
        let Some(job) = self.ask::<Job>(&format!("/jobs/{last}")).await else { return u64::MAX };
        let over = ["completed", "failed", "cancelled"];
        let counts = job.task_counts.iter().filter(|(state, _)| !over.contains(&state.as_str()));
        counts.map(|(_, count)| count.unsigned_abs()).sum()
    }

    /// Waits until all is over, or until patience ends; gives all tasks as they are then, with their jobs' seeds.
    pub async fn settle(&self, jobs: &[(i64, u64)], patience: Duration) -> Vec<(u64, Task)> {
        let deadline = Instant::now() + patience;
        let mut all = Vec::new();
        for (job, seed) in jobs {
            while Instant::now() < deadline
                && self
                    .ask::<Job>(&format!("/jobs/{job}?wait=5s"))
                    .await
                    .is_none_or(|job| job.finished_at.is_none())
            {
                sleep(RETRY).await;
            }
            let path = format!("/jobs/{job}/tasks?limit=500");
            let page: Page<Task> = self.patiently("the tasks of a job", async || self.ask(&path).await).await;
            all.extend(page.items.into_iter().map(|task| (*seed, task)));
        }
        all
    }

    /// A client of the master.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Takes everything down in order.
    pub async fn stop(mut self) {
        for child in self.workers.iter_mut().chain([&mut self.master]) {
            if let Some(id) = child.id() {
                let _ = kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGTERM);
            }
            let _ = child.wait().await;
        }
        // Of a worker that was not there to be told.
        for number in 0..WORKERS {
            kill_keeper(&self.worker_dir(number)).await;
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &str) -> Option<T> {
        let answer = self.client.request(Method::GET, path).send().await.ok()?;
        if answer.status().is_success() { answer.json().await.ok() } else { None }
    }

    async fn patiently<T>(&self, what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
        crate::eventually_within(PATIENCE, what, async || ask().await).await
    }
}

fn spawn_master(program: &Path, database_url: &str, ports: [u16; 3], dir: &Path) -> Child {
    let mut command = logged(bare_command(program, &["master"]), dir, "master");
    let address = |port: u16| format!("127.0.0.1:{port}");
    command
        .env("DATABASE_URL", database_url)
        .env("GAFFER_DASHBOARD_ADDR", address(ports[0]))
        .env("GAFFER_API_ADDR", address(ports[1]))
        .env("GAFFER_WORKER_ADDR", address(ports[2]))
        .env("GAFFER_DATA_DIR", dir.join("master"));
    command.spawn().unwrap()
}

fn logged(mut command: Command, dir: &Path, role: &str) -> Command {
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(dir.join(format!("{role}.log"))).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command
}

/// Ports that are free now; the same for all masters that follow each other.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
