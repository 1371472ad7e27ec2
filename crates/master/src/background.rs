//! Loops that run beside everything else, as data: what each is called, how often it runs, and how its last run went.

pub mod dead_letters;
pub mod deletion;
pub mod driver;
pub mod large_jobs;
pub mod wakes;
