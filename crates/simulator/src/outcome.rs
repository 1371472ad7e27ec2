//! Results of a simulation: waiting times, usage, waste and fairness, with definitions.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use gaffer_domain::placement::{Strategy, WorkerSnapshot};
use gaffer_domain::quantity::Span;
use gaffer_protocol::trace::Arrival;

/// Minimum run time in slowdowns, so that the wait of a tiny task does not dominate (bounded slowdown with a
/// threshold of 10 s: Feitelson, *Metrics for Parallel Job Scheduling and Their Convergence*, JSSPP 2001).
const SHORTEST_COUNTED: Span = Span::from_secs(10);

/// What came of a trace under one strategy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    pub strategy: Strategy,
    /// Tasks that ran.
    pub tasks: u64,
    /// Tasks that no machine of the fleet could ever run; they count nowhere else.
    pub refused: u64,
    /// From submission to start.
    pub waits: Waits,
    /// From the first submission to the last end, in seconds.
    pub makespan_secs: f64,
    /// Share of the fleet's processors, memory and disk that was reserved, averaged over the makespan.
    pub utilisation: [f64; 3],
    /// Share of the fleet's processors that were free while some task waited, averaged over the time in which some did:
    /// no waiting task fitted into it, or it was kept for one that had waited for long.
    pub fragmentation: f64,
    /// Jain's index over the projects' mean slowdowns: (Σx)² / (n Σx²), 1 is fair, 1/n is the opposite (Jain, Chiu, Hawe,
    /// DEC TR-301, 1984). A slowdown is (wait + run) / duration, durations of less than 10 s counting as 10 s.
    pub fairness: f64,
    /// Mean slowdown of all tasks.
    pub slowdown: f64,
    /// Total run time relative to running alone on the machine; 1 is no slowdown.
    pub stretch: f64,
    /// Mean slowdown by project.
    pub slowdowns: BTreeMap<String, f64>,
}

/// Waiting times of all tasks, in seconds; nearest-rank percentiles.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Waits {
    pub mean_secs: f64,
    pub p50_secs: f64,
    pub p95_secs: f64,
    pub p99_secs: f64,
    pub max_secs: f64,
}

/// What is noted as a simulation goes on.
pub(super) struct Ledger<'a> {
    now: Span,
    first_submit: Option<Span>,
    last_end: Span,
    waits_millis: Vec<u64>,
    refused: u64,
    slowdowns: BTreeMap<&'a str, (f64, u64)>,
    /// All there is, in smallest units.
    all: [f64; 3],
    /// What was reserved, times how long.
    reserved_millis: [f64; 3],
    /// How long tasks ran, and how long they would have run alone.
    run_millis: f64,
    alone_millis: f64,
    /// How long some task waited, and the free processors meanwhile times how long.
    waited_millis: f64,
    free_cpu_millis: f64,
}

