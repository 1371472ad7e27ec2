#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use gaffer_domain::TaskId;

use super::*;

#[test]
fn frames_are_cut_by_bytes_and_by_number_and_keep_the_order() {
    let note = |at: usize, length: usize| ToMaster::Noted {
        attempt: AttemptRef { task: TaskId(at as i64), attempt: 1 },
        message: "x".repeat(length),
    };
    let mixed: Vec<ToMaster> =
        (0..3_000).map(|at| note(at, if at % 40 == 0 { 100 << 10 } else { at % 300 })).collect();
    let frames = frames(&mixed).unwrap();
    let mut read = Vec::new();
    for frame in &frames {
        assert!(frame.len() <= FRAME_BYTES, "{}", frame.len());
        let messages: Vec<ToMaster> = serde_json::from_str(frame).unwrap();
        assert!(!messages.is_empty() && messages.len() <= MAX_MESSAGES_PER_FRAME);
        read.extend(messages);
    }
    assert!(read == mixed);
    assert!(super::frames::<ToMaster>(&[]).unwrap().is_empty());
    let large = note(1, 3 * FRAME_BYTES);
    let frames = super::frames(&[note(0, 1), large, note(2, 1)]).unwrap();
    assert_eq!(frames.len(), 3, "what is longer than a frame goes alone");
}

#[test]
fn a_list_of_all_that_a_worker_can_hold_fits_into_a_frame() {
    let longest = HeldAttempt {
        attempt: AttemptRef { task: TaskId(i64::MAX), attempt: u32::MAX },
        phase: HeldPhase::Finished,
    };
    let held = vec![longest; MAX_HELD];
    let stats = MachineStats::default();
    let clock = Some(ClockReading { answer: u64::MAX, since_micros: u64::MAX, at: Utc::now() });
    let heartbeat = Heartbeat { sequence: u64::MAX, held: Some(held), stats, clock };
    let heartbeat = ToMaster::Heartbeat(Box::new(heartbeat));
    let text = frames(&[heartbeat]).unwrap().remove(0);
    // A hello says more about its worker, but nothing that is this long.
    assert!(text.len() + (512 << 10) < MAX_CONTROL_FRAME_BYTES, "{}", text.len());
}
