#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;

fn spec(tasks: &[(&str, &[&str])]) -> JobSpec {
    let task = |(name, depends_on): &(&str, &[&str])| json!({"name": name, "command": ["true"], "depends_on": depends_on});
    let tasks: Vec<Value> = tasks.iter().map(task).collect();
    JobSpec::read(&json!({ "tasks": tasks })).unwrap()
}

fn graph(tasks: &[(&str, &[&str])]) -> DependencyGraph {
    DependencyGraph::of(&spec(tasks)).unwrap()
}

#[test]
fn each_definition_stands_to_the_right_of_all_that_it_waits_for() {
    let graph = graph(&[
        ("report", &["reduce"]),
        ("fetch", &[]),
        ("reduce", &["transform", "fetch"]),
        ("transform", &["fetch"]),
    ]);
    let layers: Vec<usize> = graph.nodes.iter().map(|node| node.layer).collect();
    assert_eq!((layers, graph.layers), (vec![3, 0, 2, 1], 4));
    let long = graph.lines.iter().find(|line| (line.from, line.to) == (1, 2)).unwrap();
    assert_eq!(long.through.iter().map(|place| place.layer).collect::<Vec<_>>(), [1], "it passes a layer");
    assert_ne!(long.through[0], graph.nodes[3], "and no definition there");
}

#[test]
fn lines_do_not_cross_where_another_order_avoids_that() {
    let graph = graph(&[("a", &[]), ("b", &[]), ("of-b", &["b"]), ("of-a", &["a"])]);
    let rows: Vec<usize> = graph.nodes.iter().map(|node| node.half_row).collect();
    assert_eq!(rows[0] < rows[1], rows[3] < rows[2], "{rows:?}");
}

#[test]
fn a_layer_with_fewer_definitions_stands_in_the_middle() {
    let graph = graph(&[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["a"])]);
    assert_eq!((graph.nodes[0].half_row, graph.half_rows), (2, 6));
}

#[test]
fn a_task_that_always_runs_stands_behind_all_others() {
    let job = json!({"tasks": [
        {"name": "clean", "command": ["true"], "when": "always"},
        {"name": "a", "command": ["true"]},
        {"name": "b", "command": ["true"], "depends_on": ["a"]},
    ]});
    let graph = DependencyGraph::of(&JobSpec::read(&job).unwrap()).unwrap();
    assert_eq!(graph.nodes[0].layer, 2);
    let lines: Vec<(usize, usize)> = graph.lines.iter().map(|line| (line.from, line.to)).collect();
    assert_eq!(lines, [(2, 0), (1, 2)], "that `a` has ended follows from the end of `b`");
}

#[test]
fn what_nobody_could_read_is_no_picture() {
    const MANY: usize = 100;
    let names: Vec<String> = (0..MANY).map(|at| format!("t{at}")).collect();
    // Each of these waits for all before it.
    let before: Vec<Vec<&str>> =
        (0..MANY).map(|at| names[..at].iter().map(String::as_str).collect()).collect();
    let dense: Vec<(&str, &[&str])> =
        (0..MANY).map(|at| (names[at].as_str(), before[at].as_slice())).collect();
    assert_eq!(DependencyGraph::of(&spec(&dense)), None);

    // Two layers, so no line passes another layer: each of 20 waits for each of 60.
    let wide: Vec<(&str, &[&str])> =
        (0..80).map(|at| (names[at].as_str(), if at < 60 { [].as_slice() } else { &before[60] })).collect();
    assert_eq!(DependencyGraph::of(&spec(&wide)), None);
    assert!(DependencyGraph::of(&spec(&wide[..70])).is_some());
}

#[test]
fn no_two_things_of_any_picture_are_in_one_place() {
    for seed in 0..200 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let names: Vec<String> = (0..rng.random_range(1..20)).map(|at| format!("t{at}")).collect();
        let before: Vec<Vec<&str>> = (0..names.len())
            .map(|at| names[..at].iter().filter(|_| rng.random_ratio(1, 4)).map(String::as_str).collect())
            .collect();
        let tasks: Vec<(&str, &[&str])> =
            names.iter().zip(&before).map(|(name, before)| (name.as_str(), before.as_slice())).collect();
        let graph = graph(&tasks);
        let mut places: Vec<(usize, usize)> = graph
            .nodes
            .iter()
            .chain(graph.lines.iter().flat_map(|line| &line.through))
            .map(|place| (place.layer, place.half_row))
            .collect();
        let count = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), count, "seed {seed}");
        for line in &graph.lines {
            let layers: Vec<usize> = (graph.nodes[line.from].layer + 1..graph.nodes[line.to].layer).collect();
            assert_eq!(line.through.iter().map(|place| place.layer).collect::<Vec<_>>(), layers);
        }
        assert_eq!(graph.lines.len(), before.iter().map(Vec::len).sum::<usize>(), "every line is there");
    }
}
