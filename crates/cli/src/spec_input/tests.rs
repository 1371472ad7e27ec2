//! What the options and files of `run` and `submit` turn into.
#![allow(clippy::panic)]

use std::fs;

use gaffer_domain::document::Language;
use gaffer_domain::spec::{JobSpec, MAX_SPEC_BYTES};
use gaffer_protocol::rest::ProblemField;

use super::*;
use crate::document_file::language_of;

fn no_env(_: &str) -> Option<OsString> {
    None
}

/// A specification as a program would read what is sent.
fn sent(input: &Input) -> Value {
    serde_json::from_str(&input.spec.to_json()).unwrap_or_default()
}

fn flags() -> SpecFlags {
    SpecFlags::default()
}

/// What these words on the command line mean.
fn given<const N: usize>(words: [&str; N]) -> SpecFlags {
    spec_flags::parsed(&words).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_bare_command_is_all_that_is_needed() -> Result<(), Failure> {
    let input = Input::of_command(vec!["uname".to_owned(), "-a".to_owned()], &flags(), no_env)?;
    assert_eq!(sent(&input), json!({"command": ["uname", "-a"]}));
    Ok(())
}

#[test]
fn every_option_has_its_field_and_the_api_takes_it() -> Result<(), Failure> {
    let all = given([
        "--name=n",
        "--cpu=500m",
        "--memory=1GiB",
        "--disk=2GiB",
        "-e",
        "A=1=2",
        "--env",
        "B=",
        "-e",
        "HOME",
        "--workdir=/work",
        "--timeout=30m",
        "--output-limit=1GiB",
        "--on-output-limit=kill",
        "--priority=90",
        "--datacenter=lab",
        "--datacenter=edge",
        "--label=team=vision",
        "--constraint=arch == arm64",
        "--resource=gpu=2",
        "--spread=labels.rack",
        "--distinct-workers",
        "--strategy=binpack",
        "--driver=docker",
        "--image=busybox",
        "--pull=never",
        "--entrypoint=sh -c 'a b'",
        "--user=1000:100",
        "-v",
        "/data:/data:ro",
        "--publish",
        "8080:80",
        "--network=bridge",
        "--cap-add=CHOWN",
        "--gpus=2",
        "--retries=2",
        "--restart-on-exit=75",
        "--restart-on-exit=76",
        "--no-restart-on-exit=2",
        "--success-code=3",
        "--max-failures=1",
        "--on-lost=fail",
        "--lost-after=1m",
        "--retention=30d",
        "--pin",
        "--secret=DB_PASSWORD",
        "--array=3-5",
        "--each=a",
        "--each=1.10",
        "--each=c d",
        "--stop-signal=INT",
        "--grace=5s",
        "--health-http=/health",
        "--health-port=80",
        "--health-interval=5s",
        "--health-timeout=1s",
        "--health-start-period=1m",
        "--health-failures=5",
        "--readiness-command=./ready -q",
        "--readiness-interval=2s",
        "--type=batch",
    ]);
    let env = |name: &str| (name == "HOME").then(|| "/root".into());
    let input = Input::of_command(vec!["true".to_owned()], &all, env)?;
    let expected = json!({
        "name": "n", "type": "batch", "command": ["true"], "priority": 90, "datacenters": ["lab", "edge"], "labels": {"team": "vision"},
        "lost_after": "1m", "retention": {"all": "30d"}, "pin": true,
        "resources": {"cpu": "500m", "memory": "1GiB", "disk": "2GiB", "gpu": 2},
        "constraints": ["arch == arm64"], "spread": "labels.rack", "distinct_workers": true,
        "placement": {"strategy": "binpack"},
        "env": {"A": "1=2", "B": "", "HOME": "/root"}, "secrets": ["DB_PASSWORD"], "timeout": "30m", "output": {"limit": "1GiB", "on_limit": "kill"}, "driver": "docker",
        "image": "busybox", "pull": "never", "entrypoint": ["sh", "-c", "a b"], "user": "1000:100", "workdir": "/work",
        "volumes": ["/data:/data:ro"], "ports": ["8080:80"], "network": "bridge", "capabilities": ["CHOWN"], "gpus": 2,
        "restart": {"policy": "on-failure", "limit": 2, "on_lost": "fail", "on_exit": ["75", "76"], "not_on_exit": ["2"], "success": ["3"]},
        "array": "3-5", "each": ["a", "1.10", "c d"], "max_failures": 1,
        "stop": {"signal": "INT", "grace": "5s"},
        "health": {
            "http": "/health", "port": "80", "interval": "5s", "timeout": "1s", "start_period": "1m", "failures": 5,
        },
        "readiness": {"command": ["./ready", "-q"], "interval": "2s"},
    });
    assert_eq!(sent(&input), expected);
    assert!(JobSpec::of(&input.spec).is_ok());
    // That is all but `--count`, `--nice`, which a container does not have, and the other ways to check: `--health-tcp`,
    // `--health-command`, `--readiness-http`, `--readiness-port` and `--readiness-tcp`.
    assert_eq!(spec_flags::all().len(), 57);
    Ok(())
}

#[test]
fn each_line_of_a_file_is_an_item_but_for_blank_ones() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let items = |path: &Path| Items { each_line: Some(path.to_owned()), ..Items::default() };
    let lines = directory.path().join("lines");
    fs::write(&lines, "a.png\r\n\n  \n b c \n1.10\na.png")?;
    let mut input = Input::of_command(vec!["x".to_owned()], &given(["--array", "%2"]), no_env)?;
    items(&lines).apply(&mut input)?;
    assert_eq!(sent(&input)["each"], json!(["a.png", " b c ", "1.10", "a.png"]));
    assert!(JobSpec::of(&input.spec).is_ok());

    fs::write(&lines, "\n \n")?;
    let blank = items(&lines).apply(&mut input).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(blank.ends_with("every line is blank"), "{blank}");
    let several = directory.path().join("several.yaml");
    fs::write(&several, "tasks: [{name: a, command: [a]}]\n")?;
    let mut input = Input::of_file(&several, &flags(), no_env)?;
    assert!(items(&lines).apply(&mut input).is_err());
    Ok(())
}

