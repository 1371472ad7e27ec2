#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use serde_json::json;

use super::*;

fn add(known: &KnownRows, job: i64, tasks: std::ops::Range<i64>) {
    let spec = JobSpec::read(&json!({"command": ["true"], "count": tasks.end - tasks.start})).unwrap();
    let tasks: Vec<i64> = tasks.collect();
    let (job, project, now) = (JobId(job), ProjectId(1), Time::UNIX_EPOCH);
    known.add(NewRows { job, project, era: 0, spec: &spec, tasks: &tasks, classes: &[1], now });
}

fn jobs(known: &KnownRows) -> Vec<i64> {
    let rows = known.rows();
    let mut jobs: Vec<i64> = rows.jobs.iter().map(|(job, _)| job.0).collect();
    jobs.sort_unstable();
    // The two sides say the same.
    let tasks: usize = rows.jobs.iter().map(|(_, job)| job.tasks.len()).sum();
    assert_eq!(tasks, rows.job_of.len());
    for (id, job) in rows.jobs.iter() {
        assert_eq!(job.bytes, job.tasks.values().map(TaskWork::bytes).sum::<usize>());
        assert!(job.tasks.keys().all(|task| rows.job_of[task] == id));
    }
    jobs
}

#[test]
fn the_oldest_jobs_are_forgotten_with_their_tasks_and_the_others_stay_known() {
    let known = KnownRows::default();
    let tasks = i64::try_from(MAX_BYTES_OF_JOB / BYTES_OF_TASK).unwrap() - 10;
    for job in 0..4 {
        add(&known, job, job * tasks..(job + 1) * tasks);
    }
    add(&known, 4, 4 * tasks..4 * tasks + 1);
    assert_eq!(jobs(&known), [0, 1, 2, 3, 4]);
    add(&known, 5, 5 * tasks..6 * tasks);
    assert_eq!(jobs(&known), [1, 2, 3, 4, 5]);
}

#[test]
fn a_large_job_displaces_its_own_tasks_and_no_other_job() {
    let known = KnownRows::default();
    let most = i64::try_from(MAX_BYTES_OF_JOB / BYTES_OF_TASK).unwrap();
    add(&known, 1, 0..10);
    add(&known, 2, 1_000_000..1_000_000 + most);
    let mut rows = known.rows();
    for slice in 0..20 {
        let job = rows.jobs.get_mut(JobId(2)).unwrap();
        let row = job.row.take().unwrap();
        let copy = job.tasks.values().next().unwrap().after();
        let first = 2_000_000 + slice * 1_000;
        let added = (first..first + 1_000).map(|task| (TaskId(task), copy.after())).collect();
        rows.put(JobId(2), row, added);
    }
    drop(rows);
    assert_eq!(jobs(&known), [1, 2]);
    let rows = known.rows();
    assert!(rows.job_of.contains_key(&TaskId(2_019_999)), "what was written last is known");
    assert!(!rows.job_of.contains_key(&TaskId(1_000_000)));
}

#[test]
fn what_a_batch_has_is_not_known_until_it_is_remembered() {
    let known = KnownRows::default();
    add(&known, 1, 0..3);
    let mut rows = known.rows();
    assert!(rows.forget_task(TaskId(1)).is_some());
    assert!(rows.forget_task(TaskId(1)).is_none());
    drop(rows);
    assert_eq!(jobs(&known), [1]);
    known.rows().forget_job(JobId(1));
    assert_eq!(jobs(&known), Vec::<i64>::new());
}
