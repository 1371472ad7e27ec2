#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    worker: WorkerConfig,
}

#[test]
fn labels_are_read_from_a_list() {
    let labels: Labels = "gpu=a100, rack=3,,zone=".parse().unwrap();
    let expected = [("gpu", "a100"), ("rack", "3"), ("zone", "")];
    assert_eq!(labels.0, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert_eq!("".parse::<Labels>().unwrap().0.len(), 0);
    for wrong in ["gpu", "=a100", "g pu=1", "gpu=a\u{7}"] {
        assert!(wrong.parse::<Labels>().is_err(), "{wrong}");
    }
}

#[test]
fn the_key_is_not_shown() {
    let config = WorkerConfig::new("ws://m", ApiKey::from("gaffer_secret".to_owned()), "/tmp/x");
    assert!(!format!("{config:?}").contains("secret"));
    assert!(!format!("{:?}", config.resolve().unwrap()).contains("gaffer_secret"));
}

#[test]
fn files_are_read_and_both_at_once_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (key_file, url_file) = (dir.path().join("key"), dir.path().join("url"));
    std::fs::write(&key_file, "k-123\n").unwrap();
    std::fs::write(&url_file, "https://gaffer.example\n").unwrap();
    let by_file = WorkerConfig {
        master_url_file: Some(url_file.clone()),
        api_key_file: Some(key_file.clone()),
        data_dir: Some(dir.path().to_owned()),
        ..WorkerConfig::default()
    };
    let settings = by_file.clone().resolve().unwrap();
    assert_eq!(settings.api_key.reveal(), "k-123");
    assert_eq!(settings.master_url.worker_door(), "wss://gaffer.example/worker");
    assert!(settings.cpu.millis() >= 1000 && settings.memory.0 > 0 && !settings.name.is_empty());

    let twice = WorkerConfig { api_key: Some(ApiKey::from("other".to_owned())), ..by_file.clone() };
    assert!(format!("{:#}", twice.resolve().unwrap_err()).contains("twice"));

    std::fs::write(&key_file, "").unwrap();
    assert!(format!("{:#}", by_file.clone().resolve().unwrap_err()).contains("is empty"));
    std::fs::remove_file(&key_file).unwrap();
    let error = format!("{:#}", by_file.resolve().unwrap_err());
    assert!(error.contains("cannot open") && error.contains(key_file.to_str().unwrap()), "{error}");
}

#[test]
fn what_is_missing_is_named() {
    let error = WorkerConfig::default().resolve().unwrap_err().to_string();
    assert!(error.contains("MASTER_URL"), "{error}");
    let error = WorkerConfig { master_url: Some("ws://m".to_owned()), ..WorkerConfig::default() };
    assert!(error.resolve().unwrap_err().to_string().contains("API_KEY"));
    let error = WorkerConfig { master_url: Some("master:8080".to_owned()), ..WorkerConfig::default() };
    let error = format!("{:#}", error.resolve().unwrap_err());
    assert!(error.contains("MASTER_URL") && error.contains("write http://master:8080"), "{error}");
}

#[test]
fn flags_are_read_by_clap() {
    let args =
        "gaffer --master-url ws://m --api-key k --labels a=1 --cpu 1.5 --memory 2GiB --scripted-driver";
    let config = Cli::try_parse_from(args.split(' ')).unwrap().worker;
    assert_eq!(config.cpu, Some(Cpu::from_millis(1500)));
    assert_eq!(config.memory, Some(Bytes(2 << 30)));
    assert!(config.scripted_driver);
    assert!(Cli::try_parse_from(["gaffer", "--memory", "much"]).is_err());
    let unset =
        Cli::try_parse_from(["gaffer", "--tls-ca=", "--api-key-file=", "--master-url-file="]).unwrap().worker;
    let unset = WorkerConfig { master_url: Some("ws://m".to_owned()), ..unset };
    let reaching = unset.reaching().unwrap();
    assert!(reaching.tls_ca.is_none() && reaching.api_key.is_none());
}

#[test]
fn jobs_inherit_only_what_is_harmless() {
    let all = [
        ("PATH", "/bin"),
        ("LC_ALL", "C"),
        ("TZ", "UTC"),
        ("API_KEY", "k"),
        ("MASTER_URL", "ws://m"),
        ("GAFFER_WORKER_NAME", "w"),
        ("DATABASE_URL", "postgres://"),
        ("LD_PRELOAD", "x"),
    ];
    let kept = job_environment(owned(&all), None, false);
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["LC_ALL", "PATH", "TZ"]);
    assert_eq!(job_environment(std::iter::empty(), None, false)["PATH"], DEFAULT_PATH);
}

#[test]
fn what_a_login_would_set_comes_from_the_user_database() {
    let user = || Login { name: "ana".to_owned(), home: "/home/ana".into(), shell: "/bin/zsh".into() };
    let full = job_environment(std::iter::empty(), Some(user()), false);
    let expected = [
        ("HOME", "/home/ana"),
        ("USER", "ana"),
        ("LOGNAME", "ana"),
        ("SHELL", "/bin/zsh"),
        ("PATH", DEFAULT_PATH),
    ];
    assert_eq!(full, owned(&expected).collect());

    let set = [("HOME", "/srv/build"), ("USER", ""), ("SHELL", "/bin/bash")];
    let kept = job_environment(owned(&set), Some(user()), false);
    assert_eq!(
        (kept["HOME"].as_str(), kept["SHELL"].as_str()),
        ("/srv/build", "/bin/bash"),
        "the worker's own"
    );
    assert_eq!((kept["USER"].as_str(), kept["LOGNAME"].as_str()), ("ana", "ana"), "an empty one is not set");

    let others = job_environment(owned(&set), Some(user()), true);
    assert_eq!(
        (others["HOME"].as_str(), others["SHELL"].as_str()),
        ("/home/ana", "/bin/zsh"),
        "of the user it runs as"
    );

    let bare = job_environment(std::iter::empty(), Some(Login { shell: "".into(), ..user() }), false);
    assert_eq!(bare["SHELL"], "/bin/sh");
}

fn owned(all: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>().into_iter()
}
