//! The table in the module's documentation, run cell by cell against [`apply`].

use super::*;

/// *policy*, resolved: what follows an end that nobody asked for, with repeats left and with all used.
const POLICY: &str = "
| end | never | on-failure, left | on-failure, used | always, left | always, used |
|---|---|---|---|---|---|
| success | completed | completed | completed | pending | completed |
| failure | failed | pending | failed | pending | failed |
| stopped | failed | pending | failed | pending | failed |
| lost, restart | pending | pending | failed | pending | failed |
| lost, fail | failed | failed | failed | failed | failed |
";

/// *stopped*, resolved: what follows an end that somebody asked for, whatever the policy.
const STOPPED: &str = "
| end | state |
|---|---|
| success | completed |
| failure | failed |
| stopped | cancelled |
| lost | cancelled |
";

/// The cells of a Markdown table, without its rule.
fn cells(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// The word in a table's cell.
fn look_up(table: &[Vec<String>], row: &str, column: &str) -> String {
    let at = table[0].iter().position(|name| name == column);
    let at = at.unwrap_or_else(|| panic!("the table has no column for {column}"));
    let row = table
        .iter()
        .find(|cells| cells[0] == row)
        .unwrap_or_else(|| panic!("the table has no row for {row}"));
    row[at].clone()
}

/// The documented table.
fn documented() -> Vec<Vec<String>> {
    let lines = include_str!("../../task.rs").lines().filter_map(|line| line.strip_prefix("//! "));
    cells(&lines.collect::<Vec<_>>().join("\n"))
}

/// What [`apply`] is compared with: one row for each state, or for each half of one.
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn documented() -> Table {
        Table(documented())
    }

    /// What the documentation says of an event in a state.
    pub fn word(&self, task: &Task, event: &TaskEvent) -> String {
        look_up(&self.0, row(task), column(event))
    }

    /// Whether the documentation has this step.
    pub fn allows(&self, task: &Task, event: &TaskEvent, next: StateName) -> bool {
        match self.word(task, event).as_str() {
            "*policy*" => {
                matches!(next, StateName::Completed | StateName::Failed | StateName::Pending)
            }
            "*moved*" => {
                matches!(next, StateName::Completed | StateName::Failed | StateName::Pending)
            }
            "*stopped*" => next.is_final(),
            "moving" => next == StateName::Stopping,
            "scaling down" => next == StateName::Stopping,
            "scaled down" => next == StateName::Cancelled,
            word => word == next.as_str(),
        }
    }
}

/// The row of a task's state.
fn row(task: &Task) -> &'static str {
    match &task.state {
        TaskState::Stopping { started, cause, .. } => match (cause.then, started) {
            (AfterStop::Move, None) => "moving, not started",
            (AfterStop::Move, Some(_)) => "moving, started",
            (AfterStop::ScaleDown, None) => "scaling down, not started",
            (AfterStop::ScaleDown, Some(_)) => "scaling down, started",
            (AfterStop::Cancel, None) => "stopping, not started",
            (AfterStop::Cancel, Some(_)) => "stopping, started",
        },
        TaskState::Cancelled { reason, .. } if reason.code == ReasonCode::ScaledDown => "scaled down",
        state => state.name().as_str(),
    }
}

/// The column of an event.
fn column(event: &TaskEvent) -> &'static str {
    match event {
        TaskEvent::DependenciesMet => "dependencies met",
        TaskEvent::CannotRun(_) => "cannot run",
        TaskEvent::WorkerRemoved(_) => "worker removed",
        TaskEvent::Placed { .. } => "placed",
        TaskEvent::Started(..) => "started",
        TaskEvent::Returned(_) => "returned",
        TaskEvent::Ended(..) => "ended",
        TaskEvent::StopRequested(_) => "stop requested",
        TaskEvent::MoveRequested(..) => "move requested",
        TaskEvent::ScaledUp { .. } => "scaled up",
        TaskEvent::Replaced { .. } => "replaced",
    }
}

/// The names of the documented rows.
pub fn rows() -> Vec<String> {
    documented().into_iter().skip(1).map(|cells| cells[0].clone()).collect()
}

