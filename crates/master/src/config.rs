//! Settings of a master; the only reader of its environment.

mod oidc;
mod tls;

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use gaffer_domain::lease::{LEADER_LEASE, LEADER_LEASES};
use gaffer_domain::moves::SETTLED_AFTER;
use gaffer_domain::placement::Strategy;
use gaffer_domain::quantity::{QuantityError, Span};
use gaffer_domain::retention::Retention;
use gaffer_domain::worker::WORKER_LOST_AFTER;
use zeroize::Zeroizing;

use crate::output_store::OutputStoreAddress;
use crate::secret::MetricsToken;
pub use oidc::{ClientSecret, OidcConfig, OidcSettings, is_protected};
pub use tls::{TlsConfig, TrustedProxies};

/// Settings of a master. Each is an option and an environment variable.
#[derive(Debug, Clone, Args)]
pub struct MasterConfig {
    /// Postgres database, as postgres://user:password@host/database
    ///
    /// Without it, gaffer runs a private Postgres server in its data directory.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<DatabaseUrl>,

    /// Address of the dashboard (port 0: any free port)
    #[arg(long, env = "GAFFER_DASHBOARD_ADDR", default_value = "0.0.0.0:3000")]
    pub dashboard_addr: String,

    /// Address of the REST API
    #[arg(long, env = "GAFFER_API_ADDR", default_value = "0.0.0.0:8000")]
    pub api_addr: String,

    /// Address for workers
    #[arg(long, env = "GAFFER_WORKER_ADDR", default_value = "0.0.0.0:8080")]
    pub worker_addr: String,

    /// Public URL of the dashboard behind a reverse proxy
    ///
    /// For instance https://gaffer.example.org or https://example.org/gaffer. With a path, everything is served below it,
    /// whether the proxy strips it or not.
    #[arg(long, env = "GAFFER_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,

    /// Forget lost workers after this time without attempts
    ///
    /// The name is free again then. `never` keeps them.
    #[arg(long, env = "GAFFER_FORGET_WORKERS", value_name = "TIME|never", default_value_t)]
    pub forget_workers: ForgetWorkers,

    /// How long finished jobs are kept, or forever
    ///
    /// One period, such as 90d, or one for each final state: completed=30d,failed=90d,cancelled=7d. A job's own `retention`
    /// wins; a pinned job is kept.
    #[arg(long, env = "GAFFER_RETENTION", value_name = "TIME|forever", default_value_t)]
    pub retention: Retention,

    /// How long entries of the audit log are kept, or forever
    #[arg(long, env = "GAFFER_AUDIT_RETENTION", value_name = "TIME|forever", default_value_t)]
    pub audit_retention: AuditRetention,

    /// Object storage for output of finished jobs
    ///
    /// s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY. Credentials and the endpoint are read
    /// from the environment variables of the provider: AWS_…, GOOGLE_… or AZURE_…. Without it, output stays in the database.
    #[arg(long, env = "GAFFER_OUTPUT_STORE", value_name = "URL", value_parser = output_store)]
    pub output_store: Option<OutputStoreAddress>,

    /// How long after a job's end its output is moved there
    #[arg(long, env = "GAFFER_OUTPUT_STORE_AFTER", value_name = "TIME", default_value_t = OUTPUT_STORE_AFTER)]
    pub output_store_after: Span,

    /// Data directory
    ///
    /// The default is /var/lib/gaffer as root, else ~/.local/share/gaffer.
    #[arg(long, env = "GAFFER_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Default placement strategy
    ///
    /// For jobs without one: spread, binpack, round_robin, greedy, epvm or epvm_lieb.
    #[arg(long, env = "GAFFER_STRATEGY", value_name = "STRATEGY", default_value_t)]
    pub strategy: Strategy,

    /// Lease of the leader, 2s to 10m
    ///
    /// Another master on the same database takes over from a leader that is silent for this long. A leader that the database
    /// has not confirmed for three quarters of it stops renewing the leases of workers.
    #[arg(long, env = "GAFFER_LEADER_LEASE", value_name = "TIME", default_value_t)]
    pub leader_lease: LeaderLease,

    /// Minimum run time before services are rebalanced, or off
    ///
    /// The time that a service task must have run, and a worker must have been connected, before a task is moved to a worker
    /// that suits it much better.
    #[arg(long, env = "GAFFER_REBALANCE", value_name = "TIME|off", default_value_t)]
    pub rebalance: Rebalance,

    /// Directory of the Postgres programs [default: search for it]
    #[arg(long, env = "GAFFER_PG_BIN")]
    pub pg_bin: Option<PathBuf>,

