//! A body that somebody else can end: what its reader has not taken by then is dropped, with all that it would come from.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How a body ends.
#[derive(Debug, Clone)]
pub struct Ending {
    /// What its reader is told at last, if there is a form for that.
    pub last_words: Option<Bytes>,
    /// Why it breaks off; none if the last words are an end.
    pub breaks_off: Option<&'static str>,
}

/// Ends a body.
#[derive(Debug)]
pub struct Ender {
    shared: Weak<Mutex<Shared>>,
    gone: CancellationToken,
}

#[derive(Debug)]
struct EndableBody {
    shared: Arc<Mutex<Shared>>,
    _gone: DropGuard,
}

#[derive(Debug)]
struct Shared {
    state: State,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum State {
    Open(Body),
    Ended(Ending),
    /// The last words are on their way: without a pause, they would be dropped with what breaks off.
    Told(Option<&'static str>),
    Over,
}

/// The same body, and what ends it.
pub fn endable(body: Body) -> (Body, Ender) {
    let shared = Arc::new(Mutex::new(Shared { state: State::Open(body), waker: None }));
    let gone = CancellationToken::new();
    let ender = Ender { shared: Arc::downgrade(&shared), gone: gone.clone() };
    (Body::new(EndableBody { shared, _gone: gone.drop_guard() }), ender)
}

impl Ender {
    /// Ends it when this happens, unless it is gone before.
    pub fn end_after(self, happens: impl Future<Output = ()> + Send + 'static, ending: Ending) {
        tokio::spawn(async move {
            tokio::select! {
                () = self.gone.cancelled() => {}
                () = happens => self.end(ending),
            }
        });
    }

    fn end(&self, ending: Ending) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut locked = lock(&shared);
        if matches!(locked.state, State::Open(_)) {
            let dropped = std::mem::replace(&mut locked.state, State::Ended(ending));
            let waker = locked.waker.take();
            drop(locked);
            drop(dropped);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl http_body::Body for EndableBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let mut shared = lock(&self.shared);
        match &mut shared.state {
            State::Open(body) => {
                let polled = Pin::new(body).poll_frame(context);
                if polled.is_pending() {
                    shared.waker = Some(context.waker().clone());
                }
                polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            State::Ended(Ending { last_words: Some(words), breaks_off }) => {
                let words = std::mem::take(words);
                shared.state = State::Told(*breaks_off);
                Poll::Ready(Some(Ok(Frame::data(words))))
            }
            State::Ended(Ending { last_words: None, breaks_off }) => {
                let why = *breaks_off;
                shared.state = State::Over;
                Poll::Ready(why.map(|why| Err(why.into())))
            }
            State::Told(breaks_off) => {
                let breaks_off = *breaks_off;
                shared.state = State::Ended(Ending { last_words: None, breaks_off });
                context.waker().wake_by_ref();
                Poll::Pending
            }
            State::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &lock(&self.shared).state {
            State::Open(body) => body.is_end_stream(),
            State::Over => true,
            State::Ended(_) | State::Told(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &lock(&self.shared).state {
            State::Open(body) => body.size_hint(),
            State::Ended(_) | State::Told(_) | State::Over => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;

    use futures::StreamExt;

    use super::*;

    /// A body that gives one piece and then nothing for ever, and what is dropped with it.
    fn silent_body() -> (Body, Arc<()>) {
        let kept = Arc::new(());
        let inside = kept.clone();
        let pieces = futures::stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"one"))]);
        let stream = pieces.chain(futures::stream::pending()).map(move |piece| {
            let _inside = &inside;
            piece
        });
        (Body::from_stream(stream), kept)
    }

    #[tokio::test]
    async fn a_body_that_nobody_reads_is_dropped_with_all_that_it_holds() {
        let (body, kept) = silent_body();
        let (body, ender) = endable(body);
        ender.end(Ending { last_words: None, breaks_off: Some("too late") });
        assert_eq!(Arc::strong_count(&kept), 1);
        let mut pieces = body.into_data_stream();
        assert!(pieces.next().await.unwrap().unwrap_err().to_string().contains("too late"));
        assert!(pieces.next().await.is_none());
    }

    #[tokio::test]
    async fn who_waits_for_more_hears_the_last_words() {
        for breaks_off in [None, Some("the end")] {
            let (body, kept) = silent_body();
            let (body, ender) = endable(body);
            let (happens, happened) = tokio::sync::oneshot::channel::<()>();
            let ending = Ending { last_words: Some(Bytes::from_static(b"bye")), breaks_off };
            ender.end_after(async move { drop(happened.await) }, ending);
            let mut pieces = body.into_data_stream();
            assert_eq!(pieces.next().await.unwrap().unwrap(), "one");
            let mut next = std::pin::pin!(pieces.next());
            assert!(futures::poll!(next.as_mut()).is_pending());
            happens.send(()).unwrap();
            assert_eq!(next.await.unwrap().unwrap(), "bye");
            assert_eq!(Arc::strong_count(&kept), 1);
            assert_eq!(pieces.next().await.is_some_and(|end| end.is_err()), breaks_off.is_some());
            assert!(pieces.next().await.is_none());
        }
    }
}
