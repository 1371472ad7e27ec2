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
    file: TempPath,
    pub input: Input,
}

impl Edited {
    /// The answer; after a failure the file stays, as somebody's work is in it.
    ///
    /// # Errors
    /// That failure, with the place of the file.
    pub fn keep_unless_done<T>(self, answer: Result<T, Failure>) -> Result<T, Failure> {
        answer.map_err(|failure| kept(self.file, failure))
    }
}

/// Opens a specification in the user's editor and reads what is left in the file.
///
/// # Errors
/// When there is no editor, it fails, nothing is changed, or the result cannot be read.
pub fn edit(job: JobId, spec: &Value) -> Result<Edited, Failure> {
    let (text, suffix) = as_text(spec);
    let failed =
        |error: std::io::Error| Failure::Local(format!("cannot write the specification to a file: {error}"));
    // Only its user can read it: a specification may have secrets in its environment.
    let prefix = format!("gaffer-job-{job}-");
    let mut file = tempfile::Builder::new().prefix(&prefix).suffix(suffix).tempfile().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let file = file.into_temp_path();
    let editor = config::editor();
    // The shell splits options off: `code --wait`.
    let status = Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(&file).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            return Err(Failure::Local(format!(
                "the editor `{editor}` failed ({status}); nothing was submitted"
            )));
        }
        Err(error) => return Err(Failure::Local(format!("cannot start the editor `{editor}`: {error}"))),
    }
    let is_unchanged = fs::read(&file).is_ok_and(|bytes| bytes == text.as_bytes());
    if is_unchanged {
        return Err(Failure::Local("the specification was not changed; nothing was submitted".to_owned()));
    }
    match Input::of_file(&file, &SpecFlags::default(), |_| None) {
        Ok(input) => Ok(Edited { file, input }),
        Err(failure) => Err(kept(file, failure)),
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

/// The failure, with where the file is that is not removed.
fn kept(file: TempPath, failure: Failure) -> Failure {
    let Ok(path) = file.keep() else { return failure };
    let hint = format!("your changes are kept in {0}: fix them and use --spec {0}", path.display());
    match failure {
        Failure::Usage(message) => Failure::Usage(format!("{message}\n  {hint}")),
        Failure::Problem(mut problem) => {
            problem.detail = format!("{}\n  {hint}", problem.detail);
            Failure::Problem(problem)
        }
        Failure::Unreachable(message) => Failure::Unreachable(format!("{message}\n  {hint}")),
        Failure::Local(message) => Failure::Local(format!("{message}\n  {hint}")),
        other => other,
    }
}
