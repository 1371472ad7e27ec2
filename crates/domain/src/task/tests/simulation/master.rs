//! The master of the simulation: it keeps tasks as the store would, and watches every step of each.

use std::collections::BTreeSet;

use super::table::Table;
use super::worker::Outcome;
use super::*;
use crate::worker::{Expected, ExpectedState, LOST_MARGIN, Occasion, Repair, ReportedAttempt, reconcile};

/// What workers say.
#[derive(Clone)]
pub enum ToMaster {
    Hello { sent: Millis, boot: u32, held: Vec<ReportedAttempt> },
    Heartbeat { sent: Millis, held: Vec<ReportedAttempt> },
    Started(AttemptRef, Millis),
    Over(AttemptRef, Outcome),
}

pub struct Master {
    pub tasks: Vec<Watched>,
    links: Vec<Link>,
    table: Table,
    /// When something last needed a repair.
    pub last_repair: Millis,
}

/// What the master knows of a worker.
#[derive(Default)]
struct Link {
    session: u64,
    is_connected: bool,
    last_contact: Millis,
    boot: u32,
    /// Tasks whose present attempt is there.
    live: BTreeSet<usize>,
    /// Nothing sent later arrives earlier.
    arrives_last: Millis,
}

/// A task, with all that must hold for it.
pub struct Watched {
    id: TaskId,
    pub task: Task,
    restart: Restart,
    lost_after: Millis,
    depends_on: Option<usize>,
    recorded_at: Millis,
    /// The attempt that exists now, and whether it is known to have started.
    open: Option<(u32, bool)>,
    pub repeats: Vec<Millis>,
    /// How often it was stopped to go elsewhere, and waited again.
    moves: usize,
    ends: u32,
}

impl Master {
    pub fn new(rng: &mut StdRng) -> Master {
        let tasks = (0..TASKS).map(|index| Watched::new(index, rng)).collect();
        let links = (0..WORKERS).map(|_| Link::default()).collect();
        Master { tasks, links, table: Table::documented(), last_repair: 0 }
    }

    /// Nothing reaches this worker earlier.
    pub fn stall(&mut self, worker: usize, until: Millis) {
        let link = &mut self.links[worker];
        link.arrives_last = link.arrives_last.max(until);
    }
}

impl Watched {
    fn new(index: usize, rng: &mut StdRng) -> Watched {
        let policies = [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always];
        let restart = Restart {
            policy: policies[rng.random_range(0..3)],
            on_exit: ExitCodes::default(),
            not_on_exit: ExitCodes::default(),
            success: ExitCodes::default(),
            limit: rng.random_range(0..5),
            within: rng.random_bool(0.5).then(|| Span::from_secs(rng.random_range(10..120))),
            delay: Span::from_millis(rng.random_range(0..4_000)),
            backoff: if rng.random_bool(0.5) { Backoff::Constant } else { Backoff::Exponential },
            on_lost: if rng.random_bool(0.5) { OnLost::Restart } else { OnLost::Fail },
        };
        let depends_on = if rng.random_ratio(1, 8) { index.checked_sub(1) } else { None };
        let submitted = rng.random_range(0..TROUBLE_ENDS * 4 / 5);
        Watched {
            id: TaskId(index as i64 + 1),
            task: Task::new(depends_on.is_some(), time(submitted)),
            restart,
            lost_after: [10, 10, 20, 60][rng.random_range(0..4)] * SECOND,
            depends_on,
            recorded_at: submitted,
            open: None,
            repeats: Vec::new(),
            moves: 0,
            ends: 0,
        }
    }

    fn present(&self) -> AttemptRef {
        AttemptRef { task: self.id, attempt: self.task.attempt }
    }

