//! The settings of client commands; the only place in this crate that reads the environment.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use gaffer_domain::quantity::Span;
use gaffer_protocol::server_url::ServerUrl;
use gaffer_worker::route::Route;

use crate::access::{Access, ENVIRONMENT, Key, server_url};
use crate::failure::Failure;
use crate::login;

/// Set for the part of a worker that another part of it starts.
pub const AGENT_VARIABLE: &str = "GAFFER_WORKER_AGENT";
/// Its value for an agent whose key comes through its standard input.
pub const AGENT_WITH_KEY: &str = "key";
/// Its value for any other.
pub const AGENT_WITHOUT_KEY: &str = "1";

/// Set for a worker that has become its own program again: the descriptor with its key.
pub const HANDED_KEY_VARIABLE: &str = "GAFFER_WORKER_KEY_FD";

/// Secrets of gaffer that a worker does not need in its environment.
pub const SECRETS: [&str; 3] = ["API_KEY", "GAFFER_KEY", "DATABASE_URL"];

/// Which process of a worker this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerPart {
    Supervisor,
    /// What talks to the master.
    Agent {
        /// Whether the key comes through standard input.
        is_given_key: bool,
    },
}

/// Which process of a worker this is.
pub fn worker_part() -> WorkerPart {
    match variable(AGENT_VARIABLE) {
        None => WorkerPart::Supervisor,
        Some(value) => WorkerPart::Agent { is_given_key: value == AGENT_WITH_KEY },
    }
}

/// The descriptor from which this worker gets its key.
pub fn handed_key() -> Option<u32> {
    variable(HANDED_KEY_VARIABLE)?.parse().ok()
}

/// Whether this process was started with secrets in its environment.
pub fn has_secrets() -> bool {
    SECRETS.iter().any(|name| env::var_os(name).is_some())
}

/// Address and key from the environment, else from the stored login, else from a running `gaffer dev`.
///
/// # Errors
/// [`Failure::Usage`] if neither has it, with what to do.
pub fn access() -> Result<Access, Failure> {
    let (url, key) = (text_variable("GAFFER_URL")?, text_variable("GAFFER_KEY")?);
    if url.is_some() && key.is_some() {
        return choose(url, key, []);
    }
    let login = login_file().map(login::read_login).transpose()?.flatten();
    let dev = login::read_dev(dev_data_dir().join("dev.env"))?;
    choose(url, key, [login, dev].into_iter().flatten())
}

/// A stored key goes to the address that it was stored with and to no other.
fn choose(
    url: Option<String>,
    key: Option<String>,
    stored: impl IntoIterator<Item = Access>,
) -> Result<Access, Failure> {
    let url = url.map(|url| server_url(&url)).transpose()?;
    let key = key.as_deref().map(Key::new);
    let found = stored.into_iter().find(|access| url.as_ref().is_none_or(|url| *url == access.url));
    match (url, key, found) {
        (Some(url), Some(key), _) => Ok(Access { url, key, source: ENVIRONMENT.to_owned() }),
        (None, None, Some(access)) => Ok(access),
        (Some(_), None, Some(access)) => Ok(access),
        (None, Some(key), Some(access)) => Ok(Access { key, ..access }),
        (Some(url), None, None) => {
            Err(Failure::Usage(format!("no key for {url}: set GAFFER_KEY, or run `gaffer login {url}`")))
        }
        (None, _, None) => Err(Failure::Usage(
            "no server configured: set GAFFER_URL and GAFFER_KEY, or run `gaffer login URL`; \
             `gaffer dev` starts a server on this machine"
                .to_owned(),
        )),
    }
}

/// The way to a server: the proxy in between, and the certificates that count.
///
/// # Errors
/// [`Failure::Usage`] if the proxy or the certificates cannot be used.
pub fn route(server: &ServerUrl) -> Result<Route, Failure> {
    let tls_ca = variable("GAFFER_TLS_CA").map(PathBuf::from);
    let route = Route::to(server.clone(), &gaffer_worker::config::proxies(), tls_ca.as_deref());
    route.map_err(|error| Failure::Usage(format!("{error:#}")))
}

