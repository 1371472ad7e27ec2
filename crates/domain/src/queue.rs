//! The order of waiting tasks in a pass, and the reason for each task that is not placed.
//!
//! Tasks wait by class, and a pass looks at classes and workers, never at single tasks:
//! 1. The project with the smallest *share* of the shared workers goes next.
//! 2. In a project, higher priority first.
//! 3. Within a priority, the owner with the smallest share of the project's workers goes next.
//! 4. For one owner, the class that has waited longest.
//!
//! So 100,000 tasks of one user cannot starve another's single task, and no project gets more of the shared workers by giving
//! its tasks a higher priority.
//!
//! The share is the dominant share (Ghodsi, Zaharia, Hindman, Konwinski, Shenker, Stoica, *Dominant Resource Fairness*,
//! NSDI 2011, §4.1): the largest, over all resources, of what live attempts have reserved, relative to a total. For an owner these are
//! the owner's attempts on all connected workers that the project may use. For a project these are its attempts on shared workers, of
//! all connected shared ones: what it runs on unshared workers takes nothing from others. It is divided by the weight of the project
//! (§4.3), so with weights 100 and 300 and enough tasks, one has a quarter and the other three quarters. Attempts count as a resource too, of which
//! a worker has [`MAX_BACKLOG`](crate::placement::MAX_BACKLOG), so tasks without reservations are shared fairly as well. Ties go to
//! fewer attempts, then to who was served longest ago (otherwise, with room for a single task, its end would make all
//! shares equal and the same one would always win), then to the lower number or name.
//!
//! A pass ends after a number of placements. A project that has had its part of them on unshared workers goes after the others, so
//! that it cannot take all passes.
//!
//! A class that fits nowhere, whose concurrency group is full, or whose project has used up a quota, does not block those behind it. But if it has waited
//! for [`KEPT_AFTER`] and a worker could run its task beside the services there, the worker that lacks least is
//! *reserved*: the task's requirements count as reserved there, and nothing else waits there for room. So small tasks
//! cannot starve a large one. At most a quarter of the workers of a project are reserved for it, and at most a quarter of the shared
//! ones for all, but at least one.

mod line;
mod order;
mod share;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::TimeDelta;

use self::order::{OwnerLine, ProjectLine, ProjectShare};
use self::share::{Capacities, Share};
use crate::placement::ranking::{Course, Question, Ranking, suitable_at};
use crate::placement::{Fleet, Receipt, Requirements, Strategy, WorkerSnapshot, shortfall, suits};
use crate::quantity::Span;
use crate::quota::OverQuota;
use crate::{ProjectId, Time, WorkerId};
pub use line::{Line, lines};
pub use share::{InUse, Use};

/// After waiting this long without a fit, a class gets a reserved worker.
pub const KEPT_AFTER: Span = Span::from_millis(300_000);
/// One in this many workers of a project may be reserved, and one in this many shared workers.
const ONE_KEPT_OF: u32 = 4;

/// The dominant share, 0 to 1, that a project has of the shared workers among these; none if none is shared.
pub fn share_of_shared(in_use: &InUse, project: ProjectId, offers: &[WorkerSnapshot]) -> Option<f64> {
    let capacities = Capacities::of(offers, &BTreeSet::new());
    let is_any = offers.iter().any(|offer| offer.sharing.is_shared());
    is_any.then(|| Share::of(in_use.on_shared(project), &capacities.shared, 0).dominant())
}

/// Whether what has waited since then may have a worker kept for it.
pub fn may_keep(since: Time, now: Time) -> bool {
    now - since >= TimeDelta::milliseconds(KEPT_AFTER.as_millis() as i64)
}

/// Waiting tasks with equal needs, priority, project and owner.
#[derive(Debug, Clone, Copy)]
pub struct Class<'a> {
    /// Its number; of two that are equal in everything else, the lower one goes first.
    pub id: i64,
    /// Whose tasks they are.
    pub project: ProjectId,
    /// Who submitted them: a user, or a key.
    pub owner: &'a str,
    /// Higher goes first.
    pub priority: i16,
    /// What each of them needs.
    pub needs: &'a Requirements,
    /// Number of waiting tasks.
    pub pending: usize,
    /// When the first of them could have been placed.
    pub since: Time,
    /// How long attempts of the class ran lately; none if that is not known.
    pub mean_run: Option<Duration>,
}

