//! Settings of a worker; the only reader of the environment in this crate.

mod docker;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use gaffer_domain::constraint::is_resource_name;
use gaffer_domain::quantity::{Bytes, Cpu};
use gaffer_domain::spec::DriverKind;
use gaffer_protocol::proxies::Proxies;
use gaffer_protocol::server_url::ServerUrl;
use nix::unistd::User;

use crate::job_user::JobUser;
use crate::ports::PortRange;
use crate::stats;
pub(crate) use docker::{ContainerPolicy, DaemonAddress, DockerSettings};
pub use docker::{DockerConfig, InvalidVolumeRoot, VolumeRoots};

/// The longest file that may hold a key or an address, in bytes.
const MAX_SECRET_FILE_BYTES: u64 = 64 << 10;
/// What a job's process gets from the worker's own environment, with every `LC_*`; everything else is left out.
const INHERITED: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ"];
/// Those that tell of the user.
const OF_LOGIN: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];
/// The shell of a user whose entry names none.
const DEFAULT_SHELL: &str = "/bin/sh";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The most pieces of one countable resource.
const MAX_PIECES: u32 = 10_000;
/// Resources that every worker has, and that are not counted in pieces.
const BUILT_IN: [&str; 3] = ["cpu", "memory", "disk"];

/// Options of a worker, each with its environment variable.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct WorkerConfig {
    /// URL of the master (ws, wss, http or https)
    ///
    /// For instance wss://gaffer.example.org or https://example.org/gaffer.
    #[arg(long, env = "MASTER_URL", value_name = "URL")]
    pub master_url: Option<String>,
    /// File with the URL of the master
    #[arg(long, env = "MASTER_URL_FILE", value_name = "FILE", value_parser = path_or_nothing())]
    pub master_url_file: Option<PathBuf>,
    /// Worker key or enrolment key
    #[arg(long, env = "API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<ApiKey>,
    /// File with the worker key
    #[arg(long, env = "API_KEY_FILE", value_name = "FILE", value_parser = path_or_nothing())]
    pub api_key_file: Option<PathBuf>,
    /// Name of the worker [default: the host's name]
    #[arg(long, env = "GAFFER_WORKER_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Labels, e.g. gpu=a100,rack=3
    #[arg(long, env = "GAFFER_WORKER_LABELS", value_name = "LABELS")]
    pub labels: Option<Labels>,
    /// Datacenter of the worker
    #[arg(long, env = "GAFFER_DATACENTER", value_name = "NAME")]
    pub datacenter: Option<String>,
    /// Processors to offer [default: the machine's]
    #[arg(long, env = "GAFFER_CPU", value_name = "CPUS")]
    pub cpu: Option<Cpu>,
    /// Memory to offer, e.g. 8GiB [default: the machine's]
    #[arg(long, env = "GAFFER_MEMORY", value_name = "BYTES")]
    pub memory: Option<Bytes>,
    /// Countable resources to offer, e.g. gpu=2,licence=1
    #[arg(long, env = "GAFFER_RESOURCES", value_name = "RESOURCES")]
    pub resources: Option<Countables>,
    /// Directory for identity and spool
    ///
    /// The default is /var/lib/gaffer/worker as root, else gaffer/worker in the user's data directory.
    #[arg(long, env = "GAFFER_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Maximum size of the spool, e.g. 4GiB
    ///
    /// Output stays in the spool until the master has stored it. Jobs wait while it is full. The default is 4GiB or half of
    /// the free disk space, whichever is less.
    #[arg(long, env = "GAFFER_SPOOL_LIMIT", value_name = "BYTES")]
    pub spool_limit: Option<Bytes>,
    /// Drivers to enable: host,docker
    ///
    /// The default is host, and docker if its daemon responds.
    #[arg(long, env = "GAFFER_DRIVERS", value_name = "DRIVERS")]
    pub drivers: Option<String>,
    /// Ports to assign to tasks [default: 20000-29999]
    ///
    /// Named ports of tasks are taken from this range. Workers on one machine should have different ranges.
    #[arg(long, env = "GAFFER_PORT_RANGE", value_name = "FIRST-LAST")]
    pub port_range: Option<PortRange>,
    /// Address by which others reach this machine
    ///
    /// An IP address or a host name, for the named ports of tasks. The default is the address from which this machine
    /// reaches the master.
    #[arg(long, env = "GAFFER_ADVERTISE_ADDR", value_name = "ADDRESS")]
    pub advertise_addr: Option<String>,
    /// Containers.
    #[command(flatten)]
    pub docker: DockerConfig,
    /// User that host jobs run as: a name or number
    ///
    /// For workers that run as root. The default is the user gaffer-job if there is one, else the worker's own.
    #[arg(long, env = "GAFFER_RUN_AS", value_name = "USER")]
    pub run_as: Option<String>,
    /// Let host jobs gain rights by setuid programs such as sudo
    #[arg(long, env = "GAFFER_ALLOW_SETUID")]
    pub allow_setuid: bool,
    /// CA bundle (PEM) to verify the master [default: the system's]
    #[arg(long, env = "GAFFER_TLS_CA", value_name = "FILE", value_parser = path_or_nothing())]
    pub tls_ca: Option<PathBuf>,
    /// On stop, end running jobs or leave them running
    ///
    /// `leave` keeps them for the next worker with this data directory, until their leases end.
    #[arg(long, env = "GAFFER_ON_STOP", value_name = "end|leave")]
    pub on_stop: Option<OnStop>,
    /// Enable the scripted driver, for tests of the master
    ///
    /// It acts scripts instead of running anything.
    #[arg(long, env = "GAFFER_SCRIPTED_DRIVER", hide = true)]
    pub scripted_driver: bool,
    /// HTTP proxies on the way to the master [default: those of the environment]
    #[arg(skip)]
    pub proxies: Option<Proxies>,
}

