//! Builds a job specification from options, a file or standard input.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use gaffer_domain::document::{Data, Entry, Language, Value as Document};
use gaffer_domain::spec::MAX_SPEC_BYTES;
use gaffer_domain::text;
use gaffer_protocol::rest::Problem;
use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// The options that describe a job.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "The job")]
pub struct SpecFlags {
    /// What to call it [default: as its program]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Processors to reserve, such as 0.5 or 500m
    #[arg(long, value_name = "N")]
    pub cpu: Option<String>,
    /// Memory to reserve, such as 512MiB
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Disk to reserve, such as 2GiB
    #[arg(long, value_name = "BYTES")]
    pub disk: Option<String>,
    /// A variable of its environment; without a value, that of this environment. May be repeated
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// The directory to run in, on its worker or in its container
    ///
    /// An absolute path. Without it a container starts where its image says, and a task on the host in a scratch directory
    /// that is gone afterwards; GAFFER_SCRATCH_DIR holds the path of that in any case.
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The longest time that one attempt may take, such as 30m
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
    /// The most output that is kept of one attempt, such as 100MiB
    #[arg(long, value_name = "BYTES")]
    pub output_limit: Option<String>,
    /// What happens beyond that: truncate (it goes on) or kill [default: truncate]
    #[arg(long, value_name = "WHAT")]
    pub on_output_limit: Option<String>,
    /// 0 to 100; higher goes first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub priority: Option<u8>,
    /// A datacenter in which it may run. May be repeated
    #[arg(long = "datacenter", value_name = "NAME")]
    pub datacenters: Vec<String>,
    /// What its worker must be, such as 'labels.gpu == a100' or 'memory >= 8GiB'. May be repeated
    #[arg(long = "constraint", value_name = "CONDITION")]
    pub constraints: Vec<String>,
    /// A countable resource to take, such as gpu=1. May be repeated
    #[arg(long = "resource", value_name = "NAME=NUMBER")]
    pub resources: Vec<String>,
    /// Spread its tasks evenly over the values of this, such as labels.rack
    #[arg(long, value_name = "FACT")]
    pub spread: Option<String>,
    /// No two of its tasks on one worker
    #[arg(long)]
    pub distinct_workers: bool,
    /// How workers are chosen: spread, binpack, round_robin, greedy, epvm or epvm_lieb
    #[arg(long, value_name = "STRATEGY")]
    pub strategy: Option<String>,
    /// A mark to find it again by. May be repeated
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// What executes it: host or docker [default: host, and docker with an image]
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    #[command(flatten)]
    pub container: ContainerFlags,
    /// Try again so many times if it fails
    #[arg(long, value_name = "N")]
    pub retries: Option<u32>,
    /// What to do if its worker is lost: restart or fail
    #[arg(long, value_name = "WHAT")]
    pub on_lost: Option<String>,
    /// How long its worker may be out of contact, such as 2m
    #[arg(long, value_name = "TIME")]
    pub lost_after: Option<String>,
    /// Run it so many times, as tasks 0 to N-1
    #[arg(long, value_name = "N", conflicts_with = "array")]
    pub count: Option<u32>,
    /// Run it once for each index, as in 0-99
    #[arg(long, value_name = "FIRST-LAST")]
    pub array: Option<String>,
    /// The signal that asks it to stop [default: SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// How long it then has until it is killed [default: 10s]
    #[arg(long, value_name = "TIME")]
    pub grace: Option<String>,
}

/// The options that describe a container.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Containers")]
pub struct ContainerFlags {
    /// Run it in a container of this image; without a command, what the image says
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// When to fetch the image: missing, always or never [default: missing]
    #[arg(long, value_name = "WHEN")]
    pub pull: Option<String>,
    /// Takes the place of the image's entry point; quoted as in a shell
    #[arg(long, value_name = "CMD")]
    pub entrypoint: Option<String>,
    /// The user, and the group after a colon
    #[arg(long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// A directory of the worker; only below those that its operator allows. May be repeated
    #[arg(short = 'v', long = "volume", value_name = "SOURCE:TARGET[:ro]")]
    pub volumes: Vec<String>,
    /// A port to reach from outside; 0 for any of the worker's. May be repeated
    #[arg(short = 'p', long = "publish", value_name = "HOST:CONTAINER")]
    pub ports: Vec<String>,
    /// What it is connected to: bridge, none or host [default: bridge]
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// A capability to add, such as NET_ADMIN. May be repeated
    #[arg(long = "cap-add", value_name = "NAME")]
    pub capabilities: Vec<String>,
    /// Graphics processors: all, or how many
    #[arg(long, value_name = "N")]
    pub gpus: Option<String>,
}

