#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use gaffer_domain::TaskId;
use gaffer_domain::reason::AttemptEnd;

use super::*;

const BOOT: &str = "boot-1";

fn attempt(task: i64) -> AttemptRef {
    AttemptRef { task: TaskId(task), attempt: 1 }
}

fn ended(task: i64) -> Ended {
    Ended {
        attempt: attempt(task),
        end: AttemptEnd::Exited { code: 3 },
        started_at: Some(Utc::now()),
        ended_at: Utc::now(),
        ran_micros: 5,
        output_bytes: 7,
        output_sha256: Some("ab".to_owned()),
        killed: None,
        container: None,
        ports: Vec::new(),
    }
}

fn by_task(path: &Path, boot_id: &str) -> Vec<Remembered> {
    let mut all = read(path, boot_id).unwrap();
    all.sort_by_key(|remembered| remembered.attempt);
    all
}

#[test]
fn what_is_not_forgotten_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    assert_eq!(read(&path, BOOT).unwrap(), [], "no file yet");
    let mut journal = Journal::create(&path, BOOT, &[], &[]).unwrap();
    let (at, boot) = (Utc::now(), BootTime::now());
    for task in 1..=3 {
        journal.starting(attempt(task), at, boot, None).unwrap();
        journal.started(attempt(task), Some(100 + task as i32), boot).unwrap();
    }
    journal.ended(&ended(2), false).unwrap();
    journal.ended(&ended(3), false).unwrap();
    journal.forget(attempt(3)).unwrap();

    let read = by_task(&path, BOOT);
    assert_eq!(read.len(), 2);
    assert_eq!(read[0].starting.as_ref().map(|starting| starting.at), Some(at));
    assert_eq!(
        read[0].started,
        Some(Started { pid: Some(101), boot: BootTime::from_micros(boot.as_micros()) })
    );
    assert_eq!((read[0].ended.clone(), read[0].same_boot), (None, true));
    assert_eq!(read[1].ended.as_ref().map(|ended| ended.attempt), Some(attempt(2)));
    assert!(!by_task(&path, "boot-2")[0].same_boot);
}

#[test]
fn what_comes_too_late_about_a_forgotten_attempt_is_not_noted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::create(&path, BOOT, &[], &[]).unwrap();
    journal.starting(attempt(1), Utc::now(), BootTime::now(), None).unwrap();
    journal.forget(attempt(1)).unwrap();
    journal.started(attempt(1), Some(101), BootTime::now()).unwrap();
    journal.ended(&ended(1), true).unwrap();
    assert_eq!(read(&path, BOOT).unwrap(), []);
    // What never began to start has nothing but its end.
    journal.ended(&ended(2), false).unwrap();
    assert_eq!(by_task(&path, BOOT).len(), 1);
}

#[test]
fn a_journal_torn_anywhere_keeps_its_whole_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::create(&path, BOOT, &[], &[]).unwrap();
    for task in 1..=3 {
        journal.ended(&ended(task), false).unwrap();
    }
    let whole = fs::read(&path).unwrap();
    let line_ends: Vec<usize> =
        whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let whole_entries = line_ends[1..].iter().filter(|end| **end <= cut).count();
        assert_eq!(read(&path, BOOT).unwrap().len(), whole_entries, "cut at {cut}");
    }
}

#[test]
fn a_damaged_line_costs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::create(&path, BOOT, &[], &[]).unwrap();
    for task in 1..=3 {
        journal.ended(&ended(task), false).unwrap();
    }
    let mut text = fs::read_to_string(&path).unwrap();
    let at = text.find("\"task\":2").unwrap();
    text.replace_range(at + 7..at + 8, "4");
    fs::write(&path, text).unwrap();
    let tasks: Vec<i64> = by_task(&path, BOOT).iter().map(|remembered| remembered.attempt.task.0).collect();
    assert_eq!(tasks, [1, 3]);
}

#[test]
fn a_long_journal_of_forgotten_attempts_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::create(&path, BOOT, &[], &[]).unwrap();
    journal.starting(attempt(1_000_000), Utc::now(), BootTime::now(), None).unwrap();
    for task in 1..=20_000 {
        journal.ended(&ended(task), false).unwrap();
        journal.forget(attempt(task)).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() < 2 * COMPACT_BYTES);
    let read = by_task(&path, BOOT);
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].attempt, attempt(1_000_000));
}

