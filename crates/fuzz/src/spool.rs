//! Files of a worker that was killed, or whose disk is bad: what is whole in them is read, the rest is cut off or passed over,
//! and a file that was changed gives what was written before the change.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::Path;

use bytes::Bytes;
use gaffer_protocol::output::{Record, Stream};
use gaffer_worker::spool::journal;
use gaffer_worker::spool::progress::Progress;
use gaffer_worker::spool::segment::{SegmentWriter, scan};
use tempfile::TempDir;

use crate::pieces::Pieces;

/// Reads a file as a segment and as a journal; then damages a segment as the input says.
pub fn check(input: &[u8]) {
    with_file(input, |path| {
        // As a journal first: reading a segment cuts it.
        journal::read(path, "this boot").expect("a damaged journal can be read");
        let (first, size) = records(path);
        assert_eq!(fs::metadata(path).unwrap().len(), size, "what follows the last record stays");
        assert_eq!(records(path), (first, size), "read again, it is another one");
    });
    damaged(input);
}

/// Flips bits of a good segment and cuts it.
fn damaged(input: &[u8]) {
    let (written, good) = segment();
    let mut file = good.clone();
    let mut input = Pieces(input);
    let place = |input: &mut Pieces<'_>| usize::from(input.byte()) << 8 | usize::from(input.byte());
    for _ in 0..input.byte() % 4 {
        let at = place(&mut input) % file.len();
        file[at] ^= input.byte();
    }
    if input.byte() % 2 == 1 {
        file.truncate(place(&mut input) % (file.len() + 1));
    }
    let same = file.iter().zip(&good).take_while(|(now, before)| now == before).count();
    with_file(&file, |path| {
        let (read, size) = records(path);
        assert!(written.starts_with(&read), "something that was never written");
        assert!(size <= same as u64 || read == written, "a changed record is taken for a good one");
    });
}

fn records(path: &Path) -> (Vec<Record>, u64) {
    let mut records = Vec::new();
    let scanned = scan(path, |record| records.push(record.clone())).expect("a damaged segment can be read");
    assert_eq!(scanned.payload, records.iter().map(|record| record.bytes.len() as u64).sum::<u64>());
    (records, scanned.size)
}

/// Some records and the segment that they make.
fn segment() -> (Vec<Record>, Vec<u8>) {
    thread_local! {
        static SEGMENT: (Vec<Record>, Vec<u8>) = {
            let records: Vec<Record> = (1_u8..30)
                .map(|n| Record {
                    at_micros: u64::from(n) << 30,
                    stream: if n % 3 == 0 { Stream::Stderr } else { Stream::Stdout },
                    bytes: Bytes::from(vec![n; usize::from(n) * 7]),
                })
                .collect();
            let file = with_file(b"", |path| {
                let file = File::options().write(true).open(path).unwrap();
                let mut writer = SegmentWriter::new(file, &Progress::default()).unwrap();
                records.iter().for_each(|record| writer.append(record).unwrap());
                fs::read(path).unwrap()
            });
            (records, file)
        };
    }
    SEGMENT.with(Clone::clone)
}

/// Lets `read` read a file with this content.
pub(crate) fn with_file<T>(content: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static PLACE: RefCell<(TempDir, u64)> = RefCell::new((tempfile::tempdir().unwrap(), 0));
    }
    let path = PLACE.with_borrow_mut(|(dir, count)| {
        *count += 1;
        dir.path().join(count.to_string())
    });
    fs::write(&path, content).unwrap();
    let done = read(&path);
    fs::remove_file(&path).unwrap();
    done
}

/// A segment, lines of a journal, and ways to damage a segment.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        segment().1,
        b"00000000 {\"entry\":\"opened\",\"boot_id\":\"this boot\"}\n".to_vec(),
        vec![1, 0, 40, 1, 0],
        vec![0, 1, 1, 0],
    ]
}
