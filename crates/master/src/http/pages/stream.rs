//! Live streams of pages. Browsers with the same subject share one feed, which reads once and sends each its
//! difference.
//!
//! No viewer slows a job. Feeds together take a bounded share of the time and send a bounded number of bytes: the more
//! there are, and the more it costs to look, the longer each waits before it looks again.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::super::error::Error;
use super::view::{Browser, Version, View, event};
use crate::metrics::http::{OneMore, ViewerMetrics};
use crate::views::Views;

/// A feed refreshes after this time without a signal, because another master may have written.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// A failed refresh is retried after this time.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// A stream ends after this time and the browser reconnects, because the session may have ended.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// So often the browser hears that the stream is alive.
const BEAT: Duration = Duration::from_secs(8);
/// Number of concurrent refreshes.
const LOOKING_AT_ONCE: usize = 4;
/// Above this number of feeds, further pages are static.
const MAX_FEEDS: usize = 1_000;
/// All feeds together refresh for one part in this many of the time.
const LOOKING_ONE_IN: u32 = 10;
/// Bytes per second sent to all browsers together.
const BYTES_PER_SEC: f64 = (16 << 20) as f64;
/// No feed is kept waiting for longer than that.
const LONGEST_REST: Duration = Duration::from_secs(15);

/// What a page's stream is made of.
pub trait Feed: Send + Sized + 'static {
    /// What the page shows now.
    fn look(&mut self) -> impl Future<Output = Result<View, Error>> + Send;

    /// Waits until there may be something new. What nothing announces is looked at again at its pace.
    fn changed(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// How long to leave it alone after a look, at least.
    fn pace(&self) -> Duration;
}

type Sender = watch::Sender<Option<Arc<Version>>>;

/// Active feeds.
#[derive(Debug)]
pub struct Feeds {
    by_key: Mutex<HashMap<String, Weak<Sender>>>,
    looking: Semaphore,
    metrics: ViewerMetrics,
}

