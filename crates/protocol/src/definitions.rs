//! What tasks of one definition share; sent once per session, and referred to by each start.
//!
//! A definition travels as text in parts, so that a large one holds up nothing behind it. Both sides keep what was sent
//! in a [`Known`]: as they insert the same definitions in the same order, they forget the same ones, and the sender knows
//! what the receiver has without asking.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use gaffer_domain::parameters::variables;
use gaffer_domain::placement::DefinitionRef;
use gaffer_domain::quantity::Span;
use gaffer_domain::spec::{
    Action, Container, DriverKind, HealthCheck, Item, JobSpec, OutputLimit, Port, PortProtocol, Probe,
    Resources, SecretUse, StopSpec,
};
use gaffer_domain::{AttemptRef, JobId};
use serde::{Deserialize, Serialize};

use crate::ports::NamedPort;
use crate::wire::{Start, ToWorker};

/// The most text of one part.
pub const PART_BYTES: usize = 64 << 10;
/// Definitions kept per session: the oldest are forgotten when there are more, or when they are longer than this
/// together. The newest is always kept.
pub const KEPT_BYTES: usize = 32 << 20;
/// The most definitions kept per session.
pub const KEPT_DEFINITIONS: usize = 4_096;
/// A worker takes no longer text of one definition. The limits on what a definition may hold keep it below a tenth of
/// that, however it is escaped.
pub const MAX_TEXT_BYTES: usize = 64 << 20;

/// All that a worker needs to execute the attempts of one task definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The job's number, for the environment.
    pub job: JobId,
    /// The definition's name, for the environment.
    pub task: String,
    /// What executes it.
    pub driver: DriverKind,
    /// The container: present exactly if the driver is `docker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Box<Container>>,
    /// Ports with a name, of any driver; those of the container have none. A worker that does not know the field starts
    /// the task without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named_ports: Vec<Port>,
    /// Where it runs on the host; none means in a scratch directory of the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Its niceness on the host: 0..=19. A worker that does not know the field starts it with its own.
    #[serde(default, skip_serializing_if = "is_not_nice")]
    pub nice: u8,
    /// Whether its standard input is what [`ToWorker::Input`] brings; else it is empty.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// The program.
    pub action: Action,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// The secrets that it uses: a worker asks for their values before each attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretUse>,
    /// Reserved resources.
    pub resources: Resources,
    /// How many of countable resources it has for itself while it runs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub countables: BTreeMap<String, u32>,
    /// How long it may run.
    pub timeout: Option<Span>,
    /// How much output it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputLimit>,
    /// How it is asked to end.
    pub stop: StopSpec,
    /// The check that it must pass. A worker that does not know the field checks nothing; likewise below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// The check that it must pass to count as available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<HealthCheck>,
    /// How long the worker may be out of contact before it must have stopped it.
    pub lost_after: Span,
}

/// As tasks are that say nothing of it, also to workers that do not know the field.
fn is_not_nice(nice: &u8) -> bool {
    *nice == 0
}

impl Definition {
    /// What a worker has to know of a definition; none if the specification has no such definition.
    pub fn of(definition: DefinitionRef, spec: &JobSpec) -> Option<Definition> {
        let task = spec.tasks.get(usize::from(definition.position))?;
        let mut container = task.container.clone().map(Box::new);
        if let Some(container) = &mut container {
            container.ports.retain(|port| port.name.is_none());
        }
        Some(Definition {
            job: definition.job_number(),
            task: task.name.clone(),
            driver: task.driver,
            container,
            named_ports: task.ports().iter().filter(|port| port.name.is_some()).cloned().collect(),
            workdir: task.workdir.clone(),
            nice: task.nice,
            stdin: task.stdin,
            action: task.action.clone(),
            // No name in `env` begins as theirs do.
            env: task.env.clone().into_iter().chain(variables(&spec.parameters)).collect(),
            secrets: task.secrets.clone(),
            resources: task.resources.amounts,
            countables: task.resources.countables.clone(),
            timeout: task.timeout,
            output: task.output,
            stop: task.stop,
            health: task.health.clone(),
            readiness: task.readiness.clone(),
            lost_after: spec.lost_after,
        })
    }

    /// Whether a check of it runs a program beside the task.
    pub fn has_command_check(&self) -> bool {
        let checks = [&self.health, &self.readiness].into_iter().flatten();
        checks.into_iter().any(|check| matches!(check.probe, Probe::Command { .. }))
    }

    /// Whether a task of it has the network of its worker, so that what it listens on is a port of the worker.
    pub fn shares_network(&self) -> bool {
        self.container.as_ref().is_none_or(|container| container.shares_network())
    }

    /// Ports of the worker that its container takes by their numbers, without a name.
    pub fn published_ports(&self) -> impl Iterator<Item = (u16, PortProtocol)> {
        let shared = self.shares_network();
        let ports = self.container.iter().flat_map(|container| &container.ports);
        ports.filter_map(move |port| Some((port.fixed(shared)?, port.protocol)))
    }
}

