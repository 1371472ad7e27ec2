#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use bytes::Bytes;
use gaffer_domain::TaskId;
use gaffer_protocol::output::{Record, Stream};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::driver::scripted::PseudoRandom;

const BOOT: &str = "boot-1";
const LIMIT: u64 = 1 << 30;
const ATTEMPT: AttemptRef = AttemptRef { task: TaskId(7), attempt: 1 };

fn open(dir: &Path, limit: u64) -> (Spool, Vec<Recovered>) {
    let remembered = remembered(dir, BOOT).unwrap();
    let (spool, from_before) = Spool::open(dir, BOOT, limit, remembered, &HashMap::new()).unwrap();
    assert!(from_before.resumed.is_empty());
    (spool, from_before.over)
}

fn starting(spool: &Spool, at: DateTime<Utc>) {
    let began = Began { at, boot: BootTime::now() };
    spool.starting(ATTEMPT, began, None, || true).unwrap();
}

fn record(bytes: Vec<u8>, stream: Stream) -> Record {
    Record { at_micros: 1, stream, bytes: Bytes::from(bytes) }
}

/// Records of all sizes that a pipe may give, on both streams; their bytes in order are those of the seed.
fn records(seed: u64, total: usize) -> Vec<Record> {
    let (rng, mut random) = (&mut StdRng::seed_from_u64(seed), PseudoRandom::new(seed));
    let mut left = total;
    let mut records = Vec::new();
    while left > 0 {
        let size =
            if rng.random() { rng.random_range(1..200) } else { rng.random_range(1..=65_536) }.min(left);
        let stream = if rng.random() { Stream::Stdout } else { Stream::Stderr };
        records.push(record(random.take_bytes(size), stream));
        left -= size;
    }
    records
}

/// Reads from `offset` to the end in pieces of at most `max`.
async fn read(output: &Arc<Output>, offset: u64, max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((chunk, length)) = output.chunk(offset + bytes.len() as u64, max).await {
        let chunk = chunk.decode().unwrap();
        assert_eq!((chunk.offset, chunk.payload_bytes as u64), (offset + bytes.len() as u64, length));
        chunk.records.iter().for_each(|record| bytes.extend_from_slice(&record.bytes));
    }
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ended(totals: &writer::Totals) -> Ended {
    let end = AttemptEnd::Exited { code: 0 };
    let (output_bytes, output_sha256) = (totals.bytes, totals.sha256.clone());
    Ended { output_bytes, output_sha256, ..crate::attempt::unstarted(ATTEMPT, end) }
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| name != "journal" && !name.starts_with("spare.")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn output_is_read_back_from_memory_and_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), LIMIT);
    let (output, mut writer) = spool.new_output(ATTEMPT);
    let hurry = CancellationToken::new();
    let total = 20_000_000;
    for record in records(1, total) {
        writer.append(record, &hurry).await;
    }
    let totals = writer.finish();
    let expected = PseudoRandom::new(1).take_bytes(total);
    assert_eq!(totals, writer::Totals { bytes: total as u64, sha256: Some(sha256(&expected)) });
    for (offset, max) in [(0, 256 << 10), (1, 10_000_000), (9_999_999, 70_000), (19_999_000, 10)] {
        assert!(read(&output, offset as u64, max).await == expected[offset..], "from {offset}");
    }
    assert_eq!(files(dir.path()).len(), 3, "three segments");
    output.stored(9_000_000);
    spool.settled().await;
    assert_eq!(files(dir.path()).len(), 2);
    output.stored(total as u64);
    spool.settled().await;
    assert_eq!(files(dir.path()), [] as [&str; 0]);
}