    /// Token for reading /metrics, at least 32 characters
    ///
    /// A monitoring system sends it as `Authorization: Bearer TOKEN`. It is checked without the database, so metrics can be
    /// read while that is away, and from a standby. Without a token, only user keys of the operator read them.
    #[arg(long, env = "GAFFER_METRICS_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub metrics_token: Option<MetricsToken>,

    /// Who can become a user: open or invitation
    ///
    /// `open` lets anybody who reaches the dashboard create an account with a project of their own. `invitation` needs an
    /// invitation to a project, or an administrator.
    #[arg(long, env = "GAFFER_REGISTRATION", value_name = "WHO", default_value_t)]
    pub registration: Registration,

    /// Where the master key of secrets is.
    #[command(flatten)]
    pub secrets_key: SecretsKeyConfig,

    /// What the three ports speak.
    #[command(flatten)]
    pub tls: TlsConfig,

    /// Where users sign in beside passwords.
    #[command(flatten)]
    pub oidc: OidcConfig,

    /// How many connections there may be, and how long they may be idle.
    #[command(flatten)]
    pub connections: ConnectionConfig,
}

/// Who can become a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Registration {
    /// Anybody who reaches the dashboard.
    Open,
    /// Somebody with an invitation.
    #[default]
    Invitation,
}

impl FromStr for Registration {
    type Err = String;

    fn from_str(text: &str) -> Result<Registration, String> {
        match text {
            "open" => Ok(Registration::Open),
            "invitation" => Ok(Registration::Invitation),
            _ => Err("expected open or invitation".to_owned()),
        }
    }
}

impl Display for Registration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Registration::Open => "open",
            Registration::Invitation => "invitation",
        })
    }
}

/// How long output stays in the database at least: most of it is read soon after the end of its job, or never.
pub const OUTPUT_STORE_AFTER: Span = Span::from_millis(24 * 3_600_000);

/// The object storage at an address, with the settings of its provider from the environment.
///
/// # Errors
/// When the address is none.
pub fn output_store(address: &str) -> Result<OutputStoreAddress, String> {
    OutputStoreAddress::parse(
        address,
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    )
}

/// Where the master keys of secrets come from.
#[derive(Debug, Clone, Default, Args)]
pub struct SecretsKeyConfig {
    /// File with the master key of secrets
    ///
    /// A key is 32 random bytes in base64 or hexadecimal, as from `openssl rand -base64 32`. With several keys, one per line, the
    /// first encrypts and all of them decrypt. With a private Postgres server the default is secrets.key in the data directory,
    /// which is created.
    #[arg(long, env = "GAFFER_SECRETS_KEY_FILE", value_name = "FILE")]
    pub secrets_key_file: Option<PathBuf>,

    /// Master key of secrets; better use a file
    ///
    /// As in a file; several keys are separated by commas. Other processes of the same user can read it.
    #[arg(
        long,
        env = "GAFFER_SECRETS_KEY",
        value_name = "KEY",
        hide_env_values = true,
        conflicts_with = "secrets_key_file"
    )]
    pub secrets_key: Option<SecretsKey>,

    /// Command that prints the master key of secrets
    ///
    /// It is run by a shell when the master starts, and must end within 30 seconds. It prints what the file would have in it.
    #[arg(long, env = "GAFFER_SECRETS_KEY_COMMAND", value_name = "COMMAND",
        conflicts_with_all = ["secrets_key_file", "secrets_key"])]
    pub secrets_key_command: Option<String>,
}

/// The text of master keys, which is never printed.
#[derive(Clone)]
pub struct SecretsKey(pub Zeroizing<String>);

impl fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("SecretsKey(…)")
    }
}

impl From<&str> for SecretsKey {
    fn from(text: &str) -> SecretsKey {
        SecretsKey(Zeroizing::new(text.to_owned()))
    }
}

/// Limits of the three ports.
#[derive(Debug, Clone, Args)]
pub struct ConnectionConfig {
    /// Maximum number of connections on each port
    ///
    /// The default depends on the limit on open files and is at most 16384. A quarter is reserved for clients with a valid
    /// key; when the rest is full, the oldest silent connection is closed.
    #[arg(long, env = "GAFFER_MAX_CONNECTIONS", value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub max_connections: Option<u32>,

    /// Maximum connections per address without a valid key
    ///
    /// On each port; for IPv6, per /64 network. Behind a reverse proxy all connections come from the proxy's address: set at
    /// least the number of connections that it keeps open.
    #[arg(long, env = "GAFFER_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N", default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections_per_address: u32,

    /// Timeout of an idle connection
    ///
    /// Set it longer than the timeout of a reverse proxy in front.
    #[arg(long, env = "GAFFER_IDLE_TIMEOUT", value_name = "TIME", default_value_t = Span::from_millis(75_000))]
    pub idle_timeout: Span,
}

