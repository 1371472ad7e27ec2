//! Hook: gaffer's environment variables of an attempt.

use std::collections::BTreeMap;

use futures::future::{BoxFuture, ready};
use gaffer_domain::spec::Item;
use gaffer_protocol::definitions::StartAttempt;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Hook};
use crate::driver::{Assignment, StartError, Started};

pub(super) struct Environment;

impl Hook for Environment {
    fn concern(&self) -> &'static str {
        "environment"
    }

    fn before_start<'a>(
        &'a mut self,
        attempt: &'a Attempt,
        assignment: &'a mut Assignment,
        _cancelled: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        assignment.environment.extend(attempt.start.definition.env.clone());
        assignment.environment.extend(said(&attempt.start, &attempt.worker_name));
        Box::pin(ready(Ok(())))
    }

    /// It has had its environment from its beginning.
    fn adopted<'a>(&'a mut self, _attempt: &'a Attempt, _started: &'a mut Started) -> BoxFuture<'a, ()> {
        Box::pin(ready(()))
    }
}

fn said(start: &StartAttempt, worker_name: &str) -> BTreeMap<String, String> {
    let said = [
        ("GAFFER_JOB_ID", start.definition.job.to_string()),
        ("GAFFER_TASK", start.definition.task.clone()),
        ("GAFFER_TASK_INDEX", start.index.to_string()),
        ("GAFFER_ATTEMPT", start.attempt.attempt.to_string()),
        ("GAFFER_WORKER", worker_name.to_owned()),
    ];
    let pieces = start.pieces.iter().map(|(name, pieces)| {
        let name = name.to_ascii_uppercase().replace('-', "_");
        let numbers: Vec<String> = pieces.iter().map(u32::to_string).collect();
        (format!("GAFFER_RESOURCE_{name}"), numbers.join(","))
    });
    let item = start.item.iter().flat_map(Item::variables);
    said.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(pieces).chain(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::master::command;

    #[test]
    fn a_job_knows_itself_its_item_and_its_pieces() {
        let start = command(42, &["env"]).start();
        let pieces = BTreeMap::from([("big-gpu".to_owned(), vec![0, 3])]);
        let item = Some(Item::One("a.png".to_owned()));
        let said = said(&StartAttempt { index: 5, item, pieces, ..start }, "pi4");
        let said: Vec<_> = said.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = [
            "GAFFER_ATTEMPT=1",
            "GAFFER_ITEM=a.png",
            "GAFFER_JOB_ID=1",
            "GAFFER_RESOURCE_BIG_GPU=0,3",
            "GAFFER_TASK=main",
            "GAFFER_TASK_INDEX=5",
            "GAFFER_WORKER=pi4",
        ];
        assert_eq!(said, expected);
    }
}
