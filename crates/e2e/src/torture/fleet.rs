//! The processes that faults hit: masters, workers, and the connections to the database.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection as _, PgConnection};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::namespaces::{Ground, Namespace};
use super::network::{Break, Network, Target};
use super::plan::Plan;
use super::server::Server;
use super::tap::Tap;
use crate::client::Client;
use crate::cluster::fresh_database;
use crate::database_proxy::DatabaseProxy;
use crate::gaffer::{agent, bare_command, executor, kill_executor};
use crate::stage::Stage;

/// What the ways between workers and master are made of.
pub enum Ways {
    /// Connections that are carried on by this process.
    Carried,
    /// The same, frame by frame.
    Tapped(Arc<Tap>),
    /// The network of a namespace for each worker.
    Namespaces(Ground),
}

/// What a run needs beside master and workers.
pub struct Setup {
    pub ways: Ways,
    /// A database server that may be killed; else the database is one on the server of all tests.
    pub server: Option<Server>,
    /// The master is an ordinary role in its database, and connects through its proxy.
    pub is_ordinary: bool,
    /// Several masters on the one database, each with its own way to it, and the lease of the one that leads.
    pub masters: Option<(usize, Duration)>,
    /// Where the workers' data directories are, if they lie elsewhere.
    pub worker_root: Option<PathBuf>,
    /// More variables for each worker's environment.
    pub environment: Vec<Vec<(&'static str, &'static str)>>,
}

impl Setup {
    pub fn plain() -> Setup {
        Setup {
            ways: Ways::Carried,
            server: None,
            is_ordinary: false,
            masters: None,
            worker_root: None,
            environment: Vec::new(),
        }
    }
}

/// The role of a master that is an ordinary one. There is one such master on a server.
pub const ROLE: &str = "gaffer_master";

pub struct Fleet {
    program: PathBuf,
    dir: Option<tempfile::TempDir>,
    worker_root: PathBuf,
    environment: Vec<Vec<(&'static str, &'static str)>>,
    cpu: u32,
    /// The database, as its owner.
    database_url: String,
    /// The same, as the masters have it.
    master_url: String,
    worker_key: String,
    pub(super) client: Client,
    masters: Vec<Seat>,
    /// The way of users to whichever master is ready, where there are several.
    _front: Option<Network>,
    workers: Vec<Option<Child>>,
    ways: Ways,
    /// Each worker's way to the master, where this process carries it.
    networks: Vec<Network>,
    /// Processes that stand still.
    frozen: Vec<Pid>,
    /// Answers of the API that say that the master is at fault.
    pub(super) server_errors: AtomicUsize,
    /// Those of them that do not say when to come again.
    pub(super) improper_errors: Mutex<Vec<String>>,
    /// Ends after the master.
    server: Option<Server>,
}

