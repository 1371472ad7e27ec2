//! Plants one seeded bug after the other in a copy of the sources and sees whether the tests catch it:
//! `scripts/seeded-bugs`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use gaffer_e2e::seeded_bugs::read;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A test that takes longer has caught something. Time for building does not count.
const TEST_LIMIT: Duration = Duration::from_secs(120);
/// All of them together, without a bug.
const ALL_TESTS_LIMIT: Duration = Duration::from_secs(900);
/// Building or waiting for the turn to build never takes longer.
const BUILD_LIMIT: Duration = Duration::from_secs(3_600);
const LOOK: Duration = Duration::from_millis(20);

fn main() -> anyhow::Result<ExitCode> {
    let names: BTreeSet<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut bugs = read(&root)?;
    if let Some(unknown) = names.iter().find(|name| bugs.iter().all(|bug| bug.name != **name)) {
        bail!("there is no seeded bug named {unknown}");
    }
    bugs.retain(|bug| names.is_empty() || names.contains(&bug.name));
    let bench = Bench::new(&root)?;

    println!("without a bug:");
    let mut targets: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for bug in &bugs {
        targets.entry(&bug.target).or_default().insert(&bug.test);
    }
    let starts_program = bugs.iter().any(|bug| bug.starts_program);
    for (target, tests) in targets {
        let begun = Instant::now();
        let tests: Vec<&str> = tests.into_iter().collect();
        let (ran, said) = bench.run(target, &tests, starts_program, ALL_TESTS_LIMIT)?;
        ensure!(ran == Ran::Passed, "{ran:?} without a bug: cargo test {target}\n{said}");
        let passed: Vec<&str> = said.lines().filter(|line| line.ends_with(" ... ok")).collect();
        let missing = tests.iter().find(|test| passed.iter().all(|line| !line.contains(**test)));
        ensure!(missing.is_none(), "there is no test {missing:?} in cargo test {target}");
        println!("{:4} s  passed          {} tests of {target}", begun.elapsed().as_secs(), passed.len());
    }

    println!("with each bug:");
    let mut survivors = 0;
    for bug in &bugs {
        let begun = Instant::now();
        let file = bench.sources.join(&bug.file);
        let text = fs::read_to_string(&file)?;
        fs::write(&file, bug.planted_in(&text).map_err(anyhow::Error::msg)?)?;
        let ran = bench.run(&bug.target, &[&bug.test], bug.starts_program, TEST_LIMIT);
        fs::write(&file, text)?;
        let verdict = match ran?.0 {
            Ran::Failed => "caught",
            Ran::TookTooLong => "caught, late",
            Ran::Passed => "SURVIVED",
            Ran::NotBuilt => "does not build",
        };
        survivors += usize::from(!verdict.starts_with("caught"));
        println!("{:4} s  {verdict:14}  {}", begun.elapsed().as_secs(), bug.name);
    }
    println!("{} bugs, {} caught, {survivors} not", bugs.len(), bugs.len() - survivors);
    Ok(ExitCode::from(u8::from(survivors > 0)))
}

/// What came of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    Passed,
    Failed,
    TookTooLong,
    NotBuilt,
}

/// A copy of the sources with a target directory of its own. Both stay, so that the next build is a small one.
struct Bench {
    sources: PathBuf,
    target: PathBuf,
}

impl Bench {
    fn new(root: &Path) -> anyhow::Result<Bench> {
        let program = std::env::current_exe()?;
        let place = program.ancestors().nth(2).context("no target directory")?.join("seeded-bugs");
        let bench = Bench { sources: place.join("sources"), target: place.join("target") };
        copy(root, &bench.sources)?;
        Ok(bench)
    }

    /// Builds a target with what tests of it need, and runs them; gives what they said as well.
    fn run(
        &self,
        target: &str,
        tests: &[&str],
        starts_program: bool,
        limit: Duration,
    ) -> anyhow::Result<(Ran, String)> {
        if starts_program {
            let (built, said) = self.cargo(&["build", "--workspace", "--bin", "gaffer"], limit)?;
            if built != Ended::Well {
                return Ok((Ran::NotBuilt, said));
            }
        }
        let choice = target.split_whitespace().chain(["--"]).chain(tests.iter().copied());
        let arguments: Vec<&str> = ["test"].into_iter().chain(choice).collect();
        let (ended, said) = self.cargo(&arguments, limit)?;
        let ran = match ended {
            Ended::Well => Ran::Passed,
            Ended::Badly { has_run: true } => Ran::Failed,
            Ended::Badly { has_run: false } => Ran::NotBuilt,
            Ended::TookTooLong => Ran::TookTooLong,
        };
        Ok((ran, said))
    }

    /// Runs cargo; gives what was said on standard output.
    fn cargo(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<(Ended, String)> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut child = Command::new(cargo)
            .args(arguments)
            .current_dir(&self.sources)
            .env("CARGO_TARGET_DIR", &self.target)
            // What a bug keeps from happening is not waited for as on a machine that is only busy.
            .env("GAFFER_TEST_PATIENCE", "30")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that all of it can be ended.
            .process_group(0)
            .spawn()?;
        let mut stdout = child.stdout.take().context("no standard output")?;
        let stderr = child.stderr.take().context("no standard error")?;
        // What a test leaves behind may keep the pipes open, so nobody waits for these threads but for a moment.
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.read_to_end(&mut text);
            let _ = say.send(String::from_utf8_lossy(&text).into_owned());
        });
        let (begin, begun) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.trim_start().starts_with("Running ") {
                    let _ = begin.send(Instant::now());
                }
            }
        });
        let ended = wait(&mut child, &begun, limit)?;
        Ok((ended, said.recv_timeout(Duration::from_secs(1)).unwrap_or_default()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    /// `has_run`: not in the building, but in a test.
    Badly {
        has_run: bool,
    },
    TookTooLong,
}

fn wait(child: &mut Child, begun: &mpsc::Receiver<Instant>, limit: Duration) -> anyhow::Result<Ended> {
    let spawned = Instant::now();
    let mut running = None;
    loop {
        running = running.or_else(|| begun.try_recv().ok());
        if let Some(status) = child.try_wait()? {
            let has_run = running.is_some() || begun.recv_timeout(Duration::from_millis(100)).is_ok();
            return Ok(if status.success() { Ended::Well } else { Ended::Badly { has_run } });
        }
        if running.is_some_and(|since| since.elapsed() > limit) || spawned.elapsed() > BUILD_LIMIT {
            killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
            child.wait()?;
            ensure!(running.is_some(), "a build does not end");
            return Ok(Ended::TookTooLong);
        }
        std::thread::sleep(LOOK);
    }
}

/// Makes `to` the same as `from`, without touching what is the same already: cargo goes by the time of the last change.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    let mut present = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "target" || name == ".git" {
            continue;
        }
        let (source, copied) = (entry.path(), to.join(&name));
        if source.is_dir() {
            copy(&source, &copied)?;
        } else if fs::read(&copied).ok() != Some(fs::read(&source)?) {
            fs::copy(&source, &copied)?;
        }
        present.insert(name);
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if present.contains(&entry.file_name()) {
            continue;
        }
        match entry.path().is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}
