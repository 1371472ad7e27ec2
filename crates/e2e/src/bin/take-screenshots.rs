//! Takes the screenshots of the documentation: `scripts/screenshots`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "without a picture it should fail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gaffer_e2e::browser::{Browser, Scheme};
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{Dev, WorkerProcess, data_dir};
use serde_json::json;

/// GitHub shows README.md about this wide; two pixels of the screen for each of the page.
const WIDTH: u32 = 1100;
const HEIGHT: u32 = 640;
const SCALE: f64 = 2.0;
const QUALITY: u8 = 70;
const MOST_BYTES: usize = 200_000;

/// Output of a test run that is still going on.
const TESTS: &str = r#"
say() { printf "$@"; sleep 0.03; }
say '\033[1m==>\033[0m collecting tests of \033[36mcamera-service\033[0m\n'
for module in calibration decoder exposure frames geometry metadata noise pipeline sensor stream; do
    case $module in
        noise) say '\033[33mwarn\033[0m  %-12s 2 tests skipped: no reference images for this sensor\n' "$module" ;;
        *) say '\033[32mok\033[0m    %-12s \033[2m%s tests in 0.%ss\033[0m\n' "$module" "$(( ${#module} * 7 ))" "${#module}" ;;
    esac
done
say '\033[1m==>\033[0m hardware in the loop on \033[36m%s\033[0m\n' "$GAFFER_WORKER"
say 'sensor imx477 found at /dev/video0, firmware 1.14.2\n'
say 'exposure sweep, 24 steps from 1/8000 s to 1 s\n'
say 'step 17 retried: frame 412 arrived late by 3 ms\n' >&2
for step in 1 2 3 4 5 6; do say '  frame set %s/24  mean 0.4%s  clipped 0.0%s%%\n' "$step" "$step" "$step"; done
sleep 600
"#;

fn main() -> ExitCode {
    let Some(dir) = std::env::args().nth(1).map(PathBuf::from) else {
        eprintln!("usage: take-screenshots DIRECTORY");
        return ExitCode::from(2);
    };
    tokio::runtime::Runtime::new().unwrap().block_on(take(&dir))
}

async fn take(dir: &Path) -> ExitCode {
    let dev_dir = data_dir();
    let variables = [
        ("GAFFER_WORKER_NAME", "build-1"),
        ("GAFFER_WORKER_LABELS", "rack=2"),
        ("GAFFER_CPU", "8"),
        ("GAFFER_MEMORY", "16GiB"),
        ("GAFFER_DATACENTER", "office"),
    ];
    let dev = Dev::start_with(dev_dir.path(), &variables).await;
    let bench_dir = data_dir();
    let bench = [
        ("GAFFER_WORKER_LABELS", "camera=imx477"),
        ("GAFFER_CPU", "4"),
        ("GAFFER_MEMORY", "4GiB"),
        ("GAFFER_DATACENTER", "lab"),
    ];
    let _bench = dev.add_worker_with("bench-pi4", bench_dir.path(), &bench).await;
    let gpu_dir = data_dir();
    let gpu = [
        ("GAFFER_WORKER_LABELS", "gpu=a100"),
        ("GAFFER_RESOURCES", "gpu=2"),
        ("GAFFER_CPU", "16"),
        ("GAFFER_MEMORY", "64GiB"),
        ("GAFFER_DATACENTER", "lab"),
    ];
    let _gpu: WorkerProcess = dev.add_worker_with("gpu-1", gpu_dir.path(), &gpu).await;
    let [running, waiting] = jobs(&dev).await;

    let Some(browser) = Browser::open(WIDTH, HEIGHT, Scheme::Light).await else {
        return ExitCode::FAILURE;
    };
    let link = dev.client.post("/login-links", &json!({})).await.body["url"].as_str().unwrap().to_owned();
    let base = link.split("/login").next().unwrap();
    browser.visit(&link).await;
    browser.shows("Jobs").await;
    let pages = [
        ("overview", "/".to_owned(), "render frames"),
        ("output", format!("/jobs/{running}"), "frame set 6/24"),
        ("waiting", format!("/jobs/{waiting}"), "Reasons by worker"),
    ];
    fs::create_dir_all(dir).unwrap();
    let mut is_good = true;
    for (name, path, shown) in &pages {
        for (scheme, shade) in [(Scheme::Light, "light"), (Scheme::Dark, "dark")] {
            browser.resize_scaled(WIDTH, HEIGHT, SCALE).await;
            browser.prefer(scheme).await;
            browser.visit(&format!("{base}{path}")).await;
            browser.shows(shown).await;
            // The stream has begun, so nothing changes while the picture is taken.
            browser.shows("live").await;
            let picture = browser.webp(QUALITY).await;
            let file = dir.join(format!("{name}-{shade}.webp"));
            println!("{} {} bytes", file.display(), picture.len());
            is_good &= picture.len() <= MOST_BYTES;
            fs::write(file, picture).unwrap();
        }
    }
    browser.close().await;
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Fills the pages. Returns a job whose output grows, and one that waits for a worker which there is not.
async fn jobs(dev: &Dev) -> [i64; 2] {
    let client = &dev.client;
    let short = [
        json!({"name": "backup photos", "labels": {"team": "home"}, "script": "echo 41,220 files, 3 changed"}),
        json!({"name": "lint", "labels": {"repo": "camera-service"}, "script": "echo no problems"}),
        json!({"name": "flash firmware", "labels": {"repo": "camera-service"}, "constraints": ["labels.camera"],
            "script": "echo writing 1.14.2; echo 'verify failed at 0x0801f400' >&2; exit 3"}),
        json!({"name": "nightly report", "tasks": [
            {"name": "collect", "array": "0-11", "script": "echo part $GAFFER_TASK_INDEX", "resources": {"cpu": 0.5}},
            {"name": "summarise", "script": "echo done", "depends_on": ["collect"]}]}),
    ];
    for spec in short {
        let job = client.submit(spec).await;
        client.finished(job).await;
    }
    let frames = client
        .submit(json!({"name": "render frames", "labels": {"film": "orbit"}, "datacenters": ["office"],
            "script": "[ $GAFFER_TASK_INDEX -lt 14 ] || sleep 600", "array": "0-23", "resources": {"cpu": 1}}))
        .await;
    eventually("frames are rendered", async || {
        (client.job(frames).await.task_counts.get("completed").copied() >= Some(14)).then_some(())
    })
    .await;
    let train = json!({"name": "train segmentation", "labels": {"team": "vision"}, "constraints": ["labels.gpu == a100"],
        "script": "sleep 600", "resources": {"cpu": 12, "memory": "48GiB", "gpu": 2}});
    let train = client.submit(train).await;
    client.in_state(train, "running").await;
    let running = json!({"name": "camera tests", "labels": {"repo": "camera-service"}, "script": TESTS,
        "constraints": ["labels.camera == imx477"], "resources": {"cpu": 2, "memory": "1GiB"}});
    let running = client.submit(running).await;
    client.in_state(running, "running").await;
    let waiting = json!({"name": "evaluate model", "labels": {"team": "vision"}, "script": "true",
        "resources": {"cpu": 8, "memory": "32GiB", "gpu": 1}});
    let waiting = client.submit(waiting).await;
    [running, waiting]
}
