//! Text frames between master and worker: whatever can be read means the same when it is written and read again.

use gaffer_protocol::wire::{ToMaster, ToWorker, frames};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a frame as the master does, and as the worker does.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    written_and_read_again::<ToMaster>(text);
    written_and_read_again::<ToWorker>(text);
}

fn written_and_read_again<M: Serialize + DeserializeOwned>(text: &str) {
    let Ok(messages) = serde_json::from_str::<Vec<M>>(text) else { return };
    let frames = frames(&messages).expect("every message has JSON");
    let again: Vec<M> = frames
        .iter()
        .flat_map(|frame| serde_json::from_str::<Vec<M>>(frame).expect("what was written can be read"))
        .collect();
    let as_json = |messages: &[M]| serde_json::to_value(messages).expect("every message has JSON");
    assert_eq!(as_json(&again), as_json(&messages));
}

/// One frame for each kind of message, as far as it can be made by hand.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"[]"#,
        r#"[{"type":"heartbeat","number":1,"attempts":[]}]"#,
        r#"[{"type":"started","attempt":{"task":1,"attempt":1},"boot_micros":5}]"#,
        r#"[{"type":"ended","attempt":{"task":1,"attempt":1},"end":{"exited":{"code":0}}}]"#,
        r#"[{"type":"stop","attempt":{"task":1,"attempt":1}},{"type":"goodbye","code":"shutdown","reason":"x"}]"#,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