impl ContainerFlags {
    /// As [`SpecFlags::values`].
    fn values(&self) -> Result<Vec<(&'static str, Option<Value>)>, Failure> {
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let several = |all: &[String]| (!all.is_empty()).then(|| json!(all));
        let words = |text: &String| {
            shell_words::split(text).map_err(|why| Failure::Usage(format!("--entrypoint: {why}")))
        };
        let gpus = |text: &String| text.parse::<u32>().map_or_else(|_| json!(text), |count| json!(count));
        Ok(vec![
            ("--image", text(&self.image)),
            ("--pull", text(&self.pull)),
            ("--entrypoint", self.entrypoint.as_ref().map(words).transpose()?.map(|words| json!(words))),
            ("--user", text(&self.user)),
            ("--volume", several(&self.volumes)),
            ("--publish", several(&self.ports)),
            ("--network", text(&self.network)),
            ("--cap-add", several(&self.capabilities)),
            ("--gpus", self.gpus.as_ref().map(gpus)),
        ])
    }
}

/// Where each option that belongs to a task goes.
const TASK_FLAGS: &[(&str, &str)] = &[
    ("--cpu", "/resources/cpu"),
    ("--memory", "/resources/memory"),
    ("--disk", "/resources/disk"),
    ("--env", "/env"),
    ("--workdir", "/workdir"),
    ("--timeout", "/timeout"),
    ("--output-limit", "/output/limit"),
    ("--on-output-limit", "/output/on_limit"),
    ("--driver", "/driver"),
    ("--resource", "/resources"),
    ("--distinct-workers", "/distinct_workers"),
    ("--spread", "/spread"),
    ("--retries", "/restart/limit"),
    ("--on-lost", "/restart/on_lost"),
    ("--count", "/count"),
    ("--array", "/array"),
    ("--stop-signal", "/stop/signal"),
    ("--grace", "/stop/grace"),
    ("--image", "/image"),
    ("--pull", "/pull"),
    ("--entrypoint", "/entrypoint"),
    ("--user", "/user"),
    ("--volume", "/volumes"),
    ("--publish", "/ports"),
    ("--network", "/network"),
    ("--cap-add", "/capabilities"),
    ("--gpus", "/gpus"),
];
/// Where each option that belongs to the job goes.
const JOB_FLAGS: &[(&str, &str)] = &[
    ("--name", "/name"),
    ("--priority", "/priority"),
    ("--datacenter", "/datacenters"),
    ("--label", "/labels"),
    ("--lost-after", "/lost_after"),
    ("--constraint", "/constraints"),
    ("--strategy", "/placement/strategy"),
];

/// A specification and where it came from.
#[derive(Debug)]
pub struct Input {
    /// As the API takes it: every scalar has the text that was written.
    pub spec: Document,
    file: Option<File>,
}

/// A file, to say where in it a mistake is.
#[derive(Debug)]
struct File {
    name: String,
    document: Document,
}