#[tokio::test]
async fn a_hundred_megabytes_pass_through_with_little_memory_and_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), LIMIT);
    let (output, mut writer) = spool.new_output(ATTEMPT);
    let total: u64 = 100 << 20;
    let write = tokio::spawn(async move {
        let hurry = CancellationToken::new();
        let mut random = PseudoRandom::new(2);
        for at in 0..total >> 16 {
            let stream = if at % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
            writer.append(record(random.take_bytes(1 << 16), stream), &hurry).await;
        }
        writer.finish()
    });
    let (mut offset, mut most_on_disk) = (0, 0);
    let mut digest = Sha256::new();
    let mut tries = 0_u64;
    while offset < total {
        match output.chunk(offset, 256 << 10).await {
            None => tokio::task::yield_now().await,
            Some((chunk, length)) => {
                chunk.decode().unwrap().records.iter().for_each(|record| digest.update(&record.bytes));
                offset += length;
                // Now at once, now with delay.
                tries += 1;
                if !tries.is_multiple_of(7) {
                    output.stored(offset);
                }
            }
        }
        most_on_disk = most_on_disk.max(spool.limits.disk_used());
    }
    output.stored(offset);
    let totals = write.await.unwrap();
    let seen: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((totals.bytes, totals.sha256), (total, Some(seen)));
    spool.settled().await;
    assert_eq!(spool.limits.disk_used(), 0);
    assert!(most_on_disk < LIMIT);
}

#[tokio::test]
async fn a_full_spool_makes_the_writer_wait_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 2 << 20;
    let (spool, _) = open(dir.path(), limit);
    let (output, mut writer) = spool.new_output(ATTEMPT);
    let total = 10_000_000;
    let write = tokio::spawn(async move {
        let hurry = CancellationToken::new();
        for record in records(3, total) {
            writer.append(record, &hurry).await;
        }
        writer.finish()
    });
    let mut bytes = Vec::new();
    while bytes.len() < total {
        crate::tests::master::until("more output, or a full spool", || {
            output.end() > bytes.len() as u64 || !spool.limits.has_room()
        })
        .await;
        assert!(spool.limits.disk_used() < limit + (128 << 10));
        bytes.extend(read(&output, bytes.len() as u64, 256 << 10).await);
        output.stored(bytes.len() as u64);
    }
    assert!(bytes == PseudoRandom::new(3).take_bytes(total));
    assert_eq!(write.await.unwrap().bytes, total as u64);
}

#[tokio::test]
async fn the_last_output_of_a_process_does_not_wait_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1 << 20);
    let (output, mut writer) = spool.new_output(ATTEMPT);
    let hurry = CancellationToken::new();
    let all = records(4, 3_000_000);
    let mut all = all.into_iter();
    while spool.limits.has_room() {
        writer.append(all.next().unwrap(), &hurry).await;
    }
    let next = all.next().unwrap();
    let waits = timeout(Duration::from_millis(50), writer.append(next.clone(), &hurry)).await;
    assert!(waits.is_err());
    hurry.cancel();
    writer.append(next, &hurry).await;
    for record in all {
        writer.append(record, &hurry).await;
    }
    assert_eq!(writer.finish().bytes, 3_000_000);
    assert!(read(&output, 0, 256 << 10).await == PseudoRandom::new(4).take_bytes(3_000_000));
}

#[tokio::test]
async fn what_the_disk_refuses_at_the_end_is_kept_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let spool_dir = dir.path().join("spool");
    let (spool, _) = open(&spool_dir, LIMIT);
    let (output, mut writer) = spool.new_output(ATTEMPT);
    // Nothing can be created in a directory that is gone.
    fs::remove_dir_all(&spool_dir).unwrap();
    let hurry = CancellationToken::new();
    hurry.cancel();
    for record in records(5, 2_000_000) {
        writer.append(record, &hurry).await;
    }
    assert_eq!(writer.finish().bytes, 2_000_000);
    assert!(read(&output, 0, 256 << 10).await == PseudoRandom::new(5).take_bytes(2_000_000));
}

