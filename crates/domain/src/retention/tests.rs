#![allow(clippy::unwrap_used)]
use super::*;

const DAY: Span = Span::from_secs(24 * 60 * 60);

fn days(count: u64) -> Span {
    Span::from_secs(count * 24 * 60 * 60)
}

fn at(text: &str) -> Time {
    text.parse().unwrap()
}

fn finished(state: JobState, own: &Retention) -> Finished<'_> {
    Finished { state, at: at("2026-01-01T00:00:00Z"), own, is_pinned: false }
}

#[test]
fn a_job_expires_by_its_own_period_else_by_that_of_the_server_for_its_state() {
    let server: Retention = "completed=10d,failed=20d".parse().unwrap();
    let none = Retention::default();
    let own = Retention { failed: Some(days(2)), ..none };
    let when = |state, own: &Retention| server.expires_at(&finished(state, own));
    assert_eq!(when(JobState::Completed, &none), Some(at("2026-01-11T00:00:00Z")));
    assert_eq!(when(JobState::Failed, &none), Some(at("2026-01-21T00:00:00Z")));
    assert_eq!(when(JobState::Cancelled, &none), None, "nobody says anything about it");
    assert_eq!(when(JobState::Failed, &own), Some(at("2026-01-03T00:00:00Z")));
    assert_eq!(
        when(JobState::Completed, &own),
        Some(at("2026-01-11T00:00:00Z")),
        "its own is about failures"
    );
    let shorter = Retention::all(DAY);
    assert_eq!(when(JobState::Cancelled, &shorter), Some(at("2026-01-02T00:00:00Z")));
}

#[test]
fn a_pinned_or_unfinished_job_never_expires() {
    let server = Retention::all(DAY);
    let own = Retention::all(Span::from_secs(1));
    let pinned = Finished { is_pinned: true, ..finished(JobState::Completed, &own) };
    assert_eq!(server.expires_at(&pinned), None);
    for state in JobState::ALL.into_iter().filter(|state| !state.is_final()) {
        assert_eq!(server.expires_at(&finished(state, &own)), None, "{}", state.as_str());
    }
}

#[test]
fn the_cutoff_says_the_same_as_the_time_of_expiry() {
    let server: Retention = "30d".parse().unwrap();
    let own = Retention { cancelled: Some(DAY), ..Retention::default() };
    for state in [JobState::Completed, JobState::Failed, JobState::Cancelled] {
        let job = finished(state, &own);
        let expires = server.expires_at(&job).unwrap();
        assert!(job.at <= server.cutoff(state, &own, expires).unwrap(), "it has expired by then");
        let before = expires - TimeDelta::milliseconds(1);
        assert!(job.at > server.cutoff(state, &own, before).unwrap(), "and not earlier");
    }
}

#[test]
fn events_of_no_job_are_kept_as_long_as_any_job() {
    let now = at("2026-03-01T00:00:00Z");
    let cutoff = |text: &str| text.parse::<Retention>().unwrap().events_cutoff(now);
    assert_eq!(cutoff("completed=1d,failed=3d,cancelled=2d"), Some(at("2026-02-26T00:00:00Z")));
    assert_eq!(cutoff("completed=1d,failed=3d"), None);
    assert_eq!(cutoff("forever"), None);
}

#[test]
fn a_setting_is_one_period_or_one_for_each_state() {
    for (text, shown) in [
        ("90d", "90d"),
        ("forever", "forever"),
        ("completed=30d, failed=90d,cancelled=7d", "completed=30d,failed=90d,cancelled=7d"),
        ("failed=forever,completed=12h", "completed=12h"),
        ("completed=1d,failed=1d,cancelled=1d", "1d"),
    ] {
        let read: Retention = text.parse().unwrap();
        assert_eq!(read.to_string(), shown);
        assert_eq!(read.to_string().parse::<Retention>().unwrap(), read);
    }
    for wrong in ["", "soon", "0s", "done=3d", "completed=3d,completed=4d", "completed=3d,5d", "completed="] {
        assert!(wrong.parse::<Retention>().is_err(), "{wrong}");
    }
}

#[test]
fn eras_are_a_small_part_of_the_shortest_period() {
    let length = |text: &str| text.parse::<Retention>().unwrap().era_length();
    assert_eq!(length("forever"), days(30));
    assert_eq!(length("90d"), days(3));
    assert_eq!(length("completed=30d,failed=90d"), DAY);
    assert_eq!(length("1h"), Span::from_secs(3_600));
    assert_eq!(length("36500d"), days(30));
}

#[test]
fn a_new_era_is_opened_when_the_present_one_is_old_or_large_and_not_empty() {
    let month: Retention = "30d".parse().unwrap();
    let opened = at("2026-01-01T00:00:00Z");
    assert!(!month.is_new_era_due(opened, 10, at("2026-01-01T23:59:59Z")));
    assert!(month.is_new_era_due(opened, 10, at("2026-01-02T00:00:00Z")));
    assert!(!month.is_new_era_due(opened, 0, at("2026-05-02T00:00:00Z")), "it is empty");
    assert!(month.is_new_era_due(opened, ERA_TASKS, at("2026-01-01T00:00:01Z")));
}

#[test]
fn an_era_goes_when_little_of_it_is_kept() {
    let rest = |expired_tasks, kept_tasks, kept_bytes| EraRest {
        expired_tasks,
        kept_jobs: 1,
        kept_tasks,
        kept_bytes,
    };
    assert!(EraRest { expired_tasks: 5, ..EraRest::default() }.can_go());
    assert!(EraRest::default().can_go(), "everything was deleted by its users");
    assert!(rest(19, 1, 0).can_go());
    assert!(!rest(18, 1, 0).can_go(), "more than one of twenty");
    assert!(!rest(0, 0, 0).can_go(), "a job is kept, and nothing has expired");
    assert!(!rest(10_000_000, MOST_KEPT_TASKS + 1, 0).can_go());
    assert!(!rest(1_000, 1, MOST_KEPT_BYTES + 1).can_go());
}