/// An attempt with all that a worker needs to execute it: a [`Start`] and its definition put together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartAttempt {
    /// Which.
    pub attempt: AttemptRef,
    /// The task's index, for the environment.
    pub index: u32,
    /// The task's item, for the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
    /// Which pieces of countable resources it has, by number; its worker fills that in when it starts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pieces: BTreeMap<String, Vec<u32>>,
    /// Its named ports; its worker assigns them when it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assigned_ports: Vec<NamedPort>,
    /// What it shares with the other attempts of its definition.
    #[serde(flatten, with = "shared")]
    pub definition: Arc<Definition>,
}

/// Serialises the shared part inline.
mod shared {
    use super::{Arc, Definition, Deserialize, Serialize};

    pub(super) fn serialize<S: serde::Serializer>(
        definition: &Arc<Definition>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        definition.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Definition>, D::Error> {
        Definition::deserialize(deserializer).map(Arc::new)
    }
}

/// A definition did not arrive in one piece.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the definition of task {} of job {} {problem}", .definition.position, .definition.job)]
pub struct Broken {
    definition: DefinitionRef,
    problem: String,
}

/// Definitions that both sides of a session have, up to a number and a length; the oldest go first.
#[derive(Debug)]
pub struct Known<V> {
    entries: HashMap<DefinitionRef, (usize, V)>,
    oldest_first: VecDeque<DefinitionRef>,
    bytes: usize,
}

impl<V> Default for Known<V> {
    fn default() -> Known<V> {
        Known { entries: HashMap::new(), oldest_first: VecDeque::new(), bytes: 0 }
    }
}

impl<V> Known<V> {
    /// The cached definition; none if it was never sent, or was evicted.
    pub fn get(&self, definition: DefinitionRef) -> Option<&V> {
        self.entries.get(&definition).map(|(_, value)| value)
    }

    /// Adds a definition whose text has this length, and forgets the oldest while there are too many.
    pub fn insert(&mut self, definition: DefinitionRef, bytes: usize, value: V) {
        self.remove(definition);
        self.entries.insert(definition, (bytes, value));
        self.oldest_first.push_back(definition);
        self.bytes += bytes;
        while self.oldest_first.len() > 1
            && (self.bytes > KEPT_BYTES || self.oldest_first.len() > KEPT_DEFINITIONS)
        {
            let Some(oldest) = self.oldest_first.pop_front() else { return };
            self.bytes -= self.entries.remove(&oldest).map_or(0, |(bytes, _)| bytes);
        }
    }

    fn remove(&mut self, definition: DefinitionRef) {
        if let Some((bytes, _)) = self.entries.remove(&definition) {
            self.bytes -= bytes;
            self.oldest_first.retain(|kept| *kept != definition);
        }
    }
}

/// The sender's side: a definition as the messages that carry it, and the length of its text.
pub fn parts(definition: DefinitionRef, content: &Definition) -> (Vec<ToWorker>, usize) {
    // No map in it has keys that are not text, so this cannot fail.
    let text = serde_json::to_string(content).unwrap_or_default();
    let mut parts = Vec::with_capacity(text.len() / PART_BYTES + 1);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let cut = (0..=PART_BYTES.min(rest.len())).rev().find(|at| rest.is_char_boundary(*at));
        let (part, after) = rest.split_at(cut.unwrap_or(rest.len()));
        let at = text.len() - rest.len();
        rest = after;
        parts.push(ToWorker::Definition { definition, at, part: part.to_owned(), is_last: rest.is_empty() });
    }
    (parts, text.len())
}

/// The receiver's side: puts definitions together, and starts with them.
#[derive(Debug, Default)]
pub struct Definitions {
    known: Known<Arc<Definition>>,
    /// What has arrived of those that are not whole.
    arriving: HashMap<DefinitionRef, String>,
}

impl Definitions {
    /// Takes a part. One that is here already changes nothing.
    ///
    /// # Errors
    /// When a part before it is missing, or the whole cannot be read.
    pub fn take(
        &mut self,
        definition: DefinitionRef,
        at: usize,
        part: &str,
        is_last: bool,
    ) -> Result<(), Broken> {
        let broken = |problem: String| Broken { definition, problem };
        if self.known.get(definition).is_some() {
            return Ok(());
        }
        let arriving: usize = self.arriving.values().map(String::len).sum();
        let text = self.arriving.entry(definition).or_default();
        if at < text.len() {
            return Ok(());
        }
        if at > text.len() {
            return Err(broken(format!(
                "lacks a part: {} bytes are here, the next begins at {at}",
                text.len()
            )));
        }
        if arriving + part.len() > MAX_TEXT_BYTES {
            return Err(broken(format!("is longer than {MAX_TEXT_BYTES} bytes")));
        }
        text.push_str(part);
        if !is_last {
            return Ok(());
        }
        let text = self.arriving.remove(&definition).unwrap_or_default();
        let content: Definition =
            serde_json::from_str(&text).map_err(|error| broken(format!("can't be read: {error}")))?;
        self.known.insert(definition, text.len(), Arc::new(content));
        Ok(())
    }

