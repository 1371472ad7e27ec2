//! Checked parameters of paths and queries; an unknown name is an error with a suggestion.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use gaffer_domain::quantity::Span;
use gaffer_protocol::rest::Page;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use super::API_PREFIX;
use super::error::Error;

/// Entries on a page, if nobody says.
pub const DEFAULT_LIMIT: u32 = 50;
/// Most entries on a page.
pub const MAX_LIMIT: u32 = 500;

/// The error of an invalid cursor.
const NO_CURSOR: &str = "not a cursor of an earlier page";

/// Whether the client prefers this media type: it names it.
pub fn wants(headers: &HeaderMap, media_type: &str) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains(media_type))
}

/// What stands in a query or a path as it is.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A value in a query, or a part of a path.
pub fn encoded(value: &str) -> PercentEncode<'_> {
    utf8_percent_encode(value, &PLAIN)
}

/// The parameters of a query, in their order.
#[derive(Debug, Clone)]
pub struct Params {
    pairs: Vec<(String, String)>,
    /// What was asked for, without the API's prefix.
    path: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params, Error> {
        let Query(pairs) =
            Query::<Vec<(String, String)>>::from_request_parts(parts, state).await.map_err(|error| {
                Error::Invalid { code: "invalid_query", detail: error.to_string(), errors: Vec::new() }
            })?;
        Ok(Params { pairs, path: parts.uri.path().to_owned() })
    }
}

impl Params {
    /// Refuses every parameter that is not in `known`, and one that comes twice and is not in `repeatable`.
    pub fn only(self, known: &[&str], repeatable: &[&str]) -> Result<Params, Error> {
        let mut seen = BTreeMap::new();
        for (name, _) in &self.pairs {
            let pointer = format!("query:{name}");
            let is_known = known.contains(&name.as_str()) || repeatable.contains(&name.as_str());
            if !is_known {
                let detail = format!("unknown query parameter {name:?}");
                return Err(Error::field(
                    "unknown_parameter",
                    pointer,
                    detail,
                    nearest(name, known, repeatable),
                ));
            }
            if seen.insert(name.as_str(), ()).is_some() && !repeatable.contains(&name.as_str()) {
                let detail = format!("query parameter {name:?} is repeated; give it once");
                return Err(Error::field("invalid_query", pointer, detail, None));
            }
        }
        Ok(self)
    }

    /// Those that say something: a form sends its empty fields, too.
    pub fn given(&self) -> Params {
        let pairs = self.pairs.iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
        Params { pairs, path: self.path.clone() }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter, those in one value separated by commas taken apart.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs
            .iter()
            .filter(move |(key, _)| key == name)
            .flat_map(|(_, value)| value.split(','))
            .filter(|value| !value.is_empty())
    }

    /// All values of a parameter as they are.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A parameter read as something.
    pub fn parse<T: std::str::FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(wrong(name, &format!("expected {expected}, found {text:?}"))),
        }
    }

    /// `1`, `true` or nothing behind the name mean yes; `0` and `false` mean no.
    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.text(name) {
            None | Some("0" | "false") => Ok(false),
            Some("" | "1" | "true") => Ok(true),
            Some(other) => Err(wrong(name, &format!("expected 1 or 0, found {other:?}"))),
        }
    }

    /// How many entries are wanted.
    pub fn limit(&self) -> Result<u32, Error> {
        match self.parse::<u32>("limit", "a number from 1 to 500")? {
            None => Ok(DEFAULT_LIMIT),
            Some(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
            Some(limit) => {
                Err(wrong("limit", &format!("expected a number from 1 to {MAX_LIMIT}, found {limit}")))
            }
        }
    }

    /// A number that an earlier page gave as its `next_cursor`.
    pub fn cursor(&self) -> Result<Option<i64>, Error> {
        let Some(text) = self.text("cursor") else { return Ok(None) };
        read_cursor(text).map(Some).ok_or_else(|| wrong("cursor", NO_CURSOR))
    }

    /// The position after which to continue, by definition and index, from a cursor.
    pub fn task_cursor(&self) -> Result<Option<(i16, i32)>, Error> {
        let Some(text) = self.text("cursor") else { return Ok(None) };
        let read = || {
            let (position, index) = text.strip_prefix('c')?.split_once('.')?;
            Some((position.parse().ok()?, index.parse().ok()?))
        };
        read().map(Some).ok_or_else(|| wrong("cursor", NO_CURSOR))
    }

    /// A link to the next page of a list of the API: the same request with another cursor.
    pub fn next_link(&self, cursor: &str) -> String {
        let kept = self.pairs.iter().filter(|(name, _)| name != "cursor");
        let kept = kept.map(|(name, value)| format!("{}={}&", encoded(name), encoded(value)));
        format!("<{API_PREFIX}{}?{}cursor={cursor}>; rel=\"next\"", self.path, kept.collect::<String>())
    }

    /// A time span such as `60s`, at most `most`.
    pub fn span(&self, name: &str, most: Duration) -> Result<Option<Duration>, Error> {
        let span: Option<Span> = self.parse(name, "a duration such as 60s")?;
        Ok(span.map(|span| span.to_std().min(most)))
    }
}

fn read_cursor(text: &str) -> Option<i64> {
    text.strip_prefix('c')?.parse().ok().filter(|number| *number >= 0)
}

/// The text of a cursor.
pub fn cursor(number: i64) -> String {
    format!("c{number}")
}

/// The text of a cursor of tasks.
pub fn task_cursor(position: i16, index: u32) -> String {
    format!("c{position}.{index}")
}

/// Splits off the items beyond a page, and makes the cursor for the next.
pub fn page_of<T>(mut items: Vec<T>, limit: u32, number: impl Fn(&T) -> i64) -> Page<T> {
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next_cursor = items.last().filter(|_| more).map(|last| cursor(number(last)));
    Page { items, next_cursor }
}

/// A parameter that is wrong.
pub fn wrong(name: &str, detail: &str) -> Error {
    Error::field("invalid_query", format!("query:{name}"), detail, None)
}

/// A number in a path.
pub fn id<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, Error> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        Error::field(
            "invalid_id",
            format!("path:{what}"),
            format!("{shown:?} is not a {what} number; expected a positive integer such as 42"),
            None,
        )
    })
}

fn nearest(name: &str, known: &[&str], repeatable: &[&str]) -> Option<String> {
    let best = known
        .iter()
        .chain(repeatable)
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min()?;
    match best {
        (distance, candidate) if distance <= 2 => Some(format!("did you mean `{candidate}`?")),
        _ if known.is_empty() && repeatable.is_empty() => None,
        _ => Some(format!(
            "there are {}",
            known.iter().chain(repeatable).copied().collect::<Vec<_>>().join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(path: &str, pairs: &[(&str, &str)]) -> Params {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Params { pairs, path: path.to_owned() }
    }

    #[test]
    fn the_next_page_is_the_same_request_with_another_cursor() {
        let asked = params(
            "/jobs",
            &[
                ("label", "team=a&b"),
                ("cursor", "c9"),
                ("state", "failed,running"),
                ("label", "x=\u{e4}"),
                ("limit", "2"),
            ],
        );
        assert_eq!(
            asked.next_link("c5"),
            "</api/v1/jobs?label=team%3Da%26b&state=failed%2Crunning&label=x%3D%C3%A4&limit=2&cursor=c5>; rel=\"next\""
        );
        assert_eq!(params("/keys", &[]).next_link("c5"), "</api/v1/keys?cursor=c5>; rel=\"next\"");
    }
}
