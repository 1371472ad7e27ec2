//! Short torture runs; `scripts/torture` makes long ones.

use std::io::Write as _;
use std::time::Duration;

use gaffer_e2e::gaffer::program;
use gaffer_e2e::torture::{Fault, Plan, Run, Verdict, obstacle_to_networks, run};

fn plan(which: Run) -> Plan {
    let plan = Plan::new(which, Duration::from_secs(6), 4242, program().with_file_name("torture"));
    Plan { tasks_per_job: 60, percent: 5, ..plan }
}

/// How long things take is not judged here, where many tests run side by side.
async fn endures(plan: Plan) -> Verdict {
    let verdict = run(&plan).await;
    assert!(verdict.is_sound(), "{verdict}");
    assert!(verdict.faults > 0 && verdict.tasks > 0, "nothing was tried: {verdict}");
    verdict
}

#[tokio::test]
async fn killing_agents_loses_no_attempt() {
    endures(plan(Run::Strikes(Fault::KillAgents))).await;
}

#[tokio::test]
async fn the_next_link_finds_every_attempt() {
    endures(Plan { tasks: 20, ..plan(Run::Readopt) }).await;
}

#[tokio::test]
async fn no_worker_of_a_crowd_ever_runs_more_than_it_offers() {
    endures(Plan { tasks: 500, workers: 5, ..plan(Run::Crowd) }).await;
}

#[tokio::test]
async fn connections_that_break_for_moments_lose_no_attempt() {
    endures(plan(Run::Strikes(Fault::Blips))).await;
}

#[tokio::test]
async fn networks_that_break_for_moments_lose_no_attempt() {
    if let Some(why) = obstacle_to_networks() {
        let line = format!("\nSKIPPED, NOT TESTED: networks_that_break_for_moments_lose_no_attempt: {why}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    }
    // None of these breaks takes longer than 4 s; on a busy machine the way back takes longer than on others.
    let plan = Plan { lost_after: Duration::from_secs(60), ..plan(Run::Partitions) };
    let verdict = endures(plan).await;
    assert_eq!(verdict.repeats_for_faults(), 0, "{verdict}");
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

#[tokio::test]
async fn killing_postgres_loses_nothing_that_was_acknowledged() {
    endures(plan(Run::Postgres)).await;
}

#[tokio::test]
async fn a_database_that_refuses_or_locks_loses_nothing() {
    let plan = plan(Run::Refused);
    endures(Plan { duration: Duration::from_secs(8), workers: 2, tasks_per_job: 30, ..plan }).await;
}

#[tokio::test]
async fn nothing_outlives_the_end_of_its_task() {
    endures(Plan { tasks: 24, ..plan(Run::Escape) }).await;
}

#[tokio::test]
async fn frames_that_come_twice_late_torn_or_again_change_no_state() {
    endures(plan(Run::Mangle)).await;
}

#[tokio::test]
async fn masters_that_are_cut_off_or_stand_still_run_nothing_twice() {
    let verdict = endures(Plan { duration: Duration::from_secs(14), ..plan(Run::Leader) }).await;
    // What the workers of a replaced master ran for too long begins anew.
    assert!(verdict.repeats_for_faults() > 0, "{verdict}");
}

#[tokio::test]
async fn large_definitions_and_jobs_hold_up_no_small_ones() {
    endures(Plan { tasks: 2_000, workers: 2, ..plan(Run::Large) }).await;
}

#[tokio::test]
async fn a_service_that_is_updated_under_kills_has_never_too_many_instances_and_never_too_few() {
    endures(Plan { duration: Duration::from_secs(20), workers: 3, ..plan(Run::Services) }).await;
}