    /// A start together with its definition; none if the definition is not here, which only a mistake of the sender
    /// explains.
    pub fn resolve(&self, start: &Start) -> Option<StartAttempt> {
        let definition = self.known.get(start.definition)?.clone();
        Some(StartAttempt {
            attempt: start.attempt,
            index: start.index,
            item: start.item.clone(),
            pieces: BTreeMap::new(),
            assigned_ports: Vec::new(),
            definition,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use gaffer_domain::TaskId;
    use gaffer_domain::quantity::{Bytes, Cpu};
    use gaffer_domain::spec::StopSignal;

    use super::*;

    fn key(job: i64) -> DefinitionRef {
        DefinitionRef { job: JobId(job), position: 0 }
    }

    fn definition(script: &str) -> Definition {
        Definition {
            job: JobId(1),
            task: "main".to_owned(),
            driver: DriverKind::Host,
            container: None,
            named_ports: Vec::new(),
            workdir: None,
            nice: 0,
            stdin: false,
            action: Action::Script(script.to_owned()),
            env: BTreeMap::new(),
            secrets: Vec::new(),
            resources: Resources { cpu: Cpu::from_millis(0), memory: Bytes(0), disk: Bytes(0) },
            countables: BTreeMap::new(),
            timeout: None,
            output: None,
            stop: StopSpec { signal: StopSignal::Sigterm, grace: Span::from_secs(30) },
            health: None,
            readiness: None,
            lost_after: Span::from_secs(120),
        }
    }

    fn take_all(definitions: &mut Definitions, parts: &[ToWorker]) -> Result<(), Broken> {
        parts.iter().try_for_each(|part| match part {
            ToWorker::Definition { definition, at, part, is_last } => {
                definitions.take(*definition, *at, part, *is_last)
            }
            other => panic!("{other:?}"),
        })
    }

    fn start(job: i64) -> Start {
        let attempt = AttemptRef { task: TaskId(7), attempt: 2 };
        Start { attempt, definition: key(job), index: 3, item: None, lost_after: Span::from_secs(120) }
    }

    #[test]
    fn a_definition_of_any_length_arrives_as_it_was_sent_in_parts_that_are_short() {
        for length in [0, 1, PART_BYTES - 1, 300 << 10, 4 << 20] {
            // Two bytes a character, so that a cut at any byte would tear some.
            let sent = definition(&"ä\n".repeat(length / 3));
            let (parts, _) = parts(key(1), &sent);
            for part in &parts {
                // Escaped twice, a line end has four bytes.
                assert!(serde_json::to_string(part).unwrap().len() < 4 * PART_BYTES);
            }
            let mut received = Definitions::default();
            take_all(&mut received, &parts).unwrap();
            let resolved = received.resolve(&start(1)).unwrap();
            assert_eq!((&*resolved.definition, resolved.index), (&sent, 3));
            assert_eq!(received.resolve(&start(2)), None);
        }
    }

    #[test]
    fn parts_that_come_twice_change_nothing_and_missing_ones_are_noticed() {
        let (parts, _) = parts(key(1), &definition(&"x".repeat(3 * PART_BYTES)));
        let missing = take_all(&mut Definitions::default(), &parts[1..]).unwrap_err();
        assert!(
            missing.to_string().starts_with("the definition of task 0 of job 1 lacks a part"),
            "{missing}"
        );
        let twice: Vec<ToWorker> = parts.iter().chain(&parts[..2]).cloned().collect();
        let doubled: Vec<ToWorker> = twice.iter().flat_map(|part| [part.clone(), part.clone()]).collect();
        let mut received = Definitions::default();
        take_all(&mut received, &doubled).unwrap();
        assert!(received.resolve(&start(1)).is_some() && received.arriving.is_empty());
    }

    #[test]
    fn both_sides_forget_the_same_definitions() {
        let (mut sender, mut receiver) = (Known::default(), Known::default());
        let mut state = 7_u64;
        for step in 0..20_000_i64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = key((state >> 33) as i64 % 6_000);
            let bytes = (state >> 20) as usize % 60_000;
            // The sender sends definitions that the receiver is not known to have.
            if sender.get(key).is_none() {
                sender.insert(key, bytes, ());
                receiver.insert(key, bytes, step);
            }
            assert!(receiver.get(key).is_some());
            assert!(receiver.bytes <= KEPT_BYTES && receiver.entries.len() <= KEPT_DEFINITIONS);
        }
        let mut kept: Vec<_> = sender.entries.keys().collect();
        kept.retain(|key| receiver.get(**key).is_none());
        assert!(kept.is_empty() && sender.entries.len() == receiver.entries.len());
    }

    #[test]
    fn one_that_is_longer_than_all_may_be_together_is_kept_until_the_next() {
        let mut known = Known::default();
        known.insert(key(1), 10, ());
        known.insert(key(2), KEPT_BYTES + 1, ());
        assert!(known.get(key(1)).is_none() && known.get(key(2)).is_some());
        known.insert(key(3), 10, ());
        assert!(known.get(key(2)).is_none() && known.get(key(3)).is_some());
    }
}
