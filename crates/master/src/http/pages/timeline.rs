//! Bars of a timeline: when each part of a job waited, started and ran, on one scale.

use chrono::{DateTime, Utc};
use gaffer_protocol::elapsed::lasted;

/// The width of all bars.
const WIDTH: f64 = 1_000.0;
/// What is too short to be seen is shown this wide.
const LEAST: f64 = 2.0;

/// A part of a job: a task, or all tasks of a definition.
#[derive(Debug, Clone, Default)]
pub struct Track {
    /// What it is shown as.
    pub name: String,
    /// What else is to be known of it.
    pub note: String,
    pub href: String,
    pub state: &'static str,
    /// When it began to wait for the first of its attempts: all that it waited for had ended. None before that.
    pub ready_at: Option<DateTime<Utc>>,
    /// Its attempts, in their order.
    pub runs: Vec<Run>,
    /// End of the back-off before its next attempt, if it waits for one after a failure.
    pub backoff_until: Option<DateTime<Utc>>,
    /// Whether it is final.
    pub is_over: bool,
    /// Whether it is on the critical path of the job.
    pub is_critical: bool,
}

/// An attempt.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// End of the back-off before it; none if there was none.
    pub backoff_until: Option<DateTime<Utc>>,
    /// When it was placed on a worker.
    pub scheduled_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With success, or it has not ended.
    Ran,
    Failed,
    /// It was stopped, to be cancelled or to run elsewhere.
    Stopped,
}

/// A track with its bars.
#[derive(Debug, PartialEq)]
pub struct TrackRow {
    pub name: String,
    pub note: String,
    pub href: String,
    pub state: &'static str,
    pub is_critical: bool,
    pub bars: Vec<Bar>,
    /// How long it waited for a worker, took to start, and ran, over the attempts that are shown.
    pub waited: String,
    pub starting: String,
    pub ran: String,
}

/// A piece of a track.
#[derive(Debug, PartialEq)]
pub struct Bar {
    /// What it is: `backoff`, `waiting`, `starting`, `ran`, `failed`, `stopped`, or `running`.
    pub kind: &'static str,
    /// In thousandths of the whole.
    pub x: f64,
    pub width: f64,
    /// The same in words.
    pub title: String,
}

/// The rows of some tracks, on a scale from `begin` to `end`. A bar that has not ended reaches to `end`.
pub fn rows(tracks: Vec<Track>, begin: DateTime<Utc>, end: DateTime<Utc>) -> Vec<TrackRow> {
    let scale = Scale { begin, span: (end - begin).num_milliseconds().max(1) as f64 };
    tracks.into_iter().map(|track| row(track, scale, end)).collect()
}

/// Five times on the scale, as text: how long after the beginning.
pub fn axis(begin: DateTime<Utc>, end: DateTime<Utc>) -> Vec<String> {
    let span = (end - begin).num_milliseconds().max(1);
    (0..=4).map(|quarter| if quarter == 0 { "0".to_owned() } else { lasted(span * quarter / 4) }).collect()
}

#[derive(Clone, Copy)]
struct Scale {
    begin: DateTime<Utc>,
    /// In milliseconds.
    span: f64,
}

impl Scale {
    fn at(self, time: DateTime<Utc>) -> f64 {
        let share = (time - self.begin).num_milliseconds() as f64 / self.span;
        (share.clamp(0.0, 1.0) * WIDTH * 10.0).round() / 10.0
    }

    fn bar(self, kind: &'static str, word: &str, from: DateTime<Utc>, to: DateTime<Utc>) -> Bar {
        let x = self.at(from).min(WIDTH - LEAST);
        let width = (((self.at(to) - x).max(LEAST)) * 10.0).round() / 10.0;
        let after = lasted((from - self.begin).num_milliseconds());
        let title = format!("{word} {} from {after} on", lasted((to - from).num_milliseconds()));
        Bar { kind, x, width, title }
    }
}

