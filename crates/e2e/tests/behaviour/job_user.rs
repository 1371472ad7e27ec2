//! Jobs of a worker that is root run as another user, who can reach nothing of the worker.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;

use gaffer_e2e::gaffer::{Dev, WorkerProcess, command, data_dir};
use gaffer_e2e::{PATIENCE, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

/// The user that these jobs run as.
const NOBODY: u32 = 65534;

/// An installation with a worker whose jobs run as the user `nobody`. None, with a loud word, where tests are not root.
async fn installation(dir: &Path, worker_dir: &Path) -> Option<(Dev, WorkerProcess)> {
    if !nix::unistd::geteuid().is_root() {
        #[expect(clippy::print_stderr, reason = "a skipped test says why")]
        {
            eprintln!("SKIPPED: only root can start a worker whose jobs run as another user");
        }
        return None;
    }
    let dev = Dev::start_with(dir, &[("GAFFER_WORKER_NAME", "own")]).await;
    assert!(dev.client.post("/workers/own/drain", &json!({})).await.status.is_success());
    let worker = dev.add_worker_with("w", worker_dir, &[("GAFFER_RUN_AS", &NOBODY.to_string())]).await;
    Some((dev, worker))
}

async fn run(dev: &Dev, mut spec: Value, script: &str) -> String {
    spec["script"] = json!(script);
    let job = dev.client.submit(spec).await;
    let done = dev.client.finished(job).await;
    let output = String::from_utf8(dev.client.output(job).await).unwrap();
    assert_eq!(done.state.as_str(), "completed", "{:?}\n{output}", done.reason);
    output
}

#[tokio::test]
async fn a_job_is_its_users_in_every_respect() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let Some((dev, worker)) = installation(dir.path(), worker_dir.path()).await else { return };
    let nobody = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(NOBODY)).unwrap().unwrap();
    let who = run(&dev, json!({}), "id -u; id -g; id -G; echo $USER $LOGNAME $HOME").await;
    let expected = format!(
        "{NOBODY}\n{gid}\n{gid}\n{name} {name} {home}\n",
        gid = nobody.gid,
        name = nobody.name,
        home = nobody.dir.display()
    );
    assert_eq!(who, expected);
    // Its directories are its own, its streams can be opened by name.
    let script = "set -e; echo x > file; echo y > $TMPDIR/file; echo out > /dev/stdout; echo err > /dev/stderr; \
                  stat -c %u . $TMPDIR file; test ! -w ..";
    let output = run(&dev, json!({}), script).await;
    assert_eq!(output, format!("out\nerr\n{NOBODY}\n{NOBODY}\n{NOBODY}\n"));
    // A file with a secret is for it alone.
    let secret =
        dev.client.request(reqwest::Method::PUT, "/secrets/TOKEN").json(&json!({"value": "open sesame"}));
    assert!(secret.send().await.unwrap().status().is_success());
    let spec = json!({"secrets": [{"name": "TOKEN", "file": "dir/token"}]});
    let script = "cd $GAFFER_SECRETS_DIR; test \"$(cat dir/token)\" = 'open sesame'; stat -c '%u %a' . dir dir/token; ls .. 2>/dev/null; true";
    let output = run(&dev, spec, script).await;
    assert_eq!(output, format!("{NOBODY} 700\n{NOBODY} 700\n{NOBODY} 400\n"));
    // So is its standard input.
    let mut attached = dev.cli(&["run", "-i", "--", "sh", "-c", "cat /dev/stdin; id -u"]);
    let mut child = attached.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"given\n").await.unwrap();
    let done = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap(), format!("given\n{NOBODY}\n"));
    // And so is what checks its health.
    let ids = dir.path().join("ids");
    fs::create_dir(&ids).unwrap();
    fs::set_permissions(&ids, fs::Permissions::from_mode(0o777)).unwrap();
    let check = format!("touch {}/of-check", ids.display());
    let service = json!({
        "name": "checked", "type": "service", "script": "sleep 1000",
        "health": {"command": ["sh", "-c", check], "interval": "1s"},
    });
    let job = dev.client.submit(service).await;
    eventually("the check has run", async || {
        fs::metadata(ids.join("of-check")).ok().map(|metadata| assert_eq!(metadata.uid(), NOBODY))
    })
    .await;
    dev.client.post(&format!("/jobs/{job}/stop"), &json!({})).await;
    dev.client.finished(job).await;
    assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
}