impl Feeds {
    pub fn new(metrics: ViewerMetrics) -> Feeds {
        Feeds { by_key: Mutex::default(), looking: Semaphore::new(LOOKING_AT_ONCE), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<Sender>>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self) -> usize {
        self.lock().len()
    }
}

/// Sends the updates of the feed with this key until nobody listens. The key names everything that the feed depends
/// on, first the project.
pub fn stream<F: Feed>(
    views: &Views,
    feeds: &Arc<Feeds>,
    key: String,
    browser: Browser,
    feed: impl FnOnce() -> F,
) -> Response {
    let versions = {
        let mut known = feeds.lock();
        match known.get(&key).and_then(Weak::upgrade) {
            Some(sender) => sender.subscribe(),
            None => {
                known.retain(|_, feed| feed.strong_count() > 0);
                if known.len() >= MAX_FEEDS {
                    return Error::Unavailable.into_response();
                }
                let (sender, versions) = watch::channel(None);
                let sender = Arc::new(sender);
                known.insert(key.clone(), Arc::downgrade(&sender));
                tokio::spawn(drive(feeds.clone(), views.shutdown.clone(), key, sender, feed()));
                versions
            }
        }
    };
    respond(views.shutdown.clone(), versions, browser, OneMore::of(&feeds.metrics.viewers))
}

/// Looks for all who share a feed, as long as there are any.
async fn drive<F: Feed>(
    feeds: Arc<Feeds>,
    shutdown: CancellationToken,
    key: String,
    sender: Arc<Sender>,
    mut feed: F,
) {
    let mut cost = Duration::ZERO;
    let _counted = OneMore::of(&feeds.metrics.feeds);
    loop {
        let Ok(turn) = feeds.looking.acquire().await else { break };
        let begun = Instant::now();
        let looked = feed.look().await;
        cost = (cost * 3 + begun.elapsed()) / 4;
        drop(turn);
        let mut not_before = begun + feed.pace();
        match looked {
            Ok(view) => {
                let before = sender.borrow().clone();
                if let Some(next) = Version::next(before.as_deref(), view) {
                    let bytes = next.changed_bytes() * sender.receiver_count();
                    not_before = not_before.max(begun + rest(cost, bytes, feeds.count()));
                    let is_over = next.is_over;
                    sender.send_replace(Some(Arc::new(next)));
                    if is_over {
                        break;
                    }
                } else {
                    not_before = not_before.max(begun + rest(cost, 0, feeds.count()));
                }
            }
            Err(error) => {
                // A database that is away for a moment is no reason to end the stream.
                tracing::debug!(%error, "cannot refresh a live page");
                not_before = not_before.max(Instant::now() + TRY_AGAIN);
            }
        }
        let next = async {
            tokio::select! {
                () = feed.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            tokio::time::sleep_until(not_before).await;
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = sender.closed() => {
                let mut known = feeds.lock();
                if sender.receiver_count() == 0 {
                    known.remove(&key);
                    return;
                }
            }
            () = next => {}
        }
    }
    feeds.lock().remove(&key);
}

/// How long a feed of this cost rests, so that all of them together keep to their share.
fn rest(cost: Duration, bytes: usize, feeds: usize) -> Duration {
    let feeds = u32::try_from(feeds).unwrap_or(u32::MAX);
    let time = cost.saturating_mul(feeds).saturating_mul(LOOKING_ONE_IN);
    let sent = Duration::from_secs_f64(bytes as f64 * f64::from(feeds) / BYTES_PER_SEC);
    time.max(sent).min(LONGEST_REST)
}

/// One browser's end of a feed.
struct Listener {
    shutdown: CancellationToken,
    versions: watch::Receiver<Option<Arc<Version>>>,
    browser: Browser,
    beat: Interval,
    ends: Instant,
    is_over: bool,
    _counted: OneMore,
}

fn respond(
    shutdown: CancellationToken,
    mut versions: watch::Receiver<Option<Arc<Version>>>,
    browser: Browser,
    counted: OneMore,
) -> Response {
    if versions.borrow().is_some() {
        versions.mark_changed();
    }
    let now = Instant::now();
    let mut beat = tokio::time::interval_at(now + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let ends = now + LIFETIME;
    let listener = Listener { shutdown, versions, browser, beat, ends, is_over: false, _counted: counted };
    let first = event("beat", &json!({ "now": Utc::now().timestamp_millis() }));
    let first = futures::stream::once(async move { Ok::<Bytes, Infallible>(first) });
    let rest = futures::stream::unfold(listener, |mut listener| async move {
        let messages = listener.next().await?;
        Some((futures::stream::iter(messages.into_iter().map(Ok)), listener))
    });
    let body = futures::StreamExt::chain(first, futures::StreamExt::flatten(rest));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Proxies must not buffer live responses.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(body)).into_response()
}

impl Listener {
    /// The next messages; none when the stream is to end.
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        if self.is_over {
            return None;
        }
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.ends) => return None,
                _ = self.beat.tick() => return Some(vec![event("beat", &Value::Null)]),
                changed = self.versions.changed() => changed.ok()?,
            }
            let Some(version) = self.versions.borrow_and_update().clone() else { continue };
            let mut messages = self.browser.catch_up(&version);
            self.is_over = version.is_over;
            if self.is_over {
                messages.push(event("end", &Value::Null));
            }
            if !messages.is_empty() {
                return Some(messages);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_feeds_there_are_the_longer_each_rests() {
        let millis = Duration::from_millis;
        assert_eq!(rest(millis(2), 0, 1), millis(20));
        assert_eq!(rest(millis(2), 0, 100), millis(2_000));
        assert_eq!(rest(millis(2), 0, 1_000_000), LONGEST_REST);
        assert_eq!(rest(Duration::ZERO, 16 << 20, 2), millis(2_000));
    }
}
