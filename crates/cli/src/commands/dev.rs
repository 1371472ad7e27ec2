//! `gaffer dev`: runs database, master and one worker on this machine, and keeps their data.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser};
use gaffer_domain::JobId;
use gaffer_domain::placement::Strategy;
use gaffer_domain::quantity::Span;
use gaffer_domain::retention::Retention;
use gaffer_domain::spec::JobSpec;
use gaffer_master::Running;
use gaffer_master::config::{
    self, AuditRetention, ConnectionConfig, LeaderLease, MasterConfig, Rebalance, SecretsKeyConfig, resolve,
};
use gaffer_master::operations::jobs::{self, Submit};
use gaffer_master::operations::keys::{self, NewKey};
use gaffer_master::operations::sign_in::{self, Refused};
use gaffer_master::operations::{Actor, Context as Operations, OperationError};
use gaffer_master::output_store::OutputStoreAddress;
use gaffer_master::records::{KeyKind, Worker};
use gaffer_master::secret::MetricsToken;
use gaffer_master::store::jobs::Origin;
use gaffer_protocol::output::Stream;
use gaffer_worker::ExecutorPlace;
use gaffer_worker::config::{ApiKey, WorkerConfig};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use crate::commands::server;
use crate::commands::workers::size;
use crate::failure::Failure;
use crate::open_files;
use crate::out::Out;
use crate::style::{self, Colour};

/// Lifetime of the sign-in link.
const LINK_VALID_SECS: u32 = 24 * 3_600;
/// How long the banner waits for the worker.
const WORKER_PATIENCE: Duration = Duration::from_secs(2);
/// The job that a new installation shows.
const SAMPLE: &str = include_str!("sample.sh");

/// Where things are; everything else is as it is.
#[derive(Debug, Args)]
#[command(after_help = "\
All data is kept between runs. Client commands in other terminals find a running `gaffer dev`. Scripts \
find its addresses and keys in $GAFFER_DATA_DIR/dev.env.")]
pub struct DevArgs {
    /// Address of the dashboard, loopback only
    ///
    /// Port 0 takes any free port.
    #[arg(long, env = "GAFFER_DASHBOARD_ADDR", default_value = "127.0.0.1:3000", value_name = "ADDR")]
    dashboard_addr: String,
    /// Address of the REST API
    #[arg(long, env = "GAFFER_API_ADDR", default_value = "127.0.0.1:8000", value_name = "ADDR")]
    api_addr: String,
    /// Address for workers
    #[arg(long, env = "GAFFER_WORKER_ADDR", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    worker_addr: String,
    /// Data directory
    ///
    /// The default is /var/lib/gaffer as root, else ~/.local/share/gaffer.
    #[arg(long, env = "GAFFER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Directory of the Postgres programs [default: search for it]
    #[arg(long, env = "GAFFER_PG_BIN", value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// Default placement strategy, see `gaffer master --help`
    #[arg(long, env = "GAFFER_STRATEGY", value_name = "STRATEGY", default_value_t)]
    strategy: Strategy,
    /// Minimum run time before services are rebalanced, or off
    #[arg(long, env = "GAFFER_REBALANCE", value_name = "TIME|off", default_value_t)]
    rebalance: Rebalance,
    /// How long finished jobs are kept, see `gaffer master --help`
    #[arg(long, env = "GAFFER_RETENTION", value_name = "TIME|forever", default_value_t)]
    retention: Retention,
    /// How long entries of the audit log are kept, or forever
    #[arg(long, env = "GAFFER_AUDIT_RETENTION", value_name = "TIME|forever", default_value_t)]
    audit_retention: AuditRetention,
    /// Object storage for output, see `gaffer master --help`
    #[arg(long, env = "GAFFER_OUTPUT_STORE", value_name = "URL", value_parser = config::output_store)]
    output_store: Option<OutputStoreAddress>,
    /// How long after a job's end its output is moved there
    #[arg(long, env = "GAFFER_OUTPUT_STORE_AFTER", value_name = "TIME", default_value_t = config::OUTPUT_STORE_AFTER)]
    output_store_after: Span,
    /// Stop when standard input is closed
    ///
    /// For programs that start `gaffer dev` and keep the other end of a pipe: it stops with them, however they end.
    #[arg(long)]
    stop_with_stdin: bool,
    /// Token for reading /metrics, see `gaffer master --help`
    #[arg(long, env = "GAFFER_METRICS_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    metrics_token: Option<MetricsToken>,
    /// Master key of secrets
    #[command(flatten)]
    secrets_key: SecretsKeyConfig,
    /// Limits of the three ports
    #[command(flatten)]
    connections: ConnectionConfig,
}

