//! Short torture runs; `scripts/torture` makes long ones.

use std::time::Duration;

use gaffer_e2e::gaffer::program;
use gaffer_e2e::torture::{Fault, Plan, run};

async fn endures(fault: Fault) {
    let gaffer = program();
    let player = gaffer.with_file_name("torture");
    let duration = Duration::from_secs(7);
    let plan = Plan { fault, duration, seed: 4242, tasks_per_job: 60, percent: 5, player, gaffer };
    let verdict = run(plan).await;
    assert!(verdict.is_good(), "{verdict}");
    assert!(verdict.faults > 0 && verdict.tasks > 0, "nothing was tried: {verdict}");
    // What a worker ran that was killed as a whole is lost, and begins anew; nothing else makes that necessary.
    assert_eq!(verdict.repeats_for_faults() > 0, fault == Fault::KillWorkers, "{verdict}");
}

#[tokio::test]
async fn killing_links_loses_no_attempt() {
    endures(Fault::KillLinks).await;
}

#[tokio::test]
async fn a_network_that_breaks_for_moments_loses_no_attempt() {
    endures(Fault::Blips).await;
}

#[tokio::test]
async fn killing_workers_loses_nothing_and_runs_nothing_twice() {
    endures(Fault::KillWorkers).await;
}

#[tokio::test]
async fn killing_the_master_loses_nothing_and_runs_nothing_twice() {
    endures(Fault::KillMaster).await;
}

#[tokio::test]
async fn cutting_the_database_off_loses_nothing_and_runs_nothing_twice() {
    endures(Fault::CutDatabase).await;
}
