//! Builds a job specification from options, a file or standard input.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use gaffer_domain::document::{Data, Entry, Value as Document};
use gaffer_domain::spec::WORKER;
use gaffer_domain::text;
use gaffer_protocol::rest::Problem;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::document_file::{File, name_of, read_text};
use crate::failure::Failure;
use crate::parameters::Given;
use crate::spec_flags::{self, SpecFlags};

/// The options for items that are in a file, or are the workers.
#[derive(Debug, Default, Args)]
pub struct Items {
    /// One task for each line of a file (- for standard input)
    ///
    /// The task finds its line in GAFFER_ITEM. Blank lines are left out. --array %N limits how many tasks run at once. Example:
    /// ls *.png | gaffer run --each-line - -- sh -c 'convert "$GAFFER_ITEM" "$GAFFER_ITEM.webp"'
    #[arg(long, value_name = "FILE", help_heading = "The job", conflicts_with_all = ["each", "count"])]
    each_line: Option<PathBuf>,
    /// Run once on every worker that matches
    ///
    /// The workers are those that match when the job is accepted; --constraint and --datacenter narrow them. Each line of output begins
    /// with the name of its worker. --array %N limits how many run at once. Example: gaffer run --each-worker -- uptime
    #[arg(long, help_heading = "The job", conflicts_with_all = ["each", "each_line", "count"])]
    each_worker: bool,
}

impl Items {
    /// Whether it reads standard input.
    pub fn reads_stdin(&self) -> bool {
        self.each_line.as_deref() == Some(Path::new("-"))
    }

    /// Adds the items to a job.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn apply(&self, input: &mut Input) -> Result<(), Failure> {
        match (&self.each_line, self.each_worker) {
            (_, true) => input.each("--each-worker", &json!(WORKER)),
            (Some(path), false) => input.each_line(path),
            (None, false) => Ok(()),
        }
    }
}

/// A specification and where it came from.
#[derive(Debug)]
pub struct Input {
    /// As the API takes it: every scalar has the text that was written.
    pub spec: Document,
    file: Option<File>,
    /// Values of its parameters.
    pub values: Option<Given>,
    /// `spec` names a template.
    is_template: bool,
}

impl Input {
    /// The standard input of its task is to be written through the API.
    pub fn pass_stdin(&mut self) {
        if let Data::Object(fields) = &mut self.spec.data {
            spec_flags::set(fields, "stdin", &json!(true));
        }
    }

