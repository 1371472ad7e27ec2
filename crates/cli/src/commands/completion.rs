//! `gaffer completion`: prints a shell completion script.

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use crate::failure::Failure;
use crate::out::Out;

/// For which shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer completion bash > /etc/bash_completion.d/gaffer
  gaffer completion zsh > ~/.zfunc/_gaffer")]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Carries it out for that command line.
///
/// # Errors
/// [`Failure::Output`].
pub fn run(args: &CompletionArgs, mut command: Command, out: &Out) -> Result<u8, Failure> {
    let mut text = Vec::new();
    generate(args.shell, &mut command, "gaffer", &mut text);
    out.print(&text)?;
    Ok(0)
}