impl<'a> Ledger<'a> {
    pub fn new(offers: &[WorkerSnapshot]) -> Ledger<'a> {
        Ledger {
            now: Span::default(),
            first_submit: None,
            last_end: Span::default(),
            waits_millis: Vec::new(),
            refused: 0,
            slowdowns: BTreeMap::new(),
            all: sums(offers, |offer| offer.capacity),
            reserved_millis: [0.0; 3],
            run_millis: 0.0,
            alone_millis: 0.0,
            waited_millis: 0.0,
            free_cpu_millis: 0.0,
        }
    }

    /// Until `now` all was as it is.
    pub fn pass_time(&mut self, now: Span, offers: &[WorkerSnapshot], some_wait: bool) {
        let millis = (now.as_millis() - self.now.as_millis()) as f64;
        self.now = now;
        if millis == 0.0 {
            return;
        }
        let reserved = sums(offers, |offer| offer.reserved);
        for (sum, reserved) in self.reserved_millis.iter_mut().zip(reserved) {
            *sum += reserved * millis;
        }
        if some_wait {
            self.waited_millis += millis;
            self.free_cpu_millis += (self.all[0] - reserved[0]) * millis;
        }
    }

    pub fn refuse(&mut self, row: &Arrival) {
        self.refused += u64::from(row.count);
    }

    pub fn start(&mut self, row: &'a Arrival, now: Span) {
        self.waits_millis.push(now.as_millis() - row.submit.as_millis());
        self.first_submit = Some(self.first_submit.map_or(row.submit, |first| first.min(row.submit)));
    }

    pub fn end(&mut self, row: &'a Arrival, started: Span, now: Span) {
        let counted = row.duration.max(SHORTEST_COUNTED).as_millis() as f64;
        let slowdown = ((now.as_millis() - row.submit.as_millis()) as f64 / counted).max(1.0);
        let (sum, count) = self.slowdowns.entry(&row.project).or_default();
        (*sum, *count) = (*sum + slowdown, *count + 1);
        self.run_millis += (now.as_millis() - started.as_millis()) as f64;
        self.alone_millis += row.duration.as_millis() as f64;
        self.last_end = self.last_end.max(now);
    }

    pub fn close(mut self, strategy: Strategy) -> Outcome {
        self.waits_millis.sort_unstable();
        let makespan = match self.first_submit {
            Some(first) => (self.last_end.as_millis() - first.as_millis()) as f64,
            None => 0.0,
        };
        let of = |part: f64, whole: f64| if whole == 0.0 { 0.0 } else { part / whole };
        let slowdowns: BTreeMap<String, f64> = self
            .slowdowns
            .iter()
            .map(|(project, (sum, count))| ((*project).to_owned(), sum / *count as f64))
            .collect();
        let (sum, count) =
            self.slowdowns.values().fold((0.0, 0), |(sum, count), (more, n)| (sum + more, count + n));
        let all = self.all;
        let utilisation = [0, 1, 2].map(|at| of(self.reserved_millis[at], all[at] * makespan));
        Outcome {
            strategy,
            tasks: self.waits_millis.len() as u64,
            refused: self.refused,
            waits: Waits::of(&self.waits_millis),
            makespan_secs: makespan / 1e3,
            utilisation,
            fragmentation: of(self.free_cpu_millis, all[0] * self.waited_millis),
            fairness: jain(slowdowns.values().copied()),
            slowdown: if count == 0 { 1.0 } else { sum / count as f64 },
            stretch: if self.alone_millis == 0.0 { 1.0 } else { self.run_millis / self.alone_millis },
            slowdowns,
        }
    }
}

impl Waits {
    /// Of sorted waiting times.
    fn of(millis: &[u64]) -> Waits {
        if millis.is_empty() {
            return Waits::default();
        }
        let percentile = |hundredths: usize| {
            let rank = (millis.len() * hundredths).div_ceil(100);
            millis[rank.saturating_sub(1)] as f64 / 1e3
        };
        Waits {
            mean_secs: millis.iter().map(|wait| *wait as f64).sum::<f64>() / millis.len() as f64 / 1e3,
            p50_secs: percentile(50),
            p95_secs: percentile(95),
            p99_secs: percentile(99),
            max_secs: percentile(100),
        }
    }
}

/// (Σx)² / (n Σx²); 1 if there is nobody.
pub(super) fn jain(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum, squares) =
        values.fold((0.0, 0.0, 0.0), |(n, sum, squares), x| (n + 1.0, sum + x, squares + x * x));
    if squares == 0.0 { 1.0 } else { sum * sum / (n * squares) }
}

fn sums(
    offers: &[WorkerSnapshot],
    of: impl Fn(&WorkerSnapshot) -> gaffer_domain::spec::Resources,
) -> [f64; 3] {
    offers.iter().map(of).fold([0.0; 3], |[cpu, memory, disk], all| {
        [cpu + f64::from(all.cpu.millis()), memory + all.memory.get() as f64, disk + all.disk.get() as f64]
    })
}

/// A line for each outcome, for people.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = writeln!(
        text,
        "{:<12} {:>11} {:>9} {:>9} {:>9} {:>9} {:>10} {:>6} {:>6} {:>6} {:>8} {:>8} {:>8} {:>8}",
        "strategy",
        "mean wait",
        "p50",
        "p95",
        "p99",
        "max",
        "makespan",
        "cpu",
        "memory",
        "disk",
        "stranded",
        "fairness",
        "slowdown",
        "stretch"
    );
    for outcome in outcomes {
        let Waits { mean_secs, p50_secs, p95_secs, p99_secs, max_secs } = outcome.waits;
        let [cpu, memory, disk] = outcome.utilisation.map(|share| share * 100.0);
        let _ = writeln!(
            text,
            "{:<12} {mean_secs:>9.1} s {p50_secs:>7.1} s {p95_secs:>7.1} s {p99_secs:>7.1} s {max_secs:>7.1} s \
             {:>8.0} s {cpu:>5.1}% {memory:>5.1}% {disk:>5.1}% {:>7.1}% {:>8.3} {:>8.2} {:>8.2}",
            outcome.strategy.as_str(),
            outcome.makespan_secs,
            outcome.fragmentation * 100.0,
            outcome.fairness,
            outcome.slowdown,
            outcome.stretch,
        );
    }
    text
}