/// Settings needed to reach the master.
#[derive(Debug, Clone)]
pub(crate) struct Reaching {
    pub master_url: ServerUrl,
    pub api_key: Option<ApiKey>,
    pub tls_ca: Option<PathBuf>,
    pub proxies: Proxies,
}

/// What a worker that is stopped does with its attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnStop {
    /// Ends them.
    #[default]
    End,
    /// Leaves them to the next worker with the same data directory.
    Leave,
}

/// A worker key. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// Marks of a worker: read from `gpu=a100,rack=3`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(pub BTreeMap<String, String>);

/// Countable resources of a worker: read from `gpu=2,licence=1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Countables(pub BTreeMap<String, u32>);

/// A text that is not a list of countable resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{part}` is not a countable resource: write name=number, separated by commas, such as gpu=2,licence=1, with names \
     of small letters, digits, _ and -"
)]
pub struct InvalidCountable {
    part: String,
}

/// A text that is not a list of labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{label}` is not a label: write key=value, separated by commas, such as gpu=a100,rack=3")]
pub struct InvalidLabel {
    label: String,
}

/// The options with files read and defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub master_url: ServerUrl,
    pub api_key: ApiKey,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub datacenter: String,
    pub cpu: Cpu,
    pub memory: Bytes,
    pub countables: BTreeMap<String, u32>,
    pub data_dir: PathBuf,
    pub spool_limit: Option<Bytes>,
    pub tls_ca: Option<PathBuf>,
    pub proxies: Proxies,
    pub on_stop: OnStop,
    pub host_driver: bool,
    /// None if the operator wants no containers here.
    pub docker: Option<DockerSettings>,
    pub scripted_driver: bool,
    pub port_range: PortRange,
    /// None: the address on the way to the master.
    pub advertise_addr: Option<String>,
    /// What every job's process finds in its environment.
    pub job_environment: BTreeMap<String, String>,
    /// The user that jobs on the host run as; none for the worker's own.
    pub job_user: Option<JobUser>,
    /// Whether somebody has said as whom jobs run.
    pub is_job_user_given: bool,
    pub allow_setuid: bool,
}

impl WorkerConfig {
    /// The worker key, if it was given directly or by a file that can be read only once, such as a pipe. None if it is in
    /// a file that each process can read for itself, or missing.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no key.
    pub fn unrepeatable_key(&self) -> anyhow::Result<Option<ApiKey>> {
        let is_repeatable = |path: &Path| {
            let is_open_file = ["/dev", "/proc"].iter().any(|dir| path.starts_with(dir));
            !is_open_file && std::fs::metadata(path).is_ok_and(|file| file.is_file())
        };
        let file = self.api_key_file.as_deref();
        // Both together are a mistake in any case.
        let file = file.filter(|path| self.api_key.is_some() || !is_repeatable(path));
        let key = given_or_read(self.api_key.as_ref().map(|key| key.0.clone()), file);
        Ok(key.context("the worker key")?.map(ApiKey))
    }

