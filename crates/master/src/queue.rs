//! What waits for workers in a project, in the order in which it will go, with the reasons; and how the scheduler does.

use gaffer_domain::queue::{Line, lines};
use gaffer_domain::{ProjectId, Time};
use gaffer_protocol::rest::{PlaceInLine, Queue, QueueClass, WaitingTasks};

use crate::Master;
use crate::explain::{Judge, line_of};
use crate::store::StoreError;

/// So many classes are told one by one.
const MAX_CLASSES: usize = 100;
/// So many workers are told of for each; `explain` tells of all.
const MAX_VERDICTS: usize = 50;

/// Tells what waits.
///
/// # Errors
/// When the database does not answer.
pub async fn queue(master: &Master, project: ProjectId, now: Time) -> Result<Queue, StoreError> {
    let (workers, in_use) = master.store.worker_fleet(Some(project)).await?;
    let queue = master.store.queue(project).await?;
    let line = line_of(&queue);
    let mut places: Vec<(usize, Line)> = lines(&line).into_iter().enumerate().collect();
    places.sort_by_key(|(at, place)| (place.ahead, line[*at].since, line[*at].id));
    let kept = master.statistics.kept();
    let judge = Judge::new(&workers, &in_use, &kept, &master.pauses, &line, now);
    let classes = places.iter().take(MAX_CLASSES).map(|(at, Line { ahead, waiting })| {
        let queued = &queue[*at];
        let (class, (job, job_name)) = (&queued.class, &queued.job);
        let mut why = judge.explain(job_name, queued.count, &class.needs, class.id);
        why.workers.truncate(MAX_VERDICTS);
        let line = Some(PlaceInLine { ahead: *ahead, waiting: *waiting });
        QueueClass {
            class: class.id,
            priority: class.priority,
            owner: class.owner.clone(),
            needs: class.needs.to_string(),
            job: *job,
            job_name: job_name.clone(),
            since: class.first,
            why: WaitingTasks { line, ..why },
        }
    });
    Ok(Queue {
        strategy: master.strategy.to_string(),
        waiting: queue.iter().map(|queued| queued.count.unsigned_abs()).sum(),
        waiting_since: queue.iter().map(|queued| queued.class.first).min(),
        // How the scheduler does is about the whole installation, which is the first project's to know.
        passes: match master.store.project_default().await? == project {
            true => master.statistics.passes(),
            false => Default::default(),
        },
        classes: classes.collect(),
    })
}
