//! The one stream of a page: asks its feed what has changed, sends it, and waits for the next change.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::error::Error;
use crate::Master;

/// A stream looks again after so long even if nothing woke it: another master may have written.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// After so long a stream ends, and the browser opens the next one: it may be signed out by then.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// So often the browser hears that the stream is alive.
const BEAT: Duration = Duration::from_secs(8);

/// What a page's stream is made of.
pub trait Feed: Send + Sized + 'static {
    /// What has changed since it was asked the last time; at first, since the page was written.
    fn look(&mut self) -> impl Future<Output = Result<Vec<Event>, Error>> + Send;

    /// Waits until there may be something new.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;

    /// How long to leave it alone after a look.
    fn pace(&self) -> Duration;

    /// Whether nothing will change any more.
    fn is_over(&self) -> bool {
        false
    }
}

enum Step {
    Look,
    Wait,
    Over,
}

struct Running<F> {
    master: Arc<Master>,
    feed: F,
    next: Step,
    looked: Instant,
    ends: Instant,
}

/// Sends what a feed tells until nobody listens any more.
pub fn stream(master: Arc<Master>, feed: impl Feed) -> Response {
    let now = Instant::now();
    let running = Running { master, feed, next: Step::Look, looked: now, ends: now + LIFETIME };
    let events = futures::stream::unfold(Some(running), |running| async move {
        let mut running = running?;
        let events = running.step().await?;
        let rest = if matches!(running.next, Step::Over) { None } else { Some(running) };
        Some((futures::stream::iter(events.into_iter().map(Ok::<Event, Infallible>)), rest))
    });
    let beat = KeepAlive::new().interval(BEAT).event(event("beat", &Value::Null));
    let mut response = Sse::new(futures::StreamExt::flatten(events)).keep_alive(beat).into_response();
    // Proxies must not hold back what is live.
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl<F: Feed> Running<F> {
    /// The next events; none when the stream is to end.
    async fn step(&mut self) -> Option<Vec<Event>> {
        let is_first = matches!(self.next, Step::Look);
        if !is_first && !self.wait().await {
            return None;
        }
        self.next = Step::Wait;
        self.looked = Instant::now();
        // A database that is away for a moment is no reason to end the stream.
        let mut events = self.feed.look().await.unwrap_or_default();
        if is_first {
            events.insert(0, event("beat", &json!({ "now": Utc::now().timestamp_millis() })));
        }
        if self.feed.is_over() {
            events.push(event("end", &Value::Null));
            self.next = Step::Over;
        }
        Some(events)
    }

    /// Waits for a change, and no less than the feed's pace. False when the stream is to end.
    async fn wait(&mut self) -> bool {
        let not_before = self.looked + self.feed.pace();
        let next = async {
            tokio::select! {
                () = self.feed.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            tokio::time::sleep_until(not_before).await;
        };
        tokio::select! {
            () = self.master.shutdown.cancelled() => false,
            () = tokio::time::sleep_until(self.ends) => false,
            () = next => true,
        }
    }
}

/// An event with JSON data.
pub fn event(name: &str, data: &impl Serialize) -> Event {
    let text = serde_json::to_string(data).unwrap_or_default();
    Event::default().event(name).data(text)
}

/// A row of a list, as it is sent.
pub trait Row: Serialize {
    /// Names the row in its list.
    fn key(&self) -> &str;
}

/// What the browser has of a list, so that only what changed is sent.
#[derive(Debug, Default)]
pub struct Sent {
    rows: HashMap<String, String>,
    order: Option<Vec<String>>,
}

impl Sent {
    /// The rows that changed, for a list in which new rows wait for the reader; `fresh`: rows that the browser does not
    /// have are new, not merely from farther down.
    pub fn changes<R: Row>(&mut self, list: &str, rows: &[R], fresh: bool) -> Option<Event> {
        let changed = self.note(rows);
        (!changed.is_empty())
            .then(|| event("rows", &json!({ "list": list, "rows": changed, "fresh": fresh })))
    }

    /// The rows that changed, for a list that shows these and no others, in this order.
    pub fn whole<R: Row>(&mut self, list: &str, rows: &[R]) -> Option<Event> {
        let order: Vec<String> = rows.iter().map(|row| row.key().to_owned()).collect();
        let changed = self.note(rows);
        let is_same = self.order.as_ref() == Some(&order);
        if is_same && changed.is_empty() {
            return None;
        }
        self.rows.retain(|key, _| order.contains(key));
        let message = event("rows", &json!({ "list": list, "rows": changed, "order": order }));
        self.order = Some(order);
        Some(message)
    }

    fn note<R: Row>(&mut self, rows: &[R]) -> Vec<Value> {
        let mut changed = Vec::new();
        for row in rows {
            let Ok(value) = serde_json::to_value(row) else { continue };
            let text = value.to_string();
            if self.rows.get(row.key()) != Some(&text) {
                self.rows.insert(row.key().to_owned(), text);
                changed.push(value);
            }
        }
        changed
    }
}