    /// The same worker with this key, wherever else one was configured.
    pub fn with_key(self, key: ApiKey) -> WorkerConfig {
        WorkerConfig { api_key: Some(key), api_key_file: None, ..self }
    }

    /// A worker of one master, with its files in `data_dir` and defaults for everything else.
    pub fn new(master_url: impl Into<String>, api_key: ApiKey, data_dir: impl Into<PathBuf>) -> WorkerConfig {
        WorkerConfig {
            master_url: Some(master_url.into()),
            api_key: Some(api_key),
            data_dir: Some(data_dir.into()),
            ..WorkerConfig::default()
        }
    }

    /// Settings needed to reach the master; the key may be missing.
    pub(crate) fn reaching(&self) -> anyhow::Result<Reaching> {
        let master_url = given_or_read(self.master_url.clone(), self.master_url_file.as_deref())
            .context("the master's address")?
            .context("no master: set MASTER_URL (or --master-url), such as ws://master.example:8080")?;
        let api_key = given_or_read(self.api_key.clone().map(|key| key.0), self.api_key_file.as_deref())
            .context("the worker key")?;
        Ok(Reaching {
            master_url: master_url.parse().context("MASTER_URL")?,
            api_key: api_key.map(ApiKey),
            tls_ca: self.tls_ca.clone().filter(|path| !path.as_os_str().is_empty()),
            proxies: self.proxies.clone().unwrap_or_else(proxies),
        })
    }

    /// Reads the files, fills in the defaults and checks everything.
    pub(crate) fn resolve(self) -> anyhow::Result<Settings> {
        let Reaching { master_url, api_key, tls_ca, proxies } = self.reaching()?;
        let api_key = api_key.context(
            "no worker key: set API_KEY or API_KEY_FILE; `gaffer keys create NAME --kind worker` creates \
             one",
        )?;
        let name = match self.name.filter(|name| !name.trim().is_empty()) {
            Some(name) => name.trim().to_owned(),
            None => host_name()?,
        };
        let cpu = self.cpu.unwrap_or_else(machine_cpu);
        ensure!(
            cpu.millis() > 0,
            "a worker without a processor can run nothing: set GAFFER_CPU to more than 0"
        );
        let memory = match self.memory {
            Some(memory) => memory,
            None => {
                let memory = stats::memory()
                    .context("cannot read the machine's memory from /proc/meminfo: set GAFFER_MEMORY")?;
                Bytes(memory.total)
            }
        };
        ensure!(
            cfg!(feature = "scripted") || !self.scripted_driver,
            "this gaffer was built without the scripted driver: leave out --scripted-driver, or build it with \
             `--features gaffer-worker/scripted`"
        );
        let named = drivers(self.drivers.as_deref().unwrap_or_default())?;
        let has = |driver: DriverKind| named.is_empty() || named.contains(&driver);
        let docker = self.docker.resolve(named.contains(&DriverKind::Docker))?;
        let job_user = JobUser::choose(self.run_as.as_deref())?;
        let login = job_user.as_ref().map_or_else(|| user().map(Login::from), |user| Some(Login::from(user)));
        Ok(Settings {
            host_driver: has(DriverKind::Host),
            docker: has(DriverKind::Docker).then_some(docker),
            master_url,
            api_key,
            name,
            labels: self.labels.unwrap_or_default().0,
            datacenter: self.datacenter.unwrap_or_default().trim().to_owned(),
            cpu,
            memory,
            countables: self.resources.unwrap_or_default().0,
            data_dir: self.data_dir.map_or_else(default_data_dir, Ok)?,
            spool_limit: self.spool_limit,
            tls_ca,
            proxies,
            on_stop: self.on_stop.unwrap_or_default(),
            scripted_driver: self.scripted_driver,
            port_range: self.port_range.unwrap_or_default(),
            advertise_addr: self.advertise_addr.map(advertised).transpose()?.flatten(),
            job_environment: job_environment(
                std::env::vars_os()
                    .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
                login,
                job_user.is_some(),
            ),
            job_user,
            is_job_user_given: self.run_as.is_some_and(|user| !user.trim().is_empty()),
            allow_setuid: self.allow_setuid,
        })
    }
}