/// Tasks in a row's state, fresh ones and repeated ones.
pub fn tasks(row: &str) -> Vec<Task> {
    let reason = Reason { code: ReasonCode::ExitCode, message: "exited with code 1".to_owned() };
    let stopping = |started| TaskState::Stopping { worker: HERE, started, cause: StopCause::by("ana") };
    let moving = |started| TaskState::Stopping { worker: HERE, started, cause: leave_here() };
    let scaling = |started| TaskState::Stopping { worker: HERE, started, cause: scale_down() };
    let scaled = Reason { code: ReasonCode::ScaledDown, message: scale_down().message };
    let states = match row {
        "blocked" => vec![TaskState::Blocked],
        "pending" => vec![
            TaskState::Pending { not_before: at(0), after: None },
            TaskState::Pending { not_before: at(0), after: Some(reason) },
        ],
        "scheduled" => vec![TaskState::Scheduled { worker: HERE, since: at(1) }],
        "running" => vec![TaskState::Running { worker: HERE, since: at(2) }],
        "moving, not started" => vec![moving(None)],
        "moving, started" => vec![moving(Some(at(2)))],
        "scaling down, not started" => vec![scaling(None)],
        "scaling down, started" => vec![scaling(Some(at(2)))],
        "stopping, not started" => vec![stopping(None)],
        "stopping, started" => vec![stopping(Some(at(2)))],
        "completed" => vec![TaskState::Completed { at: at(5) }],
        "failed" => vec![TaskState::Failed { at: at(5), reason }],
        "cancelled" => vec![TaskState::Cancelled { at: at(5), reason }],
        "scaled down" => vec![TaskState::Cancelled { at: at(5), reason: scaled }],
        row => panic!("the table has a row {row}, and there is no such state"),
    };
    let numbers = if row == "blocked" { vec![0] } else { vec![1, 3] };
    let with_number = |attempt| {
        move |state: &TaskState| Task {
            attempt,
            repeats: Repeats::default(),
            unseen: Unseen::default(),
            state: state.clone(),
        }
    };
    numbers
        .into_iter()
        .flat_map(|attempt| states.iter().map(with_number(attempt)).collect::<Vec<_>>())
        .collect()
}

/// One event for each column, the reports on the task's present attempt; an end of each kind.
pub fn events(task: &Task) -> Vec<TaskEvent> {
    let report = by(HERE, task.attempt);
    let mut events = vec![
        TaskEvent::DependenciesMet,
        cannot_run(),
        TaskEvent::WorkerRemoved("its worker was removed".to_owned()),
        TaskEvent::Placed { worker: ELSEWHERE },
        TaskEvent::Started(report, at(2)),
        TaskEvent::Returned(report),
        stop(),
        leave(task.attempt),
        scaled_up(false),
        replaced(),
    ];
    events.extend(ends().into_iter().map(|(_, end)| TaskEvent::Ended(report, end)));
    events
}

/// Every kind of end, by its row in the tables above.
fn ends() -> Vec<(&'static str, AttemptEnd)> {
    let limit = Span::from_secs(60);
    let killed = ProcessEnd::Signal(9);
    let mut ends = vec![
        ("success", exited(0)),
        ("failure", exited(1)),
        ("failure", exited(-1)),
        ("failure", AttemptEnd::Signalled { signal: 11 }),
        ("failure", AttemptEnd::TimedOut { limit, process: killed }),
        ("failure", AttemptEnd::TimedOut { limit, process: ProcessEnd::Code(0) }),
        ("failure", AttemptEnd::OutOfMemory),
        ("failure", AttemptEnd::StartFailed { exit_code: 127, message: "no such program".to_owned() }),
        ("stopped", AttemptEnd::Stopped { process: None }),
        ("stopped", AttemptEnd::Stopped { process: Some(ProcessEnd::Code(0)) }),
        ("stopped", AttemptEnd::Stopped { process: Some(killed) }),
    ];
    let causes = [
        LostCause::OutOfContact,
        LostCause::LeaseExpired,
        LostCause::Rebooted,
        LostCause::WorkerRestarted,
        LostCause::WorkerShutDown,
        LostCause::DaemonGone,
        LostCause::ContainerRemoved,
        LostCause::NotHeld,
        LostCause::EndRefused,
    ];
    ends.extend(causes.map(|cause| ("lost", lost(cause))));
    ends
}

/// What became of an event, in the table's words.
fn outcome(task: &Task, restart: &Restart, event: &TaskEvent) -> String {
    match apply(task, restart, event.clone(), at(10)) {
        Ok(Change { task, .. }) if row(&task).starts_with("moving") => "moving".to_owned(),
        Ok(Change { task, .. }) if row(&task).starts_with("scaling down") => "scaling down".to_owned(),
        Ok(Change { task, .. }) if row(&task) == "scaled down" => "scaled down".to_owned(),
        Ok(change) => change.task.state.name().to_string(),
        Err(Rejected::Stale) => "stale".to_owned(),
        Err(Rejected::NoPlace) => "no place".to_owned(),
        Err(Rejected::Busy) => "busy".to_owned(),
        Err(Rejected::NotNow(name)) => {
            assert_eq!(name, task.state.name(), "a refusal names the present state");
            "·".to_owned()
        }
    }
}

