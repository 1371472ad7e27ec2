//! The side of a session that writes: what is queued for the worker, and the goodbye.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message};
use futures::SinkExt;
use gaffer_protocol::wire::{GoodbyeCode, MAX_MESSAGES_PER_FRAME, ToWorker};
use tokio::sync::{mpsc, watch};

use super::Sink;
use crate::hub::Goodbye;

/// A frame that can't be written within this time ends the session.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends what is queued, as many messages in a frame as are there, until the session is to end.
pub(super) async fn write(
    mut sink: Sink,
    welcome: ToWorker,
    mut queue: mpsc::Receiver<ToWorker>,
    mut goodbye: watch::Receiver<Option<Goodbye>>,
) {
    let mut messages = vec![welcome];
    loop {
        let Ok(text) = serde_json::to_string(&messages) else { return };
        match tokio::time::timeout(WRITE_TIMEOUT, sink.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => messages.clear(),
            _ => return,
        }
        tokio::select! {
            biased;
            _ = goodbye.wait_for(Option::is_some) => break,
            received = queue.recv_many(&mut messages, MAX_MESSAGES_PER_FRAME) => if received == 0 { break },
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
