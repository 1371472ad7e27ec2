//! `gaffer secrets`: lists, sets and deletes secrets. No command shows a value.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_domain::secrets::{MAX_VALUE_BYTES, SecretValue};
use gaffer_protocol::rest::Secret;

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{self, Entry, List, Output};
use crate::out::Out;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// What to do with secrets.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  gaffer secrets
  gaffer secrets set DB_PASSWORD < password.txt
  openssl rand -hex 32 | gaffer secrets set SESSION_KEY
  gaffer secrets set --exact TLS_KEY < tls.key
  gaffer run --secret DB_PASSWORD -- ./load.sh
  gaffer secrets rm DB_PASSWORD")]
pub struct SecretsArgs {
    #[command(subcommand)]
    action: Option<SecretsAction>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum SecretsAction {
    /// List secrets, without their values
    List(ListArgs),
    /// Set a secret to what is read from standard input
    #[command(after_help = "\
The value is read from standard input, at most 64 KiB. One line end at its end is removed, unless --exact is given.
Attempts that run keep the value that they have.")]
    Set(SetArgs),
    /// Delete a secret
    #[command(visible_alias = "delete")]
    Rm(RmArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// Name of the secret, as of an environment variable
    #[arg(value_name = "NAME")]
    name: String,
    /// Keep a line end at the end of the value
    #[arg(long)]
    exact: bool,
    /// Refused: a value does not belong on a command line
    #[arg(value_name = "VALUE", hide = true, num_args = 0..)]
    value: Vec<OsString>,
}

#[derive(Debug, Args)]
struct RmArgs {
    /// Name of the secret
    #[arg(value_name = "NAME")]
    name: String,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: SecretsArgs, out: &Out) -> Result<u8, Failure> {
    match args.action.unwrap_or(SecretsAction::List(args.list)) {
        SecretsAction::List(args) => {
            let list = List { path: &["secrets"], query: Query::new(), all: false };
            listing::show::<Secret>(&Client::new(&config::access()?)?, out, list, args.output.format).await?;
        }
        SecretsAction::Set(args) => set(out, &args).await?,
        SecretsAction::Rm(args) => {
            Client::new(&config::access()?)?.delete(&["secrets", &args.name]).await?;
            out.remark(&format!("secret {} deleted", style::visible(&args.name)));
        }
    }
    Ok(0)
}

async fn set(out: &Out, args: &SetArgs) -> Result<(), Failure> {
    let name = style::visible(&args.name);
    let usage = format!("gaffer secrets set {name} < FILE");
    // The value itself is not repeated.
    if !args.value.is_empty() {
        return Err(Failure::Usage(format!(
            "a value on the command line can be read by every process of this machine and stays in the shell's history; \
             pass it on standard input: {usage}"
        )));
    }
    if std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "the value is read from standard input, which is a terminal: {usage}"
        )));
    }
    let client = Client::new(&config::access()?)?;
    let (value, is_cut) = read_value(std::io::stdin().lock(), args.exact)?;
    let secret: Secret = client.put_bytes(&["secrets", &args.name], value.bytes()).await?.read()?;
    if is_cut {
        out.note("removed the line end at the end of the value; --exact keeps it");
    }
    if let Some(warning) = &secret.warning {
        out.note(&format!("note: {}", style::visible(warning)));
    }
    out.remark(&format!("secret {name} set (version {})", secret.version));
    Ok(())
}

/// A value, and whether a line end was removed from it.
fn read_value(from: impl std::io::Read, is_exact: bool) -> Result<(SecretValue, bool), Failure> {
    let mut bytes = Vec::new();
    // Reading more than may be stored is of no use.
    let read = from.take(MAX_VALUE_BYTES as u64 + 3).read_to_end(&mut bytes);
    read.map_err(|error| Failure::Local(format!("cannot read standard input: {error}")))?;
    let before = bytes.len();
    if !is_exact && bytes.last() == Some(&b'\n') {
        bytes.pop();
        bytes.pop_if(|last| *last == b'\r');
    }
    let is_cut = bytes.len() < before;
    if bytes.is_empty() {
        return Err(Failure::Usage("standard input is empty: there is no value to store".to_owned()));
    }
    if bytes.len() > MAX_VALUE_BYTES {
        let problem = format!("the value has more than the {MAX_VALUE_BYTES} bytes that are allowed");
        return Err(Failure::Usage(problem));
    }
    Ok((SecretValue::new(bytes), is_cut))
}

impl Entry for Secret {
    const HEAD: &'static [&'static str] = &["NAME", "VERSION", "SET", "BY", "LAST USED"];
    const WIDE_HEAD: &'static [&'static str] = &["CREATED", "CREATED BY"];
    const NONE: &'static str = "no secrets";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(&self.name),
            Cell::text(self.version.to_string()),
            Cell::text(timestamp::ago(self.updated_at, now)),
            Cell::text(&self.updated_by),
            Cell::maybe(self.last_used_at.map(|at| timestamp::ago(at, now))),
        ]
    }

    fn wide_cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![Cell::text(timestamp::ago(self.created_at, now)), Cell::text(&self.created_by)]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn one_line_end_is_removed_unless_every_byte_counts() {
        let read = |text: &str, is_exact| {
            let (value, is_cut) = read_value(text.as_bytes(), is_exact).unwrap();
            (String::from_utf8(value.bytes().to_vec()).unwrap(), is_cut)
        };
        assert_eq!(read("hunter2", false), ("hunter2".to_owned(), false));
        assert_eq!(read("hunter2\n", false), ("hunter2".to_owned(), true));
        assert_eq!(read("hunter2\r\n", false), ("hunter2".to_owned(), true));
        assert_eq!(read("a\n\n", false), ("a\n".to_owned(), true));
        assert_eq!(read("hunter2\n", true), ("hunter2\n".to_owned(), false));
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert!(read_value(&b"\n"[..], false).is_err() && read_value(&b""[..], true).is_err());
        let most = vec![b'x'; MAX_VALUE_BYTES];
        assert!(read_value(&most[..], true).is_ok());
        assert!(read_value(&[&most[..], b"\n"].concat()[..], false).is_ok());
        assert!(read_value(&[&most[..], b"x"].concat()[..], false).is_err());
    }
}
