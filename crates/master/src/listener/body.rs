//! Wrappers around request and response bodies: a request body must make progress, a response body marks its
//! connection as busy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::places::{Connection, Timeouts};
use crate::metrics::http::OneMore;

/// Why the rest of a request's body is not waited for.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the request's body did not arrive in time")]
    TooSlow,
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// The body of a request, which breaks off if it comes too slowly.
#[derive(Debug)]
pub struct RequestBody {
    inner: Incoming,
    timeouts: Timeouts,
    whole_by: Option<Instant>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// Puts it around a body.
    pub fn around(inner: Incoming, timeouts: Timeouts) -> Body {
        Body::new(RequestBody { inner, timeouts, whole_by: None, waiting: None })
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            this.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError::from(error).into())));
        }
        let now = Instant::now();
        let whole_by = *this.whole_by.get_or_insert(now + this.timeouts.whole_body);
        let next_by = (now + this.timeouts.body).min(whole_by);
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep_until(next_by)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Some(Err(BodyError::TooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A running request; it ends when its response is written or dropped.
#[derive(Debug)]
pub struct UnderWay {
    connection: Arc<Connection>,
    _counted: OneMore,
}

impl UnderWay {
    pub fn on(connection: &Arc<Connection>, counted: OneMore) -> UnderWay {
        connection.request_begins();
        UnderWay { connection: connection.clone(), _counted: counted }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.connection.request_ends();
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct AnswerBody {
    inner: Body,
    _under_way: UnderWay,
}

impl AnswerBody {
    /// Puts it around a body.
    pub fn around(inner: Body, under_way: UnderWay) -> AnswerBody {
        AnswerBody { inner, _under_way: under_way }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