/// How a pass is made.
#[derive(Debug, Clone, Copy)]
pub struct PassOptions {
    /// Maximum number of placements.
    pub most: usize,
    /// How workers are scored where the needs do not say.
    pub strategy: Strategy,
    /// For the receipts, and to know who has waited for long; without it, no worker is kept.
    pub now: Option<Time>,
}

/// Turns, as passes remember them. Losing them costs somebody a turn.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    /// Counts the tasks that were placed.
    count: u64,
    projects: BTreeMap<ProjectId, ProjectTurns>,
}

#[derive(Debug, Clone, Default)]
struct ProjectTurns {
    last_chosen: Option<WorkerId>,
    served: u64,
    owners: BTreeMap<String, u64>,
}

impl Turns {
    /// The worker chosen last for a project, after which *round_robin* continues.
    pub fn last_chosen(&self, project: ProjectId) -> Option<WorkerId> {
        self.projects.get(&project)?.last_chosen
    }

    /// Records a placed task.
    pub fn note(&mut self, project: ProjectId, owner: &str, worker: WorkerId) {
        self.count += 1;
        let project = self.projects.entry(project).or_default();
        project.last_chosen = Some(worker);
        project.served = self.count;
        project.owners.insert(owner.to_owned(), self.count);
    }

    /// When it was a project's turn; 0 if never.
    fn of_project(&self, project: ProjectId) -> u64 {
        self.projects.get(&project).map_or(0, |project| project.served)
    }

    fn of_owner(&self, project: ProjectId, owner: &str) -> u64 {
        self.projects.get(&project).and_then(|project| project.owners.get(owner)).copied().unwrap_or(0)
    }
}

/// What a pass decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    /// Tasks and their workers, in the order of the decisions.
    pub placed: Vec<Placed>,
    /// Classes that were looked at and have tasks left, with what these wait for.
    pub held: Vec<Deferred>,
    /// Workers that are kept for a class.
    pub kept: Vec<Reservation>,
    /// It ended because as many were placed as were wanted: there may be room for more.
    pub more: bool,
}

/// One task of a class is to run on a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Position of the class among those that were given.
    pub class: usize,
    /// Where.
    pub worker: WorkerId,
    /// Why there.
    pub receipt: Receipt,
}

/// On a worker, room is kept in this pass, so that a task of a class fits there in some later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// Position of the class among those that were given.
    pub class: usize,
    /// Which worker.
    pub worker: WorkerId,
}

/// The rest of a class waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferred {
    /// Position of the class among those that were given.
    pub class: usize,
    /// For what.
    pub hold: WaitReason,
}

/// What tasks wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// No worker can run one now; [`feasible`](crate::placement::feasible) gives the reason for each.
    NoWorker,
    /// As many tasks of their array are live as may be.
    AtOnce {
        /// Live attempts.
        live: u32,
        /// Limit.
        limit: u32,
    },
    /// As many attempts of their concurrency group are live as may be.
    Concurrency {
        /// Live attempts.
        live: u32,
        /// Limit.
        limit: u32,
    },
    /// One more would exceed a quota of the project.
    Quota(OverQuota),
}