#[test]
fn a_command_is_for_each_worker_and_a_list_of_tasks_is_not() -> Result<(), Box<dyn std::error::Error>> {
    let items = Items { each_worker: true, ..Items::default() };
    let mut input = Input::of_command(vec!["uptime".to_owned()], &given(["--array", "%2"]), no_env)?;
    items.apply(&mut input)?;
    assert_eq!(sent(&input), json!({"command": ["uptime"], "array": "%2", "each": "worker"}));
    assert_eq!(input.place("/each"), Some("--each-worker".to_owned()));
    assert!(JobSpec::of(&input.spec).is_ok_and(|spec| spec.tasks[0].is_for_each_worker()));
    let directory = tempfile::tempdir()?;
    let several = directory.path().join("several.yaml");
    fs::write(&several, "tasks: [{name: a, command: [a]}]\n")?;
    let mut input = Input::of_file(&several, &flags(), no_env)?;
    assert!(items.apply(&mut input).is_err_and(|failure| failure.to_string().contains("--each-worker")));
    Ok(())
}

#[test]
fn no_retries_are_no_restarts() -> Result<(), Failure> {
    let input = Input::of_command(vec!["x".to_owned()], &given(["--retries", "0"]), no_env)?;
    assert_eq!(sent(&input)["restart"], json!({"limit": 0}));
    Ok(())
}

#[test]
fn wrong_options_are_said_at_once() {
    for wrong in [given(["--env", "MISSING"]), given(["--label", "no-value"]), given(["--resource", "gpu"])] {
        let made = Input::of_command(vec!["x".to_owned()], &wrong, no_env);
        assert!(matches!(made, Err(Failure::Usage(_))));
    }
}

