//! Search in the output viewer: the lines that match, each with a link to its place in the output.

use std::sync::Arc;
use std::time::Duration;

use gaffer_domain::search::{FoundLine, LineQuery, ResumePoint};
use gaffer_domain::{AttemptRef, JobId, ProjectId};
use gaffer_protocol::output::Stream;

use super::super::error::Error;
use super::format::{bytes, count};
use super::lines::read_or_problem;
use crate::output::ReadFrom;
use crate::render::{Line, Renderer};
use crate::search::{OutputSearch, SearchPiece, SearchRequest, StopReason, Written};
use crate::search_budget::Lasting;
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
    pub project: ProjectId,
    pub job: JobId,
    pub attempt: AttemptRef,
    pub only: Option<Stream>,
    pub q: &'a str,
    /// Where to begin.
    pub after: ResumePoint,
}

/// Addresses of other pages.
pub struct Links<'a> {
    /// The viewer, beginning with a line.
    pub at_line: &'a (dyn Fn(u64) -> String + Sync),
    /// The same search from a place on.
    pub after: &'a (dyn Fn(ResumePoint) -> String + Sync),
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
    let begun = views.searches.begin(searched.project, searched.q, Lasting::AtMost(PAGE_TIME)).await;
    let (pattern, mut budget) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            shown.error = Some(error.to_string());
            return Ok(shown);
        }
    };
    let ResumePoint { offset, inside } = searched.after;
    let from = ReadFrom { offset, ..ReadFrom::only(searched.attempt) };
    let query = LineQuery { limit: Some(PAGE_LINES), ..LineQuery::new(pattern) };
    let request = SearchRequest { query, from, inside, until: None, stream: searched.only };
    let mut search = OutputSearch::new(views.clone(), searched.job, searched.attempt.task, request);
    let mut is_all = true;
    loop {
        let piece = match read_or_problem(search.next(&mut budget).await)? {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(problem) => {
                shown.error = Some(problem);
                return Ok(shown);
            }
        };
        match piece {
            SearchPiece::Lines(_, lines) => shown.lines.extend(lines.into_iter().filter_map(|found| {
                let number = found.number;
                let at = number.saturating_sub(LINES_ABOVE).max(1);
                let href = format!("{}#L{number}", (links.at_line)(at));
                Some(FoundRow { number, line: rendered(found)?, href })
            })),
            SearchPiece::Stopped { why: StopReason::NoProgress, .. } => {
                shown.error = Some(
                    "The search did not get past one line in its time. Use a simpler regular expression, or try again later."
                        .to_owned(),
                );
                return Ok(shown);
            }
            SearchPiece::Stopped { at, .. } => {
                is_all = false;
                shown.next_href = Some((links.after)(at));
            }
            SearchPiece::Complete(_) => {}
        }
    }
    let more = if is_all { "" } else { "; there may be more" };
    shown.said =
        format!("{} found in {}{more}", count(search.found(), "line"), bytes(search.searched_bytes()));
    Ok(shown)
}

/// The line as the viewer shows it, with its matches marked.
fn rendered(line: FoundLine<Written>) -> Option<Line> {
    let (mut renderer, mut lines) = (Renderer::new(), Vec::new());
    let mut push = |text: &[u8], is_marked| {
        renderer.mark(is_marked);
        renderer.push(line.tag.at_micros, line.tag.stream, text, &mut lines);
    };
    let mut at = 0;
    for found in line.matches {
        push(line.text.get(at..found.start)?, false);
        push(line.text.get(found.clone())?, true);
        at = found.end;
    }
    push(line.text.get(at..)?, false);
    push(b"\n", false);
    lines.pop()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn matches_are_marked_whatever_colours_they_have() {
        let text = b"ok \x1b[31merr\x1b[0mor and error\rnow".to_vec();
        let line = FoundLine {
            number: 1,
            offset: 0,
            end: text.len() as u64,
            tag: Written { at_micros: 0, stream: Stream::Stdout },
            text,
            skipped_bytes: 0,
            is_cut: false,
            matches: vec![8..17, 22..27],
            is_context: false,
        };
        let tokens = rendered(line).unwrap().tokens;
        let shown: Vec<(&str, &str)> =
            tokens.iter().map(|token| (token.class.as_str(), token.text.as_str())).collect();
        assert_eq!(shown, [("", "now"), ("f1 hit", "err"), ("hit", "or"), ("", " and "), ("hit", "error")]);
    }
}