/// Runs it until Ctrl-C.
///
/// # Errors
/// [`Failure::Local`] with what brought it down.
pub fn run(args: DevArgs, out: &Out) -> Result<u8, Failure> {
    server::serve(out, "warn", |shutdown| {
        open_files::raise(u64::MAX);
        dev(args, out, shutdown)
    })
}

async fn dev(args: DevArgs, out: &Out, shutdown: CancellationToken) -> anyhow::Result<()> {
    if args.stop_with_stdin {
        stop_with_stdin(shutdown.clone());
    }
    let config = MasterConfig {
        forget_workers: Default::default(),
        audit_retention: args.audit_retention,
        database_url: None,
        dashboard_addr: on_this_machine("GAFFER_DASHBOARD_ADDR", &args.dashboard_addr).await?,
        api_addr: on_this_machine("GAFFER_API_ADDR", &args.api_addr).await?,
        worker_addr: on_this_machine("GAFFER_WORKER_ADDR", &args.worker_addr).await?,
        public_url: None,
        data_dir: args.data_dir,
        pg_bin: args.pg_bin,
        strategy: args.strategy,
        rebalance: args.rebalance,
        retention: args.retention,
        output_store: args.output_store,
        output_store_after: args.output_store_after,
        secrets_key: args.secrets_key,
        connections: args.connections,
        // No other process can reach its private database.
        leader_lease: LeaderLease::default(),
        metrics_token: args.metrics_token,
        registration: Default::default(),
        // It is reached on loopback addresses only.
        tls: Default::default(),
        oidc: Default::default(),
    };
    // A file of the last run would tell a waiting script that we are up.
    let ready_file = config.data_dir().join("dev.env");
    remove(&ready_file)?;
    // The master outlives the worker, to hear the end of everything that it ran.
    let master_down = CancellationToken::new();
    let running = gaffer_master::start(&config, master_down.clone()).await?;
    let ended = beside_master(&running, config.data_dir(), out, shutdown).await;
    let removed = remove(&ready_file);
    running.stop().await;
    ended.and(removed)
}

/// Stops this process when nobody holds the other end of its standard input any more.
fn stop_with_stdin(shutdown: CancellationToken) {
    // A read of standard input cannot be cancelled; the thread ends with the process.
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        shutdown.cancel();
    });
}

/// What `gaffer dev` is beyond a master; ends when the worker has.
async fn beside_master(
    running: &Running,
    data_dir: PathBuf,
    out: &Out,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let context = &running.context;
    let operator = sign_in::operator(context).await?;
    let kept_key = async |file, kind| kept_key(context, &operator, &data_dir.join(file), kind).await;
    let worker_key = kept_key("dev-worker.key", KeyKind::Worker).await?;
    let places = Places {
        api: format!("http://{}", running.api),
        workers: format!("ws://{}", running.workers),
        link: running.sign_in_url(LINK_VALID_SECS).await?,
        script_link: running.sign_in_url(LINK_VALID_SECS).await?,
        key: kept_key("dev-user.key", KeyKind::User).await?,
        data_dir,
    };
    let given = WorkerFromEnvironment::read().map_err(anyhow::Error::msg)?;
    let config = WorkerConfig {
        // On one's own machine jobs run as oneself, unless one says otherwise.
        run_as: given.run_as.clone().or_else(|| Some(nix::unistd::geteuid().to_string())),
        master_url: Some(places.workers.clone()),
        api_key: Some(ApiKey::from(worker_key)),
        data_dir: Some(places.data_dir.join("worker")),
        master_url_file: None,
        api_key_file: None,
        ..given
    };
    let mut changes = running.views.changes.of_any();
    let worker = tokio::spawn(gaffer_worker::run(config, ExecutorPlace::Process, shutdown));
    let sample = sample_job(context, &operator).await?;
    // A missing worker reports itself; everything else is ready.
    let connected = async {
        loop {
            let workers = running.views.reads.worker_list(None).await?;
            if let Some(worker) = workers.into_iter().find(|worker| worker.offline_since.is_none()) {
                return anyhow::Ok(worker);
            }
            changes.changed().await?;
        }
    };
    let connected = tokio::time::timeout(WORKER_PATIENCE, connected).await.ok().transpose()?;
    write_private(&places.data_dir.join("dev.env"), &places.environment())?;
    out.print(places.banner(out, connected.as_ref(), sample).as_bytes())?;
    worker.await.context("the worker crashed")?.context("the worker ended")
}

