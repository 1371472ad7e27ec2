//! The tab Graph of a job: its definitions and what they wait for, as a picture and as a table.

use std::sync::Arc;

use askama::Template;
use gaffer_domain::conditions::waits_for;
use gaffer_domain::dependency_graph::{DependencyGraph, Line, Place};
use gaffer_domain::job::TaskCounts;
use gaffer_domain::spec::{JobSpec, On, TaskSpec, When, all_awaited};
use gaffer_domain::task::StateName;

use super::super::error::Error;
use super::super::params::task_cursor;
use super::format::{address, sentence};
use super::rows::{Segment, TaskSummary};
use super::{Markup, markup};
use crate::records::Job;
use crate::views::Views;

/// Measures of the picture, in pixels.
const NODE_WIDTH: usize = 184;
const NODE_HEIGHT: usize = 52;
const GAP: usize = 60;
const HALF_ROW: usize = 36;
const MARGIN: usize = 12;
/// A name is shown up to this length.
const NAME_CHARS: usize = 20;

/// What is drawn.
#[derive(Template)]
#[template(path = "job_graph.html")]
struct Picture<'a> {
    /// Goes before each address.
    base: &'a str,
    /// None if it has so many lines that it could not be read.
    drawing: Option<Drawing>,
    rows: Vec<Row>,
}

struct Drawing {
    width: usize,
    height: usize,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    /// Whether it has lines of more than one kind.
    has_kinds: bool,
}

/// A definition in the picture.
struct Node {
    x: usize,
    y: usize,
    name: String,
    detail: String,
    row: Row,
}

/// A definition in the table.
#[derive(Clone)]
struct Row {
    name: String,
    href: String,
    state: &'static str,
    /// Whether it has several tasks.
    is_several: bool,
    progress: String,
    segments: Vec<Segment>,
    waits: String,
}

struct Edge {
    path: String,
    /// The tip of the arrow.
    tip: String,
    kind: &'static str,
}

/// What of a picture follows from the specification alone.
#[derive(Debug)]
pub struct Layout {
    spec: Arc<JobSpec>,
    /// None if it has so many lines that it could not be read.
    graph: Option<DependencyGraph>,
    /// What each definition waits for, in words.
    waits: Vec<String>,
}

impl Layout {
    fn of(spec: Arc<JobSpec>) -> Layout {
        let awaited = all_awaited(&spec.tasks);
        let waits = |position| sentence(&waits_for(&spec, &awaited, position));
        let waits = (0..spec.tasks.len()).map(waits).collect();
        Layout { graph: DependencyGraph::of(&spec), waits, spec }
    }
}

/// The picture of a job, with its table, as a part of a page. `base` goes before each address in it. The layout is made where there is
/// none of this specification.
///
/// # Errors
/// When the database does not answer.
pub async fn picture(
    views: &Views,
    job: &Job,
    base: &str,
    layout: &mut Option<Layout>,
) -> Result<Markup, Error> {
    let Some(spec) = views.reads.spec(job.id).await? else { return Ok(Markup(String::new())) };
    let spec = spec.shared();
    let counts = views.reads.definition_counts(job.id).await?;
    let layout = match layout.take() {
        // To compare all of it costs time with each view; it is the same one for as long as it is cached.
        Some(made) if Arc::ptr_eq(&made.spec, &spec) || made.spec == spec => layout.insert(made),
        _ => layout.insert(Layout::of(spec)),
    };
    let rows: Vec<Row> = (0..layout.spec.tasks.len())
        .map(|position| row(job, layout, position, counts.get(position).copied().unwrap_or_default()))
        .collect();
    let drawing = layout.graph.as_ref().map(|graph| drawing(&layout.spec, graph, &rows));
    markup(&Picture { base, drawing, rows })
}

fn drawing(spec: &JobSpec, graph: &DependencyGraph, rows: &[Row]) -> Drawing {
    let nodes = graph.nodes.iter().zip(&spec.tasks).zip(rows);
    Drawing {
        width: (graph.layers * (NODE_WIDTH + GAP)).saturating_sub(GAP) + 2 * MARGIN,
        height: (graph.half_rows * HALF_ROW + NODE_HEIGHT).saturating_sub(2 * HALF_ROW) + 2 * MARGIN,
        nodes: nodes.map(|((place, task), row)| node(task, *place, row)).collect(),
        edges: graph.lines.iter().map(|line| edge(graph, line)).collect(),
        has_kinds: graph.lines.iter().any(|line| line.awaited.on != On::Completed),
    }
}

/// Where the tasks of a definition are shown: the only one, or the page of tasks that begins with them.
pub fn definition_address(job: &Job, task: &TaskSpec, position: usize) -> String {
    let here = format!("/jobs/{}", job.id);
    if task.indices.is_single() {
        return format!("{here}/tasks/{}", task.name);
    }
    let before = i16::try_from(position).unwrap_or(i16::MAX) - 1;
    address(&here, &[("tab", "tasks"), ("cursor", &task_cursor(before, i32::MAX as u32))])
}

fn row(job: &Job, layout: &Layout, position: usize, counts: TaskCounts) -> Row {
    let summary = TaskSummary::from(&counts);
    let task = &layout.spec.tasks[position];
    Row {
        name: task.name.clone(),
        href: definition_address(job, task, position),
        state: counts.most_telling().unwrap_or(StateName::Blocked).as_str(),
        is_several: !task.indices.is_single(),
        progress: summary.progress(),
        segments: summary.segments(),
        waits: layout.waits[position].clone(),
    }
}

fn node(task: &TaskSpec, place: Place, row: &Row) -> Node {
    let condition = match task.when {
        When::Success => "",
        When::Always => "always · ",
        When::Failure => "after a failure · ",
    };
    let name: String = row.name.chars().take(NAME_CHARS).collect();
    Node {
        x: left(place),
        y: top(place),
        name: if name.len() < row.name.len() { format!("{name}…") } else { name },
        detail: format!("{condition}{}", if row.is_several { row.progress.as_str() } else { row.state }),
        row: row.clone(),
    }
}

fn left(place: Place) -> usize {
    MARGIN + place.layer * (NODE_WIDTH + GAP)
}

fn top(place: Place) -> usize {
    MARGIN + place.half_row * HALF_ROW
}

fn edge(graph: &DependencyGraph, line: &Line) -> Edge {
    let middle = |place: Place| top(place) + NODE_HEIGHT / 2;
    let (from, to) = (graph.nodes[line.from], graph.nodes[line.to]);
    let (mut x, mut y) = (left(from) + NODE_WIDTH, middle(from));
    let mut path = format!("M{x} {y}");
    for place in line.through.iter().chain([&to]) {
        let (next_x, next_y) = (left(*place), middle(*place));
        let bend = usize::midpoint(x, next_x);
        path.push_str(&format!("C{bend} {y} {bend} {next_y} {next_x} {next_y}"));
        (x, y) = (next_x, next_y);
        if *place != to {
            x += NODE_WIDTH;
            path.push_str(&format!("H{x}"));
        }
    }
    Edge {
        path,
        tip: format!("M{} {}L{x} {y}L{} {}", x - 6, y - 4, x - 6, y + 4),
        kind: match line.awaited.on {
            On::Completed => "on-success",
            On::Failed => "on-failure",
            On::Ended => "on-end",
        },
    }
}
