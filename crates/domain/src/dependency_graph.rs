//! The definitions of a job as a picture: in layers, so that each line leads from left to right.
//!
//! The layers and the order in them follow Sugiyama, Tagawa and Toda, *Methods for Visual Understanding of Hierarchical System
//! Structures* (1981): longest paths, then sweeps of barycentres, of which the one with the fewest crossings is kept.

use std::collections::HashSet;

use crate::spec::{Awaited, JobSpec, When, all_awaited, in_order};

/// Maximum number of lines of a picture. There are at most [`crate::spec::MAX_DEFINITIONS_PER_JOB`] definitions.
const MAX_LINES: usize = 1_000;
/// Maximum number of places of a picture, those included where a line passes through a layer.
const MAX_PLACES: usize = 5_000;
/// How often the order of all layers is improved.
const SWEEPS: usize = 8;

/// Where each definition stands, and the lines between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependencyGraph {
    /// By position of the definition.
    pub nodes: Vec<Place>,
    /// From each definition that is waited for to the one that waits.
    pub lines: Vec<Line>,
    /// How many layers there are.
    pub layers: usize,
    /// How many half rows the tallest layer has.
    pub half_rows: usize,
}

/// A place in the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Layers to the left of it.
    pub layer: usize,
    /// Half rows above it: a layer with fewer places stands in the middle.
    pub half_row: usize,
}

/// A line of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The definition that is waited for.
    pub from: usize,
    /// The one that waits.
    pub to: usize,
    /// What for.
    pub awaited: Awaited,
    /// Where it passes through the layers between.
    pub through: Vec<Place>,
}

/// What has a place in a layer: a definition, or a line that passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vertex {
    Definition(usize),
    Passing { line: usize },
}

impl DependencyGraph {
    /// The picture of a job; none if it has so many lines that nobody could read it.
    pub fn of(spec: &JobSpec) -> Option<DependencyGraph> {
        let awaited = all_awaited(&spec.tasks);
        let layer = layers(&awaited);
        let edges = edges(spec, &awaited, &layer)?;
        let passing: usize = edges.iter().map(|(from, to, _)| layer[*to] - layer[*from] - 1).sum();
        if layer.len() + passing > MAX_PLACES {
            return None;
        }
        let mut rows = Rows::new(&layer, &edges);
        rows.improve();
        Some(rows.picture(&layer, edges))
    }
}

/// The lines of the picture; none if there are too many. A definition that waits for all others without naming them has lines from the
/// last of these: from those that none of the others waits for.
fn edges(spec: &JobSpec, awaited: &[Vec<Awaited>], layer: &[usize]) -> Option<Vec<(usize, usize, Awaited)>> {
    // All definitions that name none wait for the same ones.
    let is_waited_for: HashSet<usize> = (spec.tasks.iter().zip(awaited))
        .filter(|(task, _)| task.when == When::Success)
        .flat_map(|(_, awaited)| awaited.iter().map(|other| other.position))
        .collect();
    let mut edges = Vec::new();
    for (to, task) in spec.tasks.iter().enumerate() {
        let names_none = task.depends_on.is_empty();
        let drawn =
            awaited[to].iter().filter(|other| !names_none || !is_waited_for.contains(&other.position));
        // In a circle, which no accepted job has, some line would lead back.
        let drawn = drawn.filter(|other| layer[other.position] < layer[to]);
        edges.extend(drawn.map(|other| (other.position, to, *other)));
        if edges.len() > MAX_LINES {
            return None;
        }
    }
    Some(edges)
}

/// The layer of each definition: the longest path that leads to it.
fn layers(awaited: &[Vec<Awaited>]) -> Vec<usize> {
    let mut layer = vec![0; awaited.len()];
    for position in in_order(awaited, |_| {}) {
        let after = awaited[position].iter().map(|other| layer[other.position] + 1);
        layer[position] = after.max().unwrap_or(0);
    }
    layer
}

/// The order of the vertices in each layer, and their neighbours in the layers beside it.
struct Rows {
    /// By layer: numbers of vertices, from top to bottom.
    order: Vec<Vec<usize>>,
    vertices: Vec<Vertex>,
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
}

