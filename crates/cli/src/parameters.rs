//! Values of parameters from options and from a file.

use std::path::PathBuf;

use clap::Args;
use gaffer_domain::document::{Data, Entry, Value as Document};
use serde_json::{Map, Value};

use crate::document_file::File;
use crate::failure::Failure;

/// The options for values.
#[derive(Debug, Clone, Default, Args)]
pub struct ParameterFlags {
    /// Value of a parameter of the specification
    ///
    /// The specification declares its parameters and their types. Values are stored and shown with the job, so they are no place
    /// for secrets. Repeatable. Example: -p lr=0.1 -p steps=200
    #[arg(short = 'p', long = "param", value_name = "NAME=VALUE", help_heading = "The job")]
    param: Vec<String>,
    /// Values of parameters from a file (- for standard input)
    ///
    /// An object in YAML, TOML or JSON, such as `lr: 0.1`. -p overrides the file.
    #[arg(long = "params", value_name = "FILE", help_heading = "The job")]
    params: Option<PathBuf>,
}

/// The values that were given, and where.
#[derive(Debug)]
pub struct Given {
    /// As the API takes them.
    pub values: Document,
    /// Names of those that options gave.
    in_options: Vec<String>,
    file: Option<File>,
}

impl ParameterFlags {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.param.is_empty() && self.params.is_none()
    }

    /// The same options, as a shell reads them, each with a blank in front.
    pub fn as_options(&self) -> String {
        let file = self.params.as_ref().map(|file| ("--params", file.to_string_lossy().into_owned()));
        let values = self.param.iter().map(|value| ("-p", value.clone()));
        values.chain(file).map(|(name, value)| format!(" {name} {}", shell_words::quote(&value))).collect()
    }

    /// The values; none if no option was given.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn read(&self) -> Result<Option<Given>, Failure> {
        if self.is_empty() {
            return Ok(None);
        }
        let file = self.params.as_deref().map(File::read).transpose()?;
        let mut values = match &file {
            None => Document::from(&Value::Object(Map::new())),
            Some(file) => file.document.clone(),
        };
        let Data::Object(entries) = &mut values.data else {
            let name = file.map(|file| file.name).unwrap_or_default();
            return Err(Failure::Usage(format!("{name}: expected an object of values such as `lr: 0.1`")));
        };
        let mut in_options: Vec<String> = Vec::new();
        for given in &self.param {
            let Some((name, value)) = given.split_once('=') else {
                return Err(Failure::Usage(format!("-p {given}: write NAME=VALUE, such as lr=0.1")));
            };
            if in_options.iter().any(|known| known == name) {
                return Err(Failure::Usage(format!("-p {name} was given twice")));
            }
            in_options.push(name.to_owned());
            entries.retain(|entry| entry.key != name);
            let value = Document::from(&Value::from(value));
            entries.push(Entry { key: name.to_owned(), place: None, value });
        }
        Ok(Some(Given { values, in_options, file }))
    }
}

impl Given {
    /// Where a value was given: an option, or a line of the file. None if it was not given.
    pub fn place(&self, pointer: &str) -> Option<String> {
        let name = pointer.strip_prefix("/parameters/")?;
        if self.in_options.iter().any(|known| known == name) {
            return Some(format!("-p {name}"));
        }
        let file = self.file.as_ref()?;
        let place = file.document.place_of(&format!("/{name}"))?;
        Some(format!("{}:{}:{}", file.name, place.line, place.column))
    }
}
