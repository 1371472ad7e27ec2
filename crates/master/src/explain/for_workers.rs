//! Explains why tasks wait that are for one worker each.

use gaffer_domain::Time;
use gaffer_domain::WorkerId;
use gaffer_domain::placement::{Help, Infeasible, Requirements, what_would_help};
use gaffer_domain::quantity::listed;

use super::{Judge, MAX_HELP, told};
use crate::records::{WaitingTasks, WorkerVerdict};

/// Why a task does not run on its worker.
struct Wait {
    name: String,
    infeasible: Option<Infeasible>,
    /// `is offline since …`
    why: String,
    /// The worker is kept for it.
    is_reserved: bool,
    /// The worker is no more.
    is_removed: bool,
}

impl Judge<'_> {
    /// Explains what keeps `count` pending tasks waiting for these workers, each with the class of its tasks.
    pub(super) fn explain_for_workers(
        &self,
        name: &str,
        count: i64,
        needs: &Requirements,
        workers: &[(WorkerId, i64)],
    ) -> WaitingTasks {
        let waits: Vec<(WorkerId, Wait)> =
            workers.iter().map(|(worker, class)| (*worker, self.wait(needs, *worker, *class))).collect();
        let says = |wait: &Wait| {
            let reserved = if wait.is_reserved { " and is reserved for it" } else { "" };
            format!("{} {}{reserved}", wait.name, wait.why)
        };
        let message = match &waits[..] {
            [] => "about to be placed on its worker".to_owned(),
            [(_, Wait { infeasible: None, is_removed: false, name, .. })] => {
                format!("about to be placed on its worker {name}, or waiting for its restart delay")
            }
            [(_, wait)] => format!("waits for its worker: {}", says(wait)),
            waits => {
                let all: Vec<String> = waits.iter().map(|(_, wait)| says(wait)).collect();
                format!("waits for {} workers: {}", waits.len(), listed(&all))
            }
        };
        let would_help = match workers {
            [(worker, _)] => self.would_help(needs, *worker),
            _ => Vec::new(),
        };
        let help = help(waits.iter().filter_map(|(_, wait)| wait.infeasible.as_ref()));
        let verdict = |(worker_id, wait): (WorkerId, Wait)| {
            let message = match &wait.infeasible {
                Some(_) => says(&wait),
                None => format!("can run on {} now", wait.name),
            };
            WorkerVerdict { worker_id, worker: wait.name, infeasible: wait.infeasible, message }
        };
        let known = waits.into_iter().filter(|(_, wait)| !wait.is_removed);
        WaitingTasks {
            help,
            would_help,
            workers: known.take(self.most_verdicts).map(verdict).collect(),
            ..told(name, count, message)
        }
    }

    fn wait(&self, needs: &Requirements, worker: WorkerId, class: i64) -> Wait {
        let Some(at) = self.place(worker) else {
            let name = format!("worker {worker}");
            let what = if needs.service { "instance is scaled down" } else { "task fails" };
            let why = format!("was removed, so its {what}");
            return Wait { name, infeasible: None, why, is_reserved: false, is_removed: true };
        };
        let offer = &self.offers[at];
        let infeasible = self.unfit(&needs.for_worker(worker), offer, class);
        let since = self.workers.get(at).and_then(|worker| worker.offline_since);
        let why = match (&infeasible, since) {
            (Some(away @ Infeasible::Away { .. }), Some(since)) => format!("{away} since {}", moment(since)),
            (Some(unfit), _) => unfit.to_string(),
            (None, _) => "has room".to_owned(),
        };
        let is_reserved = self.kept.get(&worker).is_some_and(|(kept_for, _)| *kept_for == class);
        Wait { name: offer.name.clone(), infeasible, why, is_reserved, is_removed: false }
    }

    fn would_help(&self, needs: &Requirements, worker: WorkerId) -> Vec<String> {
        let Some(at) = self.place(worker) else { return Vec::new() };
        let help = what_would_help(&needs.for_worker(worker), &self.offers[at..=at]);
        help.iter().take(MAX_HELP).map(Help::to_string).collect()
    }

    /// Where a worker stands among the offers, which are in the order of their numbers.
    fn place(&self, worker: WorkerId) -> Option<usize> {
        self.offers.binary_search_by_key(&worker, |offer| offer.worker).ok()
    }
}

/// What would help in general.
fn help<'i>(mut unfits: impl Iterator<Item = &'i Infeasible>) -> Option<String> {
    let away = "start the worker, or remove it if it will not come back: gaffer worker remove NAME";
    unfits.any(|unfit| matches!(unfit, Infeasible::Away { .. })).then(|| away.to_owned())
}

fn moment(at: Time) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
