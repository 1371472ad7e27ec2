//! The writing side of a session: queued messages, and the goodbye.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message};
use futures::SinkExt;
use gaffer_protocol::wire::{GoodbyeCode, ToWorker};
use tokio::sync::watch;

use super::{SessionEnd, Sink};
use crate::hub::{Goodbye, SessionHandle};

/// A frame that can't be written within this time ends the session: its worker does not read. Frames are short, so even
/// a slow connection takes one in a few seconds.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of keepalives to a worker that waits for its welcome.
const PATIENCE_INTERVAL: Duration = Duration::from_secs(2);

/// Sends queued messages in full frames until the session ends. Ends the session if the worker does not read.
pub(super) async fn write(
    mut sink: Sink,
    welcome: ToWorker,
    handle: &SessionHandle,
    mut goodbye: watch::Receiver<Option<Goodbye>>,
) {
    let Ok(mut text) = serde_json::to_string(&[welcome]) else { return };
    loop {
        match tokio::time::timeout(WRITE_TIMEOUT, sink.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => {}
            // The other side of the session hears of it, too.
            Ok(Err(_)) => return,
            Err(_) => {
                handle.end(GoodbyeCode::TooSlow, "the worker has not read for 30 seconds");
                return;
            }
        }
        tokio::select! {
            biased;
            _ = goodbye.wait_for(Option::is_some) => break,
            frame = handle.next_frame() => text = frame,
        }
    }
    let told = goodbye.borrow().clone();
    if let Some(told) = told {
        let _ = say_goodbye(&mut sink, told.code, told.message).await;
    }
}

pub(super) async fn say_goodbye(
    sink: &mut Sink,
    code: GoodbyeCode,
    message: String,
) -> Result<(), axum::Error> {
    let farewell = async {
        let text = serde_json::to_string(&[ToWorker::Goodbye { code, message }]).unwrap_or_default();
        sink.send(Message::Text(text.into())).await?;
        sink.send(Message::Close(Some(CloseFrame { code: 1000, reason: "goodbye".into() }))).await
    };
    match tokio::time::timeout(Duration::from_secs(2), farewell).await {
        Ok(sent) => sent,
        Err(_) => Ok(()),
    }
}

/// Waits for a result and sends empty frames meanwhile. Ends when the worker disconnects.
pub(super) async fn meanwhile_patience<T>(
    sink: &mut Sink,
    work: impl Future<Output = Result<T, SessionEnd>>,
) -> Result<T, SessionEnd> {
    let reassure = async {
        loop {
            tokio::time::sleep(PATIENCE_INTERVAL).await;
            let sent = tokio::time::timeout(WRITE_TIMEOUT, sink.send(Message::Text("[]".into()))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    };
    let gone = async {
        reassure.await;
        SessionEnd::Disconnected("the worker closed the connection before the welcome".to_owned())
    };
    tokio::select! {
        done = work => done,
        end = gone => Err(end),
    }
}