    /// One task for each line of a file (`-` for standard input). Blank lines are left out.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    fn each_line(&mut self, path: &Path) -> Result<(), Failure> {
        let text = read_text(path)?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            return Err(Failure::Usage(format!("--each-line {}: every line is blank", path.display())));
        }
        self.each("--each-line", &json!(lines))
    }

    /// Has the only task of the job be for each of these items.
    fn each(&mut self, option: &str, items: &Value) -> Result<(), Failure> {
        let Data::Object(fields) = &mut self.spec.data else { return Ok(()) };
        if fields.iter().any(|field| field.key == "tasks") {
            return Err(Failure::Usage(format!(
                "{option} belongs to a task, and this job lists its tasks: write `each` in the file"
            )));
        }
        spec_flags::set(fields, "each", items);
        Ok(())
    }

    /// A command.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn of_command(
        command: Vec<String>,
        flags: &SpecFlags,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Input, Failure> {
        let mut spec = Map::new();
        // Without one, an image says what is to be run.
        if !command.is_empty() {
            spec.insert("command".to_owned(), json!(command));
        }
        Input::of_fields(spec, flags, env)
    }

    /// A script, from a file or from standard input (`-`).
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn of_script(
        path: &Path,
        flags: &SpecFlags,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Input, Failure> {
        let script = read_text(path)?;
        let mut spec = Map::from_iter([("script".to_owned(), json!(text::script(&script)))]);
        if let Some(name) = path.file_name().filter(|_| path != Path::new("-")) {
            spec.insert("name".to_owned(), json!(name.to_string_lossy()));
        }
        Input::of_fields(spec, flags, env)
    }

    fn of_fields(
        fields: Map<String, Value>,
        flags: &SpecFlags,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Input, Failure> {
        let mut spec = Document::from(&Value::Object(fields));
        flags.apply(&mut spec, env)?;
        Ok(Input { spec, file: None, values: None, is_template: false })
    }

    /// A specification, from a file or from standard input (`-`).
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn of_file(
        path: &Path,
        flags: &SpecFlags,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Input, Failure> {
        let (name, text) = (name_of(path), read_text(path)?);
        if text.starts_with("#!") {
            return Err(Failure::Usage(format!(
                "{name} is a script, not a job's specification: write `--script {}`",
                path.display()
            )));
        }
        let file = File::parse(path, name, &text)?;
        let mut spec = file.document.clone();
        flags.apply(&mut spec, env)?;
        Ok(Input { spec, file: Some(file), values: None, is_template: false })
    }

    /// What the API takes: the specification, with the values of its parameters if there are any. Numbers are sent as they
    /// were written.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn body(&self) -> Result<Box<RawValue>, Failure> {
        let body = match &self.values {
            None => self.spec.to_json(),
            Some(given) if self.is_template => {
                let mut body = self.spec.clone();
                if let Data::Object(fields) = &mut body.data {
                    let value = given.values.clone();
                    fields.push(Entry { key: "parameters".to_owned(), place: None, value });
                }
                body.to_json()
            }
            Some(given) => {
                format!(r#"{{"spec":{},"parameters":{}}}"#, self.spec.to_json(), given.values.to_json())
            }
        };
        RawValue::from_string(body)
            .map_err(|error| Failure::Local(format!("cannot write the specification as JSON: {error}")))
    }

    /// The API's complaint in terms of what the user wrote: options, or lines of the file.
    pub fn explain(&self, mut problem: Problem) -> Problem {
        for field in &mut problem.errors {
            if let Some(place) = self.place(&field.pointer) {
                field.pointer = place;
            }
        }
        problem
    }

    /// Where the user wrote what a JSON pointer means.
    pub fn place(&self, pointer: &str) -> Option<String> {
        if let Some(given) = &self.values {
            if let Some(place) = given.place(pointer) {
                return Some(place);
            }
            // A value that is missing is told where its parameter is declared.
            return self.place_in_spec(pointer.strip_prefix("/spec").unwrap_or(pointer));
        }
        self.place_in_spec(pointer)
    }

    fn place_in_spec(&self, pointer: &str) -> Option<String> {
        let in_file = self.file.as_ref().and_then(|file| file.place(pointer));
        in_file.or_else(|| match spec_flags::for_pointer(pointer)?.name() {
            name if name == "--each" && self.is_for_each_worker() => Some("--each-worker".to_owned()),
            name => Some(name),
        })
    }

    fn is_for_each_worker(&self) -> bool {
        let Data::Object(fields) = &self.spec.data else { return false };
        fields.iter().any(|field| field.key == "each" && field.value.as_text() == Some(WORKER))
    }
}

/// The ways to say what to run.
#[derive(Debug)]
pub enum Wanted {
    /// `-- CMD…`
    Command(Vec<String>),
    /// `--script FILE`
    Script(PathBuf),
    /// `FILE`
    File(PathBuf),
    /// `--template NAME --version N`
    Template(String, Option<u32>),
}

impl Wanted {
    /// The specification.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn input(self, flags: &SpecFlags, env: impl Fn(&str) -> Option<OsString>) -> Result<Input, Failure> {
        match self {
            Wanted::Command(command) => Input::of_command(command, flags, env),
            Wanted::Script(path) => Input::of_script(&path, flags, env),
            Wanted::File(path) => Input::of_file(&path, flags, env),
            Wanted::Template(..) if !flags.is_empty() => Err(Failure::Usage(
                "--template takes values for parameters (-p) and no options of the job: save another version, or \
                 submit a file"
                    .to_owned(),
            )),
            Wanted::Template(name, version) => {
                let spec = Document::from(&json!({ "template": name, "version": version }));
                Ok(Input { spec, file: None, values: None, is_template: true })
            }
        }
    }
}

#[cfg(test)]
mod tests;
