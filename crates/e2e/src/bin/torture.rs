//! Runs gaffer under faults and reports what was lost: `scripts/torture`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a run that cannot go on should fail")]

use std::process::ExitCode;
use std::time::Duration;

use gaffer_e2e::torture::{Plan, Run, Trick, run, scenario};

const OPTIONS: &str = "options:
  --workers N    workers of the fleet [4, in crowd 20]
  --cpu N        processors that each of them offers; a task of the mix takes a quarter of one [8]
  --per-job N    tasks of each job of the mix, at most 500 [250]
  --percent N    of the time that tasks of the mix take [100]
  --tasks N      tasks of readopt [100], escape [1000], crowd [10000]; the largest job of large [100000]
  --trick NAME   what mangle does to frames; may be repeated [double, reorder, cut, replay]
  --gaffer PATH  the program that is tried [the one beside this]
  --keep         leave the directory with the logs, and say where it is";

fn main() -> ExitCode {
    gaffer_e2e::cluster::as_for_users();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = scenario::act(&arguments) {
        return code.into();
    }
    if arguments == ["list"] {
        Run::ALL.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let plan = match plan(&arguments) {
        Ok(plan) => plan,
        Err(mistake) => {
            let runs = Run::ALL.map(|(name, _)| name).join("|");
            eprintln!(
                "{mistake}\nusage: torture [{runs}] [MINUTES] [SEED] [OPTIONS]\n       torture list\n{OPTIONS}"
            );
            return ExitCode::from(2);
        }
    };
    println!("{:?} for {:?}, seed {}", plan.run, plan.duration, plan.seed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let verdict = runtime.block_on(run(&plan));
    print!("{verdict}");
    println!("{}", if verdict.is_good() { "every promise was kept" } else { "PROMISES WERE BROKEN" });
    ExitCode::from(u8::from(!verdict.is_good()))
}

/// What the arguments ask for, or what is wrong with them.
fn plan(arguments: &[String]) -> Result<Plan, String> {
    let is_option = |argument: &&String| argument.starts_with("--");
    let places = arguments.iter().position(|argument| is_option(&argument)).unwrap_or(arguments.len());
    let (places, mut options) = (&arguments[..places], arguments[places..].iter());
    let name = places.first().map_or("all", String::as_str);
    let run = Run::named(name).ok_or_else(|| format!("there is no run {name:?}"))?;
    let minutes: f64 = places.get(1).map_or(Ok(1.0), |text| number(text))?;
    let duration = Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string())?;
    let seed = places.get(2).map_or_else(|| Ok(rand::random()), |text| number(text))?;
    if let Some(extra) = places.get(3) {
        return Err(format!("what is {extra:?}?"));
    }
    let player = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut plan = Plan::new(run, duration, seed, player);
    let mut tricks = Vec::new();
    while let Some(option) = options.next() {
        if option == "--keep" {
            plan.keep = true;
            continue;
        }
        let value = options.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--workers" => plan.workers = number(value)?,
            "--cpu" => plan.cpu = number(value)?,
            "--per-job" => plan.tasks_per_job = number(value)?,
            "--percent" => plan.percent = number(value)?,
            "--gaffer" => plan.gaffer = value.into(),
            "--tasks" => plan.tasks = number(value)?,
            "--trick" => {
                let trick = Trick::ALL.into_iter().find(|(known, _)| known == value);
                tricks.push(trick.ok_or_else(|| format!("there is no trick {value:?}"))?.1);
            }
            _ => return Err(format!("there is no option {option}")),
        }
    }
    if !tricks.is_empty() {
        plan.tricks = tricks;
    }
    let is_sensible = plan.workers > 0 && plan.cpu > 0 && (1..=500).contains(&plan.tasks_per_job);
    if is_sensible {
        Ok(plan)
    } else {
        Err("there must be workers, processors, and 1 to 500 tasks per job".to_owned())
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number that can be used here"))
}