impl Input {
    /// The standard input of its task is to be written through the API.
    pub fn pass_stdin(&mut self) {
        if let Data::Object(fields) = &mut self.spec.data {
            set(fields, "stdin", &json!(true));
        }
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
        Ok(Input { spec, file: None })
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
        let text = read_text(path)?;
        let name =
            if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        if text.starts_with("#!") {
            return Err(Failure::Usage(format!(
                "{name} is a script, not a job's specification: write `--script {}`",
                path.display()
            )));
        }
        let document = language_of(path, &text).read(&text).map_err(|error| {
            let place =
                error.place.map(|place| format!(":{}:{}", place.line, place.column)).unwrap_or_default();
            Failure::Usage(format!("{name}{place}: {}", error.message))
        })?;
        let mut spec = document.clone();
        flags.apply(&mut spec, env)?;
        Ok(Input { spec, file: Some(File { name, document }) })
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

    fn place(&self, pointer: &str) -> Option<String> {
        let in_file = self.file.as_ref().and_then(|file| {
            let place = file.document.place_of(pointer)?;
            Some(format!("{}:{}:{} {pointer}", file.name, place.line, place.column).trim_end().to_owned())
        });
        in_file.or_else(|| {
            let known = TASK_FLAGS.iter().chain(JOB_FLAGS);
            let is_it = |place: &str| pointer == place || pointer.starts_with(&format!("{place}/"));
            known.into_iter().find(|(_, place)| is_it(place)).map(|(flag, _)| (*flag).to_owned())
        })
    }
}

impl SpecFlags {
    /// Puts what was given over a specification. One that is no object stays as it is, for the API to refuse.
    fn apply(&self, spec: &mut Document, env: impl Fn(&str) -> Option<OsString>) -> Result<(), Failure> {
        let values = self.values(env)?;
        let Data::Object(fields) = &mut spec.data else { return Ok(()) };
        if fields.iter().any(|field| field.key == "tasks")
            && let Some((flag, _)) =
                values.iter().find(|(flag, _)| TASK_FLAGS.iter().any(|(known, _)| known == flag))
        {
            return Err(Failure::Usage(format!(
                "{flag} belongs to a task, and this job lists its tasks: write it in the file"
            )));
        }
        for (flag, value) in values {
            let mut all = TASK_FLAGS.iter().chain(JOB_FLAGS);
            if let Some((_, pointer)) = all.find(|(known, _)| *known == flag) {
                put(fields, pointer, &value);
            }
        }
        Ok(())
    }

    /// The options that were given, each with its value in the specification.
    fn values(&self, env: impl Fn(&str) -> Option<OsString>) -> Result<Vec<(&'static str, Value)>, Failure> {
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let several = |value: Value, is_empty: bool| (!is_empty).then_some(value);
        let given = [
            ("--cpu", text(&self.cpu)),
            ("--memory", text(&self.memory)),
            ("--disk", text(&self.disk)),
            ("--env", several(variables(&self.env, env)?, self.env.is_empty())),
            ("--workdir", text(&self.workdir)),
            ("--timeout", text(&self.timeout)),
            ("--output-limit", text(&self.output_limit)),
            ("--on-output-limit", text(&self.on_output_limit)),
            ("--driver", text(&self.driver)),
            ("--resource", several(countables(&self.resources)?, self.resources.is_empty())),
            ("--distinct-workers", self.distinct_workers.then_some(json!(true))),
            ("--spread", text(&self.spread)),
            ("--retries", self.retries.map(|limit| json!(limit))),
            ("--on-lost", text(&self.on_lost)),
            ("--count", self.count.map(|count| json!(count))),
            ("--array", text(&self.array)),
            ("--stop-signal", text(&self.stop_signal)),
            ("--grace", text(&self.grace)),
            ("--name", text(&self.name)),
            ("--priority", self.priority.map(|priority| json!(priority))),
            ("--datacenter", several(json!(self.datacenters), self.datacenters.is_empty())),
            ("--label", several(labels(&self.labels)?, self.labels.is_empty())),
            ("--lost-after", text(&self.lost_after)),
            ("--constraint", several(json!(self.constraints), self.constraints.is_empty())),
            ("--strategy", text(&self.strategy)),
        ];
        let given = given.into_iter().chain(self.container.values()?);
        Ok(given.filter_map(|(flag, value)| Some((flag, value?))).collect())
    }
}

/// Sets a field, making the objects around it; variables and labels join those that are there.
fn put(fields: &mut Vec<Entry>, pointer: &str, value: &Value) {
    let (first, second) = match pointer.trim_start_matches('/').split_once('/') {
        Some((first, second)) => (first, Some(second)),
        None => (pointer.trim_start_matches('/'), None),
    };
    match (second, value) {
        (Some(second), value) => {
            let object = object_in(fields, first);
            if pointer == "/restart/limit" && *value != json!(0) {
                let policy = object.iter().find(|field| field.key == "policy");
                if policy.is_none_or(|policy| policy.value.as_text() == Some("never")) {
                    // Without a policy that repeats, a number of repeats would mean nothing.
                    set(object, "policy", &json!("on-failure"));
                }
            }
            set(object, second, value);
        }
        (None, Value::Object(more)) => {
            let object = object_in(fields, first);
            more.iter().for_each(|(name, value)| set(object, name, value));
        }
        (None, value) => set(fields, first, value),
    }
}

fn set(fields: &mut Vec<Entry>, name: &str, value: &Value) {
    let value = Document::from(value);
    match fields.iter_mut().find(|field| field.key == name) {
        Some(field) => field.value = value,
        None => fields.push(Entry { key: name.to_owned(), place: None, value }),
    }
}

/// The object in a field, which is made if there is none. A word in its place is a policy: `restart: always`.
fn object_in<'a>(fields: &'a mut Vec<Entry>, name: &str) -> &'a mut Vec<Entry> {
    let at = fields.iter().position(|field| field.key == name).unwrap_or_else(|| {
        set(fields, name, &json!({}));
        fields.len() - 1
    });
    let value = &mut fields[at].value;
    if !matches!(value.data, Data::Object(_)) {
        let policy = Some(value.clone()).filter(Document::is_text);
        let policy = policy.map(|value| Entry { key: "policy".to_owned(), place: value.place, value });
        value.data = Data::Object(policy.into_iter().collect());
    }
    match &mut value.data {
        Data::Object(fields) => fields,
        _ => unreachable!("it was made an object"),
    }
}

