//! Options of a command that are described only when that command is called: there are hundreds, and each start would pay for them.

use std::ops::Deref;

use clap::{ArgMatches, Args, Command, FromArgMatches};

/// The options of one command.
#[derive(Debug)]
pub struct Later<A>(pub A);

impl<A> Deref for Later<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.0
    }
}

impl<A: Args> Args for Later<A> {
    fn augment_args(command: Command) -> Command {
        command.defer(|command| {
            // What the list of commands says of it is said where the command is named, and not by its options.
            let (about, long_about) = (command.get_about().cloned(), command.get_long_about().cloned());
            let command = A::augment_args(command);
            let command = about.into_iter().fold(command, Command::about);
            long_about.into_iter().fold(command, Command::long_about)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        A::augment_args_for_update(command)
    }
}

impl<A: FromArgMatches> FromArgMatches for Later<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Later<A>, clap::Error> {
        A::from_arg_matches(matches).map(Later)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}
