#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::generate::{Shape, generate};
use super::outcome::jain;
use super::*;
use gaffer_protocol::trace;

const HEAVY_TAIL: &str = include_str!("../tests/traces/heavy_tail.csv");
const BURSTS: &str = include_str!("../tests/traces/bursts.csv");
const MIXED_SIZES: &str = include_str!("../tests/traces/mixed_sizes.csv");

fn fleet(text: &str) -> Vec<Machines> {
    text.split(' ').map(|kind| kind.parse().unwrap()).collect()
}

/// A trace of these lines, by the strategy *spread*.
fn outcome(machines: &str, lines: &str) -> Outcome {
    let trace = trace::read(&format!("{}\n{lines}", trace::HEADER)).unwrap();
    simulate(&fleet(machines), &trace, Strategy::Spread, 1.0)
}

#[test]
fn what_has_no_room_waits_for_the_first_end() {
    let outcome = outcome("1x2:1GiB:0", "5,10,1,0,0,3,50,a");
    assert_eq!((outcome.tasks, outcome.refused), (3, 0));
    let Waits { mean_secs, p50_secs, p95_secs, p99_secs, max_secs } = outcome.waits;
    assert!((mean_secs - 10.0 / 3.0).abs() < 1e-9);
    assert_eq!((p50_secs, p95_secs, p99_secs, max_secs), (0.0, 10.0, 10.0, 10.0));
    assert_eq!(outcome.makespan_secs, 20.0);
    // Two of two for 10 s, one of two for 10 s.
    assert_eq!(outcome.utilisation, [0.75, 0.0, 0.0]);
    assert_eq!(outcome.fragmentation, 0.0);
    // Slowdowns of 1, 1 and 2.
    assert_eq!(outcome.slowdowns, [("a".to_owned(), 4.0 / 3.0)].into());
    assert_eq!(outcome.fairness, 1.0);
}

#[test]
fn processors_that_are_free_while_tasks_wait_are_stranded() {
    let lines = "0,10,3,0,0,1,90,a\n0,10,2,0,0,1,50,a\n100,10,1,0,0,1,50,a";
    // One of four for the 10 s in which the second waits; what is free while nobody waits does not count.
    assert_eq!(outcome("1x4:0:0", lines).fragmentation, 0.25);
}

#[test]
fn tasks_that_use_more_than_they_reserve_slow_each_other_down() {
    let lines = format!("{}\n0,10,1,0,0,2,50,a\n5,10,1,0,0,1,50,b", trace::HEADER);
    let trace = trace::read(&lines).unwrap();
    let overused = |machines| simulate(&fleet(machines), &trace, Strategy::Spread, 2.0);
    // Two use four of two processors for 20 s; the third waits for them, has the machine alone, and uses all of it.
    let one = overused("1x2:0:0");
    assert_eq!((one.makespan_secs, one.waits.max_secs), (30.0, 15.0));
    assert!((one.stretch - 5.0 / 3.0).abs() < 1e-9, "{}", one.stretch);
    // Alone on a machine of two processors, each uses two.
    let three = overused("3x2:0:0");
    assert_eq!((three.makespan_secs, three.stretch, three.slowdown), (15.0, 1.0, 1.0));
}

#[test]
fn the_more_urgent_goes_first_and_projects_share() {
    let urgent = outcome("1x1:0:0", "0,10,1,0,0,1,50,a\n1,10,1,0,0,1,50,b\n2,10,1,0,0,1,90,c");
    assert_eq!(urgent.slowdowns, [("a".into(), 1.0), ("b".into(), 2.9), ("c".into(), 1.8)].into());
    // A hundred of one before the one of another, who still waits for one turn only.
    let shared = outcome("1x1:0:0", "0,10,1,0,0,100,50,a\n1,10,1,0,0,1,50,b");
    assert_eq!(shared.slowdowns["b"], 1.9);
}

