//! A short symbolic link to the directory of all attempts: the address of a Unix socket has room for 107 bytes, and
//! a long data directory would leave tasks none for sockets in `TMPDIR`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use crate::private_place;

/// The longest path that needs no other. With an attempt's number and `/tmp` behind it there is room for a name of
/// forty bytes and more.
const MAX_BYTES: usize = 40;
/// Where a short path may begin, the best first.
const BASES: [&str; 4] = ["/tmp", "/var/tmp", "/run", "/dev/shm"];
/// The link to the directory, in a private directory.
const LINK: &str = "a";

/// A path to a directory, short if that is possible. The files themselves are where they were.
#[derive(Debug)]
pub(super) struct ShortPath {
    path: PathBuf,
    target: PathBuf,
    /// Keeps programs that clean temporary directories away; none without a link.
    _lock: Option<Flock<File>>,
}

impl ShortPath {
    pub fn to(target: &Path) -> ShortPath {
        ShortPath::from_one_of(&BASES, target)
    }

    fn from_one_of(bases: &[&str], target: &Path) -> ShortPath {
        let itself = || ShortPath { path: target.to_owned(), target: target.to_owned(), _lock: None };
        if target.as_os_str().len() <= MAX_BYTES {
            return itself();
        }
        for base in bases {
            let made = private_place::open(Path::new(base), &name(target))
                .and_then(|dir| Ok((link_from(&dir, target)?, dir)));
            match made {
                Ok((lock, dir)) => {
                    return ShortPath { path: dir.join(LINK), target: target.to_owned(), _lock: lock };
                }
                Err(error) => tracing::debug!(base, %error, "cannot make a short path"),
            }
        }
        let path = target.display();
        tracing::warn!(
            %path,
            "the path of the data directory is long and cannot be shortened: TMPDIR of host tasks may be \
             too long for Unix sockets"
        );
        itself()
    }

    /// The path; recreated if it was removed.
    pub fn get(&self) -> &Path {
        if self.path != self.target && fs::read_link(&self.path).is_err() {
            let made = self.path.parent().map(|dir| {
                // Jobs know its path by now, so no other one will do.
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                link_from(dir, &self.target)
            });
            if let Some(Err(error)) = made {
                tracing::warn!(path = %self.path.display(), %error, "cannot make a short path to the data directory");
            }
        }
        &self.path
    }

    /// Lets other users pass through the path, if it is not the directory itself.
    pub fn let_pass(&self) {
        let Some(dir) = self.path.parent().filter(|_| self.path != self.target) else { return };
        if let Err(error) = crate::job_user::let_pass(dir) {
            tracing::warn!(path = %dir.display(), %error, "cannot open the short path to the data directory to jobs");
        }
    }

    /// Removes the short paths to a directory that earlier processes left.
    pub fn remove(target: &Path) {
        for dir in BASES.iter().flat_map(|base| private_place::existing(Path::new(base), &name(target))) {
            if fs::read_link(dir.join(LINK)).is_ok_and(|found| found == target) {
                let _ = fs::remove_file(dir.join(LINK)).and_then(|()| fs::remove_dir(&dir));
            }
        }
    }
}

/// Always the same for a target, so that what a killed process left is found again.
fn name(target: &Path) -> String {
    let digest = Sha256::digest(target.as_os_str().as_encoded_bytes());
    let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("gaffer-{digest}")
}

/// Makes the link in its directory, which must be this user's alone: others may write beside it.
fn link_from(dir: &Path, target: &Path) -> io::Result<Option<Flock<File>>> {
    if !private_place::is_private(dir) {
        return Err(io::Error::other("it exists and is not private to this user"));
    }
    let link = dir.join(LINK);
    if !fs::read_link(&link).is_ok_and(|found| found == target) {
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(target, &link)?,
        }
    }
    Ok(Flock::lock(File::open(dir)?, FlockArg::LockSharedNonblock).ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn long(dir: &Path) -> PathBuf {
        let target = dir.join("a-data-directory-with-a-name-that-leaves-no-room".repeat(3)).join("attempts");
        fs::create_dir_all(&target).unwrap();
        target
    }

    #[test]
    fn a_short_path_is_left_as_it_is_and_a_long_one_gets_another() {
        let short = Path::new("/var/lib/gaffer/worker/attempts");
        assert_eq!(ShortPath::to(short).get(), short);

        let dir = tempfile::tempdir().unwrap();
        let target = long(dir.path());
        let path = ShortPath::to(&target);
        assert!(path.get().as_os_str().len() <= MAX_BYTES, "{path:?}");
        assert_eq!(path.get().canonicalize().unwrap(), target.canonicalize().unwrap());

        let temporary = target.join("1234567.10/tmp");
        fs::create_dir_all(&temporary).unwrap();
        let socket = "a-socket-with-a-name-as-long-as-they-get/agent";
        fs::create_dir(temporary.join("a-socket-with-a-name-as-long-as-they-get")).unwrap();
        UnixListener::bind(path.get().join("1234567.10/tmp").join(socket)).unwrap();

        fs::remove_file(&path.path).unwrap();
        assert_eq!(path.get().canonicalize().unwrap(), target.canonicalize().unwrap(), "it is made again");
        let again = ShortPath::to(&target);
        assert_eq!(again.get(), path.get(), "of a killed process it is used again");
        ShortPath::remove(&target);
        assert!(!path.path.exists() && !path.path.parent().unwrap().exists());
    }

    #[test]
    fn what_is_not_its_users_alone_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let (target, base) = (long(dir.path()), dir.path().to_str().unwrap());
        let taken = dir.path().join(name(&target));
        fs::create_dir(&taken).unwrap();
        fs::set_permissions(&taken, fs::Permissions::from_mode(0o777)).unwrap();
        let path = ShortPath::from_one_of(&[base], &target);
        assert!(path.get() != target && !path.get().starts_with(&taken), "another name is found");
        assert_eq!(path.get().canonicalize().unwrap(), target.canonicalize().unwrap());
        fs::set_permissions(&taken, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(ShortPath::from_one_of(&["/no/such/place", base], &target).get(), taken.join(LINK));
    }
}
