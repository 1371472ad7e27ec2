#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use bytes::Bytes as Raw;
use gaffer_domain::TaskId;
use gaffer_protocol::output::{Record, Stream};

use super::*;

fn now() -> Time {
    "2026-11-29T12:00:00Z".parse().unwrap()
}

fn attempt(task: i64, attempt: u32) -> AttemptRef {
    AttemptRef { task: TaskId(task), attempt }
}

fn ended(change: impl FnOnce(&mut Ended)) -> ToMaster {
    let mut ended = Ended {
        attempt: attempt(1, 1),
        end: AttemptEnd::Exited { code: 0 },
        started_at: Some(now()),
        ended_at: now(),
        ran_micros: 1,
        output_bytes: 0,
        output_sha256: None,
        killed: None,
        container: None,
        ports: Vec::new(),
    };
    change(&mut ended);
    ToMaster::Ended(Box::new(ended))
}

fn start_at(at: Time) -> ToMaster {
    ToMaster::Started { attempt: attempt(1, 1), at, container: None, ports: Vec::new() }
}

fn as_ended(message: ToMaster) -> Ended {
    match message {
        ToMaster::Ended(ended) => *ended,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_time_that_no_clock_shows_is_the_masters() {
    for stated in [
        "+262142-12-31T23:59:59Z",
        "-262143-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "1999-12-31T23:59:59Z",
        "2026-11-30T12:00:01Z",
    ] {
        let stated: Time = stated.parse().unwrap();
        let end = as_ended(
            checked(ended(|end| (end.started_at, end.ended_at) = (Some(stated), stated)), now(), |at| at)
                .unwrap(),
        );
        assert_eq!((end.started_at, end.ended_at), (Some(now()), now()), "{stated}");
        let started = start_at(stated);
        let expected = start_at(now());
        assert_eq!(checked(started, now(), |at| at).unwrap(), expected);
    }
    for stated in ["2000-01-01T00:00:00Z", "2026-11-29T14:00:00Z", "2026-11-30T12:00:00Z"] {
        let stated: Time = stated.parse().unwrap();
        let end = as_ended(checked(ended(|end| end.ended_at = stated), now(), |at| at).unwrap());
        assert_eq!(end.ended_at, stated);
    }
}

#[test]
fn a_clock_that_is_known_to_be_off_is_corrected_before_it_is_judged() {
    let ahead = TimeDelta::days(30);
    let end = ended(|end| end.ended_at = now() + ahead);
    assert_eq!(as_ended(checked(end, now(), |at| at - ahead).unwrap()).ended_at, now());
    let end = ended(|end| end.ended_at = now() + ahead - TimeDelta::minutes(5));
    assert_eq!(
        as_ended(checked(end, now(), |at| at - ahead).unwrap()).ended_at,
        now() - TimeDelta::minutes(5)
    );
}

#[test]
fn numbers_that_fit_in_no_column_are_refused_or_cut() {
    let refused = [
        ended(|end| end.attempt = attempt(0, 1)),
        ended(|end| end.attempt = attempt(-1, 1)),
        ended(|end| end.attempt = attempt(1, 0)),
        ended(|end| end.attempt = attempt(1, u32::MAX)),
        ended(|end| end.output_bytes = u64::MAX),
        ended(|end| end.output_sha256 = Some("x".repeat(64))),
        ended(|end| end.output_sha256 = Some("ab".to_owned())),
        ended(|end| end.end = AttemptEnd::Signalled { signal: 0 }),
        ended(|end| end.end = AttemptEnd::Signalled { signal: i32::MIN }),
        ended(|end| end.end = AttemptEnd::Stopped { process: Some(ProcessEnd::Signal(65)) }),
        ended(|end| {
            end.end = AttemptEnd::OutputLimit { limit: Bytes(u64::MAX), process: ProcessEnd::Code(0) };
        }),
        ToMaster::Returned { attempt: attempt(1, 1 << 31) },
        ToMaster::Noted { attempt: attempt(i64::MIN, 1), message: String::new() },
    ];
    for message in refused {
        assert!(checked(message.clone(), now(), |at| at).is_err(), "{message:?}");
    }
    let end = as_ended(checked(ended(|end| end.ran_micros = u64::MAX), now(), |at| at).unwrap());
    assert!(i64::try_from(end.ran_micros).is_ok());
    for code in [i32::MIN, -1, 0, 255, 256, i32::MAX] {
        assert!(checked(ended(|end| end.end = AttemptEnd::Exited { code }), now(), |at| at).is_ok());
    }
}

#[test]
fn readings_are_cut_to_what_a_machine_can_be() {
    let wild = MachineStats {
        cpu: Some(-7.0),
        memory_used: Bytes(u64::MAX),
        memory_total: Bytes(1),
        load: [f64::NAN, -1.0, f64::INFINITY],
        disk_used: Bytes(u64::MAX),
        disk_total: Bytes(u64::MAX),
    };
    let tame = checked_stats(wild);
    assert_eq!((tame.cpu, tame.load), (Some(0.0), [0.0, 0.0, 0.0]));
    assert!(
        [tame.memory_used, tame.disk_used, tame.disk_total]
            .iter()
            .all(|bytes| bytes.get() <= i64::MAX as u64)
    );
    assert_eq!(checked_stats(MachineStats { cpu: Some(f64::NAN), ..wild }).cpu, None);
    assert_eq!(checked_stats(MachineStats { cpu: Some(17.0), ..wild }).cpu, Some(1.0));
}

#[test]
fn output_keeps_its_bytes_whatever_its_times() {
    let record = |at_micros, text: &'static str| Record {
        at_micros,
        stream: Stream::Stdout,
        bytes: Raw::from_static(text.as_bytes()),
    };
    let good = now().timestamp_micros() as u64;
    let records = vec![record(1, "one"), record(good, "two"), record(u64::MAX / 2, "three")];
    let payload_bytes = records.iter().map(|record| record.bytes.len()).sum();
    let chunk = Chunk { attempt: attempt(1, 1), offset: 7, records, payload_bytes };
    let (encoded, chunk) = checked_chunk(chunk.encode(), chunk, now()).unwrap();
    assert_eq!(encoded.decode().unwrap(), chunk);
    assert_eq!((chunk.offset, chunk.payload_bytes), (7, 11));
    assert!(chunk.records.iter().all(|record| record.at_micros == good));
    let bytes: Vec<u8> = chunk.records.iter().flat_map(|record| record.bytes.to_vec()).collect();
    assert_eq!(bytes, b"onetwothree");
}