#[test]
fn an_end_that_the_disk_refused_is_written_with_the_next_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::create(&path, BOOT, &[], &[]).unwrap();
    // A full disk, as far as the journal can tell.
    journal.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(journal.ended(&ended(1), false).is_err());
    assert_eq!(read(&path, BOOT).unwrap(), []);
    journal.ended(&ended(2), false).unwrap();
    assert_eq!(by_task(&path, BOOT).len(), 2);
}

#[test]
fn a_start_that_the_disk_refused_is_not_remembered_however_often_it_is_tried() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::create(&path, BOOT, &[], &[]).unwrap();
    let begin = |journal: &mut Journal| journal.starting(attempt(1), Utc::now(), BootTime::now(), None);
    for _ in 0..10 {
        journal.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        journal.damaged = false;
        assert!(begin(&mut journal).is_err());
    }
    assert!(journal.live.is_empty() && journal.live_bytes == 0, "{:?}", journal.live);
    begin(&mut journal).unwrap();
    assert_eq!(by_task(&path, BOOT).len(), 1);
}

#[test]
fn what_an_earlier_version_noted_of_a_container_is_read_as_it_was_meant() {
    let text = r#"{"entry":"starting","attempt":{"task":7,"attempt":2},"at":"2026-11-01T00:00:00Z","boot_micros":5,"resume":{"attempt":{"task":7,"attempt":2},"job":3,"task":"train","index":5,"driver":"docker","action":{"command":["true"]},"env":{"A":"b"},"resources":{"cpu":0.5,"memory":"64MiB","disk":"0B"},"pieces":{"gpu":[1]},"timeout":"1m","stop":{"signal":"SIGTERM","grace":"1s"},"lost_after":"2m"}}"#;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    fs::write(&path, format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()))).unwrap();
    let read = by_task(&path, BOOT);
    let resume = read[0].starting.clone().unwrap().resume.unwrap();
    assert_eq!((resume.attempt.attempt, resume.index, resume.definition.job.0), (2, 5, 3));
    assert_eq!((resume.definition.task.as_str(), resume.pieces["gpu"].as_slice()), ("train", &[1][..]));
    // And what is written now reads the same.
    let again: StartAttempt = serde_json::from_str(&serde_json::to_string(&resume).unwrap()).unwrap();
    assert_eq!(again, *resume);
}

/// What the first version wrote. A worker that is upgraded reads what the one before it left, and so does every later one:
/// lines join this file, none leaves it.
#[test]
fn every_entry_that_was_ever_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let lines: Vec<&str> = include_str!("1.jsonl").lines().collect();
    let written: String =
        lines.iter().map(|line| format!("{:08x} {line}\n", crc32fast::hash(line.as_bytes()))).collect();
    for line in written.lines() {
        assert!(parse(line.as_bytes()).is_some(), "not understood any more: {line}");
    }
    fs::write(&path, written).unwrap();
    let read = by_task(&path, "5f0c8a2e-0000-4000-8000-000000000001");
    let tasks: Vec<i64> = read.iter().map(|remembered| remembered.attempt.task.0).collect();
    assert_eq!(tasks, [1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
    assert!(read.iter().all(|remembered| remembered.same_boot));
    assert_eq!(read[0].started.map(|started| started.pid), Some(Some(4711)));
    let resumable: Vec<bool> = read.iter().map(|remembered| remembered.resumable().is_some()).collect();
    assert_eq!(resumable[..3], [false, true, true]);
    let ends: Vec<String> = read[3..]
        .iter()
        .map(|remembered| remembered.ended.as_ref().unwrap().end.reason().unwrap().message)
        .collect();
    assert_eq!(ends[0], "exited with code 3");
    assert_eq!(ends[8], "the worker process was restarted and stopped its tasks");
    assert_eq!(read[4].ended.as_ref().unwrap().killed.map(|killed| killed.killed), Some(2));
    assert_eq!(read[6].ended.as_ref().unwrap().container.as_ref().unwrap().ports[0].host, 32768);
}
