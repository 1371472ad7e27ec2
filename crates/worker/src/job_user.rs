//! The user that jobs on the host run as, where that is not the worker's own.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, fchown, lchown};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, bail, ensure};
use nix::libc;
use nix::unistd::{Gid, Uid, User, chdir, getgrouplist, setfsgid, setfsuid, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use crate::directory::OwnDirectory;

/// The user that jobs run as where the worker is root and nobody says otherwise, if there is such a user.
pub(crate) const USUAL_NAME: &str = "gaffer-job";

/// A user whose rights jobs get, and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// All groups of the user.
    pub groups: Vec<u32>,
    pub home: PathBuf,
    pub shell: PathBuf,
}

impl JobUser {
    /// The user that jobs are to run as; none for the worker's own. `wanted`: name or number of a user, if somebody has said
    /// so.
    ///
    /// # Errors
    /// When there is no such user, or this process may not become that one.
    pub fn choose(wanted: Option<&str>) -> anyhow::Result<Option<JobUser>> {
        let own = nix::unistd::geteuid();
        let user = match wanted.map(str::trim).filter(|wanted| !wanted.is_empty()) {
            Some(wanted) => named(wanted)?,
            None if own.is_root() => match User::from_name(USUAL_NAME) {
                Ok(Some(user)) => user,
                _ => return Ok(None),
            },
            None => return Ok(None),
        };
        if user.uid == own {
            return Ok(None);
        }
        ensure!(
            own.is_root(),
            "GAFFER_RUN_AS: only a worker that runs as root can run jobs as another user; leave it out, or start the worker as \
             root"
        );
        JobUser::of(user).map(Some)
    }

    fn of(user: User) -> anyhow::Result<JobUser> {
        let name = CString::new(user.name.as_str()).context("the name of a user has a zero byte")?;
        let groups = getgrouplist(&name, user.gid)
            .with_context(|| format!("cannot read the groups of the user {}", user.name))?;
        Ok(JobUser {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            home: user.dir,
            shell: user.shell,
        })
    }

    /// Checks that the user can enter a directory, which lets it in itself already.
    ///
    /// # Errors
    /// When a directory above it does not.
    pub fn must_reach(&self, directory: &Path) -> anyhow::Result<()> {
        for above in directory.ancestors() {
            let metadata =
                fs::metadata(above).with_context(|| format!("cannot look at {}", above.display()))?;
            let mode = metadata.mode();
            let may_enter = match (metadata.uid() == self.uid, self.groups.contains(&metadata.gid())) {
                (true, _) => mode & 0o100 != 0,
                (false, true) => mode & 0o010 != 0,
                (false, false) => mode & 0o001 != 0,
            };
            ensure!(
                may_enter,
                "jobs run as the user {}, who cannot enter {}, in which the worker's data directory is: set GAFFER_DATA_DIR to \
                 another place, such as /var/lib/gaffer/worker, or GAFFER_RUN_AS to a user who can",
                self.name,
                above.display()
            );
        }
        Ok(())
    }