/// Refuses an address that other machines could reach: the keys lie around here.
async fn on_this_machine(setting: &str, address: &str) -> anyhow::Result<String> {
    let resolved = resolve(setting, address).await?;
    ensure!(
        resolved.ip().is_loopback(),
        "{setting}={address}: gaffer dev listens on loopback addresses only; use `gaffer master` to serve other machines"
    );
    Ok(resolved.to_string())
}

/// Settings of the worker that are not options of `gaffer dev`, such as its name and capacity.
#[derive(Debug, clap::Parser)]
pub struct WorkerFromEnvironment {
    #[command(flatten)]
    worker: WorkerConfig,
}

impl WorkerFromEnvironment {
    /// Reads them.
    ///
    /// # Errors
    /// In a sentence that names the variable.
    pub fn read() -> Result<WorkerConfig, String> {
        let read = WorkerFromEnvironment::try_parse_from(["gaffer"]).map(|read| read.worker);
        read.map_err(|error| {
            error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })
    }
}

/// What a newcomer and a script want to know.
struct Places {
    api: String,
    workers: String,
    /// A link signs in once: one is for the newcomer, the other for a script.
    link: String,
    script_link: String,
    key: String,
    data_dir: PathBuf,
}

impl Places {
    fn environment(&self) -> String {
        let Places { api, workers, script_link, key, .. } = self;
        format!("GAFFER_URL={api}\nGAFFER_KEY={key}\nMASTER_URL={workers}\nGAFFER_DASHBOARD={script_link}\n")
    }

    fn banner(&self, out: &Out, worker: Option<&Worker>, sample: Option<JobId>) -> String {
        let line = |name: &str, value: &str| format!("  {} {value}\n", out.dim(&format!("{name:<10}")));
        let title = style::paint("gaffer is ready", Colour::Green, out.has_colours(Stream::Stdout));
        let mut text = format!("\n{title}\n\n");
        text.push_str(&line("dashboard", &self.link));
        text.push_str(&line("API", &format!("{}/api/v1", self.api)));
        text.push_str(&line("workers", &format!("{} (MASTER_URL of more workers)", self.workers)));
        if let Some(Worker { name, capacity, .. }) = worker {
            let offer =
                format!("{name}, this machine: {} cpu, {} memory", capacity.cpu, size(capacity.memory.get()));
            text.push_str(&line("worker", &offer));
        }
        text.push_str(&line("data", &self.data_dir.display().to_string()));
        if let Some(job) = sample {
            text.push_str(&line("sample", &format!("job {job} is running: gaffer logs -f {job}")));
        }
        text.push_str("\nIn another terminal:\n\n  gaffer run -- uname -a\n  gaffer jobs\n\n");
        text.push_str(&out.dim("Ctrl-C stops everything and keeps the data."));
        text.push_str("\n\n");
        text
    }
}

/// The key of the last run if it is still good, else a new one, kept for the next.
async fn kept_key(
    context: &Operations,
    operator: &Actor,
    path: &Path,
    kind: KeyKind,
) -> anyhow::Result<String> {
    if let Some(key) = fs::read_to_string(path).ok().map(|text| text.trim().to_owned()) {
        match sign_in::holder_of_key(context, kind, &key, None).await {
            Ok(_) => return Ok(key),
            Err(Refused::Store(error)) => return Err(error.into()),
            Err(_) => {}
        }
    }
    let new = NewKey::new(kind, "gaffer dev".to_owned());
    let secret = keys::create(context, operator, new).await?.secret;
    write_private(path, &format!("{secret}\n"))?;
    Ok(secret)
}

/// Submits the sample job, once in the life of an installation.
async fn sample_job(context: &Operations, operator: &Actor) -> anyhow::Result<Option<JobId>> {
    let spec = json!({"name": "welcome to gaffer", "labels": {"sample": "yes"}, "script": SAMPLE});
    let spec =
        JobSpec::read(&spec).map_err(|mistakes| anyhow::anyhow!("the sample job is wrong: {mistakes:?}"))?;
    let wanted = Submit {
        spec: &spec,
        origin: Origin::default(),
        request: None,
        idempotency_key: Some("gaffer dev: the sample job"),
    };
    match jobs::submit(context, operator, wanted).await {
        Ok(accepted) => Ok(Some(accepted.job).filter(|_| accepted.is_new)),
        // An earlier version had another sample.
        Err(OperationError::KeyReused) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a file for this user alone, in one step.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