#[test]
fn options_are_put_over_a_file() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let single = directory.path().join("single.yaml");
    fs::write(&single, "name: old\ncommand: [a]\nenv: {A: 1, B: 2}\nrestart: always\n")?;
    let changed = given(["--name", "new", "-e", "B=3", "--on-lost", "fail", "--cpu", "2"]);
    assert_eq!(
        sent(&Input::of_file(&single, &changed, no_env)?),
        json!({
            "name": "new", "command": ["a"], "env": {"A": 1, "B": "3"}, "resources": {"cpu": "2"},
            "restart": {"policy": "always", "on_lost": "fail"},
        })
    );

    let several = directory.path().join("several.toml");
    fs::write(&several, "[[tasks]]\nname = \"a\"\ncommand = [\"a\"]\n")?;
    let job_option = given(["--priority", "1"]);
    assert_eq!(sent(&Input::of_file(&several, &job_option, no_env)?)["priority"], json!(1));
    let refused = Input::of_file(&several, &changed, no_env);
    assert!(
        matches!(&refused, Err(Failure::Usage(why)) if why.starts_with("--cpu belongs to a task")),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn an_option_joins_what_a_word_stands_for() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("job.yaml");
    fs::write(&path, "command: [a]\nplacement: binpack\nrestart: always\n")?;
    let input = Input::of_file(&path, &given(["--strategy", "epvm", "--retries", "9"]), no_env)?;
    assert_eq!(sent(&input)["placement"], json!({"strategy": "epvm"}));
    assert_eq!(sent(&input)["restart"], json!({"policy": "always", "limit": 9}));
    assert!(JobSpec::of(&input.spec).is_ok());
    Ok(())
}

#[test]
fn the_language_is_known_by_the_extension_or_by_a_brace() {
    let known = |path: &str, text: &str| language_of(Path::new(path), text);
    assert_eq!(known("a.yml", "{"), Language::Yaml);
    assert_eq!(known("a.TOML", ""), Language::Toml);
    assert_eq!(known("a.json", ""), Language::Json);
    assert_eq!(known("-", "\n {\"a\": 1}"), Language::Json);
    assert_eq!(known("-", "a: 1"), Language::Yaml);
    assert_eq!(known("-", "{a: 1}"), Language::Yaml);
    assert_eq!(known("-", "name = 'x'"), Language::Toml);
}

#[test]
fn a_script_is_a_job_of_its_own_name() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("build.sh");
    fs::write(&path, "#!/bin/sh\necho hi\n")?;
    let input = Input::of_script(&path, &flags(), no_env)?;
    assert_eq!(sent(&input), json!({"name": "build.sh", "script": "#!/bin/sh\necho hi\n"}));
    let mistaken = Input::of_file(&path, &flags(), no_env);
    assert!(matches!(mistaken, Err(Failure::Usage(why)) if why.contains("--script")));
    Ok(())
}

#[test]
fn what_is_no_text_or_too_much_is_not_sent() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("job.yaml");
    for bytes in [vec![0xff, 0xfe], vec![b' '; MAX_SPEC_BYTES + 1], b"a: [".to_vec()] {
        fs::write(&path, bytes)?;
        assert!(matches!(Input::of_file(&path, &flags(), no_env), Err(Failure::Usage(_))));
    }
    assert!(matches!(
        Input::of_file(&directory.path().join("none"), &flags(), no_env),
        Err(Failure::Usage(_))
    ));
    Ok(())
}

#[test]
fn a_complaint_is_about_what_the_user_wrote() -> Result<(), Box<dyn std::error::Error>> {
    let complaint = |pointer: &str| Problem {
        kind: String::new(),
        title: String::new(),
        status: 422,
        code: "invalid_spec".to_owned(),
        detail: "the job has mistakes".to_owned(),
        request_id: String::new(),
        state: None,
        errors: vec![ProblemField {
            pointer: pointer.to_owned(),
            detail: "wrong".to_owned(),
            suggestion: None,
        }],
    };
    let pointer = |input: &Input, pointer| input.explain(complaint(pointer)).errors.remove(0).pointer;

    let command = Input::of_command(vec!["x".to_owned()], &flags(), no_env)?;
    assert_eq!(pointer(&command, "/resources/cpu"), "--cpu");
    assert_eq!(pointer(&command, "/env/1A"), "--env");
    assert_eq!(pointer(&command, "/command/0"), "/command/0");

    let directory = tempfile::tempdir()?;
    let path = directory.path().join("job.yaml");
    fs::write(&path, "name: x\ncomand: [a]\n")?;
    let file = Input::of_file(&path, &flags(), no_env)?;
    assert_eq!(pointer(&file, "/comand"), format!("{}:2:1 /comand", path.display()));
    assert_eq!(pointer(&file, ""), format!("{}:1:1", path.display()));
    assert_eq!(pointer(&file, "/elsewhere"), "/elsewhere");
    Ok(())
}

