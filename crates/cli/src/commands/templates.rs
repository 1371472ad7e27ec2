//! `gaffer templates`: saves, lists, shows and deletes templates.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gaffer_protocol::rest::{Template, TemplateVersion, TemplateVersionEntry};

use crate::client::{Client, Query};
use crate::config;
use crate::document_file::{File, language_of, name_of, read_text};
use crate::failure::Failure;
use crate::listing::{self, Entry, Format, List, Output};
use crate::out::Out;
use crate::style;
use crate::table::Cell;
use crate::timestamp;

/// What to do with templates.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer templates save train train.yaml
  gaffer templates list
  gaffer templates show train                its parameters and its specification
  gaffer templates show train --version 3 --text > train.yaml
  gaffer submit --template train -p lr=0.1")]
pub struct TemplatesArgs {
    #[command(subcommand)]
    action: TemplatesAction,
}

#[derive(Debug, Subcommand)]
enum TemplatesAction {
    /// Save a version of a template
    Save(SaveArgs),
    /// List templates
    List(ListArgs),
    /// Show a version of a template
    Show(ShowArgs),
    /// List the versions of a template
    Versions(VersionsArgs),
    /// Delete a template with all its versions
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
struct SaveArgs {
    /// Name of the template
    #[arg(value_name = "NAME")]
    name: String,
    /// Job specification file (- for standard input)
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Name of the template
    #[arg(value_name = "NAME")]
    name: String,
    /// Number of the version [default: the latest]
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// Print the specification alone, as it was written
    #[arg(long)]
    text: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct VersionsArgs {
    /// Name of the template
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// Name of the template
    #[arg(value_name = "NAME")]
    name: String,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: TemplatesArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    match args.action {
        TemplatesAction::Save(args) => save(&client, out, &args).await?,
        TemplatesAction::List(args) => {
            let list = List { path: &["templates"], query: Query::new(), all: false };
            listing::show::<Template>(&client, out, list, args.output.format).await?;
        }
        TemplatesAction::Show(args) => show(&client, out, &args).await?,
        TemplatesAction::Versions(args) => {
            let path = ["templates", &args.name, "versions"];
            let list = List { path: &path, query: Query::new(), all: false };
            listing::show::<TemplateVersionEntry>(&client, out, list, args.output.format).await?;
        }
        TemplatesAction::Delete(args) => {
            client.delete(&["templates", &args.name]).await?;
            out.remark(&format!("template {} deleted", args.name));
        }
    }
    Ok(0)
}

/// The number of the version goes to standard output, for scripts.
async fn save(client: &Client, out: &Out, args: &SaveArgs) -> Result<(), Failure> {
    let text = read_text(&args.file)?;
    let file = File::parse(&args.file, name_of(&args.file), &text)?;
    let language = language_of(Path::new(&args.file), &text);
    let media_type = format!("application/{}", language.word());
    let answer = client.post_text(&["templates", &args.name], &media_type, text).await;
    let saved: TemplateVersion = answer
        .map_err(|failure| match failure {
            Failure::Problem(mut problem) => {
                for field in &mut problem.errors {
                    field.pointer = file.place(&field.pointer).unwrap_or_default();
                }
                Failure::Problem(problem)
            }
            other => other,
        })?
        .read()?;
    for hint in &saved.hints {
        let place = file.place(&hint.pointer).unwrap_or_default();
        out.note(&style::visible(&format!("hint: {place}: {}", hint.message())));
    }
    out.remark(&format!("template {}, version {}", saved.name, saved.version));
    out.line(&saved.version.to_string())
}

async fn show(client: &Client, out: &Out, args: &ShowArgs) -> Result<(), Failure> {
    let query: Query = args.version.iter().map(|version| ("version", version.to_string())).collect();
    let answer = client.get(&["templates", &args.name], &query).await?;
    if matches!(args.output.format, Format::Json | Format::Jsonl) {
        return listing::show_answer(out, &answer);
    }
    let found: TemplateVersion = answer.read()?;
    if args.text {
        return out.print(found.text.as_bytes());
    }
    if matches!(args.output.format, Format::Name) {
        return out.line(&found.name);
    }
    let saved = timestamp::ago(found.saved_at, timestamp::now());
    let mut text = format!("template {}, version {}\n", found.name, found.version);
    text.push_str(&format!("  {} {saved} by {}\n", out.dim("saved    "), style::visible(&found.saved_by)));
    for parameter in &found.parameters {
        let default =
            parameter.default.as_ref().map_or("required".to_owned(), |default| format!("default {default}"));
        let description = parameter.description.as_ref().map(|text| format!("; {text}")).unwrap_or_default();
        let line = format!("{}: {}, {default}{description}", parameter.name, parameter.takes);
        text.push_str(&format!("  {} {}\n", out.dim("parameter"), style::visible(&line)));
    }
    text.push('\n');
    for line in found.text.lines() {
        text.push_str(&format!("{}\n", style::visible(line)));
    }
    out.print(text.as_bytes())
}

impl Entry for Template {
    const HEAD: &'static [&'static str] = &["NAME", "VERSION", "VERSIONS", "SAVED BY", "SAVED"];
    const WIDE_HEAD: &'static [&'static str] = &[];
    const NONE: &'static str = "no templates";

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(&self.name),
            Cell::text(self.version.to_string()),
            Cell::text(self.versions.to_string()),
            Cell::text(&self.saved_by),
            Cell::text(timestamp::ago(self.saved_at, now)),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        Vec::new()
    }
}

impl Entry for TemplateVersionEntry {
    const HEAD: &'static [&'static str] = &["VERSION", "SAVED BY", "SAVED"];
    const WIDE_HEAD: &'static [&'static str] = &[];
    const NONE: &'static str = "no versions";

    fn name(&self) -> String {
        self.version.to_string()
    }

    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell> {
        vec![
            Cell::text(self.version.to_string()),
            Cell::text(&self.saved_by),
            Cell::text(timestamp::ago(self.saved_at, now)),
        ]
    }

    fn wide_cells(&self, _: DateTime<Utc>) -> Vec<Cell> {
        Vec::new()
    }
}
