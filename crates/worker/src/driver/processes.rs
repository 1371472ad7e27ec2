//! Processes in /proc, and those of an attempt among them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use gaffer_protocol::boot_time::BootTime;
use nix::unistd::{SysconfVar, sysconf};

/// One process, by its line in /proc/<pid>/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessInfo {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    /// `Z` for one that ended and was not waited for.
    pub state: u8,
    /// Clock ticks from boot to its start.
    pub start_ticks: u64,
}

impl ProcessInfo {
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// How to recognise the processes of an attempt, or of a dead worker.
#[derive(Debug, Clone)]
pub(crate) struct Belonging {
    /// The main process, which leads the group, while it is certain that its number is still its own.
    pub leader: Option<i32>,
    /// The group, while it is certain that its number is still its own.
    pub group: Option<i32>,
    /// A variable in the environment: the whole `NAME=value`, or a prefix if it ends with `/`.
    pub marker: String,
    /// The attempt's own directory: an orphan that works there belongs to it. (A user's shell may work there too, but
    /// is not a child of this process.)
    pub directory: Option<PathBuf>,
    /// Nothing that started earlier can be its.
    pub since_ticks: u64,
}

/// Clock ticks between boot and a moment, rounded down.
pub(crate) fn ticks(at: BootTime) -> u64 {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|hz| u64::try_from(hz).ok());
    at.as_micros() / 1000 * per_second.unwrap_or(100) / 1000
}

/// Those that belong to the attempt, living and dead, by their number.
pub(crate) fn find(belonging: &Belonging) -> HashMap<i32, ProcessInfo> {
    let all = all_since(belonging.since_ticks);
    let own_pid = own_pid();
    let is_marked = |process: &ProcessInfo| {
        belonging.marks(environment(process.pid).as_deref().unwrap_or_default())
            || (process.parent == own_pid && belonging.houses(process.pid))
    };
    select(&all, belonging, is_marked)
}

/// The members by number, group and mark, with all their descendants.
fn select(
    all: &HashMap<i32, ProcessInfo>,
    belonging: &Belonging,
    is_marked: impl Fn(&ProcessInfo) -> bool,
) -> HashMap<i32, ProcessInfo> {
    let own_pid = own_pid();
    let is_root = |process: &ProcessInfo| {
        belonging.leader == Some(process.pid)
            || belonging.group == Some(process.group)
            || (!process.is_zombie() && is_marked(process))
    };
    let others = || all.values().filter(|process| process.pid != own_pid);
    let mut members: HashSet<i32> =
        others().filter(|process| is_root(process)).map(|process| process.pid).collect();
    loop {
        let before = members.len();
        let children =
            others().filter(|process| members.contains(&process.parent)).map(|process| process.pid);
        let children: Vec<i32> = children.collect();
        members.extend(children);
        if members.len() == before {
            break;
        }
    }
    members.into_iter().filter_map(|pid| Some((pid, *all.get(&pid)?))).collect()
}

impl Belonging {
    /// Whether the process works in the attempt's directory.
    pub fn houses(&self, pid: i32) -> bool {
        let Some(directory) = &self.directory else { return false };
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|path| path.starts_with(directory))
    }

    /// Whether the marker is among the variables.
    pub fn marks(&self, environment: &[u8]) -> bool {
        let marker = self.marker.as_bytes();
        let is_prefix = marker.ends_with(b"/");
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|variable| variable == marker || (is_prefix && variable.starts_with(marker)))
    }
}

/// The initial environment of a process; none if it has exited or is not readable.
pub(crate) fn environment(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ")).ok()
}

/// The number of this process.
pub(crate) fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// One process; none if it has exited.
pub(crate) fn process(pid: i32) -> Option<ProcessInfo> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether it is there, alive, and not another one that has got its number since.
pub(crate) fn lives(process: &ProcessInfo) -> bool {
    self::process(process.pid).is_some_and(|now| now.start_ticks == process.start_ticks && !now.is_zombie())
}

/// Children of this process that lost their own parents, with the children that its first thread started. Empty,
/// and cheap to find so, unless something outlived what had started it.
pub(crate) fn adopted_children() -> Vec<i32> {
    // Orphans are given to the first thread.
    let path = format!("/proc/self/task/{}/children", own_pid());
    let list = fs::read_to_string(path).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The process that a thread of this one is just starting: made, and not yet the program that it will be. None also
/// where the kernel does not tell whose child is whose.
pub(crate) fn being_started_by(thread: i32) -> Option<ProcessInfo> {
    let list = fs::read_to_string(format!("/proc/self/task/{thread}/children")).unwrap_or_default();
    let pids = list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
    let mut stats = pids.filter_map(|pid| fs::read(format!("/proc/{pid}/stat")).ok());
    stats.find_map(|stat| parse_stat(&stat).filter(|_| has_not_executed(&stat)))
}

/// What a process that led this session has made, and that is not yet the program that it was to be: until then it has copies of
/// all descriptors of that process.
pub(crate) fn being_started_in(session: i32) -> Vec<ProcessInfo> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let stats = pids.filter_map(|pid| fs::read(format!("/proc/{pid}/stat")).ok());
    let of_session = stats.filter(|stat| field::<i32>(stat, SESSION) == Some(session));
    let found = of_session.filter_map(|stat| Some((has_not_executed(&stat), parse_stat(&stat)?)));
    found
        .filter(|(is_copy, process)| !process.is_zombie() && (*is_copy || has_no_words(process.pid)))
        .map(|(_, process)| process)
        .collect()
}

