//! Short torture runs; `scripts/torture` makes long ones.

use std::time::Duration;

use gaffer_e2e::gaffer::program;
use gaffer_e2e::torture::{Fault, Plan, Run, Verdict, run};

fn plan(which: Run) -> Plan {
    let plan = Plan::new(which, Duration::from_secs(7), 4242, program().with_file_name("torture"));
    Plan { tasks_per_job: 60, percent: 5, ..plan }
}

async fn endures(plan: Plan) -> Verdict {
    let verdict = run(&plan).await;
    assert!(verdict.is_good(), "{verdict}");
    assert!(verdict.faults > 0 && verdict.tasks > 0, "nothing was tried: {verdict}");
    verdict
}

#[tokio::test]
async fn killing_links_loses_no_attempt() {
    endures(plan(Run::Strikes(Fault::KillLinks))).await;
}

#[tokio::test]
async fn connections_that_break_for_moments_lose_no_attempt() {
    endures(plan(Run::Strikes(Fault::Blips))).await;
}

#[tokio::test]
async fn killing_workers_loses_nothing_and_runs_nothing_twice() {
    let verdict = endures(plan(Run::Strikes(Fault::KillWorkers))).await;
    // What a worker ran that was killed as a whole is lost, and begins anew.
    assert!(verdict.repeats_for_faults() > 0, "{verdict}");
}

#[tokio::test]
async fn killing_the_master_loses_nothing_and_runs_nothing_twice() {
    endures(plan(Run::Strikes(Fault::KillMaster))).await;
}

#[tokio::test]
async fn cutting_the_database_off_loses_nothing_and_runs_nothing_twice() {
    endures(plan(Run::Strikes(Fault::CutDatabase))).await;
}
