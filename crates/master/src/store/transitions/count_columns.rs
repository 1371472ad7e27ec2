//! Counts of definitions as parameters of a statement: how many tasks of each are in each state, and how many were skipped.

use gaffer_domain::JobId;
use gaffer_domain::conditions::Standing;
use gaffer_domain::task::StateName;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::super::unnest::unnest;

const COUNTS: usize = StateName::ALL.len() + 1;

/// The columns of `task_definitions`, one for each count.
fn names() -> [&'static str; COUNTS] {
    let mut names = ["skipped"; COUNTS];
    for (name, state) in names.iter_mut().zip(StateName::ALL) {
        *name = state.as_str();
    }
    names
}

/// `blocked = d.blocked + u.blocked, …`
pub(super) fn sums() -> String {
    names().map(|name| format!("{name} = d.{name} + u.{name}")).join(", ")
}

/// `d.blocked = u.blocked AND …`
pub(super) fn are_equal() -> String {
    names().map(|name| format!("d.{name} = u.{name}")).join(" AND ")
}

/// A row for each definition.
#[derive(Default)]
pub(super) struct CountColumns {
    jobs: Vec<i64>,
    positions: Vec<i16>,
    counts: [Vec<i64>; COUNTS],
}

impl CountColumns {
    /// The number of parameters, before them and including them, that [`Self::bind`] binds.
    pub fn unnest(next: &mut usize) -> String {
        let counts = names().map(|name| (name, "bigint"));
        unnest(&[&[("job_id", "bigint"), ("position", "smallint")][..], &counts].concat(), next)
    }

    pub fn push(&mut self, job: JobId, position: usize, standing: &Standing) {
        self.jobs.push(job.0);
        self.positions.push(position as i16);
        let counts = StateName::ALL.map(|state| standing.counts.get(state));
        for (column, count) in self.counts.iter_mut().zip(counts.into_iter().chain([standing.skipped])) {
            column.push(count);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub fn bind(self, query: Query<'_, Postgres, PgArguments>) -> Query<'_, Postgres, PgArguments> {
        let query = query.bind(self.jobs).bind(self.positions);
        self.counts.into_iter().fold(query, |query, column| query.bind(column))
    }
}
