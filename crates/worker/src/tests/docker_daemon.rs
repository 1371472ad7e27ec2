//! A Docker daemon for tests: the one of the machine, else one of their own where root can start one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateImageOptions, RemoveContainerOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::StreamExt as _;

/// An image with a shell and the usual tools, made from a static busybox.
pub const IMAGE: &str = "localhost/gaffer-test/busybox:1";

const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
/// How long a daemon may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);

/// The address of a daemon that all tests of this process share, with [`IMAGE`] in it. Without one, says loudly that
/// the test is skipped.
pub fn shared(test: &str) -> Option<&'static str> {
    static ADDRESS: OnceLock<Result<String, String>> = OnceLock::new();
    let found = ADDRESS.get_or_init(|| {
        let address = match of_machine() {
            Some(address) => address,
            None => {
                let daemon = Daemon::start(Network::Machine)?;
                let address = daemon.address();
                // Ends with this process.
                std::mem::forget(daemon);
                address
            }
        };
        add_image(&address)?;
        Ok(address)
    });
    match found {
        Ok(address) => Some(address),
        Err(why) => {
            skip(test, why);
            None
        }
    }
}

/// Says that a test did not run, also where the output of tests is captured.
pub fn skip(test: &str, why: &str) {
    // In one piece, for other tests write at the same time.
    let line = format!("\nSKIPPED, NOT TESTED: {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The daemon that the machine has anyway.
fn of_machine() -> Option<String> {
    let named = std::env::var("DOCKER_HOST").ok().filter(|address| address.starts_with("unix://"));
    let usual = || Some("unix:///var/run/docker.sock".to_owned());
    let address = named.or_else(usual)?;
    let socket = address.strip_prefix("unix://")?;
    std::os::unix::net::UnixStream::connect(socket).is_ok().then_some(address)
}

/// A separate daemon, which can be killed and started again. Ends with this process at the latest.
pub struct Daemon {
    dir: PathBuf,
    executor: Child,
    network: Network,
}

/// The network that a daemon works in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The machine's: ports of containers can be reached. There can be one such daemon.
    Machine,
    /// A separate one, with nothing in it.
    Own,
}

impl Daemon {
    /// Starts a daemon, or says why that cannot be.
    pub fn start(network: Network) -> Result<Daemon, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("no Docker daemon answers, and only root can start one".to_owned());
        }
        if Command::new("dockerd").arg("--version").stdout(Stdio::null()).status().is_err() {
            return Err("no Docker daemon answers, and there is no dockerd (install docker.io)".to_owned());
        }
        let dir = tempfile::Builder::new().prefix("gaffer-docker-").tempdir().map_err(|e| e.to_string())?;
        let dir = dir.keep();
        let daemon = Daemon { executor: keep(&dir, network), dir, network };
        daemon.wait()?;
        Ok(daemon)
    }

    pub fn address(&self) -> String {
        format!("unix://{}", self.dir.join("socket").display())
    }

    /// The number of the daemon's own process.
    pub fn pid(&self) -> i32 {
        std::fs::read_to_string(self.dir.join("pid")).unwrap().trim().parse().unwrap()
    }

    /// Starts it again after it was killed.
    pub fn start_again(&mut self) {
        let _ = self.executor.wait();
        // What a killed daemon leaves: its own file, and the process that it started for its containers.
        let _ = std::fs::remove_file(self.dir.join("pid"));
        let pid_file = self.dir.join("exec/containerd/containerd.pid");
        if let Ok(pid) = std::fs::read_to_string(&pid_file) {
            let pid: i32 = pid.trim().parse().unwrap();
            let killed = until(|| {
                let number = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(number, nix::sys::signal::Signal::SIGKILL);
                !super::lives(pid)
            });
            assert!(killed, "containerd does not die");
            std::fs::remove_file(pid_file).unwrap();
        }
        self.executor = keep(&self.dir, self.network);
        self.wait().unwrap();
    }

    fn wait(&self) -> Result<(), String> {
        let socket = self.dir.join("socket");
        if until(|| answers(&socket)) {
            return Ok(());
        }
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        Err(format!("dockerd does not come up here: {}", last.join(" | ")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.executor.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.executor.wait();
    }
}

/// Looks again and again whether something is so, and gives up in the end.
fn until(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn answers(socket: &Path) -> bool {
    use std::io::Read as _;
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else { return false };
    let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("OK")
}

/// Runs the daemon under a shell that takes it down, and all its traces, when this process ends: the signal for that
/// follows the thread that started it, so that one stays.
fn keep(dir: &Path, network: Network) -> Child {
    let script = "clean() { grep -F \" $0/\" /proc/mounts | cut -d' ' -f2 | sort -r | xargs -r umount -l; rm -rf \"$0\"; }
        trap 'kill -TERM $daemon; wait $daemon; clean; exit' TERM
        \"$@\" dockerd --data-root \"$0/data\" --exec-root \"$0/exec\" -p \"$0/pid\" -H \"unix://$0/socket\" \
            --ip 127.0.0.1 --iptables=false --ip6tables=false >>\"$0/log\" 2>&1 &
        daemon=$!
        wait $daemon";
    let dir = dir.to_owned();
    let inside: &[&str] = if network == Network::Own { &["unshare", "--net"] } else { &["env"] };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "sh", "-c", script])
            .arg(&dir)
            .args(inside)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sender.send(child).unwrap();
        loop {
            std::thread::park();
        }
    });
    receiver.recv().unwrap()
}

