//! The output of an attempt with secrets: what was read, without what it must not show.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gaffer_domain::redact::{Flow, Hidden, Masks};
use gaffer_domain::secrets::SecretValue;
use gaffer_protocol::output::{Record, Stream};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::clock::wall_micros;
use crate::driver::OutputSource;
use crate::spool::{Position, StreamPosition};

/// Says, once, why nothing is shown.
const WITHHELD: &str = "\n[gaffer: output is left out: the secrets to hide in it are not known any more]\n";

/// What finds the secrets of attempts. Attempts with equal ones, such as the tasks of an array, share it.
#[derive(Debug, Default)]
pub(crate) struct Finders(Mutex<Vec<Weak<Hidden>>>);

impl Finders {
    /// Masks that hide these values. Takes a while if they are large: blocks.
    pub fn masks<'v>(&self, values: impl IntoIterator<Item = &'v SecretValue>) -> Masks {
        let values: Vec<SecretValue> = values.into_iter().cloned().collect();
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().iter().filter_map(Weak::upgrade).find(|hidden| hidden.is_of(&values));
        Masks::new(found.unwrap_or_else(|| {
            let made = Arc::new(Hidden::of(values));
            let mut known = known();
            known.retain(|hidden| hidden.strong_count() > 0);
            known.push(Arc::downgrade(&made));
            made
        }))
    }
}

/// Reads from another source and hides what the masks say. What may be the beginning of a secret is held back until the next bytes
/// of its stream, or the end, decide.
pub(super) struct Redacted {
    source: Box<dyn OutputSource>,
    masks: Arc<OnceLock<Mutex<Masks>>>,
    stdout: Side,
    stderr: Side,
    is_over: bool,
    /// Whether it was said why nothing is shown.
    is_explained: bool,
}

/// One stream.
#[derive(Default)]
struct Side {
    flow: Flow,
    /// What is stored already.
    stored: Option<Stored>,
}

/// The beginning of a stream, which is left out because it is stored already.
struct Stored {
    left: u64,
    expected: Vec<u8>,
    /// The last bytes that were left out.
    seen: Vec<u8>,
}

impl Redacted {
    /// From its beginning on. `stored`: how much of what it gives is stored already.
    pub fn new(
        source: Box<dyn OutputSource>,
        masks: Arc<OnceLock<Mutex<Masks>>>,
        stored: Option<Position>,
    ) -> Redacted {
        let side =
            |stored: Option<StreamPosition>| Side { flow: Flow::default(), stored: stored.map(Stored::of) };
        let Position { stdout, stderr } = stored.unwrap_or_default();
        let [stdout, stderr] =
            [stdout, stderr].map(|place| side(Some(place).filter(|place| place.bytes > 0)));
        Redacted { source, masks, stdout, stderr, is_over: false, is_explained: false }
    }

    fn side(&mut self, stream: Stream) -> &mut Side {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// What can be shown of a record; none if that is nothing.
    fn shown(&mut self, record: Record) -> Option<Record> {
        let masks = self.masks.clone();
        // Without masks nothing is shown.
        let mut masks = masks.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        let side = self.side(record.stream);
        let flow = &mut side.flow;
        let bytes = match flow.may_add(&record.bytes) {
            true => aside(|| flow.push(&mut masks, &record.bytes)),
            false => flow.push(&mut masks, &record.bytes),
        };
        side.give(bytes, record.at_micros, record.stream)
    }

    /// Why nothing is shown, the first time that this is so.
    fn explanation(&mut self) -> Option<Record> {
        let hides_all =
            |masks: &Mutex<Masks>| masks.lock().unwrap_or_else(PoisonError::into_inner).hide_all();
        if self.is_explained || !self.masks.get().is_none_or(hides_all) {
            return None;
        }
        self.is_explained = true;
        Some(marker(WITHHELD))
    }
}

/// Does what takes the processor for longer than other tasks of this thread may wait: they go on on another one.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

impl Side {
    fn give(&mut self, bytes: Vec<u8>, at_micros: u64, stream: Stream) -> Option<Record> {
        let bytes = match &mut self.stored {
            None => bytes,
            Some(stored) => match stored.leave_out(bytes) {
                Ok(rest) => {
                    if stored.left == 0 {
                        self.stored = None;
                    }
                    rest
                }
                Err(bytes) => {
                    self.stored = None;
                    let text =
                        "\n[gaffer: output may be missing or repeated here: the worker was restarted]\n";
                    [text.as_bytes(), &bytes].concat()
                }
            },
        };
        (!bytes.is_empty()).then(|| Record { at_micros, stream, bytes: Bytes::from(bytes) })
    }
}

impl Stored {
    fn of(place: StreamPosition) -> Stored {
        Stored { left: place.bytes, expected: place.tail, seen: Vec::new() }
    }

    /// The rest of these bytes; an error with all of them if this is not what is stored.
    fn leave_out(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
        let count = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let (skipped, rest) = bytes.split_at(count);
        self.left -= count as u64;
        self.seen.extend_from_slice(skipped);
        let surplus = self.seen.len().saturating_sub(self.expected.len());
        self.seen.drain(..surplus);
        if self.left == 0 && self.seen != self.expected {
            return Err(bytes);
        }
        Ok(rest.to_vec())
    }
}

fn marker(text: &str) -> Record {
    Record { at_micros: wall_micros(), stream: Stream::Stderr, bytes: Bytes::from(text.to_owned()) }
}

impl OutputSource for Redacted {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Record>> {
        while !self.is_over {
            match ready!(self.source.poll_next(cx)) {
                Some(record) => {
                    if let Some(record) = self.shown(record).or_else(|| self.explanation()) {
                        return Poll::Ready(Some(record));
                    }
                }
                None => self.is_over = true,
            }
        }
        Poll::Ready(None)
    }

