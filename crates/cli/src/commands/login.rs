//! `gaffer login`: stores a server address and a key.

mod device;

use std::io::{self, BufRead, IsTerminal};
use std::os::fd::AsFd;

use clap::Args;
use gaffer_protocol::rest::{Job, Page, Version};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use crate::access::{self, Access, ENVIRONMENT, Key};
use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::login;
use crate::out::Out;
use crate::style;

/// Where to log in.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer login https://gaffer.lab                 prints a link and a code; allow it in the dashboard
  gaffer login http://gaffer.lab:8000 --key       asks for a key
  gaffer login https://gaffer.lab < key.txt       reads a key

The key is stored in gaffer/login.toml of the user's configuration directory (mode 0600).")]
pub struct LoginArgs {
    /// The address of the API
    #[arg(value_name = "URL")]
    url: String,

    /// Ask for a key instead of opening the dashboard
    #[arg(long, conflicts_with = "device")]
    key: bool,

    /// Print a link and a code, also without a terminal
    ///
    /// The user opens the link, signs in and allows the login; then this command gets a key with an expiry.
    #[arg(long)]
    device: bool,
}

/// Runs the command.
///
/// # Errors
/// What the API or the network says; nothing is stored then.
pub async fn run(args: LoginArgs, out: &Out) -> Result<u8, Failure> {
    let url = access::server_url(&args.url)?;
    let path = config::login_file()
        .ok_or_else(|| Failure::Usage("cannot store the login: set HOME or XDG_CONFIG_HOME".to_owned()))?;
    let is_terminal = io::stdin().is_terminal();
    let key = match args.device || (is_terminal && !args.key) {
        true => {
            let granted = device::key(&url, is_terminal, out).await?;
            let until = granted.expires_at.map(|at| format!(" until {}", at.format("%Y-%m-%d %H:%M UTC")));
            out.remark(&format!(
                "the key of {} is for project {}{}",
                style::visible(&granted.user),
                style::visible(&granted.project),
                until.unwrap_or_default()
            ));
            Key::new(&granted.key)
        }
        false => read_key(out)?,
    };
    if key.reveal().is_empty() {
        return Err(Failure::Usage("the key is empty; `gaffer keys create NAME` creates one".to_owned()));
    }
    let access = Access { url, key, source: ENVIRONMENT.to_owned() };
    let client = Client::new(&access)?;
    // `/version` needs no key, so the key is checked with a list.
    let version: Version = client.read(&["version"], &Query::new()).await?;
    let query: Query = vec![("limit", "1".to_owned())];
    match client.read::<Page<Job>>(&["jobs"], &query).await {
        // It is good, and for something else.
        Err(Failure::Problem(problem)) if problem.code == "scope_missing" => {}
        listed => drop(listed?),
    }
    login::store(&path, &access)?;
    out.remark(&format!(
        "logged in to {} (gaffer {}); stored in {}",
        access.url,
        version.version,
        path.display()
    ));
    Ok(0)
}

fn read_key(out: &Out) -> Result<Key, Failure> {
    let unreadable = |error: io::Error| Failure::Local(format!("cannot read the key: {error}"));
    let mut line = String::new();
    if !io::stdin().is_terminal() {
        io::stdin().lock().read_line(&mut line).map_err(unreadable)?;
        return Ok(Key::new(&line));
    }
    out.note_raw("key: ");
    let stdin = io::stdin();
    let before = tcgetattr(stdin.as_fd()).map_err(|error| unreadable(error.into()))?;
    let mut hidden = before.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &hidden).map_err(|error| unreadable(error.into()))?;
    let read = stdin.lock().read_line(&mut line);
    let restored = tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &before);
    out.note("");
    read.map_err(unreadable)?;
    restored.map_err(|error| unreadable(error.into()))?;
    Ok(Key::new(&line))
}