/// The user's editor with its options.
pub fn editor() -> String {
    ["VISUAL", "EDITOR"].into_iter().find_map(variable).unwrap_or_else(|| "vi".to_owned())
}

/// Where the login is kept; none where the user has no home.
pub fn login_file() -> Option<PathBuf> {
    let config = directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")))?;
    Some(config.join("gaffer/login.toml"))
}

/// Default data directory of `gaffer dev`. Like its option, the variable may be relative.
pub fn dev_data_dir() -> PathBuf {
    variable("GAFFER_DATA_DIR").map_or_else(gaffer_master::config::default_data_dir, PathBuf::from)
}

/// The operator's own database, which a master that is started here uses.
pub fn database_url() -> Option<String> {
    variable("DATABASE_URL")
}

/// Whether the user wants no colours, see <https://no-color.org>.
pub fn no_color() -> bool {
    variable("NO_COLOR").is_some()
}

/// How long an attached command keeps trying when the API can't be reached.
pub fn patience(default: Duration) -> Duration {
    variable("GAFFER_RETRY_FOR").and_then(|text| text.parse::<Span>().ok()).map_or(default, Span::to_std)
}

/// What the servers log: a filter of `tracing`.
pub fn log_filter() -> Option<String> {
    variable("GAFFER_LOG")
}

/// Whether the servers log JSON.
pub fn logs_json() -> bool {
    variable("GAFFER_LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("json"))
}

/// A variable of the environment that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// A variable that a job is to get from the environment of its submitter; it may be empty, and need not be text.
pub fn passed_on(name: &str) -> Option<OsString> {
    env::var_os(name)
}

/// What a scratch installation gets of this environment: where programs and Docker are, and the size of its worker.
const FOR_SCRATCH: [&str; 10] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "GAFFER_CPU",
    "GAFFER_MEMORY",
    "GAFFER_LOG",
    DOCKER_HOST,
];

/// Where Docker is, for workers and for measurements that compare with it.
const DOCKER_HOST: &str = "DOCKER_HOST";

/// The address of the Docker daemon that workers on this machine use, if it is not the usual one.
pub fn docker_host() -> Option<String> {
    variable(DOCKER_HOST)
}

/// The environment of a scratch installation: nothing that leads to another one.
pub fn scratch_environment() -> impl Iterator<Item = (&'static str, OsString)> {
    FOR_SCRATCH.into_iter().filter_map(|name| Some((name, env::var_os(name)?)))
}

/// A setting that must be UTF-8.
fn text_variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var_os(name).map(OsString::into_string) {
        Some(Err(_)) => Err(Failure::Usage(format!("{name} is not text in UTF-8"))),
        value => Ok(value.and_then(Result::ok).filter(|value| !value.is_empty())),
    }
}

fn directory(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    fn stored(url: &str, key: &str) -> Access {
        let url = url.parse().unwrap_or_else(|error| panic!("{error}"));
        Access { url, key: Key::new(key), source: "login".to_owned() }
    }

    fn chosen(url: Option<&str>, key: Option<&str>, logins: &[Access]) -> Result<Access, Failure> {
        choose(url.map(str::to_owned), key.map(str::to_owned), logins.iter().cloned())
    }

    #[test]
    fn the_environment_goes_first() {
        let access = chosen(Some("http://a/api/v1"), Some("k"), &[stored("http://b", "other")]);
        assert_eq!(access.ok(), Some(Access { source: ENVIRONMENT.to_owned(), ..stored("http://a", "k") }));
    }

    #[test]
    fn a_stored_key_goes_nowhere_else() {
        let logins = [stored("http://a", "first"), stored("http://b", "second")];
        assert_eq!(chosen(Some("http://b"), None, &logins).ok(), Some(logins[1].clone()));
        assert!(chosen(Some("http://c"), None, &logins).is_err());
        assert_eq!(chosen(None, None, &logins).ok(), Some(logins[0].clone()));
        assert_eq!(chosen(None, Some("mine"), &logins).ok(), Some(stored("http://a", "mine")));
        assert!(chosen(None, Some("mine"), &[]).is_err());
    }

    #[test]
    fn a_key_does_not_show() {
        assert!(!format!("{:?}", stored("http://a", "secret")).contains("secret"));
    }
}
