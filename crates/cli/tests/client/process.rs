//! Runs the built program.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use gaffer_worker::{Hangup, reset_signals};
use tokio::process::{Child, Command};

use super::fake::Fake;

/// Nothing here takes long; what hangs should fail.
const DEADLINE: Duration = Duration::from_secs(120);

/// The program with nothing of this environment, calling the fake.
pub fn gaffer(fake: &Fake, arguments: &str) -> Command {
    let mut command = bare(arguments);
    command.env("GAFFER_URL", fake.url()).env("GAFFER_KEY", "secret-key");
    command
}

/// The program with nothing of this environment, and none of the signals ignored that the process that started the tests ignores.
pub fn bare(arguments: &str) -> Command {
    reset_signals(Hangup::Default);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gaffer"));
    command.env_clear().env("GAFFER_DATA_DIR", "/nowhere").kill_on_drop(true);
    command.args(arguments.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub async fn finished(mut command: Command) -> io::Result<Output> {
    within(command.output()).await
}

pub async fn ended(child: Child) -> io::Result<Output> {
    within(child.wait_with_output()).await
}

async fn within(output: impl Future<Output = io::Result<Output>>) -> io::Result<Output> {
    tokio::time::timeout(DEADLINE, output).await.map_err(|_| io::Error::other("it did not end"))?
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