/// So it is for a moment with who becomes another program: the kernel has not given it any yet.
fn has_no_words(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.is_empty())
}

/// Whether this kernel tells who the children of a process are.
pub(crate) fn lists_children() -> bool {
    Path::new(&format!("/proc/self/task/{}/children", own_pid())).exists()
}

fn all_since(since_ticks: u64) -> HashMap<i32, ProcessInfo> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let processes = pids.filter_map(process).filter(|process| process.start_ticks >= since_ticks);
    processes.map(|process| (process.pid, process)).collect()
}

/// `pid (name) state ppid pgrp …`; the name may hold blanks and parentheses. The 22nd field is the start.
fn parse_stat(stat: &[u8]) -> Option<ProcessInfo> {
    let name_start = stat.iter().position(|byte| *byte == b'(')?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(stat.get(..name_start)?).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
    Some(ProcessInfo {
        pid,
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// Which fields these are, counted from the one after the name.
const SESSION: usize = 3;
const FLAGS: usize = 6;

fn field<T: FromStr>(stat: &[u8], nth: usize) -> Option<T> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(nth)?.parse().ok()
}

/// Whether the process does what the one that made it did.
fn has_not_executed(stat: &[u8]) -> bool {
    const FORKED_BUT_NOT_EXECUTED: u64 = 0x40;
    field::<u64>(stat, FLAGS).is_some_and(|flags| flags & FORKED_BUT_NOT_EXECUTED != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn process_of(pid: i32, parent: i32, group: i32) -> ProcessInfo {
        ProcessInfo { pid, parent, group, state: b'S', start_ticks: 0 }
    }

    fn belonging(leader: i32) -> Belonging {
        Belonging {
            leader: Some(leader),
            group: Some(leader),
            marker: "GAFFER_ATTEMPT_TOKEN=abc/1.2".to_owned(),
            directory: None,
            since_ticks: 0,
        }
    }

    #[test]
    fn stat_is_read_whatever_the_name_is() {
        let line = b"12 (a) b (c) S 3 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8765 9 10";
        let expected = ProcessInfo { pid: 12, parent: 3, group: 12, state: b'S', start_ticks: 8765 };
        assert_eq!(parse_stat(line), Some(expected));
        assert_eq!(parse_stat(b"12 (cat S 3"), None);
        assert_eq!(parse_stat(b"12 (cat) S 3 12"), None);
        assert_eq!(parse_stat(b""), None);
        assert!(process(own_pid()).is_some_and(|own| own.pid == own_pid() && own.start_ticks > 0));
    }

    #[test]
    fn a_tree_is_its_group_its_marked_ones_and_their_descendants() {
        let all = [
            process_of(10, 1, 10),  // the leader
            process_of(11, 10, 10), // its child
            process_of(12, 11, 12), // a grandchild with another session
            process_of(20, 1, 20),  // an orphan that carries the mark
            process_of(21, 20, 21), // its child, which does not
            process_of(30, 1, 30),  // somebody else
            process_of(31, 30, 30),
        ];
        let all = all.into_iter().map(|process| (process.pid, process)).collect();
        let found = select(&all, &belonging(10), |process| process.pid == 20);
        let mut pids: Vec<i32> = found.into_keys().collect();
        pids.sort_unstable();
        assert_eq!(pids, [10, 11, 12, 20, 21]);
    }

    #[test]
    fn a_mark_is_a_whole_variable_or_a_whole_prefix() {
        let environment = b"A=1\0GAFFER_ATTEMPT_TOKEN=abc/1.23\0B=2\0";
        let mut belonging = belonging(1);
        assert!(!belonging.marks(environment), "1.2 is not 1.23");
        belonging.marker = "GAFFER_ATTEMPT_TOKEN=abc/1.23".to_owned();
        assert!(belonging.marks(environment));
        belonging.marker = "GAFFER_ATTEMPT_TOKEN=abc/".to_owned();
        assert!(belonging.marks(environment));
        belonging.marker = "GAFFER_ATTEMPT_TOKEN=ab/".to_owned();
        assert!(!belonging.marks(environment));
    }
}
