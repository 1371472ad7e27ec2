//! Glyphs and colours of states; makes text safe for terminals.

use std::borrow::Cow;

use gaffer_domain::task::StateName;
use gaffer_domain::worker::WorkerState;

/// A colour, or no colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// As the terminal has it.
    Plain,
    /// It went well.
    Green,
    /// It went wrong.
    Red,
    /// Needs attention.
    Yellow,
    /// In progress.
    Blue,
    /// It matters little.
    Dim,
}

impl Colour {
    fn sgr(self) -> &'static str {
        match self {
            Colour::Plain => "0",
            Colour::Green => "32",
            Colour::Red => "31",
            Colour::Yellow => "33",
            Colour::Blue => "34",
            Colour::Dim => "2",
        }
    }
}

/// The text in a colour, if colours are wanted.
pub fn paint(text: &str, colour: Colour, wanted: bool) -> String {
    if wanted && colour != Colour::Plain {
        format!("\x1b[{}m{text}\x1b[0m", colour.sgr())
    } else {
        text.to_owned()
    }
}

/// What a state means to who looks, whether it is a job's, a task's or a worker's.
enum Meaning {
    Job(StateName),
    Worker(WorkerState),
    /// A newer master may know one more.
    Unknown,
}

impl Meaning {
    /// Job states are a subset of task states.
    fn of(state: &str) -> Meaning {
        let of_worker = || WorkerState::ALL.into_iter().find(|known| known.as_str() == state);
        match (state.parse(), of_worker()) {
            (Ok(state), _) => Meaning::Job(state),
            (Err(_), Some(state)) => Meaning::Worker(state),
            (Err(_), None) => Meaning::Unknown,
        }
    }
}

/// The sign of a state: of a job, a task or a worker.
pub fn glyph(state: &str) -> char {
    match Meaning::of(state) {
        Meaning::Job(StateName::Blocked) => '◌',
        Meaning::Job(StateName::Pending) | Meaning::Worker(WorkerState::Offline) => '○',
        Meaning::Job(StateName::Scheduled | StateName::Stopping)
        | Meaning::Worker(WorkerState::Draining | WorkerState::Cordoned) => '◐',
        Meaning::Job(StateName::Running) | Meaning::Worker(WorkerState::Online) => '●',
        Meaning::Job(StateName::Completed) => '✓',
        Meaning::Job(StateName::Failed) | Meaning::Worker(WorkerState::Lost) => '✗',
        Meaning::Job(StateName::Cancelled) => '⊘',
        Meaning::Unknown => '·',
    }
}

/// The colour of a state.
pub fn colour(state: &str) -> Colour {
    match Meaning::of(state) {
        Meaning::Job(StateName::Completed) | Meaning::Worker(WorkerState::Online) => Colour::Green,
        Meaning::Job(StateName::Failed) | Meaning::Worker(WorkerState::Lost) => Colour::Red,
        Meaning::Job(StateName::Stopping)
        | Meaning::Worker(WorkerState::Draining | WorkerState::Cordoned | WorkerState::Offline) => {
            Colour::Yellow
        }
        Meaning::Job(StateName::Running | StateName::Scheduled) => Colour::Blue,
        Meaning::Job(StateName::Cancelled | StateName::Blocked) => Colour::Dim,
        Meaning::Job(StateName::Pending) | Meaning::Unknown => Colour::Plain,
    }
}

/// Text from elsewhere without anything that moves the cursor, changes the terminal or reorders a line.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_unsafe) {
        Cow::Owned(text.chars().map(|c| if is_unsafe(c) { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

fn is_unsafe(c: char) -> bool {
    gaffer_domain::visible::spoils_a_line(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(visible("plain ✓ text"), "plain ✓ text");
        assert_eq!(
            visible("a\x1b]0;title\x07b\u{9b}31m\u{202e}"),
            "a\u{fffd}]0;title\u{fffd}b\u{fffd}31m\u{fffd}"
        );
    }

    #[test]
    fn colour_is_left_out_where_it_is_not_wanted() {
        assert_eq!(paint("x", Colour::Red, false), "x");
        assert_eq!(paint("x", Colour::Red, true), "\x1b[31mx\x1b[0m");
    }
}
