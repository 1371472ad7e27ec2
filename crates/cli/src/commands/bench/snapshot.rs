//! Throughput while a transaction is open that somebody has forgotten: nothing that was deleted since then can be cleared away.

use gaffer_master::store::bench::snapshot::Snapshot;

use super::figures::{Figures, TASKS_PER_SECOND};
use super::{Bench, in_turn, local, throughput};
use crate::failure::Failure;

const WITHOUT: &str = "no open transaction";

/// Measures it, beside the same without the transaction.
///
/// # Errors
/// Errors of the API or the network; [`Failure::Local`] if a task did not complete, or the transaction did not stay open.
pub async fn measure(bench: &Bench<'_>, figures: &mut Figures) -> Result<(), Failure> {
    let url = bench.scratch()?.database_url()?;
    let tasks = bench.args.first_tasks();
    let rate = async || {
        let ran = throughput::run(bench, tasks).await?;
        Ok::<f64, Failure>(f64::from(tasks) / ran.seconds)
    };
    for round in bench.rounds() {
        bench.show("snapshot", round);
        let beside = async {
            let snapshot = Snapshot::open(&url).await.map_err(local("cannot open a transaction"))?;
            // What is deleted from now on stays; only then is it in the way of the measured tasks.
            rate().await?;
            let measured = rate().await?;
            let stayed_open = snapshot.close().await.map_err(local("cannot end a transaction"))?;
            if stayed_open {
                Ok(measured)
            } else {
                Err(Failure::Local("the transaction was ended".to_owned()))
            }
        };
        let (alone, beside) = in_turn(round, rate(), beside).await;
        figures.add_beside("tasks", TASKS_PER_SECOND, beside?, Some((WITHOUT, alone?)));
    }
    Ok(())
}