#[test]
fn a_task_that_no_machine_could_ever_run_is_counted_and_left_out() {
    let outcome = outcome("2x4:8GiB:0", "0,10,5,0,0,7,50,a\n0,10,1,0,0,1,50,a");
    assert_eq!((outcome.tasks, outcome.refused, outcome.makespan_secs), (1, 7, 10.0));
    assert_eq!(simulate(&[], &[], Strategy::Epvm, 1.0).tasks, 0);
}

#[test]
fn jains_index_is_one_for_equals_and_one_of_n_where_one_has_all() {
    assert_eq!(jain([3.0, 3.0, 3.0].into_iter()), 1.0);
    assert_eq!(jain([4.0, 0.0, 0.0, 0.0].into_iter()), 0.25);
    assert_eq!(jain([1.0, 3.0].into_iter()), 0.8);
    assert_eq!(jain([].into_iter()), 1.0);
}

#[test]
fn every_strategy_runs_every_task_of_every_trace_and_uses_the_same_work() {
    let machines = fleet("4x8:16GiB:100GiB 4x4:16GiB:100GiB");
    for text in [HEAVY_TAIL, BURSTS, MIXED_SIZES] {
        let trace = trace::read(text).unwrap();
        let tasks: u64 = trace.iter().map(|arrival| u64::from(arrival.count)).sum();
        let mut work = Vec::new();
        for strategy in Strategy::ALL {
            let outcome = simulate(&machines, &trace, strategy, 1.0);
            assert_eq!((outcome.tasks, outcome.refused), (tasks, 0));
            assert!(outcome.utilisation.iter().all(|share| (0.0..=1.0).contains(share)));
            assert!((0.0..=1.0).contains(&outcome.fragmentation) && outcome.fairness <= 1.0 + 1e-9);
            assert!(outcome.slowdowns.values().all(|slowdown| *slowdown >= 1.0));
            let waits = outcome.waits;
            assert!(waits.p50_secs <= waits.p95_secs && waits.p95_secs <= waits.p99_secs);
            assert!(waits.p99_secs <= waits.max_secs && waits.mean_secs <= waits.max_secs);
            work.push(outcome.utilisation[0] * outcome.makespan_secs);
        }
        assert!(work.iter().all(|done| (done / work[0] - 1.0).abs() < 1e-9), "{work:?}");
    }
}

#[test]
fn packing_leaves_room_for_large_tasks() {
    let trace = trace::read(MIXED_SIZES).unwrap();
    let p99 = |strategy| {
        simulate(&fleet("4x8:16GiB:100GiB 4x4:16GiB:100GiB"), &trace, strategy, 1.0).waits.p99_secs
    };
    let (packed, spread) = (p99(Strategy::Binpack), p99(Strategy::Spread));
    assert!(packed < spread, "{packed} s and {spread} s");
}

#[test]
fn the_same_trace_has_the_same_outcome_each_time() {
    let trace = trace::read(HEAVY_TAIL).unwrap();
    let machines = fleet("3x8:16GiB:100GiB");
    for strategy in Strategy::ALL {
        assert_eq!(simulate(&machines, &trace, strategy, 1.0), simulate(&machines, &trace, strategy, 1.0));
    }
    let shown = table(&[simulate(&machines, &trace, Strategy::Epvm, 1.0)]);
    assert_eq!(shown.lines().count(), 2);
    let widths: Vec<usize> = shown.lines().map(|line| line.chars().count()).collect();
    assert_eq!(widths[0], widths[1], "{shown}");
}

#[test]
fn the_traces_beside_the_tests_are_those_that_the_generator_makes() {
    for (text, shape, seed, submissions) in [
        (HEAVY_TAIL, Shape::HeavyTail, 1, 1_200),
        (BURSTS, Shape::Bursts, 2, 800),
        (MIXED_SIZES, Shape::MixedSizes, 3, 1_200),
    ] {
        let made = generate(shape, seed, submissions);
        assert_eq!(trace::read(text).unwrap(), made);
        assert_eq!(trace::write(&made), text);
    }
}