#[test]
fn what_was_written_is_what_is_sent() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    for (name, text) in [
        (
            "job.yaml",
            "\u{feff}command: [a]\r\nenv: {A: 1.10, B: 680841e1, C: +4915112345678, D: 0x1F, E: True}\r\n",
        ),
        (
            "job.toml",
            "\u{feff}command = ['a']\r\nenv = {A = 1.10, B = 680841e1, C = '+4915112345678', D = 0x1F, E = 'True'}",
        ),
        (
            "job.json",
            "\u{feff}{\"command\": [\"a\"], \"env\": {\"A\": 1.10, \"B\": 680841e1, \"C\": \"+4915112345678\", \"D\": \"0x1F\", \"E\": \"True\"}}",
        ),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, text)?;
        let input = Input::of_file(&path, &given(["-e", "F=1"]), no_env)?;
        let arrived = Language::Json.read(&input.spec.to_json())?;
        let spec = JobSpec::of(&arrived).map_err(|mistakes| format!("{mistakes:?}"))?;
        let values: Vec<_> = spec.tasks[0].env.values().collect();
        assert_eq!(values, ["1.10", "680841e1", "+4915112345678", "0x1F", "True", "1"], "{name}");
    }
    Ok(())
}

#[test]
fn a_key_that_is_written_twice_is_refused_with_its_line() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    for (name, text) in [
        ("job.yaml", "command: [a]\nenv:\n  A: 1\n  A: 2\n"),
        ("job.toml", "command = ['a']\n[env]\nA = 1\nA = 2\n"),
        ("job.json", "{\"command\": [\"a\"],\n\"env\": {\n\"A\": 1,\n\"A\": 2}}"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, text)?;
        let refused = Input::of_file(&path, &flags(), no_env);
        let start = format!("{}:4:", path.display());
        assert!(matches!(&refused, Err(Failure::Usage(why)) if why.starts_with(&start)), "{refused:?}");
    }
    Ok(())
}

#[test]
fn a_script_of_another_system_is_one_that_runs() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("x.sh");
    fs::write(&path, "\u{feff}#!/bin/sh\r\necho hi\r\n")?;
    let input = Input::of_script(&path, &flags(), no_env)?;
    assert_eq!(sent(&input)["script"], json!("#!/bin/sh\necho hi\n"));
    let mistaken = Input::of_file(&path, &flags(), no_env);
    assert!(matches!(mistaken, Err(Failure::Usage(why)) if why.contains("--script")));
    fs::write(&path, b"echo a\necho \xe9\n")?;
    let refused = Input::of_script(&path, &flags(), no_env);
    assert!(
        matches!(&refused, Err(Failure::Usage(why)) if why.ends_with("line 2 has the byte 0xe9 after 5 bytes")),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn a_variable_that_is_no_text_is_told_as_what_it_is() {
    use std::os::unix::ffi::OsStringExt;
    let latin = |_: &str| Some(OsString::from_vec(b"caf\xe9".to_vec()));
    let wanted = given(["-e", "PLACE"]);
    let refused = Input::of_command(vec!["x".to_owned()], &wanted, latin);
    let expected = "--env PLACE: its value in this environment is not text in UTF-8: it has the byte 0xe9 after 3 bytes: \
                    caf\\xe9";
    assert!(matches!(&refused, Err(Failure::Usage(why)) if why == expected), "{refused:?}");
}
