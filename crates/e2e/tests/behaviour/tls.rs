//! TLS on the master's own ports, with a private certificate authority, and what trusted reverse proxies say of clients.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use gaffer_e2e::client::{Client, script};
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::eventually;
use gaffer_e2e::gaffer::{command, data_dir, kill_executor};
use gaffer_e2e::proxies::certificate;
use gaffer_e2e::stage::Stage;
use gaffer_master::config::TlsConfig;
use gaffer_master::secret::{NewSecret, Purpose};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, COOKIE, LOCATION, SET_COOKIE};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A master whose ports speak TLS with these files.
async fn encrypted(cert: &Path, key: &Path) -> (Stage, Client) {
    let tls = TlsConfig { tls_cert: Some(cert.into()), tls_key: Some(key.into()), ..TlsConfig::default() };
    let stage = Stage::with(fresh_database().await, |config| config.tls = tls).await;
    let base = format!("https://localhost:{}", stage.running.api.port());
    let client = Client::trusting(&base, stage.client.key(), &certificate("ca.pem"));
    (stage, client)
}

/// What a server answers to these bytes until it closes.
async fn answer_to(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(*gaffer_e2e::PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn workers_commands_and_browsers_reach_a_master_that_speaks_tls_itself() {
    let (stage, client) = encrypted(&certificate("server.pem"), &certificate("server.key")).await;
    let (running, dir) = (&stage.running, data_dir());
    let ca = certificate("ca.pem").display().to_string();
    let mut worker = command(&["worker"]);
    worker
        .env("MASTER_URL", format!("wss://localhost:{}", running.workers.port()))
        .env("API_KEY", &stage.worker_key)
        .env("GAFFER_WORKER_NAME", "pi")
        .env("GAFFER_DATA_DIR", dir.path())
        .env("GAFFER_TLS_CA", &ca)
        .stderr(Stdio::null());
    let worker = worker.spawn().unwrap();
    eventually("the worker is online", async || {
        (client.get("/workers/pi").await.body["state"] == "online").then_some(())
    })
    .await;
    let url = client.base().to_owned();
    let gaffer = async |args: &[&str], changes: &[(&str, &str)]| {
        let mut command = command(args);
        command.env("GAFFER_URL", &url).env("GAFFER_KEY", client.key()).env("GAFFER_TLS_CA", &ca);
        let output = command.envs(changes.iter().copied()).output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    assert_eq!(gaffer(&["run", "--", "echo", "through"], &[]).await, (Some(0), "through\n".to_owned()));
    let (code, text) = gaffer(&["jobs"], &[("GAFFER_TLS_CA", "")]).await;
    assert!(code != Some(0) && text.contains("certificate"), "another authority's: {text}");
    let (code, text) = gaffer(&["jobs"], &[("GAFFER_URL", &url.replace("https:", "http:"))]).await;
    assert!(code != Some(0) && text.contains("this port speaks TLS"), "{text}");

    // The end of the certificate is shown wherever somebody looks.
    let (_, text) = gaffer(&["doctor"], &[]).await;
    assert!(text.contains("✓ TLS certificate: valid until 2126-11-05"), "{text}");
    let (_, text) = gaffer(&["system"], &[]).await;
    assert!(text.contains("✓ the TLS certificate is valid until 2126-11-05"), "{text}");
    let port = [("GAFFER_API_ADDR", running.api.to_string()), ("GAFFER_TLS_CERT", "x".to_owned())];
    let local = command(&["doctor", "master"]).envs(port).output().await.unwrap();
    assert!(local.status.success(), "{local:?}");
    let http = gaffer_e2e::client::trusting(&certificate("ca.pem"));
    let metrics = http.get(format!("{url}/metrics")).bearer_auth(client.key()).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("gaffer_tls_certificate_expiry_timestamp_seconds 4949520351"), "{metrics}");

    // The dashboard: links and cookie are for TLS.
    let link = client.post("/login-links", &json!({})).await.body["url"].as_str().unwrap().to_owned();
    assert!(link.starts_with("https://127.0.0.1:"), "{link}");
    let answer = http.get(link).header(ACCEPT, "text/html").send().await.unwrap();
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    let system = format!("https://localhost:{}/projects/default/system", running.dashboard.port());
    let page = http.get(system).header(COOKIE, cookie.split(';').next().unwrap()).send().await.unwrap();
    assert!(page.text().await.unwrap().contains("TLS certificate: valid until 2126-11-05"));
    // A form of a page at the address that was asked, which is not the public one. No browser sends it without Sec-Fetch-Site.
    let origin = format!("https://localhost:{}", running.dashboard.port());
    let form = http.post(format!("{origin}/logout")).header("origin", &origin).send().await.unwrap();
    assert_eq!(form.headers()[LOCATION], "/login");
    drop(worker);
    kill_executor(dir.path()).await;
}

#[tokio::test]
async fn who_speaks_plain_http_to_a_port_with_tls_is_told_so_and_nonsense_is_closed() {
    let (stage, client) = encrypted(&certificate("server.pem"), &certificate("server.key")).await;
    let running = &stage.running;
    for address in [running.dashboard, running.api, running.workers] {
        let answer = answer_to(address, b"GET /worker HTTP/1.1\r\nHost: lab\r\n\r\n").await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.contains("https:// (for workers wss://)"),
            "{answer}"
        );
        for nonsense in [&b"\0\0\0\0"[..], b"\x16\x03\x01\xff\xff", b"ssh nonsense", &[0xff; 100_000]] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(nonsense).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ =
                tokio::time::timeout(*gaffer_e2e::PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
            assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{nonsense:?}");
        }
    }
    // A long request without an end gets an answer, too.
    let answer = answer_to(running.api, &[&b"POST / HTTP/1.1\r\n"[..], &[b'x'; 70_000]].concat()).await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    assert!(client.get("/jobs").await.status.is_success());
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_reported() {
    let dir = data_dir();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::copy(certificate("server.pem"), &cert).unwrap();
    std::fs::copy(certificate("server.key"), &key).unwrap();
    let (stage, client) = encrypted(&cert, &key).await;
    let renewed = Client::trusting(client.base(), client.key(), &certificate("renewed-ca.pem"));
    assert!(renewed.request(reqwest::Method::GET, "/jobs").send().await.is_err());

    std::fs::copy(certificate("renewed.pem"), &cert).unwrap();
    std::fs::copy(certificate("renewed.key"), &key).unwrap();
    let within = Duration::from_secs(60);
    gaffer_e2e::eventually_within(within, "the new certificate is used", async || {
        // A new connection each time: the old one keeps its certificate.
        let fresh = Client::trusting(client.base(), client.key(), &certificate("renewed-ca.pem"));
        fresh.request(reqwest::Method::GET, "/jobs").send().await.ok().map(drop)
    })
    .await;
    assert_eq!(renewed.get("/system").await.body["tls"]["problem"], json!(null));

    std::fs::write(&cert, "nonsense").unwrap();
    let problem = gaffer_e2e::eventually_within(within, "the broken file is reported", async || {
        renewed.get("/system").await.body["tls"]["problem"].as_str().map(str::to_owned)
    })
    .await;
    assert!(problem.contains("the previous one still is"), "{problem}");
    let page = {
        let link = renewed.post("/login-links", &json!({})).await.body["url"].as_str().unwrap().to_owned();
        let http = gaffer_e2e::client::trusting(&certificate("renewed-ca.pem"));
        let answer = http.get(link).header(ACCEPT, "text/html").send().await.unwrap();
        let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
        let page = format!("https://localhost:{}/projects/default/system", stage.running.dashboard.port());
        http.get(page).header(COOKIE, cookie).send().await.unwrap().text().await.unwrap()
    };
    assert!(page.contains("The TLS certificate needs attention"), "{page}");
}

#[tokio::test]
async fn a_master_that_cannot_speak_tls_as_it_is_told_does_not_start() {
    let (cert, key) = (certificate("server.pem"), certificate("server.key"));
    for (changes, expected) in [
        (&[("GAFFER_TLS_KEY", "")][..], "set GAFFER_TLS_CERT to the certificate and GAFFER_TLS_KEY"),
        (&[("GAFFER_TLS_KEY", "/no/such")], "/no/such (GAFFER_TLS_KEY)"),
        (&[("GAFFER_PUBLIC_URL", "http://gaffer.lab")], "must begin with https://"),
        (&[("GAFFER_TRUSTED_PROXIES", "proxy.lab")], "`proxy.lab` is not a network"),
    ] {
        let dir = data_dir();
        let mut master = command(&["master"]);
        master
            .env("GAFFER_TLS_CERT", &cert)
            .env("GAFFER_TLS_KEY", &key)
            .env("GAFFER_DATA_DIR", dir.path())
            .env("DATABASE_URL", "postgres://127.0.0.1:1/none")
            .envs(["DASHBOARD", "API", "WORKER"].map(|door| (format!("GAFFER_{door}_ADDR"), "127.0.0.1:0")))
            .envs(changes.iter().copied());
        changes.iter().filter(|(_, value)| value.is_empty()).for_each(|(name, _)| {
            master.env_remove(name);
        });
        let output = master.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{changes:?}: {said}");
    }
}

#[tokio::test]
async fn the_address_of_a_client_is_what_a_trusted_proxy_says_and_nobody_else() {
    for (trusted, forwarded, expected) in [
        ("", "203.0.113.7", "127.0.0.1"),
        ("10.0.0.0/8", "203.0.113.7", "127.0.0.1"),
        ("127.0.0.0/8", "203.0.113.7", "203.0.113.7"),
        // What a client invents stands before what the proxy has seen.
        ("127.0.0.0/8,10.0.0.0/8", "198.51.100.1, 203.0.113.7, 10.0.0.1", "203.0.113.7"),
    ] {
        let stage = Stage::with(fresh_database().await, |config| {
            config.tls.trusted_proxies = trusted.parse().unwrap();
        })
        .await;
        let submitted = stage.client.request(reqwest::Method::POST, "/jobs").json(&script("true"));
        let submitted = submitted.header("x-forwarded-for", forwarded).send().await.unwrap();
        assert!(submitted.status().is_success());
        let audit = stage.client.get("/audit").await;
        assert_eq!(audit.body["items"][0]["address"], expected, "{trusted} {forwarded}: {}", audit.text);
        let keys = stage.client.get("/keys").await;
        let used: Vec<&str> = keys.body["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|key| key["last_used_from"].as_str())
            .collect();
        assert!(used.contains(&expected), "{trusted}: {used:?}");

        // Guesses of one client keep another one out only where the proxy is not trusted.
        let guess = async |from: &str| {
            let unknown = stage.client.with_key(&NewSecret::new(Purpose::UserKey).text);
            let request = unknown.request(reqwest::Method::GET, "/jobs").header("x-forwarded-for", from);
            request.send().await.unwrap().status()
        };
        let mut guesses = 0;
        while guess(forwarded).await != StatusCode::TOO_MANY_REQUESTS {
            guesses += 1;
            assert!(guesses < 1_000, "nobody limits guesses");
        }
        let other = guess("192.0.2.1").await;
        let is_told_apart = expected == "203.0.113.7";
        assert_eq!(other == StatusCode::UNAUTHORIZED, is_told_apart, "{trusted}: {other}");
    }
}
