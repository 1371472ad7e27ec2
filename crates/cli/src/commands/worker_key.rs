//! Hides the worker key from jobs: every process of the same user (and every job under root) can read the
//! environment and the arguments that a process was started with.
//!
//! The process that the operator starts becomes the same program again without them, and hands the key to itself
//! through a pipe. Its agent gets it as the first line of standard input.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use gaffer_worker::config::{ApiKey, WorkerConfig};

use crate::config;
use crate::failure::Failure;

/// The option that takes a key.
const OPTION: &str = "--api-key";
/// The longest key: a pipe takes that at once.
const MAX_KEY_BYTES: usize = 4096;

/// Returns the key that the supervisor passes to its agents; none if agents can read it from a file. If the key is
/// visible from outside, this process re-executes itself without it and does not return.
///
/// To be called before anything is opened that this process needs.
///
/// # Errors
/// [`Failure::Local`] when the key cannot be read or handed over.
pub fn take(worker: &WorkerConfig) -> Result<Option<ApiKey>, Failure> {
    if let Some(number) = config::handed_key() {
        let pipe = File::open(format!("/proc/self/fd/{number}")).map_err(|error| cannot("read", &error))?;
        let mut key = String::new();
        pipe.take(MAX_KEY_BYTES as u64).read_to_string(&mut key).map_err(|error| cannot("read", &error))?;
        return Ok(Some(ApiKey::from(key)));
    }
    let key = worker.unrepeatable_key().map_err(|error| Failure::Local(format!("{error:#}")))?;
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let harmless = without_key(&arguments);
    if harmless.len() < arguments.len() || config::has_secrets() {
        return Err(cannot("hand over", &begin_anew(&harmless, key.as_ref())));
    }
    Ok(key)
}

/// The key that the supervisor hands to this agent, which reads it from its standard input.
///
/// # Errors
/// [`Failure::Local`] when there is none.
pub fn receive() -> Result<ApiKey, Failure> {
    let mut line = String::new();
    let read = io::stdin().lock().take(MAX_KEY_BYTES as u64 + 1).read_line(&mut line);
    read.map_err(|error| cannot("read", &error))?;
    match line.strip_suffix('\n') {
        Some(key) => Ok(ApiKey::from(key.to_owned())),
        None => Err(Failure::Local("the supervisor process has exited".to_owned())),
    }
}

/// Comes back only if it fails.
fn begin_anew(arguments: &[OsString], key: Option<&ApiKey>) -> io::Error {
    let executed = || -> io::Result<io::Error> {
        let (name, rest) = arguments.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        // By its path and not as /proc/self/exe, from which it would get another name in lists of processes.
        let mut command = Command::new(std::env::current_exe()?);
        command.arg0(name).args(rest);
        for name in config::SECRETS {
            command.env_remove(name);
        }
        let mut handed = None;
        if let Some(key) = key {
            if key.reveal().len() > MAX_KEY_BYTES {
                return Err(io::Error::other(format!("it has more than {MAX_KEY_BYTES} bytes")));
            }
            let (reader, mut writer) = io::pipe()?;
            writer.write_all(key.reveal().as_bytes())?;
            nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
            command.env(config::HANDED_KEY_VARIABLE, reader.as_raw_fd().to_string());
            handed = Some(reader);
        }
        let error = command.exec();
        drop(handed);
        Ok(error)
    };
    executed().unwrap_or_else(|error| error)
}

fn cannot(what: &str, error: &io::Error) -> Failure {
    Failure::Local(format!("cannot {what} the worker key: {error}"))
}

/// The arguments but for a key among them.
fn without_key(arguments: &[OsString]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == OPTION {
            arguments.next();
        } else if !is_assignment(argument) {
            kept.push(argument.clone());
        }
    }
    kept
}

fn is_assignment(argument: &OsStr) -> bool {
    argument.as_encoded_bytes().strip_prefix(OPTION.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_among_the_arguments_is_left_out_and_nothing_else() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let rest = "gaffer worker --name x --api-key-file f";
        assert_eq!(without_key(&words(&format!("{rest} --api-key k"))), words(rest));
        assert_eq!(without_key(&words("gaffer worker --api-key=k --name x --api-key-file f")), words(rest));
        assert_eq!(without_key(&words(rest)), words(rest));
    }
}
