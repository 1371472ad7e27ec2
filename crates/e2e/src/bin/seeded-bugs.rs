//! Plants one seeded bug after the other in a copy of the sources and sees whether the tests catch it:
//! `scripts/seeded-bugs`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use gaffer_e2e::seeded_bugs::{SeededBug, read};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tempfile::TempDir;

/// A test that takes longer has caught something. Time for building does not count.
const TEST_LIMIT: Duration = Duration::from_secs(120);
/// All tests of a target together, without a bug.
const ALL_TESTS_LIMIT: Duration = Duration::from_secs(1_800);
/// Building or waiting for the turn to build never takes longer.
const BUILD_LIMIT: Duration = Duration::from_secs(3_600);
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Programs beside this one that tests start, and that no bug changes.
const BESIDE: [&str; 2] = ["s3-server", "http-answer"];
/// What a test prints that cannot run here.
const SKIPPED: &str = "SKIPPED, NOT TESTED";

fn main() -> anyhow::Result<ExitCode> {
    let names: BTreeSet<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let mut bugs = read(&root)?;
    if let Some(unknown) = names.iter().find(|name| bugs.iter().all(|bug| bug.name != **name)) {
        bail!("there is no seeded bug named {unknown}");
    }
    bugs.retain(|bug| names.is_empty() || names.contains(&bug.name));
    // One crate after the other, the smaller builds first: what a bug does not touch is not built again.
    bugs.sort_by_key(|bug| {
        (bug.target.contains("--test"), bug.target.clone(), bug.starts_program, bug.file.clone())
    });
    // What a test leaves behind comes to this process, which ends it.
    set_child_subreaper(true)?;
    let bench = Bench::new(&root)?;
    let mut tally = Tally::default();
    for of_target in
        bugs.chunk_by(|one, next| (&one.target, one.starts_program) == (&next.target, next.starts_program))
    {
        bench.try_all(of_target, &mut tally)?;
    }
    println!("{} bugs, {} caught, {} not", bugs.len(), tally.caught, tally.others.len());
    for (name, verdict) in &tally.others {
        println!("{verdict:14}  {name}");
    }
    println!("what the tests and the compiler said: {}", bench.said.display());
    Ok(ExitCode::from(u8::from(!tally.others.is_empty())))
}

#[derive(Default)]
struct Tally {
    caught: usize,
    others: Vec<(String, &'static str)>,
}

impl Tally {
    fn note(&mut self, bug: &SeededBug, begun: Instant, verdict: &'static str, how: &str) {
        match verdict.starts_with("caught") {
            true => self.caught += 1,
            false => self.others.push((bug.name.clone(), verdict)),
        }
        println!("{:4} s  {verdict:14}  {}{how}", begun.elapsed().as_secs(), bug.name);
    }
}

/// A copy of the sources with a target directory. Both stay, so that the next build is a small one.
struct Bench {
    sources: PathBuf,
    target: PathBuf,
    said: PathBuf,
    /// Where this program is, and those beside it.
    programs: PathBuf,
    /// Where programs are put aside, so that the next bug can be built while the test of the one before still runs.
    aside: PathBuf,
}

/// The executable with the tests, and the directory to run it in.
struct Built {
    tests: PathBuf,
    package: PathBuf,
}

/// Tests under way.
struct Running {
    child: Child,
    since: Instant,
    /// For what the tests write.
    temporary: TempDir,
}

/// A bug whose test is under way.
struct Trial<'a> {
    bug: &'a SeededBug,
    begun: Instant,
    running: Running,
}

impl Bench {
    fn new(root: &Path) -> anyhow::Result<Bench> {
        let program = std::env::current_exe()?;
        let place = program.ancestors().nth(2).context("no target directory")?.join("seeded-bugs");
        let at = |name: &str| place.join(name);
        let bench = Bench {
            sources: at("sources"),
            target: at("target"),
            said: at("said"),
            programs: program.with_file_name(""),
            aside: at("aside"),
        };
        copy(root, &bench.sources)?;
        // Each build of the behaviour tests would link these too, which no test of a bug starts.
        fs::remove_dir_all(bench.sources.join("crates/e2e/src/bin"))?;
        for dir in [&bench.said, &bench.aside] {
            fs::create_dir_all(dir)?;
        }
        Ok(bench)
    }