fn row(track: Track, scale: Scale, end: DateTime<Utc>) -> TrackRow {
    let (mut waited, mut starting, mut ran) = (0, 0, 0);
    let mut bars = Vec::new();
    let mut free_since = track.ready_at;
    let millis = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).num_milliseconds().max(0);
    // Waiting: for the end of a back-off first, then for a worker.
    let wait =
        |bars: &mut Vec<Bar>, since: DateTime<Utc>, backoff_until: Option<DateTime<Utc>>, until, word| {
            let ready = backoff_until.map_or(since, |backoff| backoff.clamp(since, until));
            if since < ready {
                bars.push(scale.bar("backoff", "restart back-off of", since, ready));
            }
            if ready < until {
                bars.push(scale.bar("waiting", word, ready, until));
            }
            millis(ready, until)
        };
    for run in &track.runs {
        if let Some(since) = free_since.filter(|since| *since < run.scheduled_at) {
            waited += wait(&mut bars, since, run.backoff_until, run.scheduled_at, "waited");
        }
        let over = run.finished_at.or(track.is_over.then_some(run.started_at.unwrap_or(run.scheduled_at)));
        let until = over.unwrap_or(end);
        let started = run.started_at.unwrap_or(until);
        if run.scheduled_at < started {
            starting += millis(run.scheduled_at, started);
            bars.push(scale.bar("starting", "starting took", run.scheduled_at, started));
        }
        if run.started_at.is_some() {
            ran += millis(started, until);
            let (kind, word) = match (over.is_some(), run.outcome) {
                (false, _) => ("running", "has run for"),
                (true, Outcome::Failed) => ("failed", "ran and failed:"),
                (true, Outcome::Stopped) => ("stopped", "ran and was stopped:"),
                (true, Outcome::Ran) => ("ran", "ran"),
            };
            bars.push(scale.bar(kind, word, started, until));
        }
        free_since = run.finished_at;
    }
    let is_waiting = !track.is_over && track.runs.last().is_none_or(|last| last.finished_at.is_some());
    if let Some(since) = free_since.filter(|since| is_waiting && *since < end) {
        waited += wait(&mut bars, since, track.backoff_until, end, "has waited for");
    }
    let text = |millis: i64, is_known: bool| if is_known { lasted(millis) } else { "—".to_owned() };
    TrackRow {
        name: track.name,
        note: track.note,
        href: track.href,
        state: track.state,
        is_critical: track.is_critical,
        waited: text(waited, track.ready_at.is_some()),
        starting: text(starting, !track.runs.is_empty()),
        ran: text(ran, track.runs.iter().any(|run| run.started_at.is_some())),
        bars,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000 + second, 0).unwrap()
    }

    fn run(scheduled: i64, started: Option<i64>, finished: Option<i64>) -> Run {
        let (started_at, finished_at) = (started.map(at), finished.map(at));
        let outcome = Outcome::Ran;
        Run { backoff_until: None, scheduled_at: at(scheduled), started_at, finished_at, outcome }
    }

    fn bars(track: Track) -> (Vec<(&'static str, f64, f64)>, [String; 3]) {
        let [row] = rows(vec![track], at(0), at(100)).try_into().unwrap();
        let bars = row.bars.iter().map(|bar| (bar.kind, bar.x, bar.width)).collect();
        (bars, [row.waited, row.starting, row.ran])
    }

    #[test]
    fn a_task_waited_started_and_ran() {
        let runs = vec![run(10, Some(15), Some(60))];
        let track = Track { ready_at: Some(at(0)), runs, is_over: true, ..Track::default() };
        let (bars, texts) = bars(track);
        assert_eq!(bars, [("waiting", 0.0, 100.0), ("starting", 100.0, 50.0), ("ran", 150.0, 450.0)]);
        assert_eq!(texts, ["10s", "5.0s", "45s"]);
    }

    #[test]
    fn what_goes_on_reaches_to_the_end() {
        let failed = Run { outcome: Outcome::Failed, ..run(0, Some(0), Some(20)) };
        let runs = vec![failed, run(50, Some(50), None)];
        let (shown, texts) = bars(Track { ready_at: Some(at(0)), runs, ..Track::default() });
        assert_eq!(shown, [("failed", 0.0, 200.0), ("waiting", 200.0, 300.0), ("running", 500.0, 500.0)]);
        assert_eq!(texts, ["30s", "0ms", "1m10s"]);
        let waiting = Track { ready_at: Some(at(30)), ..Track::default() };
        assert_eq!(bars(waiting).0, [("waiting", 300.0, 700.0)]);
        let starting = Track { ready_at: Some(at(0)), runs: vec![run(0, None, None)], ..Track::default() };
        assert_eq!(bars(starting).0, [("starting", 0.0, 1_000.0)]);
    }

    #[test]
    fn a_back_off_is_not_a_wait_for_a_worker() {
        let first = Run { outcome: Outcome::Failed, ..run(0, Some(0), Some(10)) };
        let second = Run { backoff_until: Some(at(30)), ..run(35, Some(35), Some(50)) };
        let (ready_at, runs) = (Some(at(0)), vec![first, second]);
        let track = Track { ready_at, runs, backoff_until: Some(at(90)), ..Track::default() };
        let (shown, texts) = bars(track);
        let expected = [
            ("failed", 0.0, 100.0),
            ("backoff", 100.0, 200.0),
            ("waiting", 300.0, 50.0),
            ("ran", 350.0, 150.0),
            ("backoff", 500.0, 400.0),
            ("waiting", 900.0, 100.0),
        ];
        assert_eq!(shown, expected);
        assert_eq!(texts[0], "15s");
        // It was placed before the end of the back-off that follows from the policy now.
        let early = Run { backoff_until: Some(at(60)), ..run(35, Some(35), Some(50)) };
        let track = Track { ready_at: Some(at(20)), runs: vec![early], is_over: true, ..Track::default() };
        assert_eq!(bars(track).0[0], ("backoff", 200.0, 150.0));
    }

    #[test]
    fn what_was_stopped_did_not_fail() {
        let stopped = Run { outcome: Outcome::Stopped, ..run(0, Some(0), Some(20)) };
        let track = Track { runs: vec![stopped], is_over: true, ..Track::default() };
        assert_eq!(bars(track).0, [("stopped", 0.0, 200.0)]);
    }

    #[test]
    fn what_waits_for_others_has_no_bar_and_what_is_short_is_seen() {
        assert_eq!(bars(Track::default()), (Vec::new(), ["—", "—", "—"].map(str::to_owned)));
        let short = Track {
            ready_at: Some(at(100)),
            runs: vec![run(100, Some(100), Some(100))],
            is_over: true,
            ..Track::default()
        };
        assert_eq!(bars(short).0, [("ran", 998.0, 2.0)]);
        assert_eq!(axis(at(0), at(100)), ["0", "25s", "50s", "1m15s", "1m40s"]);
    }
}
