//! The client commands against an API that behaves as each test wants.

#[path = "client/asking.rs"]
mod asking;
#[path = "client/fake.rs"]
mod fake;
#[path = "client/process.rs"]
mod process;
#[path = "client/running.rs"]
mod running;
#[path = "client/searching.rs"]
mod searching;
#[path = "client/terminal.rs"]
mod terminal;

type Outcome = Result<(), Box<dyn std::error::Error>>;