/// A master and what outlives its process.
struct Seat {
    child: Child,
    ports: [u16; 3],
    way: Option<DatabaseProxy>,
    lease: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
pub enum Part {
    Agent(usize),
    Executor(usize),
    Master(usize),
}

impl Fleet {
    pub async fn start(plan: &Plan, setup: Setup) -> Fleet {
        let Setup { ways, server, is_ordinary, masters, worker_root, environment } = setup;
        // A master in this process makes the keys, and goes.
        let database = match &server {
            Some(server) => server.url().to_owned(),
            None => fresh_database().await,
        };
        let stage = Stage::on(database).await;
        let (worker_key, user_key) = (stage.worker_key.clone(), stage.client.key().to_owned());
        let database_url = stage.strike().await;
        let master_url = match is_ordinary {
            true => as_ordinary(&database_url).await,
            false => database_url.clone(),
        };
        let (count, lease) = masters.map_or((1, None), |(count, lease)| (count, Some(lease)));
        let ports: Vec<[u16; 3]> = (0..count).map(|_| free_ports()).collect();
        let to = |door: usize, hangs_up| match ports.as_slice() {
            [only] => Target::Port(only[door]),
            several => Target::Ready { ports: several.iter().map(|ports| ports[door]).collect(), hangs_up },
        };
        let front = if count > 1 { Some(Network::start(to(1, true)).await) } else { None };
        let api = front.as_ref().map_or(ports[0][1], Network::port);
        let client = Client::new(&format!("http://127.0.0.1:{api}"), &user_key);
        let dir = tempfile::Builder::new().prefix("gaffer-torture-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut networks = Vec::new();
        for _ in 0..plan.workers {
            match &ways {
                Ways::Carried => networks.push(Network::start(to(2, false)).await),
                Ways::Tapped(tap) => networks.push(Network::tapped(ports[0][2], tap.clone()).await),
                Ways::Namespaces(_) => {}
            }
        }
        let program = plan.gaffer.clone();
        let mut masters = Vec::new();
        for (number, ports) in ports.into_iter().enumerate() {
            let has_way = count > 1 || is_ordinary;
            let way = if has_way { Some(DatabaseProxy::start(&master_url).await) } else { None };
            let url = way.as_ref().map_or(master_url.as_str(), DatabaseProxy::url);
            let child = spawn_master(&program, url, ports, lease, &ways, dir.path(), number);
            masters.push(Seat { child, ports, way, lease });
        }
        let mut fleet = Fleet {
            masters,
            _front: front,
            worker_root: worker_root.unwrap_or_else(|| dir.path().to_owned()),
            dir: Some(dir),
            environment,
            cpu: plan.cpu,
            server_errors: AtomicUsize::new(0),
            improper_errors: Mutex::default(),
            workers: Vec::new(),
            frozen: Vec::new(),
            program,
            database_url,
            master_url,
            worker_key,
            client,
            ways,
            networks,
            server,
        };
        for number in 0..plan.workers {
            let worker = fleet.spawn_worker(number);
            fleet.workers.push(Some(worker));
        }
        fleet
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// What the master calls a worker, and where that one stands.
    pub fn name(number: usize) -> String {
        format!("worker-{number}")
    }

    /// The namespace of a worker, if it has one.
    pub fn space(&self, number: usize) -> Option<Namespace> {
        match &self.ways {
            Ways::Namespaces(ground) => ground.spaces().get(number).cloned(),
            _ => None,
        }
    }

    pub fn server(&mut self) -> Option<&mut Server> {
        self.server.as_mut()
    }

    pub fn server_ref(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    fn spawn_worker(&self, number: usize) -> Child {
        let (address, mut command) = match &self.ways {
            Ways::Namespaces(ground) => {
                let [program, inside] = ground.spaces()[number].entrance();
                let program_inside = self.program.display().to_string();
                let command = bare_command(Path::new(&program), &[&inside, &program_inside, "worker"]);
                (format!("{}:{}", ground.address(), self.masters[0].ports[2]), command)
            }
            _ => {
                let command = bare_command(&self.program, &["worker"]);
                (format!("127.0.0.1:{}", self.networks[number].port()), command)
            }
        };
        command
            .env("MASTER_URL", format!("ws://{address}"))
            .env("API_KEY", &self.worker_key)
            .env("GAFFER_DATA_DIR", self.worker_dir(number))
            .env("GAFFER_WORKER_NAME", Fleet::name(number))
            .env("GAFFER_DATACENTER", Fleet::name(number))
            .env("GAFFER_DRIVERS", "host")
            .env("GAFFER_CPU", self.cpu.to_string())
            .envs(self.environment.get(number).into_iter().flatten().copied());
        logged(command, self.dir(), &Fleet::name(number)).spawn().unwrap()
    }

    /// Kills the part of a worker that talks to the master; the worker starts another one.
    pub fn kill_agent(&self, number: usize) {
        if let Some(pid) = self.pid(Part::Agent(number)) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Kills all processes of a worker.
    pub async fn kill_worker(&mut self, number: usize) {
        let agent = self.pid(Part::Agent(number));
        if let Some(mut worker) = self.workers[number].take() {
            worker.kill().await.unwrap();
        }
        if let Some(agent) = agent {
            let _ = kill(agent, Signal::SIGKILL);
        }
        kill_executor(&self.worker_dir(number)).await;
    }

    /// Starts a worker that was killed.
    pub fn revive_worker(&mut self, number: usize) {
        if self.workers[number].is_none() {
            self.workers[number] = Some(self.spawn_worker(number));
        }
    }

    pub fn worker_dir(&self, number: usize) -> PathBuf {
        self.worker_root.join(Fleet::name(number))
    }

    /// Where everything of this run lies.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// None while it is not there.
    pub fn pid(&self, part: Part) -> Option<Pid> {
        let pid = |child: &Child| child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        match part {
            Part::Agent(number) => agent(pid(self.workers[number].as_ref()?)?),
            Part::Executor(number) => executor(&self.worker_dir(number)),
            Part::Master(number) => pid(&self.masters[number].child),
        }
    }

    pub async fn kill_master(&mut self, number: usize) {
        self.masters[number].child.kill().await.unwrap();
    }

    /// Starts a master that was killed or has ended.
    pub fn revive_master(&mut self, number: usize) {
        let Seat { ports, lease, ref way, .. } = self.masters[number];
        let url = way.as_ref().map_or(self.master_url.as_str(), DatabaseProxy::url);
        let child = spawn_master(&self.program, url, ports, lease, &self.ways, self.dir(), number);
        self.masters[number].child = child;
    }

    /// Starts masters that went down by themselves, as a supervisor would; gives which, and how they ended.
    pub fn revive_ended_masters(&mut self) -> Vec<(usize, ExitStatus)> {
        let mut ended = Vec::new();
        for number in 0..self.masters.len() {
            if let Some(status) = self.masters[number].child.try_wait().unwrap() {
                ended.push((number, status));
                self.revive_master(number);
            }
        }
        ended
    }

    /// The ports on which each master's API listens.
    pub fn api_ports(&self) -> Vec<u16> {
        self.masters.iter().map(|master| master.ports[1]).collect()
    }

    /// A master's own way to the database.
    pub fn way(&self, master: usize) -> Option<&DatabaseProxy> {
        self.masters[master].way.as_ref()
    }

    /// Tells a master to end in order.
    pub fn tell_master_to_end(&self, number: usize) {
        if let Some(pid) = self.pid(Part::Master(number)) {
            let _ = kill(pid, Signal::SIGTERM);
        }
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
        let Ok(mut connection) = PgConnection::connect(&self.database_url).await else { return };
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        // A server that is just being killed need not answer.
        let _ = sqlx::query(cut).execute(&mut connection).await;
    }

    /// Lets everything go on that was stopped, and starts what was killed.
    pub async fn restore(&mut self) {
        self.networks.iter().for_each(Network::restore);
        self.masters.iter().filter_map(|master| master.way.as_ref()).for_each(DatabaseProxy::restore);
        for pid in self.frozen.drain(..) {
            let _ = kill(pid, Signal::SIGCONT);
        }
        for number in 0..self.workers() {
            self.revive_worker(number);
        }
    }

    /// Takes everything down in order. Returns the directory with the logs.
    pub async fn stop(mut self) -> tempfile::TempDir {
        let masters = self.masters.iter_mut().map(|master| &mut master.child);
        for child in self.workers.iter_mut().flatten().chain(masters) {
            if let Some(id) = child.id() {
                let _ = kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGTERM);
            }
            let _ = child.wait().await;
        }
        // Of a worker that was not there to be told.
        for number in 0..self.workers() {
            kill_executor(&self.worker_dir(number)).await;
        }
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        self.dir.take().unwrap()
    }
}

impl Drop for Fleet {
    /// What a run that failed leaves: the rest is killed with its handles.
    fn drop(&mut self) {
        for number in 0..self.workers() {
            for part in [Part::Agent(number), Part::Executor(number)] {
                if let Some(pid) = self.pid(part) {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
        }
    }
}

/// Makes the role that the masters are, with all that one needs; returns its URL.
async fn as_ordinary(url: &str) -> String {
    let mut owner = PgConnection::connect(url).await.unwrap();
    let sql = format!(
        "CREATE ROLE {ROLE} LOGIN; GRANT ALL ON SCHEMA public TO {ROLE}; \
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ROLE}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut owner).await.unwrap();
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(ROLE).unwrap();
    url.to_string()
}

fn spawn_master(
    program: &Path,
    database_url: &str,
    ports: [u16; 3],
    lease: Option<Duration>,
    ways: &Ways,
    dir: &Path,
    number: usize,
) -> Child {
    let name = if number == 0 { "master".to_owned() } else { format!("master-{number}") };
    let mut command = logged(bare_command(program, &["master"]), dir, &name);
    command.envs(lease.map(|lease| ("GAFFER_LEADER_LEASE", format!("{}ms", lease.as_millis()))));
    let address = |port: u16| format!("127.0.0.1:{port}");
    let for_workers = match ways {
        Ways::Namespaces(ground) => format!("{}:{}", ground.address(), ports[2]),
        _ => address(ports[2]),
    };
    command
        .env("DATABASE_URL", database_url)
        .env("GAFFER_DASHBOARD_ADDR", address(ports[0]))
        .env("GAFFER_API_ADDR", address(ports[1]))
        .env("GAFFER_WORKER_ADDR", for_workers)
        .env("GAFFER_DATA_DIR", dir.join(name));
    command.spawn().unwrap()
}

fn logged(mut command: Command, dir: &Path, name: &str) -> Command {
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(dir.join(format!("{name}.log"))).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command
}

/// Ports that are free now; the same for all masters that follow each other. They lie below those that the kernel
/// assigns by itself, or somebody else might be given one of them while no master listens.
fn free_ports() -> [u16; 3] {
    let free = || loop {
        let port = rand::random_range(10_000..30_000);
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            return (port, listener);
        }
    };
    [(); 3].map(|()| free()).map(|(port, _)| port)
}