    /// The tests of one target: all without a bug, then each with its bug.
    fn try_all(&self, bugs: &[SeededBug], tally: &mut Tally) -> anyhow::Result<()> {
        let [SeededBug { target, starts_program, .. }, ..] = bugs else { return Ok(()) };
        println!("cargo test {target}{}", if *starts_program { ", with the program" } else { "" });
        let begun = Instant::now();
        let passing = self.passing_without(bugs)?;
        println!("{:4} s  without a bug   {} tests passed", begun.elapsed().as_secs(), passing.len());

        let mut under_way: Option<Trial> = None;
        for (number, bug) in bugs.iter().enumerate() {
            let begun = Instant::now();
            if !passing.iter().any(|test| test.contains(&bug.test)) {
                tally.note(bug, begun, "FAILS WITHOUT", "");
                continue;
            }
            // Assets are read when the program runs, so no other test may be under way meanwhile.
            let is_compiled = bug.file.ends_with(".rs");
            if !is_compiled {
                judge(under_way.take(), &self.said, tally)?;
            }
            let file = self.sources.join(&bug.file);
            let text = fs::read_to_string(&file)?;
            fs::write(&file, bug.planted_in(&text).map_err(anyhow::Error::msg)?)?;
            let built = self.build(bug, &bug.name, number);
            if is_compiled {
                fs::write(&file, &text)?;
            }
            judge(under_way.take(), &self.said, tally)?;
            match built? {
                None => tally.note(bug, begun, "DOES NOT BUILD", ""),
                Some(built) => {
                    let running = self.begin(&built, &[&bug.test], &bug.name)?;
                    under_way = Some(Trial { bug, begun, running });
                }
            }
            if !is_compiled {
                judge(under_way.take(), &self.said, tally)?;
                fs::write(&file, &text)?;
            }
        }
        judge(under_way, &self.said, tally)
    }

    /// The tests that pass without a bug, by name.
    fn passing_without(&self, bugs: &[SeededBug]) -> anyhow::Result<BTreeSet<String>> {
        let [bug, ..] = bugs else { return Ok(BTreeSet::new()) };
        let tests: BTreeSet<&str> = bugs.iter().map(|bug| &*bug.test).collect();
        let tests: Vec<&str> = tests.into_iter().collect();
        let name = format!("without-{}", bug.target.replace(|c: char| !c.is_alphanumeric(), ""));
        let built = self.build(bug, &name, bugs.len())?;
        let built =
            built.with_context(|| format!("cargo test {} does not build without a bug", bug.target))?;
        let mut running = self.begin(&built, &tests, &name)?;
        let ended = running.wait(ALL_TESTS_LIMIT)?;
        let said = String::from_utf8_lossy(&fs::read(self.said.join(&name))?).into_owned();
        let names = |verdict: &str| -> BTreeSet<String> {
            let lines = said.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(verdict));
            lines.map(str::to_owned).collect()
        };
        let (passed, failed) = (names(" ... ok"), names(" ... FAILED"));
        for test in &failed {
            println!("        FAILED without a bug: {test}");
        }
        for test in tests {
            let is_there = passed.union(&failed).any(|known| known.contains(test));
            ensure!(is_there || ended.is_none(), "there is no test {test} in cargo test {}", bug.target);
        }
        // A test that a bug names by a part of its name may be several.
        Ok(passed.into_iter().filter(|test| !failed.contains(test)).collect())
    }

    /// Builds what the test of a bug needs, and puts it aside; nothing if that cannot be built.
    fn build(&self, bug: &SeededBug, name: &str, number: usize) -> anyhow::Result<Option<Built>> {
        let how: &[&str] = match bug.starts_program {
            true => &["build", "--bin", "gaffer"],
            false => &["test", "--no-run"],
        };
        let artifacts = self.aside.join("artifacts");
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut child = Command::new(cargo)
            .args(how)
            .args(bug.target.split_whitespace())
            .args(["--quiet", "--message-format=json-render-diagnostics"])
            .current_dir(&self.sources)
            .env("CARGO_TARGET_DIR", &self.target)
            // Nobody debugs these.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .stdin(Stdio::null())
            .stdout(File::create(&artifacts)?)
            .stderr(File::create(self.said.join(name))?)
            .process_group(0)
            .spawn()?;
        let ended = wait(&mut child, Instant::now(), BUILD_LIMIT)?.context("a build does not end")?;
        if !ended.success() {
            return Ok(None);
        }
        let artifacts = fs::read_to_string(artifacts)?;
        let artifacts =
            artifacts.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        // Two places are enough: one that runs, one that is built.
        let aside = self.aside.join(if number.is_multiple_of(2) { "0" } else { "1" });
        let mut built = None;
        let _ = fs::remove_dir_all(&aside);
        fs::create_dir_all(aside.join("deps"))?;
        for program in BESIDE {
            fs::copy(self.programs.join(program), aside.join(program))
                .with_context(|| format!("{program} is not built"))?;
        }
        for artifact in artifacts {
            let Some(executable) = artifact["executable"].as_str() else { continue };
            let text = |of: &serde_json::Value| of.as_str().unwrap_or_default().to_owned();
            let program = text(&artifact["target"]["name"]);
            if artifact["profile"]["test"] == true {
                let tests = aside.join("deps").join(&program);
                fs::copy(executable, &tests)?;
                let manifest = PathBuf::from(text(&artifact["manifest_path"]));
                let package = manifest.parent().context("a manifest without a directory")?.to_owned();
                ensure!(
                    built.replace(Built { tests, package }).is_none(),
                    "{}: several executables",
                    bug.target
                );
            } else {
                // Where tests look for it.
                fs::copy(executable, aside.join(program))?;
            }
        }
        Ok(Some(built.with_context(|| format!("cargo test {} builds no tests", bug.target))?))
    }

    fn begin(&self, built: &Built, tests: &[&str], name: &str) -> anyhow::Result<Running> {
        let temporary = tempfile::Builder::new().prefix("gaffer-").tempdir()?;
        // Postgres may run as another user.
        fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755))?;
        let child = Command::new(&built.tests)
            .args(tests)
            .current_dir(&built.package)
            .env("CARGO_MANIFEST_DIR", &built.package)
            .env("TMPDIR", temporary.path())
            // What a bug keeps from happening is not waited for as on a machine that is only busy.
            .env("GAFFER_TEST_PATIENCE", "30")
            .stdin(Stdio::null())
            .stdout(File::create(self.said.join(name))?)
            .stderr(File::create(self.said.join(name).with_extension("stderr"))?)
            // So that all of it can be ended.
            .process_group(0)
            .spawn()?;
        Ok(Running { child, since: Instant::now(), temporary })
    }
}