    /// Checks one step and takes it.
    fn step(&mut self, table: &Table, truth: &Truth, event: &TaskEvent, change: &Change, now: Millis) {
        let (before, next) = (&self.task, &change.task);
        let name = next.state.name();
        assert!(table.allows(before, event, name), "{before:?}, {event:?} gave {next:?}");
        assert!(!before.state.name().is_final(), "the final {before:?} became {next:?}");

        let number = next.attempt;
        match &change.attempt {
            Some(AttemptChange::Opened { .. }) => {
                assert_eq!(number, before.attempt + 1);
                assert_eq!(self.open, None, "two live attempts");
                self.open = Some((number, false));
            }
            Some(AttemptChange::Started { .. }) => {
                assert_eq!((number, self.open), (before.attempt, Some((number, false))));
                self.open = Some((number, true));
            }
            Some(AttemptChange::Closed { .. }) => {
                assert_eq!(number, before.attempt);
                assert_eq!(self.open.map(|(open, _)| open), Some(number), "closed, but not open");
                self.open = None;
            }
            None => assert_eq!(number, before.attempt),
        }
        assert_eq!(next.state.worker().is_some(), self.open.is_some(), "{next:?}");

        if name == StateName::Completed {
            let really = truth.began.get(&self.present()).cloned().flatten();
            assert_eq!(really, Some(exited(0)), "completed without a success");
        }
        let waits_again = matches!(event, TaskEvent::Ended(..)) && name == StateName::Pending;
        if waits_again && before.state.after_stop() == Some(AfterStop::Move) && next.repeats == before.repeats
        {
            self.moves += 1;
        } else if waits_again {
            self.repeats.push(now);
            self.check_repeats();
        } else {
            assert_eq!(next.repeats, before.repeats, "only a repeat is counted as one");
        }
        self.ends += u32::from(name.is_final());
        self.task = next.clone();
        self.recorded_at = now;
    }

    /// At most `limit` repeats in each window that a repeat opens, and so fewer than twice as many in any.
    fn check_repeats(&self) {
        let limit = self.restart.limit as usize;
        let Some(within) = self.restart.within.map(Span::as_millis) else {
            return assert!(self.repeats.len() <= limit);
        };
        let mut rest = &self.repeats[..];
        while let Some(opened) = rest.first() {
            let in_window = rest.partition_point(|repeat| *repeat < opened + within);
            assert!(in_window <= limit, "{in_window} repeats in one window, {limit} allowed");
            rest = &rest[in_window..];
        }
        for (at, opened) in self.repeats.iter().enumerate() {
            let near = self.repeats[at..].partition_point(|repeat| *repeat < opened + within);
            assert!(near < 2 * limit, "{near} repeats in any {within} ms, {limit} allowed in a window");
        }
    }

    pub fn check_at_the_end(&self, truth: &Truth) {
        assert_eq!(self.ends, 1, "{} never ended: {:?}", self.id, self.task);
        assert!(self.task.state.name().is_final());
        assert_eq!(self.open, None);
        if self.restart.policy == RestartPolicy::Never && self.restart.on_lost == OnLost::Fail {
            let started = truth.started_attempts(self.id);
            let allowed = 1 + self.moves;
            assert!(started <= allowed, "{started} attempts started of a task that is never repeated");
        }
    }
}

impl World {
    /// An operator wants a task to leave its worker.
    pub fn moves(&mut self, at: usize) {
        let task = &self.master.tasks[at].task;
        let Some(worker) = task.state.worker() else { return };
        let report = Report { worker, attempt: task.attempt };
        let _ = self.apply(at, TaskEvent::MoveRequested(report, "moved".to_owned()));
    }

    /// The one way in: applies an event, checks what it did, and sends the command that follows.
    pub fn apply(&mut self, at: usize, event: TaskEvent) -> Result<(), Rejected> {
        let watched = &mut self.master.tasks[at];
        let held_before = watched.task.state.worker();
        let change = apply(&watched.task, &watched.restart, event.clone(), time(self.now))?;
        watched.step(&self.master.table, &self.truth, &event, &change, self.now);

        let state = watched.task.state.name();
        let held_now = watched.task.state.worker();
        let (attempt, lost_after) = (watched.present(), watched.lost_after);
        if let (Some(worker), None) = (held_before, held_now) {
            self.master.links[index_of(worker)].live.remove(&at);
        }
        if let (None, Some(worker)) = (held_before, held_now) {
            self.master.links[index_of(worker)].live.insert(at);
        }
        match change.command {
            Some(Command::Start(worker)) => {
                self.send_to_worker(index_of(worker), ToWorker::Start { attempt, lost_after });
            }
            Some(Command::Stop(worker)) => {
                self.send_to_worker(index_of(worker), ToWorker::Stop(attempt));
            }
            None => {}
        }
        if state.is_final() {
            self.unblock(at, state);
        }
        Ok(())
    }