#[tokio::test]
async fn a_spool_that_is_opened_again_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let total = 12_000_000;
    let (spool, _) = open(dir.path(), LIMIT);
    starting(&spool, Utc::now());
    spool.started(ATTEMPT, Some(1));
    let (output, mut writer) = spool.new_output(ATTEMPT);
    let hurry = CancellationToken::new();
    for record in records(6, total) {
        writer.append(record, &hurry).await;
    }
    output.stored(1_000_000);
    let report = ended(&writer.finish());
    spool.ended(&report, true);
    drop((spool, output));

    let (spool, recovered) = open(dir.path(), LIMIT);
    assert_eq!(recovered.len(), 1);
    assert_eq!(recovered[0].ended, report);
    let expected = PseudoRandom::new(6).take_bytes(total);
    assert!(read(&recovered[0].output, 1_000_000, 100_000).await == expected[1_000_000..]);
    recovered[0].output.remove();
    spool.forget(ATTEMPT);
    spool.settled().await;
    drop((spool, recovered));

    let (_, recovered) = open(dir.path(), LIMIT);
    assert!(recovered.is_empty());
    assert_eq!(files(dir.path()), [] as [&str; 0]);
}

#[tokio::test]
async fn an_attempt_whose_end_nobody_saw_is_lost_with_the_output_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let at = Utc::now();
    let (spool, _) = open(dir.path(), LIMIT);
    starting(&spool, at);
    spool.started(ATTEMPT, Some(1));
    let (_, mut writer) = spool.new_output(ATTEMPT);
    let hurry = CancellationToken::new();
    for text in ["whole ", "record ", "torn"] {
        writer.append(record(text.into(), Stream::Stdout), &hurry).await;
    }
    drop((spool, writer));
    let file = dir.path().join("7.1.0");
    let length = fs::metadata(&file).unwrap().len();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(length - 2).unwrap();

    let receipt = KillReceipt { killed: 3, left: 0 };
    let found = remembered(dir.path(), BOOT).unwrap();
    let killed = HashMap::from([(ATTEMPT, receipt)]);
    let (_, from_before) = Spool::open(dir.path(), BOOT, LIMIT, found, &killed).unwrap();
    let Recovered { ended, output } = &from_before.over[0];
    assert_eq!(ended.end, AttemptEnd::Lost { cause: LostCause::WorkerRestarted });
    assert_eq!((ended.started_at, ended.killed, ended.output_bytes), (Some(at), Some(receipt), 13));
    assert_eq!(ended.output_sha256, Some(sha256(b"whole record ")));
    assert_eq!(read(output, 0, 1000).await, b"whole record ");

    // Nothing survives a restart of the machine, but its output does.
    let after_reboot = remembered(dir.path(), "boot-2").unwrap();
    let (_, from_before) = Spool::open(dir.path(), "boot-2", LIMIT, after_reboot, &HashMap::new()).unwrap();
    let recovered = from_before.over;
    assert_eq!(recovered[0].ended.output_bytes, 13);
}

#[tokio::test]
async fn a_reboot_is_told_from_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), LIMIT);
    starting(&spool, Utc::now());
    drop(spool);
    let after_reboot = remembered(dir.path(), "boot-2").unwrap();
    let (_, from_before) = Spool::open(dir.path(), "boot-2", LIMIT, after_reboot, &HashMap::new()).unwrap();
    let recovered = from_before.over;
    assert_eq!(recovered[0].ended.end, AttemptEnd::Lost { cause: LostCause::Rebooted });
    assert_eq!((recovered[0].ended.started_at, recovered[0].ended.output_sha256.clone()), (None, None));
}

