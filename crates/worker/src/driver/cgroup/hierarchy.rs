//! Finds where cgroups can be created: below that of this process, in the mounted hierarchies.

use std::fs;
use std::path::{Path, PathBuf};

use super::write;

/// Directories below which this process may make cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hierarchies {
    /// One for each controller; those for limits may be missing.
    One { tracking: PathBuf, has_pids: bool, cpu: Option<PathBuf>, memory: Option<PathBuf> },
    /// One for all. `limits`: its controllers can be had.
    Two { base: PathBuf, limits: bool },
}

/// What gives the cgroups below one of version 2 their controllers.
const DELEGATION: &str = "+cpu +memory +pids";

impl Hierarchies {
    /// None if there is none that can be written.
    pub fn find() -> Option<Hierarchies> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let find = |controller: &str| base(&mounts, &own, controller).filter(|base| is_writable(base));
        // The first version is preferred where it is there: it has the controllers then, and a thread can visit it.
        let pids = find("pids");
        if let Some(tracking) = pids.clone().or_else(|| find("freezer")) {
            let (cpu, memory) = (find("cpu"), find("memory"));
            return Some(Hierarchies::One { tracking, has_pids: pids.is_some(), cpu, memory });
        }
        let base = find("")?;
        // Refused while processes are in it, but at the root of all.
        let limits = write(&base.join("cgroup.subtree_control"), DELEGATION).is_ok();
        Some(Hierarchies::Two { base, limits })
    }

    /// Whether limits of every kind can be set.
    pub fn have_limits(&self) -> bool {
        match self {
            Hierarchies::One { has_pids, cpu, memory, .. } => *has_pids && cpu.is_some() && memory.is_some(),
            Hierarchies::Two { limits, .. } => *limits,
        }
    }

    /// Lets the children of the directory with that name have limits, if that can be.
    pub fn delegate(&mut self, name: &str) {
        if let Hierarchies::Two { base, limits } = self {
            *limits = *limits && write(&base.join(name).join("cgroup.subtree_control"), DELEGATION).is_ok();
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Path> {
        let (first, others) = match self {
            Hierarchies::One { tracking, cpu, memory, .. } => (tracking, [cpu.as_ref(), memory.as_ref()]),
            Hierarchies::Two { base, .. } => (base, [None, None]),
        };
        std::iter::once(first).chain(others.into_iter().flatten()).map(PathBuf::as_path)
    }
}

/// The directory of this process's own cgroup for a controller; `""` for version 2.
fn base(mounts: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| mount_of(line, controller))?;
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    })?;
    let own = mount.join(path.trim_start_matches('/'));
    // In a container the mount may show less than the path suggests.
    Some(if own.is_dir() { own } else { mount })
}

/// The mount point in a line of mountinfo, if a hierarchy with that controller is mounted there.
fn mount_of(line: &str, controller: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (file_system, options) = (kind.next()?, kind.nth(1)?);
    let is_it = match file_system {
        "cgroup" => options.split(',').any(|option| option == controller),
        "cgroup2" => controller.is_empty(),
        _ => false,
    };
    is_it.then(|| mount.split(' ').nth(4)).flatten().map(PathBuf::from)
}

/// Tried, for no other answer is certain.
fn is_writable(base: &Path) -> bool {
    let probe = base.join(format!("gaffer-probe-{}-{:?}", std::process::id(), std::thread::current().id()));
    fs::create_dir(&probe).is_ok() && fs::remove_dir(&probe).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn hierarchies_are_found_by_their_controllers() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /c/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
                      39 31 0:36 / /c/pids rw,relatime - cgroup cgroup rw,pids\n\
                      41 31 0:38 / /c/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let own = "8:pids:/\n4:cpu,cpuacct:/a/b\n0::/user.slice/x\n";
        assert_eq!(base(mounts, own, "cpu"), Some("/c/cpu,cpuacct".into()), "/a/b is not there");
        assert_eq!(base(mounts, own, "pids"), Some("/c/pids/".into()));
        assert_eq!(base(mounts, own, ""), Some("/c/unified".into()));
        assert_eq!(base(mounts, own, "memory"), None);
        assert_eq!(base(mounts, own, "cpuset"), None);
    }
}