impl ApiKey {
    /// The key itself, for the one header that carries it and for the process that sends that header.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for ApiKey {
    fn from(key: String) -> ApiKey {
        ApiKey(key)
    }
}

impl FromStr for ApiKey {
    type Err = std::convert::Infallible;

    fn from_str(key: &str) -> Result<ApiKey, Self::Err> {
        Ok(ApiKey(key.to_owned()))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

impl FromStr for Labels {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Labels, InvalidLabel> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let label = |part: &str| {
            let invalid = || InvalidLabel { label: part.chars().take(60).collect() };
            let (key, value) = part.split_once('=').ok_or_else(invalid)?;
            let (key, value) = (key.trim(), value.trim());
            let is_key = key.starts_with(|c: char| c.is_ascii_alphanumeric())
                && key.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
            if !is_key || value.chars().any(char::is_control) {
                return Err(invalid());
            }
            Ok((key.to_owned(), value.to_owned()))
        };
        parts.map(label).collect::<Result<_, _>>().map(Labels)
    }
}

impl FromStr for Countables {
    type Err = InvalidCountable;

    fn from_str(text: &str) -> Result<Countables, InvalidCountable> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let countable = |part: &str| {
            let (name, count) = part.split_once('=')?;
            let (name, count) = (name.trim(), count.trim().parse().ok()?);
            let may_be = count <= MAX_PIECES && is_resource_name(name) && !BUILT_IN.contains(&name);
            may_be.then(|| (name.to_owned(), count))
        };
        let invalid = |part: &str| InvalidCountable { part: part.chars().take(60).collect() };
        parts
            .map(|part| countable(part).ok_or_else(|| invalid(part)))
            .collect::<Result<_, _>>()
            .map(Countables)
    }
}

/// Takes an empty path, too: a variable that is set to nothing counts as not set.
fn path_or_nothing() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    use clap::builder::TypedValueParser as _;
    clap::builder::OsStringValueParser::new().map(PathBuf::from)
}

/// The HTTP proxies that the environment names.
pub fn proxies() -> Proxies {
    Proxies::read(|name| std::env::var(name).ok())
}

/// The value itself, else what its file holds; none if neither is there. An empty variable counts as not set.
fn given_or_read(value: Option<String>, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let value = value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let file = file.filter(|path| !path.as_os_str().is_empty());
    match (value, file) {
        (Some(_), Some(file)) => bail!("given twice: directly and by the file {}", file.display()),
        (Some(value), None) => Ok(Some(value)),
        (None, Some(file)) => read_line(file).map(Some),
        (None, None) => Ok(None),
    }
}

fn read_line(file: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let opened = std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    opened
        .take(MAX_SECRET_FILE_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let text = gaffer_domain::text::without_bom(&text).trim();
    ensure!(!text.is_empty(), "{} is empty", file.display());
    ensure!(!text.contains(char::is_control), "{} holds more than one line", file.display());
    Ok(text.to_owned())
}

/// An address without a port; none if it is empty, which counts as not set.
fn advertised(address: String) -> anyhow::Result<Option<String>> {
    const MAX_LEN: usize = 255;
    let address = address.trim().trim_start_matches('[').trim_end_matches(']').to_owned();
    if address.is_empty() {
        return Ok(None);
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_address = address.parse::<std::net::IpAddr>().is_ok();
    ensure!(
        is_address || address.len() <= MAX_LEN && address.chars().all(is_name),
        "GAFFER_ADVERTISE_ADDR: `{address}` is not an IP address or a host name; write it without a port"
    );
    Ok(Some(address))
}

/// The drivers that the operator named; none if it was left to the worker.
fn drivers(text: &str) -> anyhow::Result<Vec<DriverKind>> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let driver = |name: &str| match name {
        "host" => Ok(DriverKind::Host),
        "docker" => Ok(DriverKind::Docker),
        _ => bail!(
            "GAFFER_DRIVERS: `{name}` is not a driver: write host, docker or both, separated by a comma"
        ),
    };
    names.map(driver).collect()
}

fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host's name: set GAFFER_WORKER_NAME")?;
    name.into_string().ok().context("the host's name is not text: set GAFFER_WORKER_NAME")
}