    /// Makes a file or directory the user's. Only for what nobody else can exchange: its path must lead through directories of this
    /// process alone, and what is around it is handed over after it.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        lchown(path, Some(self.uid), Some(self.gid))
    }

    /// Makes a pipe the user's, so that `/dev/stdout` and the like can be opened.
    pub fn own_pipe(&self, end: impl AsFd) -> io::Result<()> {
        fchown(end, Some(self.uid), Some(self.gid))
    }

    /// The process of this command becomes the user's before it enters its directory and executes anything.
    fn become_before_exec(&self, command: &mut Command, directory: &Path) -> io::Result<()> {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let directory = CString::new(directory.as_os_str().as_bytes())?;
        let become_user = move || {
            setgroups(&groups)?;
            setgid(gid)?;
            setuid(uid)?;
            // Not before: root enters directories that are closed to the user.
            chdir(directory.as_c_str())?;
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; these are four system calls with memory that was
        // made before, and there is no other thread in the new process.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(become_user);
        }
        Ok(())
    }

    /// Makes this thread see files as the user does. It has no other rights on files from then on. Its user stays what it is,
    /// so that nobody else can send it signals.
    fn limit_this_thread(&self) -> io::Result<()> {
        // SAFETY: the call reads this many numbers from memory that lives until it returns. The C library's function of this name
        // would change all threads.
        #[allow(unsafe_code)]
        let done = unsafe { libc::syscall(SET_GROUPS, self.groups.len(), self.groups.as_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setfsgid(gid);
        setfsuid(uid);
        // They report no failure: the next call gives what is set.
        if (setfsuid(uid), setfsgid(gid)) != (uid, gid) {
            return Err(io::Error::other("the kernel does not take away the rights of a thread"));
        }
        Ok(())
    }
}

/// The system call with numbers of 32 bits.
#[cfg(target_pointer_width = "64")]
const SET_GROUPS: libc::c_long = libc::SYS_setgroups;
#[cfg(target_pointer_width = "32")]
const SET_GROUPS: libc::c_long = libc::SYS_setgroups32;

/// Looks at files with the rights of this user, if there is one: what the user cannot see is not there. Blocks.
///
/// # Errors
/// When a thread cannot be limited to these rights.
pub(crate) fn with_rights_of<T: Send>(
    user: Option<&JobUser>,
    look: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let Some(user) = user else { return Ok(look()) };
    thread::scope(|scope| {
        // It ends then: nothing else is ever done with it.
        let limited = thread::Builder::new().name("job-user".to_owned()).spawn_scoped(scope, || {
            user.limit_this_thread()?;
            Ok(look())
        })?;
        limited.join().unwrap_or_else(|_| Err(io::Error::other("a panic")))
    })
}

/// Starts a process in a directory, of this user if there is one.
pub(crate) fn spawn(command: &mut Command, directory: &Path, user: Option<&JobUser>) -> io::Result<Child> {
    match user {
        Some(user) => user.become_before_exec(command, directory)?,
        None => {
            command.current_dir(directory);
        }
    }
    command.spawn()
}

/// The user of this name or number.
fn named(wanted: &str) -> anyhow::Result<User> {
    let found = match wanted.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(wanted),
    };
    match found {
        Ok(Some(user)) => Ok(user),
        Ok(None) => bail!(
            "GAFFER_RUN_AS: there is no user {wanted}: create one, for instance by `useradd --system --create-home {wanted}`"
        ),
        Err(errno) => bail!("GAFFER_RUN_AS: cannot look for the user {wanted}: {errno}"),
    }
}

/// Lets others pass through a directory of this process without seeing what is in it.
pub(crate) fn let_pass(directory: &Path) -> io::Result<()> {
    OwnDirectory::open(directory)?.change_mode(|mode| mode & !0o066 | 0o111)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_looked_at_with_the_rights_of_the_user_and_this_thread_keeps_its_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (closed, shared) = (dir.path().join("closed"), dir.path().join("shared"));
        for (path, mode) in [(&closed, 0o700), (&shared, 0o750)] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let look = || [&closed, &shared].map(|path| fs::metadata(path.join("file")).is_ok());
        assert_eq!(with_rights_of(None, look).unwrap(), [true, true]);
        if !nix::unistd::geteuid().is_root() {
            assert!(with_rights_of(Some(&somebody()), look).is_err(), "it fails closed");
            return;
        }
        std::os::unix::fs::chown(&shared, None, Some(4_000_002)).unwrap();
        let ids = || (nix::unistd::getuid(), nix::unistd::getgroups().unwrap());
        let before = ids();
        assert_eq!(with_rights_of(Some(&somebody()), look).unwrap(), [false, true], "by one of its groups");
        assert_eq!(look(), [true, true]);
        assert_eq!(ids(), before);
    }

    fn somebody() -> JobUser {
        JobUser {
            name: "somebody".to_owned(),
            uid: 4_000_000,
            gid: 4_000_001,
            groups: vec![4_000_001, 4_000_002],
            home: "/".into(),
            shell: "/bin/sh".into(),
        }
    }

    #[test]
    fn a_directory_that_a_user_cannot_reach_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (closed, inner) = (dir.path().join("closed"), dir.path().join("closed/inner"));
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let error = somebody().must_reach(&inner).unwrap_err().to_string();
        assert!(error.contains(&format!("cannot enter {},", closed.display())), "{error}");
        let_pass(&closed).unwrap();
        assert_eq!(fs::metadata(&closed).unwrap().mode() & 0o777, 0o711);
        somebody().must_reach(&inner).unwrap();
    }

    #[test]
    fn a_user_that_does_not_exist_is_refused_with_advice() {
        let error = JobUser::choose(Some("no-such-user-here")).unwrap_err().to_string();
        assert!(error.contains("there is no user no-such-user-here"), "{error}");
    }

    #[test]
    fn the_workers_own_user_is_no_other_one() {
        let own = nix::unistd::geteuid().to_string();
        assert_eq!(JobUser::choose(Some(&own)).unwrap(), None);
    }
}