#[tokio::test]
async fn a_job_reaches_nothing_of_the_worker_and_of_other_attempts() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let Some((dev, worker)) = installation(dir.path(), worker_dir.path()).await else { return };
    let other = dev
        .client
        .submit(json!({"script": "echo secret > file; echo ready; exec sleep 1000", "env": {"A": "hidden"}}))
        .await;
    eventually("the other one is there", async || {
        (dev.client.output(other).await == b"ready\n").then_some(())
    })
    .await;
    let place = worker_dir.path().display().to_string();
    let executor = worker.executor().unwrap();
    let script = format!(
        "for file in identity lock executor.sock executor.log home.json spool.owner; do \
             test -e {place}/$file && cat {place}/$file >/dev/null 2>&1 && echo reads $file; done; \
         for dir in . attempts spool trash spare; do ls {place}/$dir >/dev/null 2>&1 && echo lists $dir; \
             touch {place}/$dir/x 2>/dev/null && echo writes $dir; done; \
         cat /proc/{executor}/environ >/dev/null 2>&1 && echo reads executor; \
         kill -0 {executor} 2>/dev/null && echo signals executor; \
         mv ../work ../other 2>/dev/null && echo moves its directory; echo tried"
    );
    assert_eq!(run(&dev, json!({}), &script).await, "tried\n");
    dev.client.post(&format!("/jobs/{other}/stop"), &json!({})).await;
    dev.client.finished(other).await;
    // Its data directory can be passed through, and nothing more.
    assert_eq!(fs::metadata(worker_dir.path()).unwrap().permissions().mode() & 0o022, 0);
    // What another user's job leaves behind is dead and gone all the same.
    let output =
        run(&dev, json!({}), "setsid sleep 1000 >/dev/null 2>&1 & echo $!; mkdir -m 0 closed; pwd").await;
    let (pid, directory) = output.trim_end().split_once('\n').unwrap();
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "what it left is dead: {state}");
    eventually("its directory is gone", async || (!Path::new(directory).exists()).then_some(())).await;
    assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
}

#[tokio::test]
async fn jobs_gain_no_rights_by_setuid_programs_unless_they_may() {
    let (dir, first, second) = (data_dir(), data_dir(), data_dir());
    let dev = Dev::start(dir.path()).await;
    let plain = dev.add_worker("plain", first.path()).await;
    let allowing = dev.add_worker_with("allowing", second.path(), &[("GAFFER_ALLOW_SETUID", "true")]).await;
    for (name, expected) in [("plain", "NoNewPrivs:\t1\n"), ("allowing", "NoNewPrivs:\t0\n")] {
        let spec = json!({"constraints": [format!("name == {name}")]});
        assert_eq!(run(&dev, spec, "grep NoNewPrivs /proc/self/status").await, expected, "{name}");
    }
    if nix::unistd::geteuid().is_root()
        && nix::unistd::User::from_name("gaffer-job").is_ok_and(|user| user.is_none())
    {
        // Nobody has said that these jobs are to be root's; `gaffer dev` runs them as the user who started it.
        let workers = dev.client.get("/workers").await.body;
        for worker in workers["items"].as_array().unwrap() {
            let is_warned = worker["warnings"].to_string().contains("host jobs run as root");
            assert_eq!(
                is_warned,
                ["plain", "allowing"].contains(&worker["name"].as_str().unwrap()),
                "{worker}"
            );
        }
    }
    assert_eq!(plain.end(Signal::SIGINT).await, Some(0));
    // A worker with another setting does not keep the executor of before.
    let changed = dev.add_worker_with("plain", first.path(), &[("GAFFER_ALLOW_SETUID", "true")]).await;
    let spec = json!({"constraints": ["name == plain"]});
    assert_eq!(run(&dev, spec, "grep NoNewPrivs /proc/self/status").await, "NoNewPrivs:\t0\n");
    for worker in [allowing, changed] {
        assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
    }
}