    fn unblock(&mut self, done: usize, state: StateName) {
        let waiting =
            |task: &Watched| task.depends_on == Some(done) && task.task.state.name() == StateName::Blocked;
        let waiting: Vec<usize> = (0..TASKS).filter(|at| waiting(&self.master.tasks[*at])).collect();
        for at in waiting {
            let event = match state {
                StateName::Completed => TaskEvent::DependenciesMet,
                _ => cannot_run(),
            };
            self.apply(at, event).unwrap();
        }
    }

    pub fn schedule(&mut self) {
        self.later(500, Happening::Schedule);
        let now = time(self.now);
        let is_due =
            |task: &Task| matches!(task.state, TaskState::Pending { not_before, .. } if not_before <= now);
        for at in 0..TASKS {
            if !is_due(&self.master.tasks[at].task) {
                continue;
            }
            let worker = self.rng.random_range(0..WORKERS);
            let link = &self.master.links[worker];
            if link.is_connected && link.live.len() < 8 {
                self.apply(at, TaskEvent::Placed { worker: id_of(worker) }).unwrap();
            }
        }
    }

    pub fn sweep(&mut self) {
        self.later(SECOND, Happening::Sweep);
        for worker in 0..WORKERS {
            let silent_for = self.now - self.master.links[worker].last_contact;
            let is_lost =
                |at: &usize| silent_for >= self.master.tasks[*at].lost_after + LOST_MARGIN.as_millis();
            let lost_tasks: Vec<usize> =
                self.master.links[worker].live.iter().copied().filter(is_lost).collect();
            for at in lost_tasks {
                let report = by(id_of(worker), self.master.tasks[at].task.attempt);
                self.apply(at, TaskEvent::Ended(report, lost(LostCause::OutOfContact))).unwrap();
            }
        }
    }

    /// Somebody tells stories about attempts that are not the present one.
    pub fn nonsense(&mut self) {
        self.within(2 * SECOND, Happening::Nonsense);
        let at = self.rng.random_range(0..TASKS);
        let task = &self.master.tasks[at].task;
        let holder = task.state.worker().unwrap_or(HERE);
        let report = match self.rng.random_range(0..3) {
            0 => by(holder, task.attempt + 1),
            1 => by(holder, task.attempt.wrapping_sub(1)),
            _ => by(WorkerId(holder.0 + 1), task.attempt),
        };
        let event = match self.rng.random_range(0..3) {
            0 => TaskEvent::Started(report, time(self.now)),
            1 => TaskEvent::Returned(report),
            _ => TaskEvent::Ended(report, exited(0)),
        };
        assert_eq!(self.apply(at, event), Err(Rejected::Stale));
    }

    pub fn reaches_master(&mut self, worker: usize, session: u64, message: ToMaster) {
        if self.workers[worker].broke_before(session, self.now) {
            return;
        }
        let link = &mut self.master.links[worker];
        match message {
            ToMaster::Hello { sent, boot, held } if session > link.session => {
                let rebooted = link.boot != 0 && link.boot != boot;
                let (last_contact, live) = (self.now, std::mem::take(&mut link.live));
                *link =
                    Link { session, is_connected: true, last_contact, boot, live, arrives_last: self.now };
                self.send_to_worker(worker, ToWorker::Alive { sent });
                self.repair(worker, &held, Occasion::Hello { rebooted });
            }
            _ if session != link.session || !link.is_connected => {}
            ToMaster::Hello { .. } => {}
            ToMaster::Heartbeat { sent, held } => {
                link.last_contact = self.now;
                self.send_to_worker(worker, ToWorker::Alive { sent });
                self.repair(worker, &held, Occasion::Heartbeat);
            }
            report => {
                link.last_contact = self.now;
                // A report may be overtaken by what comes after it, and be told twice.
                if !self.one_in(4) || self.is_calm() {
                    return self.report_arrives(worker, report);
                }
                for _ in 0..self.rng.random_range(1..3) {
                    self.within(40 * SECOND, Happening::StrayReachesMaster(worker, report.clone()));
                }
            }
        }
    }

