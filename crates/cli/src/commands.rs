//! The commands, a file each.

pub mod bulk;
pub mod completion;
pub mod dashboard;
pub mod dead_letters;
pub mod delete;
pub mod dev;
pub mod doctor;
pub mod events;
pub mod explain;
pub mod job;
pub mod jobs;
pub mod keys;
pub mod login;
pub mod logs;
pub mod queue;
pub mod rerun;
pub mod run;
pub mod server;
pub mod simulate;
pub mod stop;
pub mod submit;
pub mod supervisor;
pub mod system;
pub mod version;
pub mod wait;
pub mod workers;
