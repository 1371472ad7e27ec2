//! What a torture run proved, or what it found.

use std::fmt;

use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{OutputLine, Task};

use super::fleet::Fleet;
use super::play::Script;
use super::witness::Witness;

/// The findings that are shown one by one.
const MAX_SHOWN: usize = 10;

/// How it went.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Faults that struck.
    pub faults: u32,
    /// Tasks that were accepted.
    pub tasks: usize,
    /// Attempts that the witness saw begin.
    pub attempts: usize,
    /// Attempts beyond the first of their task.
    pub repeats: usize,
    /// So many of them only because the first was to fail.
    pub wanted_repeats: usize,
    /// Tasks that did not complete.
    pub lost: Vec<String>,
    /// Attempts that began twice.
    pub double_starts: usize,
    /// Attempts that began while an earlier one of their task lived.
    pub overlaps: usize,
    /// Completed tasks of which the witness saw no such attempt.
    pub unseen: Vec<String>,
    /// Outputs that are not what the task wrote.
    pub wrong_outputs: Vec<String>,
    /// Processes of tasks that live on.
    pub survivors: usize,
}

impl Verdict {
    /// Whether every promise was kept.
    pub fn is_good(&self) -> bool {
        self.lost.is_empty()
            && self.unseen.is_empty()
            && self.wrong_outputs.is_empty()
            && self.double_starts + self.overlaps + self.survivors == 0
    }

    /// Attempts that were necessary only because another one was lost.
    pub fn repeats_for_faults(&self) -> usize {
        self.repeats.saturating_sub(self.wanted_repeats)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "faults {}, tasks {}, attempts {}, repeats {} of which {} for the faults",
            self.faults,
            self.tasks,
            self.attempts,
            self.repeats,
            self.repeats_for_faults()
        )?;
        writeln!(
            f,
            "lost {}, double starts {}, overlaps {}, unseen {}, wrong outputs {}, survivors {}",
            self.lost.len(),
            self.double_starts,
            self.overlaps,
            self.unseen.len(),
            self.wrong_outputs.len(),
            self.survivors
        )?;
        for finding in self.lost.iter().chain(&self.unseen).chain(&self.wrong_outputs).take(MAX_SHOWN) {
            writeln!(f, "  {finding}")?;
        }
        Ok(())
    }
}

pub(super) async fn judge(fleet: &Fleet, witness: &Witness, tasks: &[(u64, Task)]) -> Verdict {
    let mut verdict =
        Verdict { tasks: tasks.len(), survivors: witness.survivors().len(), ..Verdict::default() };
    for (seed, task) in tasks {
        let name = format!("{}/{} attempt {}", task.job, task.address, task.attempt);
        if task.state != "completed" {
            let reason = task.reason.as_ref().map_or("", |reason| reason.message.as_str());
            verdict.lost.push(format!("{name} is {}: {reason}", task.state));
            continue;
        }
        let key = (task.job.0, task.index);
        if !witness.seen().attempts.get(&key).is_some_and(|attempts| attempts.contains_key(&task.attempt)) {
            verdict.unseen.push(format!("{name} completed, and never began"));
        }
        let script = Script::of(*seed, task.index, 100);
        verdict.wanted_repeats += usize::from(script.fails_first);
        let path = format!("/jobs/{}/tasks/{}/output", task.job, task.address);
        let text = fleet.client().open(&path, "application/x-ndjson").await.text().await.unwrap();
        let [stdout, stderr] = streams(&text);
        for (what, found, expected) in
            [("stdout", stdout, script.expected(false)), ("stderr", stderr, script.expected(true))]
        {
            if found != expected {
                let (found, expected) = (found.len(), expected.len());
                verdict.wrong_outputs.push(format!("{name}: {found} bytes of {what}, {expected} expected"));
            }
        }
    }
    let seen = witness.seen();
    verdict.attempts = seen.attempts.values().map(std::collections::BTreeMap::len).sum();
    verdict.repeats = verdict.attempts - seen.attempts.len();
    (verdict.double_starts, verdict.overlaps) = (seen.double_starts.len(), seen.overlaps.len());
    verdict
}

/// What the lines of an output say of each stream.
fn streams(lines: &str) -> [Vec<u8>; 2] {
    let mut streams = [Vec::new(), Vec::new()];
    for line in lines.lines() {
        if let Ok(OutputLine::Data(data)) = serde_json::from_str::<OutputLine>(line) {
            // The tasks write text only.
            streams[usize::from(data.stream == Stream::Stderr)].extend(data.text.unwrap_or_default().bytes());
        }
    }
    streams
}