#[test]
fn the_documented_table_has_every_state_and_every_event() {
    let table = Table::documented();
    let mut states: Vec<_> = rows().iter().flat_map(|row| tasks(row)).map(|task| task.state.name()).collect();
    states.dedup();
    assert_eq!(states, StateName::ALL);
    for task in rows().iter().flat_map(|row| tasks(row)) {
        for event in events(&task) {
            assert!(!table.word(&task, &event).is_empty());
        }
    }
    assert!(table.0.iter().all(|cells| cells.len() == 12), "a state's name and eleven events");
}

#[test]
fn every_event_does_in_every_state_what_the_documented_table_says() {
    let table = Table::documented();
    let mut cells_tried = std::collections::BTreeSet::new();
    for task in rows().iter().flat_map(|row| tasks(row)) {
        for event in events(&task) {
            cells_tried.insert((row(&task), column(&event)));
            let word = table.word(&task, &event);
            if word.starts_with('*') {
                continue; // Tests of their own.
            }
            for restart in [never(), on_failure(), restart(RestartPolicy::Always, OnLost::Restart)] {
                let outcome = outcome(&task, &restart, &event);
                assert_eq!(outcome, word, "{} × {}: {task:?}, {event:?}", row(&task), column(&event));
            }
        }
    }
    assert_eq!(cells_tried.len(), 14 * 11);
}

