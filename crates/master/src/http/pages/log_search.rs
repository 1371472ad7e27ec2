//! Search in the output viewer: the lines that match, each with a link to its place in the output.

use std::sync::Arc;
use std::time::Duration;

use gaffer_domain::search::{FoundLine, InvalidPattern, LineQuery, Pattern};
use gaffer_domain::{AttemptRef, JobId};
use gaffer_protocol::output::Stream;

use super::super::error::Error;
use super::format::{bytes, count};
use crate::output::ReadFrom;
use crate::render::{Line, Renderer};
use crate::search::{OutputSearch, SearchPiece, SearchRequest, Written};
use crate::views::Views;

/// Lines on a page.
const PAGE_LINES: u64 = 200;
/// How long a page may search.
const PAGE_TIME: Duration = Duration::from_secs(5);
/// How many lines before the one that was found the viewer shows when it is opened there.
const LINES_ABOVE: u64 = 10;

/// What the template shows of a search.
#[derive(Debug, Default)]
pub struct LogSearch {
    /// What was searched for.
    pub q: String,
    /// What is wrong with that.
    pub error: Option<String>,
    pub lines: Vec<FoundRow>,
    /// The search from where this one stopped.
    pub next_href: Option<String>,
    /// The viewer without a search.
    pub back_href: String,
    /// What was found and searched, in words.
    pub said: String,
}

/// A line that was found.
#[derive(Debug)]
pub struct FoundRow {
    pub number: u64,
    pub line: Line,
    /// Its place in the viewer.
    pub href: String,
}

/// What to search.
#[derive(Debug, Clone, Copy)]
pub struct Searched<'a> {
    pub job: JobId,
    pub attempt: AttemptRef,
    pub only: Option<Stream>,
    pub q: &'a str,
    /// Where to begin, in bytes.
    pub after: u64,
}

/// Addresses of other pages.
pub struct Links<'a> {
    /// The viewer, beginning with a line.
    pub at_line: &'a (dyn Fn(u64) -> String + Sync),
    /// The same search from an offset on.
    pub after: &'a (dyn Fn(u64) -> String + Sync),
    pub back: String,
}

/// Searches a part of an output.
///
/// # Errors
/// When the database does not answer.
pub async fn search(
    views: &Arc<Views>,
    searched: Searched<'_>,
    links: Links<'_>,
) -> Result<LogSearch, Error> {
    let mut shown = LogSearch { q: searched.q.to_owned(), back_href: links.back, ..LogSearch::default() };
    let pattern = match compile(searched.q).await? {
        Ok(pattern) => pattern,
        Err(invalid) => {
            shown.error = Some(invalid.to_string());
            return Ok(shown);
        }
    };
    let Ok(mut budget) = views.searches.open(PAGE_TIME).await else {
        shown.error = Some("Too many searches are running; try again in a moment".to_owned());
        return Ok(shown);
    };
    let from = ReadFrom { attempt: Some(searched.attempt.attempt), offset: searched.after, follow: false };
    let query = LineQuery { limit: Some(PAGE_LINES), ..LineQuery::new(pattern) };
    let request = SearchRequest { query, from, until: None, stream: searched.only };
    let mut search = OutputSearch::new(views.clone(), searched.job, searched.attempt.task, request);
    let mut is_all = true;
    while let Some(piece) = search.next(&mut budget).await? {
        match piece {
            SearchPiece::Lines(_, lines) => shown.lines.extend(lines.into_iter().filter_map(|found| {
                let number = found.number;
                let at = number.saturating_sub(LINES_ABOVE).max(1);
                let href = format!("{}#L{number}", (links.at_line)(at));
                Some(FoundRow { number, line: rendered(found)?, href })
            })),
            SearchPiece::Stopped { offset, .. } => {
                is_all = false;
                shown.next_href = Some((links.after)(offset));
            }
            SearchPiece::Complete(_) => {}
        }
    }
    let more = if is_all { "" } else { "; there may be more" };
    shown.said =
        format!("{} found in {}{more}", count(search.found(), "line"), bytes(search.searched_bytes()));
    Ok(shown)
}

async fn compile(q: &str) -> Result<Result<Pattern, InvalidPattern>, Error> {
    let owned = q.to_owned();
    tokio::task::spawn_blocking(move || Pattern::compile(&owned)).await.map_err(|_| Error::Internal)
}

/// The line as the viewer shows it.
fn rendered(line: FoundLine<Written>) -> Option<Line> {
    let mut lines = Vec::new();
    let mut text = line.text;
    text.push(b'\n');
    Renderer::new().push(line.tag.at_micros, line.tag.stream, &text, &mut lines);
    lines.pop()
}