fn machine_cpu() -> Cpu {
    let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Cpu::from_millis(u32::try_from(cpus.saturating_mul(1000)).unwrap_or(u32::MAX))
}

/// Default data directory of a worker.
///
/// # Errors
/// When the user has no home.
pub fn default_data_dir() -> anyhow::Result<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/gaffer/worker"));
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").or_else(home_of_user).map(|home| home.join(".local/share")))
        .context(
            "no place for the worker's files: set GAFFER_DATA_DIR (neither XDG_DATA_HOME nor HOME is set, and the \
             user has no home)",
        )?;
    Ok(base.join("gaffer/worker"))
}

fn home_of_user() -> Option<PathBuf> {
    user().map(|user| user.dir).filter(|dir| dir.is_absolute() && dir.parent().is_some())
}

/// The environment variable by which processes are known.
pub(crate) const MARKER_VARIABLE: &str = "GAFFER_ATTEMPT_TOKEN";

/// What the executor's process gets of this one's environment: nothing that jobs should not read.
pub(crate) fn executor_environment() -> impl Iterator<Item = (String, OsString)> {
    const NEEDED: [&str; 6] = ["PATH", "HOME", "TMPDIR", "LANG", "TZ", "RUST_BACKTRACE"];
    // A worker that is a job itself ends with that.
    let names = NEEDED.into_iter().chain([MARKER_VARIABLE]);
    names.filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?)))
}

/// Whether this process belongs to an attempt of another worker.
pub(crate) fn is_a_job() -> bool {
    std::env::var_os(MARKER_VARIABLE).is_some()
}

/// Variables of the worker's environment that are passed on to tasks; keys and addresses are not. If a service
/// manager sets only `PATH`, the values of a login come from the user database.
fn job_environment(
    all: impl Iterator<Item = (String, String)>,
    login: Option<Login>,
    is_another_user: bool,
) -> BTreeMap<String, String> {
    let is_of_login = |name: &str| OF_LOGIN.contains(&name);
    let is_inherited = |name: &str| {
        (INHERITED.contains(&name) || name.starts_with("LC_")) && !(is_another_user && is_of_login(name))
    };
    let mut kept: BTreeMap<String, String> = all.filter(|(name, _)| is_inherited(name)).collect();
    let path = |path: PathBuf| path.into_os_string().into_string().ok();
    let of_login = login.into_iter().flat_map(|user| {
        let shell = path(user.shell).filter(|shell| !shell.is_empty());
        [
            ("HOME", path(user.home)),
            ("USER", Some(user.name.clone())),
            ("LOGNAME", Some(user.name)),
            ("SHELL", Some(shell.unwrap_or_else(|| DEFAULT_SHELL.to_owned()))),
        ]
    });
    let defaults = of_login.chain([("PATH", Some(DEFAULT_PATH.to_owned()))]);
    for (name, value) in defaults {
        let value = value.filter(|value| !value.is_empty());
        if let Some(value) = value.filter(|_| kept.get(name).is_none_or(String::is_empty)) {
            kept.insert(name.to_owned(), value);
        }
    }
    kept
}

/// What the user database says of a user.
struct Login {
    name: String,
    home: PathBuf,
    shell: PathBuf,
}

impl From<User> for Login {
    fn from(user: User) -> Login {
        Login { name: user.name, home: user.dir, shell: user.shell }
    }
}

impl From<&JobUser> for Login {
    fn from(user: &JobUser) -> Login {
        Login { name: user.name.clone(), home: user.home.clone(), shell: user.shell.clone() }
    }
}

impl Settings {
    /// What the operator of a worker that is root should know of its jobs.
    pub fn job_user_shortcoming(&self) -> Option<String> {
        let is_root = self.host_driver && self.job_user.is_none() && nix::unistd::geteuid().is_root();
        (is_root && !self.is_job_user_given).then(|| {
            "host jobs run as root and can read everything on this machine, the files of gaffer too: create the user gaffer-job, \
             or set GAFFER_RUN_AS"
                .to_owned()
        })
    }
}

/// The entry of this process's user in the user database; none if it has none, as in many containers.
fn user() -> Option<User> {
    User::from_uid(nix::unistd::geteuid()).ok().flatten()
}