    fn widen(&mut self, stream: Stream) -> Option<usize> {
        self.source.widen(stream)
    }

    fn rest(&mut self, stream: Stream) {
        self.source.rest(stream);
    }

    fn finish(&mut self) -> Vec<Record> {
        let rest = self.source.finish();
        let mut records: Vec<Record> = rest.into_iter().filter_map(|record| self.shown(record)).collect();
        records.extend(self.explanation());
        let masks = self.masks.clone();
        let Some(masks) = masks.get() else { return records };
        let mut masks = masks.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let side = self.side(stream);
            let bytes = side.flow.finish(&mut masks);
            records.extend(side.give(bytes, wall_micros(), stream));
        }
        records
    }

    fn has_certain_end(&self) -> bool {
        self.source.has_certain_end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::VecDeque;

    use super::*;

    struct Pieces(VecDeque<Record>);

    impl OutputSource for Pieces {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Record>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    const WRITTEN: [(Stream, &str); 6] = [
        (Stream::Stdout, "the password is hun"),
        (Stream::Stderr, "warning: hunter"),
        (Stream::Stdout, "ter2 and that is all\n::add-mask::otherone\n"),
        (Stream::Stderr, "2\nnow otherone\n"),
        (Stream::Stdout, "otherone, hunt"),
        (Stream::Stderr, "hun"),
    ];

    fn source(pieces: &[(Stream, &str)]) -> Box<dyn OutputSource> {
        let record = |(stream, text): &(Stream, &str)| Record {
            at_micros: 7,
            stream: *stream,
            bytes: Bytes::copy_from_slice(text.as_bytes()),
        };
        Box::new(Pieces(pieces.iter().map(record).collect()))
    }

    fn masks(values: &[&str]) -> Arc<OnceLock<Mutex<Masks>>> {
        let values: Vec<SecretValue> =
            values.iter().map(|value| SecretValue::new(value.as_bytes().to_vec())).collect();
        Arc::new(OnceLock::from(Mutex::new(Finders::default().masks(&values))))
    }

    fn read(mut source: Redacted) -> [String; 2] {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut read = [String::new(), String::new()];
        let mut records = Vec::new();
        while let Poll::Ready(Some(record)) = source.poll_next(&mut cx) {
            records.push(record);
        }
        records.extend(source.finish());
        for record in records {
            read[usize::from(record.stream == Stream::Stderr)]
                .push_str(std::str::from_utf8(&record.bytes).unwrap());
        }
        read
    }

    #[test]
    fn both_streams_are_shown_without_the_secrets_however_they_were_read() {
        let [stdout, stderr] = read(Redacted::new(source(&WRITTEN), masks(&["hunter2"]), None));
        assert_eq!(stdout, "the password is *** and that is all\n::add-mask::***\n***, ***");
        assert_eq!(stderr, "warning: ***\nnow ***\n***");
    }

    #[test]
    fn what_is_stored_is_left_out_when_all_is_read_again() {
        let [stdout, stderr] = read(Redacted::new(source(&WRITTEN), masks(&["hunter2"]), None));
        for cut in 0..stdout.len() {
            let mut stored = Position::default();
            stored.stdout.add(&stdout.as_bytes()[..cut]);
            stored.stderr.add(&stderr.as_bytes()[..cut.min(5)]);
            let rest = read(Redacted::new(source(&WRITTEN), masks(&["hunter2"]), Some(stored)));
            assert_eq!(rest, [&stdout[cut..], &stderr[cut.min(5)..]]);
        }
        let mut other = Position::default();
        other.stdout.add(b"something else");
        let [rest, _] = read(Redacted::new(source(&WRITTEN), masks(&["hunter2"]), Some(other)));
        assert!(rest.contains("may be missing or repeated") && !rest.contains("hunter2"), "{rest}");
    }

    #[test]
    fn without_masks_nothing_is_shown_but_why() {
        for masks in [Arc::default(), Arc::new(OnceLock::from(Mutex::new(Masks::unknown())))] {
            let [stdout, stderr] = read(Redacted::new(source(&WRITTEN), masks, None));
            assert_eq!((stdout.as_str(), stderr.as_str()), ("", WITHHELD));
        }
    }

    #[test]
    fn attempts_with_the_same_secrets_share_what_finds_them() {
        let finders = Finders::default();
        let value = |text: &str| SecretValue::new(text.as_bytes().to_vec());
        let (one, other) = ([value("hunter2"), value("second")], [value("hunter3")]);
        let (first, second) = (finders.masks(&one), finders.masks(&one));
        let third = finders.masks(&other);
        assert!(first.shares_with(&second) && !first.shares_with(&third));
        drop((first, second));
        finders.masks(&[value("hunter4")]);
        assert!(finders.0.lock().unwrap().iter().filter(|hidden| hidden.strong_count() > 0).count() <= 1);
    }

    /// The other task stands for all attempts of the worker, which the runtime has one thread for.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn while_a_value_is_added_others_go_on() {
        tokio::spawn(async {
            let (told, waits) = std::sync::mpsc::channel();
            tokio::spawn(async move { told.send(()).unwrap() });
            aside(|| waits.recv_timeout(std::time::Duration::from_secs(60)).unwrap());
        })
        .await
        .unwrap();
    }
}
