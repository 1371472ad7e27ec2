//! A job's specification in the user's editor.

use std::fs;
use std::io::Write as _;
use std::process::Command;

use gaffer_domain::JobId;
use gaffer_domain::document::Language;
use serde_json::Value;
use tempfile::TempPath;

use crate::config;
use crate::failure::Failure;
use crate::spec_flags::SpecFlags;
use crate::spec_input::Input;
use crate::yaml;

/// What the user made of it.
pub struct Edited {
    file: EditedFile,
    pub input: Input,
}

/// The file, and the command that submits one with its name behind it.
struct EditedFile {
    path: TempPath,
    command: String,
}

impl Edited {
    /// The answer; after a failure the file stays, as somebody's work is in it.
    ///
    /// # Errors
    /// That failure, with the place of the file.
    pub fn keep_unless_done<T>(self, answer: Result<T, Failure>) -> Result<T, Failure> {
        answer.map_err(|failure| self.file.kept(failure))
    }
}

/// Opens a specification in the user's editor and reads what is left in the file. `command` is what submits a file whose name stands
/// behind it.
///
/// # Errors
/// When there is no editor, it fails, nothing is changed, or the result cannot be read.
pub fn edit(job: JobId, spec: &Value, command: String) -> Result<Edited, Failure> {
    let (text, suffix) = as_text(spec);
    let failed =
        |error: std::io::Error| Failure::Local(format!("cannot write the specification to a file: {error}"));
    // Only its user can read it: a specification may have secrets in its environment.
    let prefix = format!("gaffer-job-{job}-");
    let mut file = tempfile::Builder::new().prefix(&prefix).suffix(suffix).tempfile().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let file = EditedFile { path: file.into_temp_path(), command };
    let editor = config::editor();
    // The shell splits options off: `code --wait`.
    let command = format!("{editor} \"$1\"");
    let status = Command::new("sh").args(["-c", &command, "sh"]).arg(&file.path).status();
    let is_unchanged = fs::read(&file.path).is_ok_and(|bytes| bytes == text.as_bytes());
    let failed = match status {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("the editor `{editor}` failed ({status}); nothing was submitted")),
        Err(error) => Some(format!("cannot start the editor `{editor}`: {error}")),
    };
    match (failed.map(Failure::Local), is_unchanged) {
        (Some(failure), true) => return Err(failure),
        (Some(failure), false) => return Err(file.kept(failure)),
        (None, true) => {
            return Err(Failure::Local(
                "the specification was not changed; nothing was submitted".to_owned(),
            ));
        }
        (None, false) => {}
    }
    match Input::of_file(&file.path, &SpecFlags::default(), |_| None) {
        Ok(input) => Ok(Edited { file, input }),
        Err(failure) => Err(file.kept(failure)),
    }
}

/// YAML, or JSON where that would say something else.
fn as_text(spec: &Value) -> (String, &'static str) {
    let text = yaml::write(spec);
    let read = Language::Yaml.read(&text).ok();
    let read = read.and_then(|document| serde_json::from_str::<Value>(&document.to_json()).ok());
    match read.is_some_and(|read| read == *spec) {
        true => (text, ".yaml"),
        false => (serde_json::to_string_pretty(spec).unwrap_or_default(), ".json"),
    }
}

impl EditedFile {
    /// The failure, with where the file is that is not removed, and what to do with it.
    fn kept(self, failure: Failure) -> Failure {
        let Ok(path) = self.path.keep() else { return failure };
        let path = path.display().to_string();
        let hint = format!(
            "your changes are kept in {path}: after you have looked at it, run\n  {} {}",
            self.command,
            shell_words::quote(&path)
        );
        match failure {
            Failure::Usage(message) => Failure::Usage(format!("{message}\n  {hint}")),
            Failure::Problem(mut problem) => {
                problem.detail = format!("{}\n  {hint}", problem.detail);
                Failure::Problem(problem)
            }
            Failure::Unreachable(message) => Failure::Unreachable(format!("{message}\n  {hint}")),
            Failure::Garbled { status, message } => {
                Failure::Garbled { status, message: format!("{message}\n  {hint}") }
            }
            Failure::Local(message) => Failure::Local(format!("{message}\n  {hint}")),
            other => other,
        }
    }
}
