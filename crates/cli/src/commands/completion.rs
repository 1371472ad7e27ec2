//! `gaffer completion`: what a shell needs to complete commands and options.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use crate::args;
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

/// Carries it out.
///
/// # Errors
/// [`Failure::Output`].
pub fn run(args: &CompletionArgs, out: &Out) -> Result<u8, Failure> {
    let mut text = Vec::new();
    generate(args.shell, &mut args::Args::command(), "gaffer", &mut text);
    out.print(&text)?;
    Ok(0)
}