impl Default for ConnectionConfig {
    fn default() -> ConnectionConfig {
        ConnectionConfig {
            max_connections: None,
            max_connections_per_address: 512,
            idle_timeout: Span::from_millis(75_000),
        }
    }
}

/// Whether services are moved for balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebalance(Option<Span>);

impl Rebalance {
    /// How long it takes to settle; none if nothing is moved.
    pub fn settled_after(self) -> Option<Duration> {
        self.0.map(Span::to_std)
    }
}

impl Default for Rebalance {
    fn default() -> Rebalance {
        Rebalance(Some(SETTLED_AFTER))
    }
}

impl Display for Rebalance {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(settled_after) => settled_after.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for Rebalance {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Rebalance, QuantityError> {
        Ok(Rebalance(if text == "off" { None } else { Some(text.parse()?) }))
    }
}

/// After how long lost workers are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForgetWorkers(Option<Span>);

impl ForgetWorkers {
    const USUAL: Span = Span::from_millis(7 * 24 * 3_600_000);

    /// How long they are kept; none if for ever.
    pub fn after(self) -> Option<Span> {
        self.0
    }
}

impl Default for ForgetWorkers {
    fn default() -> ForgetWorkers {
        ForgetWorkers(Some(ForgetWorkers::USUAL))
    }
}

impl Display for ForgetWorkers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(after) => after.fmt(f),
            None => f.write_str("never"),
        }
    }
}

impl FromStr for ForgetWorkers {
    type Err = String;

    fn from_str(text: &str) -> Result<ForgetWorkers, String> {
        if text == "never" || text == "0" {
            return Ok(ForgetWorkers(None));
        }
        let after: Span = text.parse().map_err(|error: QuantityError| error.to_string())?;
        // A worker counts as lost only then; before that it may be back at any moment.
        match after >= WORKER_LOST_AFTER {
            true => Ok(ForgetWorkers(Some(after))),
            false => Err(format!("at least {WORKER_LOST_AFTER} (when a worker counts as lost), or `never`")),
        }
    }
}

/// How long entries of the audit log are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditRetention(Option<Span>);

impl AuditRetention {
    const USUAL: Span = Span::from_millis(2 * 365 * 24 * 3_600_000);

    /// How long they are kept; none if for ever.
    pub fn after(self) -> Option<Span> {
        self.0
    }
}

impl Default for AuditRetention {
    fn default() -> AuditRetention {
        AuditRetention(Some(AuditRetention::USUAL))
    }
}

impl Display for AuditRetention {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(after) => after.fmt(f),
            None => f.write_str("forever"),
        }
    }
}

impl FromStr for AuditRetention {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<AuditRetention, QuantityError> {
        Ok(AuditRetention(if text == "forever" { None } else { Some(text.parse()?) }))
    }
}

/// How long a leader may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderLease(Span);

impl LeaderLease {
    pub fn span(self) -> Span {
        self.0
    }
}

impl Default for LeaderLease {
    fn default() -> LeaderLease {
        LeaderLease(LEADER_LEASE)
    }
}

impl Display for LeaderLease {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LeaderLease {
    type Err = String;

    fn from_str(text: &str) -> Result<LeaderLease, String> {
        let lease: Span = text.parse().map_err(|error: QuantityError| error.to_string())?;
        if !LEADER_LEASES.contains(&lease) {
            let (shortest, longest) = (LEADER_LEASES.start(), LEADER_LEASES.end());
            return Err(format!("it must be from {shortest} to {longest}"));
        }
        Ok(LeaderLease(lease))
    }
}

/// A database URL, which may hold a password and is never printed.
#[derive(Clone)]
pub struct DatabaseUrl(pub String);

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

impl FromStr for DatabaseUrl {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(DatabaseUrl(text.to_owned()))
    }
}

impl MasterConfig {
    /// The data directory, given or usual.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(default_data_dir)
    }
}

/// The default data directory: `/var/lib/gaffer` for root, otherwise below the user's data directory.
pub fn default_data_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/gaffer");
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_DATA_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("gaffer")
}

/// What the private Postgres needs to know of the environment.
pub fn postgres_settings(data_dir: PathBuf, bin_dir: Option<PathBuf>) -> crate::embedded_postgres::Settings {
    crate::embedded_postgres::Settings {
        data_dir,
        bin_dir,
        search_path: std::env::var_os("PATH"),
        runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        overrides: Vec::new(),
    }
}

/// Finds the address for a `host:port`.
///
/// # Errors
/// When it is none, in a sentence that names the setting.
pub async fn resolve(setting: &str, address: &str) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(address).await.map_err(|error| {
        anyhow::anyhow!("{setting}={address:?} is not a listen address (host:port): {error}")
    })?;
    found.next().ok_or_else(|| anyhow::anyhow!("{setting}={address:?} resolves to no address"))
}