impl Running {
    /// How the tests ended, if they did before the limit. Nothing of them is left afterwards.
    fn wait(&mut self, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let ended = wait(&mut self.child, self.since, limit)?;
        end_what_is_left()?;
        let _ = fs::remove_dir_all(self.temporary.path());
        Ok(ended)
    }
}

/// Waits for the test of a bug and says what came of it.
fn judge(trial: Option<Trial>, said: &Path, tally: &mut Tally) -> anyhow::Result<()> {
    let Some(Trial { bug, begun, mut running }) = trial else { return Ok(()) };
    let ended = running.wait(TEST_LIMIT)?;
    let mut words = fs::read(said.join(&bug.name))?;
    words.extend(fs::read(said.join(&bug.name).with_extension("stderr"))?);
    let said = String::from_utf8_lossy(&words).into_owned();
    let verdict = match ended {
        Some(status) if !status.success() => "caught",
        Some(_) if said.contains(SKIPPED) => "NOT TESTED",
        Some(_) => "SURVIVED",
        None => "caught, late",
    };
    // Whether it was caught for the right reason is for a reader to judge.
    let how = match verdict {
        "caught" => said.split_once(" panicked at ").map_or("", |(_, rest)| rest),
        _ => "",
    };
    let how: String = how.lines().take(2).collect::<Vec<_>>().join(" ").chars().take(160).collect();
    tally.note(bug, begun, verdict, &if how.is_empty() { how } else { format!("\n{:24}{how}", "") });
    Ok(())
}

/// How a process ended; it is ended, with its group, when the limit is reached.
fn wait(child: &mut Child, since: Instant, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if since.elapsed() > limit {
            killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(PROBE_INTERVAL);
    }
}

/// Ends the processes that tests left behind: those that fail do not tidy up, and what workers run outlives them.
fn end_what_is_left() -> anyhow::Result<()> {
    loop {
        let mut children = String::new();
        for thread in fs::read_dir("/proc/self/task")? {
            children += &fs::read_to_string(thread?.path().join("children"))?;
        }
        let children: Vec<Pid> =
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect();
        if children.is_empty() {
            return Ok(());
        }
        // Their own children come here next.
        for child in children {
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
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