    pub fn report_arrives(&mut self, worker: usize, message: ToMaster) {
        let (attempt, event): (AttemptRef, fn(Report, ToMaster) -> TaskEvent) = match &message {
            ToMaster::Started(attempt, _) => (*attempt, |report, message| match message {
                ToMaster::Started(_, at) => TaskEvent::Started(report, time(at)),
                _ => unreachable!(),
            }),
            ToMaster::Over(attempt, _) => (*attempt, |report, message| match message {
                ToMaster::Over(_, Outcome::Ended(end)) => TaskEvent::Ended(report, end),
                _ => TaskEvent::Returned(report),
            }),
            _ => unreachable!("only reports come by detours"),
        };
        let is_over = matches!(message, ToMaster::Over(..));
        let report = by(id_of(worker), attempt.attempt);
        // A refused report changes nothing, and the worker may forget it all the same.
        let _ = self.apply(index_of_task(attempt), event(report, message));
        if is_over {
            self.send_to_worker(worker, ToWorker::EndStored(attempt));
        }
    }

    fn repair(&mut self, worker: usize, held: &[ReportedAttempt], occasion: Occasion) {
        let expected: Vec<Expected> =
            self.master.links[worker].live.iter().map(|at| self.expected(*at)).collect();
        for repair in reconcile(&expected, held, occasion, time(self.now)) {
            self.master.last_repair = self.now;
            match repair {
                Repair::SendStart(attempt) => {
                    let is_hello = occasion != Occasion::Heartbeat;
                    assert!(!is_hello || !self.truth.began.contains_key(&attempt), "it has started already");
                    let lost_after = self.master.tasks[index_of_task(attempt)].lost_after;
                    self.send_to_worker(worker, ToWorker::Start { attempt, lost_after });
                }
                Repair::SendStop(attempt) => self.send_to_worker(worker, ToWorker::Stop(attempt)),
                Repair::SendKill(attempt) => self.send_to_worker(worker, ToWorker::Kill(attempt)),
                Repair::Started(attempt) => {
                    let event = TaskEvent::Started(by(id_of(worker), attempt.attempt), time(self.now));
                    self.apply(index_of_task(attempt), event).unwrap();
                }
                Repair::Lost(attempt, cause) => {
                    let event = TaskEvent::Ended(by(id_of(worker), attempt.attempt), lost(cause));
                    self.apply(index_of_task(attempt), event).unwrap();
                }
            }
        }
    }

    fn expected(&self, at: usize) -> Expected {
        let watched = &self.master.tasks[at];
        let state = match watched.task.state.name() {
            StateName::Scheduled => ExpectedState::Scheduled,
            StateName::Running => ExpectedState::Running,
            StateName::Stopping => ExpectedState::Stopping,
            state => panic!("a task that is {state} is live nowhere"),
        };
        Expected { attempt: watched.present(), state, since: time(watched.recorded_at), is_of_backup: false }
    }

    pub fn master_notices_break(&mut self, worker: usize, session: u64) {
        let link = &mut self.master.links[worker];
        link.is_connected &= link.session != session;
    }

    fn send_to_worker(&mut self, worker: usize, message: ToWorker) {
        let arrives = self.now + self.travel_time();
        let link = &mut self.master.links[worker];
        if link.is_connected {
            link.arrives_last = link.arrives_last.max(arrives);
            let (delay, session) = (link.arrives_last - self.now, link.session);
            self.later(delay, Happening::ReachesWorker(worker, session, message));
        }
    }
}

pub fn id_of(worker: usize) -> WorkerId {
    WorkerId(worker as i64 + 1)
}

fn index_of(worker: WorkerId) -> usize {
    worker.0 as usize - 1
}

fn index_of_task(attempt: AttemptRef) -> usize {
    attempt.task.0 as usize - 1
}
