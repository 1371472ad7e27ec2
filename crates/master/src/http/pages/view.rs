//! The state of a page and its differences, computed once for all browsers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::lines::Window;

/// Changes that are remembered, for browsers that take a little longer to read them.
const REMEMBERED_CHANGES: usize = 8;
/// They are forgotten sooner if they have more bytes than this together.
const REMEMBERED_BYTES: usize = 256 << 10;
/// The last rows of a list that only grows.
const LOG_ROWS: usize = 300;

/// A row of a list, as it is sent.
pub trait Row: Serialize {
    /// Names the row in its list.
    fn key(&self) -> &str;
}

/// A snapshot of a page. Omitted parts are unchanged.
#[derive(Debug, Default)]
pub struct View {
    fields: Option<String>,
    picture: Option<String>,
    lists: Vec<(List, Listed)>,
    output: Option<Arc<Output>>,
    is_over: bool,
}

/// The name of a list, and whether it is only what has left it.
type List = (&'static str, bool);

/// The rows of a list, by key, as JSON; and what they are among all that the browser may show.
#[derive(Debug, Clone)]
struct Listed {
    kind: Kind,
    rows: Vec<(String, Arc<str>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// These rows and no others, in this order.
    Whole,
    /// Some of the rows. Those that the browser does not have are new if `fresh`, else merely from farther down.
    Some { fresh: bool },
    /// The latest rows of a list that only grows, oldest first.
    Log,
}

/// The newest lines of an attempt's output.
#[derive(Debug)]
pub struct Output {
    /// Number of the attempt.
    pub attempt: u32,
    pub window: Window,
}

impl View {
    /// With the values that the page shows by name.
    pub fn fields(mut self, fields: &impl Serialize) -> View {
        self.fields = serde_json::to_string(fields).ok();
        self
    }

    /// With a picture, as markup. It is large, so it is sent apart from the other values.
    pub fn picture(mut self, picture: &str) -> View {
        self.picture = Some(json!({ "picture": picture }).to_string());
        self
    }

    /// With a list that shows these rows and no others, in this order.
    pub fn whole<R: Row>(self, list: &'static str, rows: &[R]) -> View {
        self.list((list, false), Kind::Whole, rows)
    }

    /// With rows of a list in which new rows wait for the reader, see [`Kind::Some`].
    pub fn some<R: Row>(self, list: &'static str, rows: &[R], fresh: bool) -> View {
        self.list((list, false), Kind::Some { fresh }, rows)
    }

    /// Rows that have left the list; pages that show them keep updating them.
    pub fn departed<R: Row>(self, list: &'static str, rows: &[R]) -> View {
        self.list((list, true), Kind::Some { fresh: false }, rows)
    }

    /// With rows that follow the ones of this list before, oldest first.
    pub fn log<R: Row>(self, list: &'static str, rows: &[R]) -> View {
        self.list((list, false), Kind::Log, rows)
    }

    /// With the newest lines of an output.
    pub fn output(mut self, output: Option<Output>) -> View {
        self.output = output.map(Arc::new);
        self
    }

    /// After which nothing changes any more, or not.
    pub fn over(mut self, is_over: bool) -> View {
        self.is_over = is_over;
        self
    }

    fn list<R: Row>(mut self, list: List, kind: Kind, rows: &[R]) -> View {
        let row = |row: &R| Some((row.key().to_owned(), serde_json::to_string(row).ok()?.into()));
        self.lists.push((list, Listed { kind, rows: rows.iter().filter_map(row).collect() }));
        self
    }
}

/// What a page shows at one time, with the way to it from a few times before.
#[derive(Debug, Default)]
pub struct Version {
    /// Counted from 1.
    pub number: u64,
    /// Nothing follows.
    pub is_over: bool,
    shows: Shows,
    /// The messages that lead to this version and to those before it, with their numbers.
    changes: VecDeque<(u64, Bytes)>,
    whole: OnceLock<Bytes>,
    /// Messages that many browsers get alike, by what they have.
    same: Mutex<HashMap<Has, Option<Bytes>>>,
}

#[derive(Debug, Clone, Default)]
struct Shows {
    fields: Option<Arc<str>>,
    picture: Option<Arc<str>>,
    lists: BTreeMap<List, Arc<Listed>>,
    output: Option<Arc<Output>>,
}

/// What a browser has of that which is not the same for all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Has {
    Row(String),
    Lines { from: u64, skipped: u64 },
}

impl Version {
    /// The next version, after a look; none if it is the same.
    pub fn next(before: Option<&Version>, view: View) -> Option<Version> {
        let empty = Version::default();
        let before = before.unwrap_or(&empty);
        let mut shows = before.shows.clone();
        let mut message = String::new();
        for (shown, now) in [(&mut shows.fields, view.fields), (&mut shows.picture, view.picture)] {
            if let Some(now) = now.filter(|now| shown.as_deref() != Some(now.as_str())) {
                push_event(&mut message, "fields", &now);
                *shown = Some(now.into());
            }
        }
        let mut has_new = false;
        for (list, mut now) in view.lists {
            let earlier = shows.lists.get(&list);
            if now.kind == Kind::Log {
                has_new |= !now.rows.is_empty();
                let known = earlier.into_iter().flat_map(|listed| listed.rows.iter().cloned());
                let mut rows: Vec<_> = known.chain(now.rows).collect();
                rows.drain(..rows.len().saturating_sub(LOG_ROWS));
                now = Listed { kind: Kind::Log, rows };
            } else {
                push_rows(&mut message, list.0, &now, earlier.map(Arc::as_ref));
            }
            shows.lists.insert(list, Arc::new(now));
        }
        if let Some(output) = view.output {
            let is_news = shows.output.as_ref().is_none_or(|before| {
                (before.attempt, before.window.head) != (output.attempt, output.window.head)
            });
            if is_news {
                has_new = true;
                shows.output = Some(output);
            }
        }
        if before.number > 0 && message.is_empty() && !has_new && view.is_over == before.is_over {
            return None;
        }
        let number = before.number + 1;
        let mut changes = before.changes.clone();
        changes.push_back((number, message.into()));
        let bytes = |changes: &VecDeque<(u64, Bytes)>| -> usize {
            changes.iter().map(|(_, bytes)| bytes.len()).sum()
        };
        while changes.len() > REMEMBERED_CHANGES || (changes.len() > 1 && bytes(&changes) > REMEMBERED_BYTES)
        {
            changes.pop_front();
        }
        Some(Version { number, is_over: view.is_over, shows, changes, ..Version::default() })
    }

    /// The bytes that lead here from the version before.
    pub fn changed_bytes(&self) -> usize {
        self.changes.back().map_or(0, |(_, bytes)| bytes.len())
    }

    /// All that is the same for everybody.
    fn whole(&self) -> Bytes {
        let write = || {
            let mut message = String::new();
            for fields in [&self.shows.fields, &self.shows.picture].into_iter().flatten() {
                push_event(&mut message, "fields", fields);
            }
            for ((name, _), listed) in self.shows.lists.iter().filter(|(_, listed)| listed.kind != Kind::Log)
            {
                push_rows(&mut message, name, listed, None);
            }
            message.into()
        };
        self.whole.get_or_init(write).clone()
    }

    fn same(&self, has: Has, write: impl FnOnce() -> Option<String>) -> Option<Bytes> {
        let mut same = self.same.lock().unwrap_or_else(PoisonError::into_inner);
        same.entry(has).or_insert_with(|| write().map(Bytes::from)).clone()
    }

    fn log_after(&self, list: &'static str, after: &str) -> Option<Bytes> {
        self.same(Has::Row(after.to_owned()), || {
            let rows = &self.shows.lists.get(&(list, false))?.rows;
            // A browser may have a row that was not read here yet: rows are numbered, about in their order.
            let number = |key: &str| key.parse::<i64>().unwrap_or(0);
            let had = rows.iter().rposition(|(key, _)| key == after);
            let had = had.or_else(|| rows.iter().rposition(|(key, _)| number(key) <= number(after)));
            let from = had.map_or(0, |at| at + 1);
            let rows = rows.get(from..).filter(|rows| !rows.is_empty())?;
            let mut message = String::new();
            push_event(&mut message, "rows", &rows_json(list, rows.iter().map(|(_, row)| row), true));
            Some(message)
        })
    }
}

/// What one browser has of a page.
#[derive(Debug, Default)]
pub struct Browser {
    seen: u64,
    /// Name of a list that only grows, and the last row of it that the browser has.
    log: Option<(&'static str, String)>,
    output: Option<Lines>,
}

/// The lines of an output that a browser has.
#[derive(Debug)]
struct Lines {
    attempt: u32,
    /// Those that it has and that have ended.
    has: u64,
    /// Those that came and went between two looks.
    skipped: u64,
    seen: Option<crate::store::output::OutputHead>,
}

impl Browser {
    /// One that has the rows of a growing list up to this one.
    pub fn with_log(list: &'static str, last: String) -> Browser {
        Browser { log: Some((list, last)), ..Browser::default() }
    }

    /// One that has this attempt's lines up to the given one, if the output is still of that attempt.
    pub fn with_lines(attempt: u32, has: u64) -> Browser {
        Browser { output: Some(Lines { attempt, has, skipped: 0, seen: None }), ..Browser::default() }
    }

    /// The difference from the browser's version to this one.
    pub fn catch_up(&mut self, version: &Version) -> Vec<Bytes> {
        let mut messages = Vec::new();
        let known = version.changes.front().is_some_and(|(oldest, _)| *oldest <= self.seen + 1);
        if self.seen == 0 || !known {
            messages.push(version.whole());
        } else {
            let since = version.changes.iter().filter(|(number, _)| *number > self.seen);
            messages.extend(since.map(|(_, message)| message.clone()));
        }
        self.seen = version.number;
        if let Some((list, last)) = &mut self.log {
            let newest = version.shows.lists.get(&(*list, false)).and_then(|listed| listed.rows.last());
            if let (Some(rows), Some((newest, _))) = (version.log_after(list, last), newest) {
                messages.push(rows);
                last.clone_from(newest);
            }
        }
        if let (Some(lines), Some(output)) = (&mut self.output, &version.shows.output) {
            messages.extend(lines.catch_up(version, output));
        }
        messages.retain(|message| !message.is_empty());
        messages
    }
}

impl Lines {
    /// The newest lines, without those that the browser has.
    fn catch_up(&mut self, version: &Version, output: &Output) -> Option<Bytes> {
        let Output { attempt, window } = output;
        if *attempt < self.attempt {
            // The feed has not seen yet that there is a later one.
            return None;
        }
        if *attempt != self.attempt {
            *self = Lines { attempt: *attempt, has: 0, skipped: 0, seen: None };
        }
        if self.seen == Some(window.head) {
            return None;
        }
        let from = window.first.max(self.has.saturating_add(1));
        // What the browser has not seen before it looked is not skipped: it can be scrolled to.
        if self.seen.is_some() {
            self.skipped += window.first.saturating_sub(self.has.saturating_add(1));
        }
        let skipped = self.skipped;
        self.has = self.has.max(window.head.lines);
        self.seen = Some(window.head);
        version.same(Has::Lines { from, skipped }, || {
            let lines = window.lines.get((from - window.first) as usize..).unwrap_or_default();
            let data = json!({
                "attempt": attempt, "total": window.head.lines, "open": window.is_open,
                "first": window.first, "from": from, "lines": lines, "skipped": skipped,
            });
            let mut message = String::new();
            push_event(&mut message, "window", &data.to_string());
            Some(message)
        })
    }
}

/// An event as browsers read it. JSON has no line ends.
pub fn event(name: &str, data: &Value) -> Bytes {
    let mut message = String::new();
    push_event(&mut message, name, &data.to_string());
    message.into()
}

fn push_event(message: &mut String, name: &str, json: &str) {
    for part in ["event: ", name, "\ndata: ", json, "\n\n"] {
        message.push_str(part);
    }
}

fn push_rows(message: &mut String, list: &str, now: &Listed, before: Option<&Listed>) {
    let known: HashMap<&str, &str> = before
        .into_iter()
        .flat_map(|listed| listed.rows.iter().map(|(key, row)| (key.as_str(), row.as_ref())))
        .collect();
    let changed: Vec<&Arc<str>> = now
        .rows
        .iter()
        .filter(|(key, row)| known.get(key.as_str()) != Some(&row.as_ref()))
        .map(|(_, row)| row)
        .collect();
    let json = match now.kind {
        Kind::Some { .. } | Kind::Log if changed.is_empty() => return,
        Kind::Some { fresh } => rows_json(list, changed.into_iter(), fresh),
        Kind::Log => rows_json(list, changed.into_iter(), true),
        Kind::Whole => {
            let order: Vec<&str> = now.rows.iter().map(|(key, _)| key.as_str()).collect();
            let is_same =
                before.is_some_and(|before| order.iter().eq(before.rows.iter().map(|(key, _)| key)));
            if is_same && changed.is_empty() {
                return;
            }
            let order = json!(order);
            format!(
                "{{\"list\":{},\"rows\":[{}],\"order\":{order}}}",
                json!(list),
                joined(changed.into_iter())
            )
        }
    };
    push_event(message, "rows", &json);
}

fn rows_json<'a>(list: &str, rows: impl Iterator<Item = &'a Arc<str>>, fresh: bool) -> String {
    format!("{{\"list\":{},\"rows\":[{}],\"fresh\":{fresh}}}", json!(list), joined(rows))
}

fn joined<'a>(rows: impl Iterator<Item = &'a Arc<str>>) -> String {
    let rows: Vec<&str> = rows.map(AsRef::as_ref).collect();
    rows.join(",")
}

#[cfg(test)]
mod tests;
