//! What a person sees: the commands on a terminal.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use nix::pty::openpty;
use serde_json::json;
use tokio::process::Command;
use tokio::sync::watch;

use crate::Outcome;
use crate::fake::{Asked, Fake, Reply, end, job, text};
use crate::process::gaffer;

/// Runs with standard output and standard error on a terminal; gives what the terminal got and the exit code.
async fn on_terminal(mut command: Command) -> Result<(String, i32), Box<dyn std::error::Error>> {
    let pty = openpty(None, None)?;
    let (stdout, stderr) = (pty.slave.try_clone()?, pty.slave);
    let mut child = command.stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr)).spawn()?;
    // The child holds the only other end now, so that reading ends with it.
    drop(command);
    let mut terminal = File::from(pty.master);
    let reading = tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        // A terminal whose other side is closed fails instead of ending.
        let _ = terminal.read_to_end(&mut seen);
        seen
    });
    let status = child.wait().await?;
    Ok((String::from_utf8_lossy(&reading.await?).into_owned(), status.code().unwrap_or(-1)))
}

#[tokio::test]
async fn a_person_sees_colours_and_an_end() -> Outcome {
    let fake = Fake::start(|asked: &Asked| match asked.line.as_str() {
        "POST /jobs" => Reply::json(201, &job(42, "pending", 1))
            .linked("<http://gaffer.lab:3000/jobs/42>; rel=\"alternate\"; type=\"text/html\""),
        _ => Reply::lines(&[
            text("main", 1, 0, "stdout", "\u{1b}[31mred\u{1b}]0;ti"),
            text("main", 1, 14, "stdout", "tle\u{7}\u{1b}[2J!"),
            end("main", "completed", 1, json!({"exit_code": 0})),
        ]),
    })
    .await?;
    let (seen, code) = on_terminal(gaffer(&fake, "run -- x")).await?;
    assert_eq!(code, 0);
    assert_eq!(
        seen,
        "\u{1b}[31mred!\u{1b}[0m\r\n\u{1b}[32m✓ 42 completed in 1m12s on pi4\u{1b}[0m · http://gaffer.lab:3000/jobs/42\r\n"
    );

    let mut plain = gaffer(&fake, "run --raw -- x");
    plain.env("NO_COLOR", "1");
    let (seen, _) = on_terminal(plain).await?;
    assert_eq!(
        seen,
        "\u{1b}[31mred\u{1b}]0;title\u{7}\u{1b}[2J!\r\n✓ 42 completed in 1m12s on pi4 · http://gaffer.lab:3000/jobs/42\r\n"
    );

    let (seen, _) = on_terminal(gaffer(&fake, "run -q -- x")).await?;
    assert_eq!(seen, "\u{1b}[31mred!\u{1b}[0m");
    Ok(())
}

#[tokio::test]
async fn a_person_who_waits_is_told_why() -> Outcome {
    let (go, waiting) = watch::channel(false);
    let fake = Fake::start(move |asked: &Asked| match asked.line.as_str() {
        "POST /jobs" => Reply::json(201, &job(42, "pending", 1)),
        line if line.ends_with("/explain") => {
            let _ = go.send(true);
            let waiting = json!({
                "task": "main", "count": 1, "message": "no worker is large enough", "help": "ask for less", "workers": [],
            });
            Reply::json(200, &json!({"job": 42, "message": "", "waiting": [waiting]}))
        }
        // The explanation comes first, then the output, on another connection.
        _ => Reply::lines_when(&[], waiting.clone(), &[end("main", "completed", 1, json!({}))]),
    })
    .await?;
    let (seen, code) = on_terminal(gaffer(&fake, "run -- x")).await?;
    assert_eq!(code, 0);
    assert!(seen.contains("→\u{1b}[0m 42 accepted"), "{seen:?}");
    assert!(seen.ends_with("\r\u{1b}[K\u{1b}[32m✓ 42 completed in 1m12s on pi4\u{1b}[0m\r\n"), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn a_person_is_told_what_to_do_next() -> Outcome {
    let fake = Fake::start(|_| Reply::json(201, &job(42, "pending", 1))).await?;
    let (seen, code) = on_terminal(gaffer(&fake, "submit -- x")).await?;
    assert_eq!(code, 0);
    assert!(seen.starts_with("job 42 accepted\r\n") && seen.contains("gaffer logs -f 42"), "{seen:?}");
    Ok(())
}
