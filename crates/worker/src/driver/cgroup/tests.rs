#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;

use super::*;
use crate::tests::docker_daemon::skip;
use crate::tests::master::until;

fn resources(cpu_millis: u32, memory: u64) -> Resources {
    Resources { cpu: Cpu::from_millis(cpu_millis), memory: Bytes(memory), disk: Bytes(0) }
}

/// None, with a loud word, where this machine does not let anybody make cgroups.
fn open(owner: &str) -> Option<Cgroups> {
    let cgroups = Cgroups::open(&format!("test-{owner}-{}", std::process::id()));
    if cgroups.is_none() {
        skip(owner, "cgroups cannot be made here");
    }
    cgroups
}

fn shell(text: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", text]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn what_a_process_starts_is_in_its_cgroup_however_it_hides() {
    let Some(cgroups) = open("hides") else { return };
    let cgroup = cgroups.take(resources(0, 0), 0).unwrap();
    // Of another session, without a parent, an environment or a directory that tells.
    let text = "cd /; setsid env -i sh -c '(sleep 1000 >/dev/null 2>&1 &)'";
    let mut child = cgroup.spawn(&mut shell(text), Path::new("/"), None).unwrap();
    child.wait().await.unwrap();
    assert_eq!(cgroup.members().len(), 1);
    cgroup.halt();
    cgroup.kill();
    until("nothing is in it", || cgroup.members().is_empty()).await;
    is_used_again(&cgroups, cgroup);
}

fn is_used_again(cgroups: &Cgroups, cgroup: Cgroup) {
    let dir = cgroup.tracking.clone();
    drop(cgroup);
    let next = cgroups.take(resources(0, 0), 0).unwrap();
    assert!(next.members().is_empty());
    if matches!(next.version, Version::One { .. }) {
        assert_eq!(next.tracking, dir);
        let limit = fs::read_to_string(dir.join(PIDS_FILE)).ok();
        assert!(limit.is_none_or(|limit| limit.trim() == MAX_PIDS.to_string()), "it is not halted any more");
    }
}

#[tokio::test]
async fn the_thread_that_starts_a_process_comes_back() {
    let Some(cgroups) = open("visit") else { return };
    let own = || fs::read_to_string("/proc/thread-self/cgroup").unwrap();
    let before = own();
    let cgroup = cgroups.take(resources(100, 64 << 20), 0).unwrap();
    let mut child = cgroup.spawn(&mut shell("exec sleep 1000"), Path::new("/"), None).unwrap();
    assert_eq!(own(), before);
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    assert_eq!(cgroup.members(), [pid]);
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_new_process_of_a_worker_ends_what_the_one_before_left() {
    let Some(cgroups) = open("sweep") else { return };
    let cgroup = cgroups.take(resources(500, 0), 0).unwrap();
    let mut child = cgroup.spawn(&mut shell("exec sleep 1000"), Path::new("/"), None).unwrap();
    let dir = cgroup.tracking.clone();
    std::mem::forget((cgroup, cgroups));
    let again = open("sweep").unwrap();
    assert!(!child.wait().await.unwrap().success());
    assert!(!dir.exists());
    drop(again);
    assert!(!dir.parent().unwrap().exists());
}

#[tokio::test]
async fn a_want_of_memory_is_known_and_the_number_of_processes_has_an_end() {
    let Some(cgroups) = open("limits").filter(|_| shortcoming().is_none()) else { return };
    let cgroup = cgroups.take(resources(0, 32 << 20), 0).unwrap();
    assert!(!cgroup.ran_out_of_memory());
    // `tail` keeps what it reads while there is no end of a line.
    let mut child = cgroup.spawn(&mut shell("exec tail /dev/zero"), Path::new("/"), None).unwrap();
    assert!(!child.wait().await.unwrap().success());
    assert!(cgroup.ran_out_of_memory());

    let bomb = cgroups.take(resources(1000, 0), 0).unwrap();
    let text = "b() { b | b & wait; }; b 2>/dev/null >/dev/null";
    let mut child = bomb.spawn(&mut shell(text), Path::new("/"), None).unwrap();
    until("many processes", || bomb.members().len() > 300).await;
    bomb.halt();
    until("they are gone", || {
        bomb.kill();
        bomb.members().is_empty()
    })
    .await;
    child.wait().await.unwrap();
}

#[test]
fn only_a_share_of_the_machine_is_limited() {
    let machine = std::thread::available_parallelism().unwrap().get() as u32 * 1000;
    assert_eq!(Limits::of(resources(machine, 0), 0), Limits { cpu_micros: None, memory: None, nice: 0 });
    assert_eq!(Limits::of(resources(0, 0), 0), Limits { cpu_micros: None, memory: None, nice: 0 });
    assert_eq!(
        Limits::of(resources(500, 1), 0),
        Limits { cpu_micros: Some(50_000), memory: Some(1), nice: 0 }
    );
    assert_eq!(Limits::of(resources(1, 0), 0).cpu_micros, Some(1_000), "the kernel refuses less");
}

#[test]
fn a_cgroup_is_as_nice_as_the_processes_in_it() {
    let Some(cgroups) = open("nice").filter(|_| shortcoming().is_none()) else { return };
    let weight = |cgroup: &Cgroup| {
        let file = match &cgroup.version {
            Version::One { rooms, .. } => rooms.last().unwrap().1.dir().join("cpu.shares"),
            Version::Two { .. } => cgroup.tracking.join("cpu.weight.nice"),
        };
        fs::read_to_string(file).unwrap().trim().to_owned()
    };
    let is_first = matches!(cgroups.0, Kind::One { .. });
    let (plain, nice) = if is_first { ("1024", "110") } else { ("0", "10") };
    for _ in 0..2 {
        assert_eq!(weight(&cgroups.take(resources(500, 0), 10).unwrap()), nice);
        assert_eq!(weight(&cgroups.take(resources(500, 0), 0).unwrap()), plain);
    }
    assert_eq!(weight(&cgroups.take(resources(0, 0), 10).unwrap()), nice, "without a quota");
    assert_eq!(Limits::of(resources(0, 0), u8::MAX).weight(), 15);
}
