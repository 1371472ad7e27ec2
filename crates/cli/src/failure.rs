//! Errors of client commands and their exit codes.

use std::fmt;
use std::io;

use gaffer_domain::spelling::with_suggestion;
use gaffer_protocol::rest::Problem;

/// What went wrong.
#[derive(Debug)]
pub enum Failure {
    /// The command line, a file or a setting is invalid.
    Usage(String),
    Problem(Box<Problem>),
    /// No response, or a truncated one.
    Unreachable(String),
    /// Something answered, but not as gaffer does.
    Garbled {
        /// The HTTP status, if it came that far.
        status: Option<u16>,
        /// A sentence.
        message: String,
    },
    /// What the command shows could not be written.
    Output(io::Error),
    /// Something on this machine is not there.
    NotFound(String),
    /// It does not apply in the present state of something on this machine.
    Conflict(String),
    /// Anything else, on this machine.
    Local(String),
}

/// The exit code for a wrong command line; the one that clap uses too.
pub const USAGE: u8 = 2;
/// Exit code for missing objects.
pub const NOT_FOUND: u8 = 3;
/// The exit code for what this key may not do.
pub const NOT_ALLOWED: u8 = 4;
/// The exit code for what does not apply in the present state.
pub const CONFLICT: u8 = 5;
/// What a shell shows of a program that wrote into a closed pipe: 128 + SIGPIPE.
const BROKEN_PIPE: u8 = 141;

impl Failure {
    /// The exit code; `general` for failures without a specific one.
    pub fn exit_code(&self, general: u8) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::Problem(problem) => match problem.status {
                400 | 413 | 415 | 422 => USAGE,
                401 | 403 => NOT_ALLOWED,
                404 => NOT_FOUND,
                409 => CONFLICT,
                _ => general,
            },
            Failure::NotFound(_) => NOT_FOUND,
            Failure::Conflict(_) => CONFLICT,
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => BROKEN_PIPE,
            Failure::Unreachable(_) | Failure::Garbled { .. } | Failure::Output(_) | Failure::Local(_) => {
                general
            }
        }
    }

    /// Whether trying again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Failure::Unreachable(_) => true,
            Failure::Problem(problem) => is_passing_status(problem.status),
            Failure::Garbled { status, .. } => status.is_some_and(is_passing_status),
            Failure::Usage(_)
            | Failure::Output(_)
            | Failure::NotFound(_)
            | Failure::Conflict(_)
            | Failure::Local(_) => false,
        }
    }

    /// Whether the reader of the output closed it.
    pub fn is_silent(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether the API answered 409.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Failure::Problem(problem) if problem.status == 409)
    }

    /// Whether the API answered 404.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Failure::Problem(problem) if problem.status == 404)
    }
}

fn is_passing_status(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message)
            | Failure::Unreachable(message)
            | Failure::NotFound(message)
            | Failure::Conflict(message)
            | Failure::Local(message) => f.write_str(message),
            Failure::Garbled { message, .. } => f.write_str(message),
            Failure::Output(error) => write!(f, "cannot write the output: {error}"),
            Failure::Problem(problem) => write_problem(f, problem),
        }
    }
}

fn write_problem(f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
    let text = if problem.detail.is_empty() { &problem.title } else { &problem.detail };
    f.write_str(text)?;
    if problem.status >= 500 && !problem.request_id.is_empty() {
        write!(f, " (request {} in the master's log)", problem.request_id)?;
    }
    for field in &problem.errors {
        // One field that is wrong may be the whole problem: then where it is has not been told yet.
        let detail = if field.detail == *text { "" } else { &field.detail };
        let between = if field.pointer.is_empty() || detail.is_empty() { "" } else { ": " };
        let message = with_suggestion(detail, field.suggestion.as_deref());
        write!(f, "\n  {}{between}{message}", field.pointer)?;
    }
    Ok(())
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    /// Read errors are handled where they occur; an error converted here comes from writing.
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

#[cfg(test)]
mod tests {
    use gaffer_protocol::rest::ProblemField;

    use super::*;

    fn problem(status: u16) -> Failure {
        Failure::Problem(Box::new(Problem {
            kind: "about:blank".to_owned(),
            title: "Title".to_owned(),
            status,
            code: "code".to_owned(),
            detail: "what is wrong".to_owned(),
            request_id: "r1".to_owned(),
            state: None,
            errors: Vec::new(),
        }))
    }

    #[test]
    fn every_refusal_has_its_exit_code() {
        for (status, code) in [(400, 2), (422, 2), (401, 4), (403, 4), (404, 3), (409, 5), (500, 1), (503, 1)]
        {
            assert_eq!(problem(status).exit_code(1), code, "{status}");
        }
        assert_eq!(problem(500).exit_code(125), 125);
        assert_eq!(Failure::Unreachable(String::new()).exit_code(125), 125);
        let closed = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(closed.exit_code(125), 141);
        assert!(closed.is_silent());
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, passes) in
            [(503, true), (502, true), (429, true), (500, false), (404, false), (409, false)]
        {
            assert_eq!(problem(status).is_passing(), passes, "{status}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_field_is_told_once() {
        let with = |errors: &[(&str, &str, Option<&str>)]| {
            let Failure::Problem(mut problem) = problem(400) else { return String::new() };
            let field = |(pointer, detail, suggestion): &(&str, &str, Option<&str>)| ProblemField {
                pointer: (*pointer).to_owned(),
                detail: (*detail).to_owned(),
                suggestion: suggestion.map(str::to_owned),
            };
            problem.errors = errors.iter().map(field).collect();
            Failure::Problem(problem).to_string()
        };
        assert_eq!(with(&[("query:q", "what is wrong", None)]), "what is wrong\n  query:q");
        assert_eq!(
            with(&[("/kind", "what is wrong", Some("did you mean `user`?"))]),
            "what is wrong\n  /kind (did you mean `user`?)"
        );
        assert_eq!(
            with(&[("/a", "no number", None), ("", "no job", None)]),
            "what is wrong\n  /a: no number\n  no job"
        );
    }

    #[test]
    fn the_request_is_named_where_the_master_is_at_fault() {
        assert_eq!(problem(404).to_string(), "what is wrong");
        assert_eq!(problem(500).to_string(), "what is wrong (request r1 in the master's log)");
    }
}