#[tokio::test]
async fn lost_output_is_replaced_by_a_text_of_the_same_length() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), LIMIT);
    let (_, mut writer) = spool.new_output(ATTEMPT);
    let hurry = CancellationToken::new();
    let total = 20_000_000;
    for record in records(8, total) {
        writer.append(record, &hurry).await;
    }
    spool.ended(&ended(&writer.finish()), false);
    drop(spool);
    // The middle one of three segments is damaged in its own middle.
    let names = files(dir.path());
    let middle = names.iter().map(|name| name.rsplit_once('.').unwrap().1.parse::<usize>().unwrap());
    let mut starts: Vec<usize> = middle.collect();
    starts.sort_unstable();
    let path = segment::path(dir.path(), ATTEMPT, starts[1] as u64);
    let mut content = fs::read(&path).unwrap();
    let half = content.len() / 2;
    content[half] ^= 1;
    fs::write(&path, content).unwrap();

    let (_, recovered) = open(dir.path(), LIMIT);
    let bytes = read(&recovered[0].output, 0, 256 << 10).await;
    let expected = PseudoRandom::new(8).take_bytes(total);
    assert_eq!(bytes.len(), total);
    assert!(bytes[..starts[1]] == expected[..starts[1]] && bytes[starts[2]..] == expected[starts[2]..]);
    let text = String::from_utf8_lossy(&bytes[starts[1]..starts[2]]).into_owned();
    assert!(text.contains("bytes of output were lost on the worker's disk"));
}

#[tokio::test]
async fn a_job_that_writes_little_for_long_keeps_little_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), LIMIT);
    let (output, mut writer) = spool.new_output(ATTEMPT);
    let hurry = CancellationToken::new();
    for _ in 0..2000 {
        writer.append(record(vec![b'x'; 1000], Stream::Stdout), &hurry).await;
        output.stored(output.end());
        assert!(spool.limits.disk_used() < 80 << 10);
    }
    assert_eq!(writer.finish().bytes, 2_000_000);
    spool.settled().await;
    assert_eq!(files(dir.path()), [] as [&str; 0]);
}

/// Writes more than is kept in memory into one file.
fn written(files: &Files, output: &Output) -> std::path::PathBuf {
    let output::Place::New(path) = output.begin(true) else { panic!("there is no file yet") };
    let mut segment = files.create(&path, &Progress::default()).unwrap();
    for _ in 0..20 {
        let record = record(vec![b'x'; 100 << 10], Stream::Stdout);
        segment.append(&record).unwrap();
        output.commit(record, Some(segment.size()));
    }
    path
}

#[tokio::test]
async fn on_a_full_disk_what_is_stored_makes_room_for_what_could_not_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(Files::open(dir.path()).unwrap());
    let output = || Output::new(ATTEMPT, files.clone(), Arc::new(Limits::new(LIMIT)));
    // A file that is open keeps its place, whether it has a name or not.
    let open = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| target.starts_with(dir.path()))
    };

    // Stored before the next record came: that would begin another file, which cannot be made.
    let first = output();
    let path = written(&files, &first);
    assert_eq!(first.chunk(0, 10).await.unwrap().1, 10);
    first.stored(first.end());
    assert!(matches!(first.begin(false), output::Place::New(_)));
    first.cancel(true);
    files.settled().await;
    assert!(!path.exists() && !open());

    // Stored while the next record was on its way into the same file.
    let second = output();
    let path = written(&files, &second);
    assert!(matches!(second.begin(false), output::Place::Same));
    second.stored(second.end());
    second.cancel(false);
    assert!(matches!(second.begin(false), output::Place::New(_)));
    second.cancel(true);
    files.settled().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn the_file_of_a_write_that_was_given_up_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(Files::open(dir.path()).unwrap());
    for is_given_up in [false, true] {
        let output = Output::new(ATTEMPT, files.clone(), Arc::new(Limits::new(LIMIT)));
        let output::Place::New(path) = output.begin(true) else { panic!("there is no file yet") };
        let mut segment = files.create(&path, &Progress::default()).unwrap();
        let record = record(b"x".to_vec(), Stream::Stdout);
        segment.append(&record).unwrap();
        output.commit(record, Some(segment.size()));
        output.begin(false);
        if is_given_up {
            // It may still be written to the file, which somebody else may have by then.
            output.abandon();
        } else {
            output.cancel(false);
        }
        output.remove();
        files.settled().await;
        let spares = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(spares, usize::from(!is_given_up));
    }
}