#[test]
fn an_end_that_nobody_asked_for_does_what_the_policy_says() {
    let table = Table::documented();
    let policy = cells(POLICY);
    let mut tried = 0;
    for task in rows().iter().flat_map(|row| tasks(row)) {
        for (kind, end) in ends() {
            let event = TaskEvent::Ended(by(HERE, task.attempt), end);
            if table.word(&task, &event) != "*policy*" {
                continue;
            }
            for (name, restart, repeats) in policies() {
                let kind = match (kind, restart.on_lost) {
                    ("lost", OnLost::Restart) => "lost, restart",
                    ("lost", OnLost::Fail) => "lost, fail",
                    (kind, _) => kind,
                };
                let task = Task { repeats, ..task.clone() };
                let outcome = outcome(&task, &restart, &event);
                assert_eq!(outcome, look_up(&policy, kind, name), "{name}: {task:?}, {event:?}");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 2 * 2 * ends().len() * policies().len(), "scheduled and running, fresh and repeated");
}

#[test]
fn an_end_that_somebody_asked_for_is_final_whatever_the_policy_says() {
    let table = Table::documented();
    let stopped = cells(STOPPED);
    let mut tried = 0;
    for task in rows().iter().flat_map(|row| tasks(row)) {
        for (kind, end) in ends() {
            let event = TaskEvent::Ended(by(HERE, task.attempt), end);
            if table.word(&task, &event) != "*stopped*" {
                continue;
            }
            for (name, restart, repeats) in policies() {
                let task = Task { repeats, ..task.clone() };
                let outcome = outcome(&task, &restart, &event);
                assert_eq!(outcome, look_up(&stopped, kind, "state"), "{name}: {task:?}, {event:?}");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 2 * 2 * ends().len() * policies().len(), "started or not, fresh and repeated");
}

#[test]
fn an_end_on_the_way_elsewhere_makes_the_task_wait_again_or_does_what_the_policy_says() {
    let table = Table::documented();
    let policy = cells(POLICY);
    let mut tried = 0;
    for task in rows().iter().flat_map(|row| tasks(row)) {
        for (kind, end) in ends() {
            let event = TaskEvent::Ended(by(HERE, task.attempt), end.clone());
            if table.word(&task, &event) != "*moved*" {
                continue;
            }
            for (name, restart, repeats) in policies() {
                let task = Task { repeats, ..task.clone() };
                let over = apply(&task, &restart, event.clone(), at(10)).unwrap().task;
                if kind == "stopped" || end == lost(LostCause::WorkerShutDown) {
                    assert_eq!((over.state.name(), over.repeats), (StateName::Pending, repeats));
                    assert_eq!(message(&over), "moved away from here");
                } else {
                    let kind = match (kind, restart.on_lost) {
                        ("lost", OnLost::Restart) => "lost, restart",
                        ("lost", OnLost::Fail) => "lost, fail",
                        (kind, _) => kind,
                    };
                    assert_eq!(over.state.name().as_str(), look_up(&policy, kind, name));
                }
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 2 * 2 * ends().len() * policies().len(), "started or not, fresh and repeated");
}

/// The columns of [`POLICY`], each with both answers to a loss.
fn policies() -> Vec<(&'static str, Restart, Repeats)> {
    let none = Repeats::default();
    let all = Repeats { count: 2, since: Some(at(0)) };
    let columns = [
        ("never", RestartPolicy::Never, none),
        ("on-failure, left", RestartPolicy::OnFailure, none),
        ("on-failure, used", RestartPolicy::OnFailure, all),
        ("always, left", RestartPolicy::Always, none),
        ("always, used", RestartPolicy::Always, all),
    ];
    let both = |(name, policy, repeats)| {
        [OnLost::Restart, OnLost::Fail].map(|on_lost| (name, restart(policy, on_lost), repeats))
    };
    columns.into_iter().flat_map(both).collect()
}

#[test]
fn a_report_of_another_attempt_or_from_another_worker_is_stale_in_every_state() {
    for task in rows().iter().flat_map(|row| tasks(row)) {
        let number = task.attempt;
        let mut others = vec![by(HERE, number + 1), by(ELSEWHERE, number), by(ELSEWHERE, number + 1)];
        if let Some(older) = number.checked_sub(1) {
            others.extend([by(HERE, older), by(ELSEWHERE, older)]);
        }
        for report in others {
            let mut events = vec![
                TaskEvent::Started(report, at(2)),
                TaskEvent::Returned(report),
                TaskEvent::MoveRequested(report, String::new()),
            ];
            events.extend(ends().into_iter().map(|(_, end)| TaskEvent::Ended(report, end)));
            for event in events {
                for (_, restart, _) in policies() {
                    let result = apply(&task, &restart, event.clone(), at(10));
                    assert_eq!(result, Err(Rejected::Stale), "{task:?}, {event:?}");
                }
            }
        }
    }
}

#[test]
fn what_happens_to_an_attempt_follows_from_the_step() {
    for task in rows().iter().flat_map(|row| tasks(row)) {
        for event in events(&task) {
            let Ok(change) = apply(&task, &on_failure(), event.clone(), at(10)) else { continue };
            let expected = match event {
                TaskEvent::Placed { worker } => Some(AttemptChange::Opened { worker }),
                TaskEvent::Started(_, at) => Some(AttemptChange::Started { at }),
                TaskEvent::Returned(_) => Some(AttemptChange::Closed { end: None, reason: None }),
                TaskEvent::Ended(_, end) => Some(closed(&never(), end)),
                _ => None,
            };
            assert_eq!(change.attempt, expected);
            let has_attempt = change.task.state.worker().is_some();
            let closed = matches!(change.attempt, Some(AttemptChange::Closed { .. }));
            assert!(!(has_attempt && closed), "a closed attempt is held by nobody: {change:?}");
            let opened = u32::from(matches!(change.attempt, Some(AttemptChange::Opened { .. })));
            assert_eq!(change.task.attempt, task.attempt + opened);
        }
    }
}

#[test]
fn a_task_that_is_scaled_up_waits_as_a_new_one_and_counts_its_attempts_on() {
    let repeats = Repeats { count: 2, since: Some(at(0)) };
    for task in tasks("scaled down") {
        let task = Task { repeats, ..task };
        for (waits_for_others, expected) in [(false, StateName::Pending), (true, StateName::Blocked)] {
            let up = apply(&task, &never(), scaled_up(waits_for_others), at(10)).unwrap().task;
            assert_eq!((up.state.name(), up.repeats), (expected, Repeats::default()));
            assert_eq!(up.attempt, task.attempt);
        }
    }
}

#[test]
fn a_task_is_scaled_down_however_its_attempt_ends_and_the_reason_names_a_loss() {
    for task in tasks("scaling down, started") {
        let over = |end| {
            let event = TaskEvent::Ended(by(HERE, task.attempt), end);
            message(&apply(&task, &on_failure(), event, at(10)).unwrap().task).to_owned()
        };
        assert_eq!(over(exited(1)), "scaled down to 2 by ana");
        let lost = over(lost(LostCause::OutOfContact));
        assert!(lost.starts_with("scaled down to 2 by ana; "), "{lost}");
    }
}

#[test]
fn a_task_that_is_replaced_waits_from_then_on_and_its_repeats_count_from_0() {
    let repeats = Repeats { count: 2, since: Some(at(0)) };
    for name in ["blocked", "pending", "scheduled", "running", "moving, started"] {
        for task in tasks(name) {
            let change = apply(&Task { repeats, ..task.clone() }, &never(), replaced(), at(10)).unwrap();
            assert_eq!((change.task.repeats, change.task.attempt), (Repeats::default(), task.attempt));
            match change.task.state {
                TaskState::Pending { not_before, after } => {
                    assert_eq!((name, not_before), ("pending", at(10)));
                    assert_eq!(after.unwrap().message, "replaced by version 2");
                }
                TaskState::Stopping { cause, .. } => assert_eq!(cause.message, "replaced by version 2"),
                state => assert_eq!((name, state), ("blocked", TaskState::Blocked)),
            }
        }
    }
    let change = apply(&Task::new(false, at(0)), &never(), replaced(), at(10)).unwrap();
    let waits = TaskState::Pending { not_before: at(10), after: None };
    assert_eq!(change.task.state, waits, "it has no attempt that could have been stopped");
}