/// A client of the daemon at an address.
pub fn client(address: &str) -> Docker {
    Docker::connect_with_unix(address, 60, API_DEFAULT_VERSION).unwrap()
}

/// Makes [`IMAGE`], unless it is there, and tries whether containers run at all: a daemon may come up where they cannot.
pub fn add_image(address: &str) -> Result<(), String> {
    let address = address.to_owned();
    let add = async move {
        let docker = client(&address).negotiate_version().await.map_err(|error| error.to_string())?;
        if docker.inspect_image(IMAGE).await.is_ok() {
            return try_container(&docker).await;
        }
        let (repo, tag) = IMAGE.split_once(':').unwrap();
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(repo.to_owned()),
            tag: Some(tag.to_owned()),
            changes: vec![
                "ENV PATH=/bin".to_owned(),
                "CMD [\"echo\", \"the image's own command\"]".to_owned(),
            ],
            ..CreateImageOptions::default()
        };
        let body = bollard::body_full(root_fs()?.into());
        let mut steps = std::pin::pin!(docker.create_image(Some(options), Some(body), None));
        while let Some(step) = steps.next().await {
            step.map_err(|error| format!("cannot make an image: {error}"))?;
        }
        try_container(&docker).await
    };
    // In a separate thread, for the caller may be inside a runtime.
    std::thread::spawn(move || tokio::runtime::Runtime::new().unwrap().block_on(add)).join().unwrap()
}

async fn try_container(docker: &Docker) -> Result<(), String> {
    let failed = |error: bollard::errors::Error| format!("the daemon cannot run containers here: {error}");
    let command = Some(vec!["true".to_owned()]);
    let body = ContainerCreateBody { image: Some(IMAGE.to_owned()), cmd: command, ..Default::default() };
    let id = docker.create_container(None, body).await.map_err(failed)?.id;
    let started = docker.start_container(&id, None).await;
    let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
    docker.remove_container(&id, Some(options)).await.map_err(failed)?;
    started.map_err(failed)
}

/// A root file system with nothing but busybox.
fn root_fs() -> Result<Vec<u8>, String> {
    let busybox = BUSYBOX.into_iter().find(|path| std::fs::read(path).is_ok_and(|file| is_static(&file)));
    let busybox =
        busybox.ok_or("there is no static busybox to make an image from (install busybox-static)")?;
    let listed = Command::new(busybox).arg("--list").output().map_err(|error| error.to_string())?;
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = || -> std::io::Result<Vec<u8>> {
        for (directory, mode) in [("bin", 0o755), ("tmp", 0o1777), ("etc", 0o755)] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            header.set_mode(mode);
            archive.append_data(&mut header, format!("{directory}/"), std::io::empty())?;
        }
        archive.append_path_with_name(busybox, "bin/busybox")?;
        for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|applet| *applet != "busybox") {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
        }
        archive.finish()?;
        Ok(std::mem::take(archive.get_mut()))
    };
    add().map_err(|error| error.to_string())
}

/// Whether a program (ELF, 64 bits) asks for no loader.
fn is_static(file: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let number =
        |at: usize| file.get(at..at + 2).map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
    let kinds = || {
        let table = usize::try_from(u64::from_le_bytes(file.get(0x20..0x28)?.try_into().ok()?)).ok()?;
        let (size, count) = (number(0x36)?, number(0x38)?);
        let kind =
            |index| Some(u32::from_le_bytes(file.get(table + index * size..)?.get(..4)?.try_into().ok()?));
        (0..count).map(kind).collect::<Option<Vec<u32>>>()
    };
    file.starts_with(b"\x7fELF\x02") && kinds().is_some_and(|kinds| !kinds.contains(&INTERPRETER))
}
