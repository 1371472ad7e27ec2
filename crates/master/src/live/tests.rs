#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use gaffer_domain::TaskId;
use gaffer_protocol::output::{ChunkBuilder, Stream};

use super::*;

const WORKER: WorkerId = WorkerId(1);

fn attempt(task: i64) -> AttemptRef {
    AttemptRef { task: TaskId(task), attempt: 1 }
}

/// Bytes that do not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn write(live: &LiveOutput, bytes: &[u8]) {
    let mut builder = ChunkBuilder::new();
    builder.push(1, Stream::Stdout, bytes);
    let encoded = builder.finish(live.attempt, live.received().bytes);
    let chunk = encoded.decode().unwrap();
    assert!(matches!(live.arrive(encoded, chunk), Arrival::New(_)));
}

fn outputs(limit: usize) -> LiveOutputs {
    LiveOutputs(Arc::new(Shared { table: Mutex::default(), tails: Arc::new(Tails::new(limit)) }))
}

fn opened(outputs: &LiveOutputs, task: i64) -> Arc<LiveOutput> {
    outputs.open_new(attempt(task), WORKER);
    outputs.get(attempt(task)).unwrap()
}

#[test]
fn what_is_committed_shares_one_budget_in_which_the_oldest_goes_first_unless_it_is_viewed() {
    let outputs = outputs(1 << 20);
    let viewed = opened(&outputs, 0);
    let viewer = viewed.subscribe();
    write(&viewed, &noise(1, 10_000));
    outputs.stored(&viewed, 10_000);
    let all: Vec<_> = (1..=200).map(|task| opened(&outputs, task)).collect();
    for (at, live) in all.iter().enumerate() {
        write(live, &noise(at as u64, 10_000));
        outputs.stored(live, 10_000);
        assert!(outputs.kept_bytes() <= 1 << 20, "{}", outputs.kept_bytes());
    }
    assert!(outputs.kept_bytes() > 900_000, "{}", outputs.kept_bytes());
    assert!(all[0].read(0).is_none(), "the oldest has gone, and is in the store");
    assert!(all[199].read(0).is_some_and(|chunks| chunks[0].payload_bytes == 10_000));
    assert!(viewed.read(0).is_some());
    drop(viewer);
    for live in &all {
        outputs.close(live.attempt);
    }
    outputs.close(viewed.attempt);
    drop((all, viewed));
    assert_eq!((outputs.kept_bytes(), outputs.count()), (0, 0));
}

#[test]
fn what_is_not_committed_is_never_dropped() {
    let outputs = outputs(100_000);
    let live = opened(&outputs, 1);
    (0..50).for_each(|at| write(&live, &noise(at, 10_000)));
    outputs.stored(&live, 30_000);
    let other = opened(&outputs, 2);
    for at in 0..50 {
        write(&other, &noise(at, 10_000));
        outputs.stored(&other, (at + 1) * 10_000);
    }
    let read: u32 = live.read(30_000).unwrap().iter().map(|chunk| chunk.payload_bytes).sum();
    assert_eq!(read, 470_000);
    assert!(outputs.kept_bytes() <= 100_000);
}

#[test]
fn a_single_output_keeps_no_more_than_its_share() {
    let outputs = outputs(64 << 20);
    let live = opened(&outputs, 1);
    for at in 0..100 {
        write(&live, &noise(at, 20_000));
        outputs.stored(&live, (at + 1) * 20_000);
    }
    assert!(outputs.kept_bytes() <= KEPT_BYTES);
    assert!(live.read(1_990_000).is_some() && live.read(0).is_none());
}

#[test]
fn a_gap_is_told_once() {
    let outputs = outputs(1 << 20);
    let live = opened(&outputs, 1);
    let far = |offset: u64| {
        let mut builder = ChunkBuilder::new();
        builder.push(1, Stream::Stdout, b"far");
        let encoded = builder.finish(live.attempt, offset);
        let chunk = encoded.decode().unwrap();
        live.arrive(encoded, chunk)
    };
    assert!(matches!(far(10), Arrival::Gap(0)));
    assert!(matches!(far(13), Arrival::KnownGap));
    write(&live, b"0123456789");
    assert!(matches!(far(20), Arrival::Gap(10)));
    live.session_begins();
    assert!(matches!(far(20), Arrival::Gap(10)), "a new session has not been told");
}

#[test]
fn an_attempt_that_has_written_nothing_costs_little() {
    assert!(size_of::<(AttemptRef, Slot)>() <= 32);
    let outputs = outputs(1 << 20);
    (0..1_000).for_each(|task| outputs.open_new(attempt(task), WORKER));
    (0..1_000).for_each(|task| drop(outputs.close(attempt(task))));
    assert_eq!(outputs.count(), 0);
}