#[tokio::test]
async fn a_worker_whose_jobs_cannot_run_as_that_user_says_why() {
    let (closed, worker_dir) = (tempfile::tempdir().unwrap(), data_dir());
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let inside = closed.path().join("inside");
    let refused = async |user: &str, dir: &Path| {
        let mut worker = command(&["worker"]);
        worker.env("MASTER_URL", "ws://127.0.0.1:9").env("API_KEY", "gfw_x").env("GAFFER_DATA_DIR", dir);
        let output = worker.env("GAFFER_RUN_AS", user).kill_on_drop(true).output();
        let output = tokio::time::timeout(*PATIENCE, output).await.expect("it runs all the same").unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let unknown = refused("no-such-user", worker_dir.path()).await;
    assert!(unknown.contains("there is no user no-such-user"), "{unknown}");
    if !nix::unistd::geteuid().is_root() {
        let other = refused("root", worker_dir.path()).await;
        assert!(other.contains("only a worker that runs as root"), "{other}");
        return;
    }
    let unreachable = refused("nobody", &inside).await;
    let expected = format!("cannot enter {}", closed.path().display());
    assert!(unreachable.contains(&expected) && unreachable.contains("GAFFER_DATA_DIR"), "{unreachable}");
}

#[tokio::test]
async fn a_job_enters_and_finds_only_what_its_user_could() {
    let (dir, worker_dir, place) = (data_dir(), data_dir(), data_dir());
    let Some((dev, worker)) = installation(dir.path(), worker_dir.path()).await else { return };
    // Everybody may read what is inside, but nobody else gets there.
    let (closed, own) = (place.path().join("closed"), place.path().join("own"));
    let inner = closed.join("inner");
    fs::create_dir_all(&inner).unwrap();
    fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    for (path, mode) in [(&inner, 0o755), (&closed, 0o700), (&own, 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, mode) in [("file", 0o644), ("tool", 0o755)] {
        fs::write(inner.join(name), "#!/bin/sh\necho reached\n").unwrap();
        fs::set_permissions(inner.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let refused = async |spec: Value| {
        let job = dev.client.submit(spec).await;
        let done = dev.client.finished(job).await;
        assert_eq!(done.state.as_str(), "failed");
        assert_eq!(dev.client.output(job).await, b"");
        done.reason.unwrap().message
    };
    let inside = inner.display().to_string();
    let message = refused(json!({"workdir": inside, "command": ["cat", "file"]})).await;
    assert!(message.contains("cannot run in the working directory"), "{message}");
    // The answer is the same whatever is there.
    let mut answers = Vec::new();
    for name in ["file", "tool", "nothing"] {
        let path = format!("{inside}/{name}");
        let as_directory = refused(json!({"workdir": path, "command": ["true"]})).await;
        let as_program = refused(json!({"command": [path]})).await;
        let as_interpreter = refused(json!({"script": format!("#!{path}\n")})).await;
        let told = [as_directory, as_program, as_interpreter];
        answers.push(
            told.map(|answer| answer.replace(name, "NAME").replace(|digit: char| digit.is_numeric(), "")),
        );
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let message = refused(json!({"workdir": closed.display().to_string(), "command": ["true"]})).await;
    assert!(message.contains("the user of the job cannot enter it"), "{message}");
    // Health checks run in the same directory and find as little.
    let service = json!({
        "name": "checked", "type": "service", "script": "sleep 1000",
        "health": {"command": [format!("{inside}/tool")], "interval": "1s", "failures": 1},
        "restart": {"policy": "never"},
    });
    let message = refused(service).await;
    assert!(message.contains("command not found"), "{message}");
    // What is the user's alone is entered.
    let output =
        run(&dev, json!({"workdir": own.display().to_string()}), "pwd; echo x > file; stat -c %u file").await;
    assert_eq!(output, format!("{}\n{NOBODY}\n", own.display()));
    assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
}

#[tokio::test]
async fn a_job_that_takes_the_place_of_files_with_secrets_keeps_no_other_one_from_having_some() {
    let (dir, worker_dir) = (data_dir(), data_dir());
    let Some((dev, worker)) = installation(dir.path(), worker_dir.path()).await else { return };
    let digest = Sha256::digest(worker_dir.path().canonicalize().unwrap().as_os_str().as_encoded_bytes());
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let taken = format!("/dev/shm/gaffer-secrets-{digest}");
    run(&dev, json!({}), &format!("mkdir -m 777 {taken}")).await;
    let secret =
        dev.client.request(reqwest::Method::PUT, "/secrets/TOKEN").json(&json!({"value": "open sesame"}));
    assert!(secret.send().await.unwrap().status().is_success());
    let spec = json!({"secrets": [{"name": "TOKEN", "file": "token"}]});
    let output = run(&dev, spec, "wc -c < $GAFFER_SECRETS_DIR/token; echo $GAFFER_SECRETS_DIR").await;
    fs::remove_dir(&taken).unwrap();
    let (bytes, place) = output.trim_end().split_once('\n').unwrap();
    assert_eq!(bytes, "11");
    assert!(place.starts_with("/dev/shm/") && !place.starts_with(&format!("{taken}/")), "{place}");
    assert!(!Path::new(place).exists(), "it went with the attempt");
    assert_eq!(worker.end(Signal::SIGINT).await, Some(0));
}
