//! The result of a torture run.

use std::collections::BTreeMap;
use std::fmt;

use futures::StreamExt as _;
use gaffer_protocol::output::Stream;
use gaffer_protocol::rest::{Task, TaskDetail};

use super::fleet::Fleet;
use super::scenario::Script;
use super::witness::Witness;

/// The findings that are shown one by one.
const MAX_SHOWN: usize = 10;

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
    /// Other promises that were not kept.
    pub broken: Vec<String>,
    /// What took longer than is promised.
    pub slow: Vec<String>,
    /// What broke down, from the logs.
    pub panics: Vec<String>,
    /// What was measured, as it is to be shown.
    pub figures: Vec<String>,
}

impl Verdict {
    /// Whether every promise was kept.
    pub fn is_good(&self) -> bool {
        self.is_sound() && self.slow.is_empty()
    }

    /// Whether every promise was kept but those about time, which a busy machine breaks.
    pub fn is_sound(&self) -> bool {
        self.lost.is_empty()
            && self.unseen.is_empty()
            && self.wrong_outputs.is_empty()
            && self.broken.is_empty()
            && self.panics.is_empty()
            && self.double_starts + self.overlaps + self.survivors == 0
    }

    /// Adds something that was measured.
    pub(super) fn figure(&mut self, figure: String) {
        self.figures.push(figure);
    }

    /// Adds a promise that was not kept.
    pub(super) fn broken(&mut self, promise: String) {
        self.broken.push(promise);
    }

    /// Adds something that was measured, as broken unless it is as promised.
    pub(super) fn promise(&mut self, is_kept: bool, figure: String) {
        match is_kept {
            true => self.figure(figure),
            false => self.broken(figure),
        }
    }

    /// Adds times that were measured, as too long if they are.
    pub(super) fn time_limit(&mut self, is_kept: bool, figure: String) {
        match is_kept {
            true => self.figure(figure),
            false => self.slow.push(figure),
        }
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
        for figure in &self.figures {
            writeln!(f, "{figure}")?;
        }
        for times in self.slow.iter().take(MAX_SHOWN) {
            writeln!(f, "  TOO SLOW: {times}")?;
        }
        for promise in self.broken.iter().take(MAX_SHOWN) {
            writeln!(f, "  BROKEN: {promise}")?;
        }
        let findings = [&self.panics, &self.lost, &self.unseen, &self.wrong_outputs];
        for finding in findings.into_iter().flatten().take(MAX_SHOWN) {
            writeln!(f, "  {finding}")?;
        }
        Ok(())
    }
}

/// So many outputs are fetched at the same time.
const AT_ONCE: usize = 4;

pub(super) async fn judge(fleet: &Fleet, witness: &Witness, tasks: &[(u64, Task)]) -> Verdict {
    let mut verdict =
        Verdict { tasks: tasks.len(), survivors: witness.survivors().len(), ..Verdict::default() };
    let outputs = futures::stream::iter(tasks).map(|(seed, task)| async move {
        let found = match task.state.as_str() {
            "completed" => Some(output(fleet, task).await),
            _ => None,
        };
        (*seed, task, found)
    });
    let mut outputs = std::pin::pin!(outputs.buffered(AT_ONCE));
    while let Some((seed, task, found)) = outputs.next().await {
        let name = named(task);
        let Some([stdout, stderr]) = found else {
            let reason = task.reason.as_ref().map_or("", |reason| reason.message.as_str());
            verdict.lost.push(format!("{name} is {}: {reason}", task.state));
            continue;
        };
        let key = (task.job.0, task.index);
        if !witness.seen().attempts.get(&key).is_some_and(|attempts| attempts.contains_key(&task.attempt)) {
            verdict.unseen.push(format!("{name} completed, and never began"));
        }
        let script = Script::of(seed, task.index, 100);
        verdict.wanted_repeats += usize::from(script.fails_first);
        for (what, found, expected) in
            [("stdout", stdout, script.expected(false)), ("stderr", stderr, script.expected(true))]
        {
            if found != expected {
                let (length, expected) = (found.len(), expected.len());
                verdict.wrong_outputs.push(format!(
                    "{name}: {length} bytes of {what}, {expected} expected: {}",
                    beginning(&found)
                ));
            }
        }
    }
    let seen = witness.seen();
    verdict.attempts = seen.attempts.values().map(BTreeMap::len).sum();
    verdict.repeats = verdict.attempts - seen.attempts.len();
    (verdict.double_starts, verdict.overlaps) = (seen.double_starts.len(), seen.overlaps.len());
    for ((job, index), attempt) in seen.overlaps.iter().take(MAX_SHOWN) {
        verdict.figure(format!("attempt {attempt} of {job}/{index} began while an earlier one lived"));
    }
    verdict
}

/// Checks that what a lapsed attempt had to say changed nothing: whatever was replaced had ended before, and not well.
pub(super) fn audit(verdict: &mut Verdict, repeated: &[TaskDetail]) {
    let (mut stale, mut losses) = (0, BTreeMap::<&str, usize>::new());
    for TaskDetail { task, attempts } in repeated {
        for reason in attempts.iter().filter_map(|attempt| attempt.reason.as_ref()) {
            if reason.code.as_str() == "lost_worker" {
                *losses.entry(&reason.message).or_default() += 1;
            }
        }
        // Latest first.
        for pair in attempts.windows(2) {
            let [next, replaced] = pair else { continue };
            let had_ended = replaced.finished_at.is_some_and(|at| at <= next.scheduled_at);
            // One that was given back unstarted has neither.
            let ended_well = replaced.reason.is_none() && replaced.exit_code.is_some();
            if !had_ended || ended_well {
                stale += 1;
                verdict.broken(format!("{} was replaced after attempt {}", named(task), replaced.attempt));
            }
        }
        let last = attempts.first().map(|attempt| (attempt.attempt, attempt.finished_at));
        if last != Some((task.attempt, task.finished_at)) && task.finished_at.is_some() {
            stale += 1;
            verdict.broken(format!("{} did not end with its last attempt", named(task)));
        }
    }
    verdict.figure(format!("repeated tasks {}, stale reports accepted {stale}", repeated.len()));
    for (reason, count) in losses {
        verdict.figure(format!("attempts lost because {reason}: {count}"));
    }
}

/// A task for people to find.
pub(super) fn named(task: &Task) -> String {
    let worker = task.worker.as_deref().unwrap_or("no worker");
    format!("{}/{} attempt {} on {worker}", task.job, task.address, task.attempt)
}

/// Both streams of a task's output.
pub(super) async fn output(fleet: &Fleet, task: &Task) -> [Vec<u8>; 2] {
    let mut streams = [Vec::new(), Vec::new()];
    for data in fleet.output(task).await {
        // The tasks write text only.
        streams[usize::from(data.stream == Stream::Stderr)].extend(data.text.unwrap_or_default().bytes());
    }
    streams
}

/// How an output begins, for people.
fn beginning(output: &[u8]) -> String {
    const SHOWN: usize = 80;
    String::from_utf8_lossy(&output[..output.len().min(SHOWN)]).escape_debug().to_string()
}