#[test]
fn a_mistake_in_a_trace_is_told_with_its_line_and_column() {
    let complaint =
        |lines: &str| trace::read(&format!("{}\n{lines}", trace::HEADER)).unwrap_err().to_string();
    for (lines, expected) in [
        ("1,2,3", "line 2, column 1: expected 8 fields between commas, found 3"),
        (
            "# a comment\n\n0,5m,1,0,0,1,50,a",
            "line 4, column 3: duration_seconds: expected a number of seconds such as 12.5, found `5m`",
        ),
        (
            "0,5,many,0,0,1,50,a",
            "line 2, column 5: cpu: `many` is not a number of processors: write processors such as 0.5, or \
             thousandths such as \"500m\"",
        ),
        ("0,5,1,0,0,0,50,a", "line 2, column 11: count: expected a whole number from 1 to 100000, found `0`"),
        (
            "0,5,1,0,0,1,101,a",
            "line 2, column 13: priority: expected a whole number from 0 to 100, found `101`",
        ),
        (
            "0,5,1,0,0,1,50,",
            "line 2, column 16: project: expected a name of 1 to 63 characters, found an empty text",
        ),
    ] {
        assert_eq!(complaint(lines), expected);
    }
    assert_eq!(
        trace::read("").unwrap_err().to_string(),
        format!("line 1, column 1: the trace is empty; expected the header `{}`", trace::HEADER)
    );
    assert!(trace::read("submit,duration\n").unwrap_err().to_string().contains("expected the header"));
}

#[test]
fn machines_are_written_as_count_and_amounts() {
    let machines: Machines = "20x4:16GiB:100GiB".parse().unwrap();
    assert_eq!(
        (machines.count, machines.capacity.cpu, machines.capacity.disk),
        (20, Cpu::from_millis(4_000), Bytes(100 << 30))
    );
    for text in ["", "4", "0x4:1GiB:0", "1x4:1GiB", "1x4:1GiB:0:0", "axb:c:d", "99999x1:0:0"] {
        assert!(text.parse::<Machines>().is_err(), "{text}");
    }
}

/// How many times as much of the processors the second project has had for as long as both had more tasks than there is room for.
fn second_to_first(lines: &str) -> f64 {
    let trace = trace::read(&format!("{}\n{lines}", trace::HEADER)).unwrap();
    let weight = |weight| Weight::new(weight).unwrap();
    let weights: Weights = [("a".to_owned(), weight(100)), ("b".to_owned(), weight(300))].into();
    let mut simulation = Simulation::shared(&fleet("10x16:64GiB:0"), &trace, Strategy::Spread, 1.0, &weights);
    let (mut at, mut used) = (0.0, [0.0, 0.0]);
    while simulation.step() && simulation.lines.iter().all(|line| line.pending > 0) {
        let Some(Reverse((next, _))) = simulation.events.peek().copied() else { break };
        let next = next.as_millis() as f64 / 1e3;
        for (used, project) in used.iter_mut().zip([ProjectId(1), ProjectId(2)]) {
            *used += simulation.in_use.on_shared(project).unwrap().cpu_millis as f64 * (next - at);
        }
        at = next;
    }
    assert!(at > 300.0, "it lasted for {at} s only");
    used[1] / used[0]
}

#[test]
fn under_a_crowd_projects_share_a_fleet_by_their_weights() {
    // Short tasks against long ones with more memory, whose priority does not count.
    let ratio = second_to_first("0,7,1,1GiB,0,30000,90,a\n0,30,1,2GiB,0,20000,50,b");
    assert!((ratio - 3.0).abs() < 0.1, "the projects had {ratio} to 1 of the processors");
    // Nothing is stopped to make room, so small tasks get into gaps that are too small for large ones.
    let ratio = second_to_first("0,7,1,1GiB,0,30000,50,a\n0,30,4,2GiB,0,5000,50,b");
    assert!((1.8..3.1).contains(&ratio), "the projects had {ratio} to 1 of the processors");
}
