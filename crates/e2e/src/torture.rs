//! Long runs under faults with an independent witness: every accepted task ends once, no two attempts of a task
//! overlap, no output is missing, and no process is left.
//!
//! Everything random comes from a seed, which is printed.

mod absences;
mod asking;
mod chats;
mod crowd;
mod disk;
mod escape;
mod figures;
mod fleet;
mod large;
mod leader;
mod mangle;
mod namespaces;
mod network;
mod partitions;
mod plan;
mod postgres;
mod readopt;
mod refused;
pub mod scenario;
mod server;
mod services;
mod strikes;
mod tap;
mod trial;
mod verdict;
mod witness;

pub use namespaces::obstacle as obstacle_to_networks;
pub use plan::{Fault, Plan, Run};
pub use tap::Trick;
pub use verdict::Verdict;

/// Carries a plan out, and judges.
pub async fn run(plan: &Plan) -> Verdict {
    match plan.run {
        Run::Strikes(fault) => strikes::run(plan, fault).await,
        Run::Readopt => readopt::run(plan).await,
        Run::Postgres => postgres::run(plan).await,
        Run::Refused => refused::run(plan).await,
        Run::Escape => escape::run(plan).await,
        Run::Crowd => crowd::run(plan).await,
        Run::Large => large::run(plan).await,
        Run::Mangle => mangle::run(plan).await,
        Run::Partitions => partitions::run(plan).await,
        Run::Workers => absences::run(plan).await,
        Run::Disk => disk::run(plan).await,
        Run::Leader => leader::run(plan).await,
        Run::Services => services::run(plan).await,
    }
}
