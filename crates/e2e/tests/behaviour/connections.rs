//! Floods of connections that say nothing: a client with a key gets in, and the silent connections are closed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gaffer_e2e::client::{Client, script};
use gaffer_e2e::cluster::fresh_database;
use gaffer_e2e::gaffer::{bare_command, program};
use gaffer_e2e::raw_worker::{RawWorker, hello};
use gaffer_e2e::stage::Stage;
use gaffer_e2e::stage::new_key;
use gaffer_e2e::{PATIENCE, eventually};
use gaffer_master::secret::{NewSecret, Purpose};
use gaffer_master::store::Store;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::StatusCode;
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Child;

/// Silent connections on each port: together twice as many as a process may usually open.
const CROWD: usize = 700;
/// The addresses that they come from.
const HOSTS: u8 = 20;

/// A master in a separate process, with its keys.
struct Master {
    _child: Child,
    ports: [SocketAddr; 3],
    user_key: String,
    worker_key: String,
    log: std::path::PathBuf,
}

/// Starts a master that may open as many files as `ulimit` says.
async fn master(ulimit: &str, dir: &Path) -> Master {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let database = fresh_database().await;
    let log = dir.join("master.log");
    let command = format!("{ulimit}; exec {} master", program().display());
    let child = bare_command(Path::new("sh"), &["-c", &command])
        .env("DATABASE_URL", &database)
        .env("GAFFER_DASHBOARD_ADDR", "127.0.0.1:0")
        .env("GAFFER_API_ADDR", "127.0.0.1:0")
        .env("GAFFER_WORKER_ADDR", "127.0.0.1:0")
        .env("GAFFER_IDLE_TIMEOUT", "12s")
        .env("GAFFER_LOG_FORMAT", "json")
        .stderr(std::fs::File::create(&log).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ports = eventually("the master is ready", async || {
        let text = std::fs::read_to_string(&log).unwrap();
        let line = text.lines().find(|line| line.contains("the master is ready"))?;
        let fields: serde_json::Value = serde_json::from_str(line).ok()?;
        let port = |name: &str| fields["fields"][name].as_str()?.parse().ok();
        Some([port("dashboard")?, port("api")?, port("workers")?])
    })
    .await;
    let store = Store::connect(&database).await.unwrap();
    let project = store.project_default().await.unwrap();
    let mut connection = PgConnection::connect(&database).await.unwrap();
    let first_user = sqlx::query_scalar("SELECT id FROM users WHERE name = 'admin'");
    let user: i64 = first_user.fetch_one(&mut connection).await.unwrap();
    let (user_key, worker_key) = (NewSecret::new(Purpose::UserKey), NewSecret::new(Purpose::WorkerKey));
    for (user, secret) in [(Some(user), &user_key), (None, &worker_key)] {
        store.key_insert(project, new_key(secret, user, "test")).await.unwrap();
    }
    Master { _child: child, ports, user_key: user_key.text, worker_key: worker_key.text, log }
}

/// This process needs a file for each connection, too.
fn raise_own_limit() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // Two of these tests run side by side.
    let needed = (2 * 3 * CROWD + 1_000) as u64;
    assert!(hard >= needed, "this test needs {needed} open files; the limit is {soft}, and at most {hard}");
}

/// A connection from one of many addresses that says `text` and no more.
async fn silent(number: usize, to: SocketAddr, text: &str) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    let host = (number % usize::from(HOSTS)) as u8 + 2;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0))).unwrap();
    let mut stream = tokio::time::timeout(*PATIENCE, socket.connect(to)).await.ok()?.ok()?;
    // It may have been closed already, to make room for those after it.
    let _ = stream.write_all(text.as_bytes()).await;
    Some(stream)
}

async fn crowd(master: &Master) -> Vec<TcpStream> {
    const TEXTS: [&str; 4] = [
        "",
        "GET /livez HTTP/1.1\r\nHo",
        "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf",
    ];
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        for port in master.ports {
            crowd.extend(silent(number, port, TEXTS[number % TEXTS.len()]).await);
        }
    }
    assert!(crowd.len() > 2 * CROWD, "only {} of {} were taken at all", crowd.len(), 3 * CROWD);
    crowd
}

/// Everybody who has to get in, at the first try.
async fn all_get_in(master: &Master) -> Duration {
    let start = Instant::now();
    let get_in = async {
        for port in master.ports {
            let alive = reqwest::Client::new().get(format!("http://{port}/livez")).send().await.unwrap();
            assert_eq!(alive.status(), StatusCode::OK);
        }
        let client = Client::new(&format!("http://{}", master.ports[1]), &master.user_key);
        let job = client.submit(script("true")).await;
        let url = format!("ws://{}/worker", master.ports[2]);
        let mut worker = RawWorker::connect(&url, &master.worker_key, hello("w")).await;
        assert_eq!(worker.next_start().await.definition.job.0, job);
    };
    tokio::time::timeout(*PATIENCE, get_in).await.expect("somebody does not get in");
    start.elapsed()
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut some = [0; 4_096];
    loop {
        match tokio::time::timeout(*PATIENCE, stream.read(&mut some)).await {
            Err(_) => return false,
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
        }
    }
}

#[expect(clippy::print_stdout, reason = "a figure to read")]
async fn survives(ulimit: &str) -> String {
    raise_own_limit();
    let dir = tempfile::tempdir().unwrap();
    let master = master(ulimit, dir.path()).await;
    let mut crowd = crowd(&master).await;
    let took = all_get_in(&master).await;
    println!("{ulimit}: {} silent connections; all got in within {took:?}", crowd.len());
    for (number, stream) in crowd.iter_mut().enumerate() {
        assert!(is_closed(stream).await, "connection {number} is still open");
    }
    std::fs::read_to_string(&master.log).unwrap()
}

#[tokio::test]
async fn silent_thousands_keep_nobody_out_with_the_usual_limit_on_files() {
    let log = survives("ulimit -Sn 1024").await;
    assert!(log.contains("limit raised"), "{log}");
}

#[tokio::test]
async fn silent_thousands_keep_nobody_out_though_there_are_1024_files_and_no_more() {
    let log = survives("ulimit -Sn 1024; ulimit -Hn 1024").await;
    assert!(log.contains("too many connections"), "{log}");
}

/// The status line of the answer to what is said, byte for byte.
async fn status_of(to: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut line = Vec::new();
    while !line.contains(&b'\r') {
        let read = tokio::time::timeout(*PATIENCE, stream.read_buf(&mut line)).await.unwrap();
        if read.unwrap() == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    line.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let stage = Stage::set().await;
    for (text, status) in [
        ("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET /livez HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("GET /livez HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK"),
    ] {
        for port in [stage.running.dashboard, stage.running.api, stage.running.workers] {
            assert_eq!(status_of(port, text).await, status, "{text:?}");
        }
    }
}

#[tokio::test]
async fn nobody_keeps_a_copy_of_what_pages_and_api_show() {
    let stage = Stage::set().await;
    let cookie = stage.sign_in(&stage.client).await;
    for path in [
        "/",
        "/jobs",
        "/jobs/new",
        "/queue",
        "/workers",
        "/workers/new",
        "/keys",
        "/events",
        "/login",
        "/none",
    ] {
        let page = stage.page(path, &cookie).await;
        assert_eq!(page.headers()["cache-control"], "no-store", "{path}");
    }
    for path in ["/jobs", "/keys", "/workers", "/none"] {
        assert_eq!(stage.client.get(path).await.headers["cache-control"], "no-store", "{path}");
    }
}