fn variables(given: &[String], env: impl Fn(&str) -> Option<OsString>) -> Result<Value, Failure> {
    let mut variables = Map::new();
    for variable in given {
        let (name, value) = match variable.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let value = env(variable).ok_or_else(|| {
                    Failure::Usage(format!("--env {variable}: this environment has no such variable"))
                })?;
                let value = value.into_string().map_err(|value| {
                    Failure::Usage(format!(
                        "--env {variable}: its value in this environment {}",
                        not_text(&value)
                    ))
                })?;
                (variable.as_str(), value)
            }
        };
        variables.insert(name.to_owned(), json!(value));
    }
    Ok(Value::Object(variables))
}

/// What is to be said of an argument or a value that is no text: `is not text in UTF-8: …`.
pub fn not_text(value: &std::ffi::OsStr) -> String {
    let bytes = value.as_bytes();
    let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let byte = bytes.get(valid).copied().unwrap_or_default();
    let shown: String = text::escaped(bytes).chars().take(80).collect();
    format!("is not text in UTF-8: it has the byte {byte:#04x} after {valid} bytes: {shown}")
}

fn labels(given: &[String]) -> Result<Value, Failure> {
    let mut labels = Map::new();
    for label in given {
        let (key, value) = label.split_once('=').ok_or_else(|| {
            Failure::Usage(format!("--label {label}: write KEY=VALUE, such as team=vision"))
        })?;
        labels.insert(key.to_owned(), json!(value));
    }
    Ok(Value::Object(labels))
}

fn countables(given: &[String]) -> Result<Value, Failure> {
    let mut countables = Map::new();
    for countable in given {
        let wrong = || Failure::Usage(format!("--resource {countable}: write NAME=NUMBER, such as gpu=1"));
        let (name, count) = countable.split_once('=').ok_or_else(wrong)?;
        let count: u32 = count.parse().map_err(|_| wrong())?;
        countables.insert(name.to_owned(), json!(count));
    }
    Ok(Value::Object(countables))
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let limit = MAX_SPEC_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    let name = path.display();
    read.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    if bytes.len() > MAX_SPEC_BYTES {
        return Err(Failure::Usage(format!(
            "{name} is larger than the {MAX_SPEC_BYTES} bytes that are allowed"
        )));
    }
    text::decode(&bytes).map(str::to_owned).map_err(|why| Failure::Usage(format!("{name} {why}")))
}

fn language_of(path: &Path, text: &str) -> Language {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("json") => Language::Json,
        Some("toml") => Language::Toml,
        Some("yaml" | "yml") => Language::Yaml,
        _ => Language::guess(text),
    }
}

/// The three ways to say what to run.
#[derive(Debug)]
pub enum Wanted {
    /// `-- CMD…`
    Command(Vec<String>),
    /// `--script FILE`
    Script(PathBuf),
    /// `FILE`
    File(PathBuf),
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
        }
    }
}

#[cfg(test)]
mod tests;