/// One pass over all classes. Keeps count in `offers`, `in_use` and `turns` as it goes. Deterministic: the same arguments
/// give the same decision, in whatever order classes and offers stand.
///
/// Work: for each turn of a class, one look at each worker, or at its own if it is for one only; a class has one turn, and one more for each time that it is
/// passed by another and comes back. The number of waiting tasks does not matter.
pub fn decide(
    classes: &[Class<'_>],
    in_use: &mut InUse,
    offers: &mut [WorkerSnapshot],
    turns: &mut Turns,
    how: &PassOptions,
) -> Decision {
    let projects: BTreeSet<ProjectId> =
        classes.iter().filter(|class| class.pending > 0).map(|class| class.project).collect();
    let mut pass = Pass {
        classes,
        how,
        courses: BTreeMap::new(),
        suitable: classes.iter().map(|_| None).collect(),
        pending: classes.iter().map(|class| class.pending).collect(),
        capacities: Capacities::of(offers, &projects),
        part: if projects.len() > 1 { how.most.div_ceil(projects.len()) } else { usize::MAX },
        placed_alone: BTreeMap::new(),
        kept: BTreeMap::new(),
        kept_shared: 0,
        shared: offers.iter().filter(|offer| offer.sharing.is_shared()).count() as u32,
        kept_at: Vec::new(),
        places: offers.iter().enumerate().map(|(at, offer)| (offer.worker, at)).collect(),
        decision: Decision::default(),
    };
    pass.turns(&mut State { in_use, turns, offers });
    pass.decision.more = pass.is_full();
    // A reservation lasts for this pass; the next one decides again.
    for (at, needs) in pass.kept_at {
        offers[at].kept = false;
        offers[at].unreserve(needs);
    }
    pass.decision
}

struct Pass<'a> {
    classes: &'a [Class<'a>],
    how: &'a PassOptions,
    /// How far it is with each project, and how many workers that has.
    courses: BTreeMap<ProjectId, (Course, u32)>,
    /// For each class that had a turn, where its workers stand.
    suitable: Vec<Option<Vec<usize>>>,
    pending: Vec<usize>,
    capacities: Capacities,
    /// How many tasks a project may have placed on unshared workers before the others go first.
    part: usize,
    placed_alone: BTreeMap<ProjectId, usize>,
    /// How many workers are kept for each project.
    kept: BTreeMap<ProjectId, u32>,
    /// How many shared workers there are, and how many of them are kept.
    shared: u32,
    kept_shared: u32,
    /// Where these stand among the offers, and for what they are kept.
    kept_at: Vec<(usize, &'a Requirements)>,
    /// Where each worker stands among the offers.
    places: HashMap<WorkerId, usize>,
    decision: Decision,
}

/// The mutable state of a pass.
struct State<'s> {
    in_use: &'s mut InUse,
    turns: &'s mut Turns,
    offers: &'s mut [WorkerSnapshot],
}

/// Why a turn ended.
#[derive(PartialEq)]
enum End {
    /// Another user has the smaller share now.
    Passed,
    /// All of the class is placed.
    Done,
    Deferred(WaitReason),
}

impl<'a> Pass<'a> {
    fn is_full(&self) -> bool {
        self.decision.placed.len() >= self.how.most
    }

    fn share_of_project(&self, project: ProjectId, state: &State<'_>) -> ProjectShare {
        let alone = self.placed_alone.get(&project).copied().unwrap_or(0);
        let used = state.in_use.on_shared(project);
        let share = Share::of(used, &self.capacities.shared, state.turns.of_project(project));
        (alone >= self.part, share.weighted(state.in_use.terms(project).weight))
    }

    fn share_of_owner(&self, project: ProjectId, owner: &str, state: &State<'_>) -> Share {
        let used = state.in_use.of_owner(project, owner);
        Share::of(used, self.capacities.of_project(project), state.turns.of_owner(project, owner))
    }

    /// All classes, turn by turn.
    fn turns(&mut self, state: &mut State<'_>) {
        let mut lines = ProjectLine::all(
            self.classes,
            |project| self.share_of_project(project, state),
            |project, owner| self.share_of_owner(project, owner, state),
        );
        let mut queue: BTreeSet<(ProjectShare, usize)> =
            lines.iter().enumerate().map(|(position, line)| (line.share, position)).collect();
        while !self.is_full()
            && let Some((_, at)) = queue.pop_first()
        {
            let line = &mut lines[at];
            let project = line.project;
            let Some(level) = line.level() else { continue };
            let Some((_, owner_at)) = level.waiting.pop_first() else { continue };
            let OwnerLine { owner, classes } = &mut level.owners[owner_at];
            let Some(class) = classes.front().copied() else { continue };
            let bounds = Bounds { project: queue.first().copied(), owner: level.waiting.first().copied() };
            let end = self.turn(class, state, |pass, state| {
                let share = pass.share_of_project(project, state);
                let owner_share = pass.share_of_owner(project, owner, state);
                bounds.project.is_none_or(|next| (share, at) < next)
                    && bounds.owner.is_none_or(|next| (owner_share, owner_at) < next)
            });
            match end {
                End::Passed => {}
                End::Done => drop(classes.pop_front()),
                End::Deferred(hold) => {
                    classes.pop_front();
                    self.decision.held.push(Deferred { class, hold });
                }
            }
            if !classes.is_empty() {
                level.waiting.insert((self.share_of_owner(project, owner, state), owner_at));
            }
            if line.level().is_some() {
                line.share = self.share_of_project(project, state);
                queue.insert((line.share, at));
            }
        }
    }

