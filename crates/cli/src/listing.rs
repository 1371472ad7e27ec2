//! Prints lists of the API in the formats of `-o`; the JSON formats are the API's own JSON.

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::client::{Answer, Client, Query};
use crate::failure::Failure;
use crate::out::Out;
use crate::table::{self, Cell};

/// How a listing is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Table
    Table,
    /// Table with more columns
    Wide,
    /// JSON of the API
    Json,
    /// JSON of the API, one object per line
    Jsonl,
    /// Names or numbers, one per line
    Name,
}

/// The option that chooses it.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Output format
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub format: Format,
}

/// An entry of a list.
pub trait Entry: DeserializeOwned {
    /// Titles of the columns.
    const HEAD: &'static [&'static str];
    /// Titles of the columns that `wide` adds before the last, which is the longest.
    const WIDE_HEAD: &'static [&'static str];
    /// Columns that are left out if no entry has anything in them.
    const ONLY_IF_ANY: &'static [&'static str] = &[];
    /// What to say if there is none.
    const NONE: &'static str;

    /// Its name on the command line.
    fn name(&self) -> String;
    /// A cell for each of [`Self::HEAD`].
    fn cells(&self, now: DateTime<Utc>) -> Vec<Cell>;
    /// A cell for each of [`Self::WIDE_HEAD`].
    fn wide_cells(&self, now: DateTime<Utc>) -> Vec<Cell>;
}

/// Which list, and how much of it.
pub struct List<'a> {
    pub path: &'a [&'a str],
    /// Filters.
    pub query: Query,
    /// Every page, not only the first.
    pub all: bool,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

impl RawPage<'_> {
    fn of(answer: &Answer) -> Result<RawPage<'_>, Failure> {
        serde_json::from_slice(&answer.body).map_err(nonsense)
    }

    fn entries<T: Entry>(&self) -> Result<Vec<T>, Failure> {
        self.items
            .iter()
            .map(|item| serde_json::from_str(item.get()))
            .collect::<Result<_, _>>()
            .map_err(nonsense)
    }
}

fn nonsense(error: serde_json::Error) -> Failure {
    Failure::Garbled {
        status: None,
        message: format!("unreadable response of the API (different version?): {error}"),
    }
}

/// Requests the list and prints it.
///
/// # Errors
/// What the API or the network says; [`Failure::Output`].
pub async fn show<T: Entry>(
    client: &Client,
    out: &Out,
    list: List<'_>,
    format: Format,
) -> Result<(), Failure> {
    if format == Format::Json && !list.all {
        return show_answer(out, &client.get(list.path, &list.query).await?);
    }
    let mut shown = Shown::<T> { format, entries: Vec::new(), count: 0 };
    let mut query = list.query.clone();
    let more = loop {
        let answer = client.get(list.path, &query).await?;
        let page = RawPage::of(&answer)?;
        shown.page(out, &page)?;
        match page.next_cursor {
            // A search covers a limited number of entries per page and may find none among the latest.
            Some(cursor) if list.all || page.items.is_empty() => {
                query.retain(|(name, _)| *name != "cursor");
                query.push(("cursor", cursor));
            }
            more => break more.is_some(),
        }
    };
    shown.finish(out)?;
    if more && matches!(format, Format::Table | Format::Wide) {
        out.remark("… more: use --all");
    }
    Ok(())
}

/// Shows the API's answer as it was sent.
///
/// # Errors
/// [`Failure::Output`].
pub fn show_answer(out: &Out, answer: &Answer) -> Result<(), Failure> {
    out.print(&answer.body)?;
    if answer.body.ends_with(b"\n") { Ok(()) } else { out.print(b"\n") }
}

/// The list so far; formats without alignment print page by page.
struct Shown<T> {
    format: Format,
    entries: Vec<T>,
    count: usize,
}

impl<T: Entry> Shown<T> {
    fn page(&mut self, out: &Out, page: &RawPage<'_>) -> Result<(), Failure> {
        let mut text = String::new();
        match self.format {
            Format::Table | Format::Wide => self.entries.extend(page.entries::<T>()?),
            Format::Name => {
                for entry in page.entries::<T>()? {
                    text.push_str(&entry.name());
                    text.push('\n');
                }
            }
            Format::Jsonl => {
                for item in &page.items {
                    text.push_str(&on_one_line(item));
                    text.push('\n');
                }
            }
            Format::Json => {
                for item in &page.items {
                    text.push_str(if self.count == 0 { "{\"items\":[" } else { "," });
                    text.push_str(item.get());
                    self.count += 1;
                }
            }
        }
        out.print(text.as_bytes())
    }

    fn finish(self, out: &Out) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide if self.entries.is_empty() => {
                out.remark(T::NONE);
                Ok(())
            }
            Format::Table | Format::Wide => out.print(table_of(out, &self.entries, self.format).as_bytes()),
            Format::Json => {
                let start = if self.count == 0 { "{\"items\":[" } else { "" };
                out.line(&format!("{start}],\"next_cursor\":null}}"))
            }
            Format::Jsonl | Format::Name => Ok(()),
        }
    }
}

/// The table of some entries.
pub fn table_of<T: Entry>(out: &Out, entries: &[T], format: Format) -> String {
    let now = crate::timestamp::now();
    let wide = format == Format::Wide;
    let last = T::HEAD.len().saturating_sub(1);
    let mut head = T::HEAD.to_vec();
    if wide {
        head.splice(last..last, T::WIDE_HEAD.iter().copied());
    }
    let cells = |entry: &T| {
        let mut cells = entry.cells(now);
        if wide {
            cells.splice(last..last, entry.wide_cells(now));
        }
        cells
    };
    let mut rows: Vec<Vec<Cell>> = entries.iter().map(cells).collect();
    for title in T::ONLY_IF_ANY {
        let Some(at) = head.iter().position(|column| column == title) else { continue };
        if rows.iter().all(|row| row.get(at).is_none_or(Cell::is_blank)) {
            head.remove(at);
            rows.iter_mut().filter(|row| row.len() > at).for_each(|row| drop(row.remove(at)));
        }
    }
    table::render(out, &head, rows)
}

fn on_one_line(item: &RawValue) -> String {
    let text = item.get();
    if !text.contains('\n') {
        return text.to_owned();
    }
    // Line ends within JSON are only blanks.
    text.replace(['\n', '\r'], " ")
}
