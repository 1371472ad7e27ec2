//! Runs gaffer under faults for as long as you like, and says what that proved: `scripts/torture`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a run that cannot go on should fail")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use gaffer_e2e::torture::{Fault, Plan, play, run};

const USAGE: &str =
    "usage: torture [links|workers|master|freeze|blips|partitions|database|all] [MINUTES] [SEED]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, witness, seed, percent] = &arguments[..]
        && what == "play"
    {
        return play::play(&PathBuf::from(witness), seed.parse().unwrap(), percent.parse().unwrap()).into();
    }
    let Some(plan) = plan(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("{:?} for {:?}, seed {}", plan.fault, plan.duration, plan.seed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let verdict = runtime.block_on(run(plan));
    print!("{verdict}");
    ExitCode::from(u8::from(!verdict.is_good()))
}

fn plan(arguments: &[String]) -> Option<Plan> {
    let name = arguments.first().map_or("all", String::as_str);
    let (_, fault) = Fault::ALL.into_iter().find(|(known, _)| *known == name)?;
    let minutes: f64 = arguments.get(1).map_or(Some(1.0), |text| text.parse().ok())?;
    let seed = arguments.get(2).map_or_else(|| Some(rand::random()), |text| text.parse().ok())?;
    let player = std::env::current_exe().ok()?;
    let gaffer = player.with_file_name("gaffer");
    let duration = Duration::try_from_secs_f64(minutes * 60.0).ok()?;
    (arguments.len() <= 3).then_some(Plan {
        fault,
        duration,
        seed,
        tasks_per_job: 250,
        percent: 100,
        player,
        gaffer,
    })
}
