//! Parses the command line, and reports arguments that are not UTF-8 with their position.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::error::ErrorKind;
use clap::{Command, Parser};

use crate::args::Args;
use crate::config;
use crate::failure::Failure;
use crate::spec_flags::not_text;

/// What this process was asked to do. On a usage error, or for help, prints clap's text and exits.
///
/// # Errors
/// [`Failure::Usage`] if a word or a setting is no text.
pub fn read() -> Result<Args, Failure> {
    let words: Vec<OsString> = env::args_os().collect();
    Args::try_parse_from(&words).map_err(|error| match error.kind() {
        ErrorKind::InvalidUtf8 => Failure::Usage(complaint(&words)),
        _ => error.exit(),
    })
}

fn complaint(words: &[OsString]) -> String {
    let wrong = words.iter().enumerate().skip(1).filter(|(at, _)| is_wrong(words, *at));
    let wrong = wrong.map(|(at, word)| format!("argument {at} {}", not_text(word)));
    let settings = settings(&Args::described()).into_iter().filter_map(|name| {
        let value = config::passed_on(name.to_str()?)?;
        // Some settings are secrets.
        value.to_str().is_none().then(|| format!("{} is not text in UTF-8", name.display()))
    });
    let found: Vec<_> = wrong.chain(settings).collect();
    format!(
        "{}\nArguments must be UTF-8; create other bytes in a script, for example with printf '\\351'",
        found.join("\n")
    )
}

/// Whether a word is refused for not being text: a path may be anything.
fn is_wrong(words: &[OsString], at: usize) -> bool {
    let is_text = |word: &OsStr| word.to_str().is_some();
    if is_text(&words[at]) {
        return false;
    }
    let others_are_text = words.iter().enumerate().map(|(position, word)| match position == at {
        true => word.clone(),
        false => word.to_string_lossy().into_owned().into(),
    });
    Args::try_parse_from(others_are_text).is_err_and(|error| error.kind() == ErrorKind::InvalidUtf8)
}

/// The names of all variables that set something.
fn settings(command: &Command) -> Vec<OsString> {
    let own = command.get_arguments().filter_map(|argument| argument.get_env().map(OsStr::to_owned));
    own.chain(command.get_subcommands().flat_map(settings)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn words(line: &[&[u8]]) -> Vec<OsString> {
        line.iter().map(|word| OsString::from_vec(word.to_vec())).collect()
    }

    #[test]
    fn a_word_that_is_no_text_is_named_by_its_position() {
        let line = words(&[b"gaffer", b"run", b"-e", b"A=\xff", b"--", b"echo", b"caf\xe9", b"ok"]);
        let complaint = complaint(&line);
        let lines: Vec<&str> = complaint.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "argument 3 is not text in UTF-8: it has the byte 0xff after 2 bytes: A=\\xff",
                "argument 6 is not text in UTF-8: it has the byte 0xe9 after 3 bytes: caf\\xe9",
            ]
        );
    }

    #[test]
    fn a_path_may_be_anything() {
        let line = words(&[b"gaffer", b"submit", b"/tmp/\xff.yaml", b"--name", b"\xfe"]);
        assert!(!is_wrong(&line, 2) && is_wrong(&line, 4));
        assert!(Args::try_parse_from(words(&[b"gaffer", b"submit", b"/tmp/\xff.yaml"])).is_ok());
    }
}
