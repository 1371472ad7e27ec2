//! A document in a file or in standard input.

use std::fs;
use std::io::Read;
use std::path::Path;

use gaffer_domain::document::{Language, Value as Document};
use gaffer_domain::spec::MAX_SPEC_BYTES;
use gaffer_domain::text;

use crate::failure::Failure;

/// A document and the name of its file, to say where in it a mistake is.
#[derive(Debug)]
pub struct File {
    pub name: String,
    pub document: Document,
}

impl File {
    /// Where a value stands: `job.yaml:3:5 /count`.
    pub fn place(&self, pointer: &str) -> Option<String> {
        let place = self.document.place_of(pointer)?;
        Some(format!("{}:{}:{} {pointer}", self.name, place.line, place.column).trim_end().to_owned())
    }

    /// Reads a file or standard input (`-`).
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn read(path: &Path) -> Result<File, Failure> {
        File::parse(path, name_of(path), &read_text(path)?)
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn parse(path: &Path, name: String, text: &str) -> Result<File, Failure> {
        let document = language_of(path, text).read(text).map_err(|error| {
            let place =
                error.place.map(|place| format!(":{}:{}", place.line, place.column)).unwrap_or_default();
            Failure::Usage(format!("{name}{place}: {}", error.message))
        })?;
        Ok(File { name, document })
    }
}

/// What a message calls a file.
pub fn name_of(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// The text of a file or of standard input (`-`), as long as a specification may be.
///
/// # Errors
/// [`Failure::Usage`].
pub fn read_text(path: &Path) -> Result<String, Failure> {
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

/// What a file is written in, by its extension, or else by its text.
pub fn language_of(path: &Path, text: &str) -> Language {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("yml") => Language::Yaml,
        extension => extension.and_then(Language::named).unwrap_or_else(|| Language::guess(text)),
    }
}