    /// Keeps the worker of these that lacks the least for a class which has waited for long, and of which none was placed.
    fn keep(&mut self, at: usize, suitable: &[usize], offers: &mut [WorkerSnapshot], workers: u32) {
        let Class { project, needs, since, pending, .. } = self.classes[at];
        let kept = self.kept.entry(project).or_default();
        let has_waited = self.how.now.is_some_and(|now| may_keep(since, now));
        if !has_waited || self.pending[at] < pending || *kept >= (workers / ONE_KEPT_OF).max(1) {
            return;
        }
        let lacks = |at: &usize| Some((shortfall(needs, &offers[*at])?, offers[*at].worker, *at));
        let keeps_shared = self.kept_shared < (self.shared / ONE_KEPT_OF).max(1);
        let may_be_kept =
            |offer: &WorkerSnapshot| !offer.kept && (keeps_shared || !offer.sharing.is_shared());
        let free = suitable.iter().filter(|at| may_be_kept(&offers[**at]));
        let least = free
            .filter_map(lacks)
            .min_by(|(a, one, _), (b, other, _)| a.total_cmp(b).then_with(|| one.cmp(other)));
        if let Some((_, worker, offer)) = least {
            *kept += 1;
            self.kept_shared += u32::from(offers[offer].sharing.is_shared());
            offers[offer].kept = true;
            offers[offer].reserve(needs, 1);
            self.kept_at.push((offer, needs));
            self.decision.kept.push(Reservation { class: at, worker });
        }
    }

    /// Places tasks of one class for as long as it is its turn.
    fn turn(
        &mut self,
        at: usize,
        state: &mut State<'_>,
        is_next: impl Fn(&Pass<'_>, &State<'_>) -> bool,
    ) -> End {
        let class = &self.classes[at];
        let Class { project, needs, mean_run, .. } = *class;
        let (mut course, workers) = *self.courses.entry(project).or_insert_with(|| {
            let workers = state.offers.iter().filter(|offer| offer.is_for(project)).count();
            let last = state.turns.last_chosen(project);
            (Course { fleet: Fleet::of(project, state.offers), last }, workers as u32)
        });
        if let Some(hold) = state.in_use.hold(project, needs) {
            return End::Deferred(hold);
        }
        let strategy = needs.strategy.unwrap_or(self.how.strategy);
        let question =
            Question { class: class.id, needs, project, strategy, mean_run, now: self.how.now, workers };
        let suitable = self.suitable[at].take().unwrap_or_else(|| {
            let is_suitable = |at: &usize| suits(needs, project, &state.offers[*at]);
            let mut suitable: Vec<usize> = match needs.worker {
                // The worker of such a class is not looked for among all of them.
                Some(worker) => self.places.get(&worker).copied().filter(is_suitable).into_iter().collect(),
                // Better nowhere than on a worker that may have another task of the definition.
                None if needs.each_worker => Vec::new(),
                None => suitable_at(needs, project, state.offers),
            };
            suitable.retain(|at| !state.offers[*at].paused.contains_key(&class.id));
            suitable
        });
        let mut ranking = Ranking::new(question, &suitable, state.offers, &course);
        let end = loop {
            let Some((chosen, receipt)) = ranking.choose(state.offers, &mut course) else {
                break End::Deferred(WaitReason::NoWorker);
            };
            let WorkerSnapshot { worker, ref sharing, .. } = state.offers[chosen];
            state.turns.note(project, class.owner, worker);
            state.in_use.add(project, class.owner, needs, 1);
            match sharing.is_shared() {
                true => state.in_use.add_on_shared(project, needs, 1),
                false => *self.placed_alone.entry(project).or_default() += 1,
            }
            self.decision.placed.push(Placed { class: at, worker, receipt });
            self.pending[at] -= 1;
            if self.pending[at] == 0 {
                break End::Done;
            }
            if let Some(hold) = state.in_use.hold(project, needs) {
                break End::Deferred(hold);
            }
            if self.is_full() || !is_next(self, state) {
                break End::Passed;
            }
        };
        if end == End::Deferred(WaitReason::NoWorker) {
            self.keep(at, &suitable, state.offers, workers);
        }
        self.suitable[at] = Some(suitable);
        self.courses.insert(project, (course, workers));
        end
    }
}

/// Who comes next if the present one does not.
struct Bounds {
    project: Option<(ProjectShare, usize)>,
    owner: Option<(Share, usize)>,
}