impl Rows {
    fn new(layer: &[usize], edges: &[(usize, usize, Awaited)]) -> Rows {
        let layers = layer.iter().max().map_or(0, |last| last + 1);
        let mut rows = Rows {
            order: vec![Vec::new(); layers],
            vertices: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
        };
        for (definition, layer) in layer.iter().enumerate() {
            rows.add(Vertex::Definition(definition), *layer);
        }
        for (line, (from, to, _)) in edges.iter().enumerate() {
            let mut last = *from;
            for between in layer[*from] + 1..layer[*to] {
                let next = rows.add(Vertex::Passing { line }, between);
                rows.connect(last, next);
                last = next;
            }
            rows.connect(last, *to);
        }
        rows
    }

    fn add(&mut self, vertex: Vertex, layer: usize) -> usize {
        let number = self.vertices.len();
        self.vertices.push(vertex);
        self.before.push(Vec::new());
        self.after.push(Vec::new());
        self.order[layer].push(number);
        number
    }

    fn connect(&mut self, from: usize, to: usize) {
        self.after[from].push(to);
        self.before[to].push(from);
    }

    /// Puts each vertex where its neighbours are, from left to right and back, and keeps the best order that was met.
    fn improve(&mut self) {
        let mut best = (self.crossings(), self.order.clone());
        for sweep in 0..SWEEPS {
            let layers = self.order.len();
            let to_the_right = sweep % 2 == 0;
            for step in 1..layers {
                let layer = if to_the_right { step } else { layers - 1 - step };
                self.sort(layer, to_the_right);
            }
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.order.clone());
            }
        }
        self.order = best.1;
    }

    /// Sorts a layer by the middle of the neighbours on one side; those without any stay about where they are.
    fn sort(&mut self, layer: usize, by_those_before: bool) {
        let row = self.row_of_each();
        let middle = |vertex: &usize| {
            let beside = if by_those_before { &self.before[*vertex] } else { &self.after[*vertex] };
            match beside.len() {
                0 => row[*vertex] as f64,
                count => beside.iter().map(|other| row[*other] as f64).sum::<f64>() / count as f64,
            }
        };
        let mut sorted: Vec<(f64, usize)> = self.order[layer].iter().map(|v| (middle(v), *v)).collect();
        sorted.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        self.order[layer] = sorted.into_iter().map(|(_, vertex)| vertex).collect();
    }

    fn row_of_each(&self) -> Vec<usize> {
        let mut row = vec![0; self.vertices.len()];
        for layer in &self.order {
            for (at, vertex) in layer.iter().enumerate() {
                row[*vertex] = at;
            }
        }
        row
    }

    /// How many pairs of lines cross.
    fn crossings(&self) -> usize {
        let row = self.row_of_each();
        let mut crossings = 0;
        for layer in &self.order {
            let ends = layer.iter().flat_map(|from| {
                let mut ends: Vec<usize> = self.after[*from].iter().map(|to| row[*to]).collect();
                ends.sort_unstable();
                ends
            });
            // Ends that were met, in order: what a line meets above its own end crosses it.
            let mut met: Vec<usize> = Vec::new();
            for end in ends {
                let at = met.partition_point(|other| *other <= end);
                crossings += met.len() - at;
                met.insert(at, end);
            }
        }
        crossings
    }

    fn picture(&self, layer: &[usize], edges: Vec<(usize, usize, Awaited)>) -> DependencyGraph {
        let tallest = self.order.iter().map(Vec::len).max().unwrap_or(0);
        let mut nodes = vec![Place::default(); layer.len()];
        let mut through = vec![Vec::new(); edges.len()];
        for (layer, order) in self.order.iter().enumerate() {
            for (at, vertex) in order.iter().enumerate() {
                let place = Place { layer, half_row: 2 * at + tallest - order.len() };
                match self.vertices[*vertex] {
                    Vertex::Definition(definition) => nodes[definition] = place,
                    Vertex::Passing { line } => through[line].push(place),
                }
            }
        }
        let line = |((from, to, awaited), through)| Line { from, to, awaited, through };
        DependencyGraph {
            nodes,
            lines: edges.into_iter().zip(through).map(line).collect(),
            layers: self.order.len(),
            half_rows: 2 * tallest,
        }
    }
}

#[cfg(test)]
mod tests;
