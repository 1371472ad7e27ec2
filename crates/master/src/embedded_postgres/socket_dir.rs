//! A private directory for the socket, with a path that is short enough.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::data_dir::DataDir;
use super::{StartError, server};

/// The limits are 104 bytes (BSD, macOS) and 108 (Linux) for the socket's path with its closing zero.
const LONGEST_SOCKET_PATH: usize = 100;

/// The directory beside the cluster, or, if that has no path for a socket or none that the server may take, one in the usual
/// place for such things.
pub(super) fn choose(data_dir: &DataDir, runtime_dir: Option<&Path>) -> Result<PathBuf, StartError> {
    let beside = data_dir.home().join("run");
    if fits(&beside) && data_dir.closed_on_the_way(&data_dir.home()).is_none() {
        claim(data_dir, &beside).map_err(StartError::file("use", &beside))?;
        return Ok(beside);
    }
    // Each run takes the same name for a directory, so that what a killed gaffer leaves is used again.
    let mut hasher = DefaultHasher::new();
    beside.hash(&mut hasher);
    let name = format!("gaffer-{:016x}", hasher.finish());
    let mut bases = if nix::unistd::geteuid().is_root() {
        vec![Path::new("/run")]
    } else {
        Vec::from_iter(runtime_dir.filter(|dir| dir.is_absolute()))
    };
    bases.push(Path::new("/tmp"));
    let mut problems = Vec::new();
    for base in bases {
        // In a world-writable directory, another user can take the name: then use a random one.
        for dir in [base.join(&name), base.join(format!("gaffer-{:016x}", rand::random::<u64>()))] {
            if !fits(&dir) {
                problems.push(format!("{} is too long", dir.display()));
                continue;
            }
            match claim(data_dir, &dir) {
                Ok(()) => return Ok(dir),
                Err(error) => problems.push(format!("{}: {error}", dir.display())),
            }
        }
    }
    Err(StartError::NoSocketDir(problems.join("; ")))
}

/// Before each start of the server: the directory exists, and holds no socket of a server that was killed. (Its lock file
/// names a process id, which may be another process's by now, and then no server would start here.)
pub(super) fn sweep(data_dir: &DataDir, dir: &Path) -> Result<(), StartError> {
    claim(data_dir, dir).and_then(|()| remove_socket(dir)).map_err(StartError::file("use", dir))
}

/// After a stop: a directory outside of the data directory goes. One that stays is found again by the next start.
pub(super) fn tidy_up(data_dir: &DataDir, dir: &Path) {
    if !dir.starts_with(data_dir.home()) {
        let _ = remove_socket(dir).and_then(|()| fs::remove_dir(dir));
    }
}

fn remove_socket(dir: &Path) -> io::Result<()> {
    for name in [format!(".s.PGSQL.{}", server::PORT), format!(".s.PGSQL.{}.lock", server::PORT)] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Creates the directory, or uses an existing one that only the server's user (and root) can have written to.
fn claim(data_dir: &DataDir, dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let it = fs::symlink_metadata(dir)?;
            let ours =
                it.uid() == data_dir.server_uid().as_raw() || it.uid() == nix::unistd::geteuid().as_raw();
            if !(it.is_dir() && ours && it.mode() & 0o077 == 0) {
                return Err(io::Error::other(
                    "it exists, but is not a private directory of the server's user",
                ));
            }
        }
        made => made?,
    }
    data_dir.give(dir).map_err(io::Error::other)
}

/// Short enough, and free of what means something in the server's list of directories or in a URL.
fn fits(dir: &Path) -> bool {
    let socket = format!("/.s.PGSQL.{}", server::PORT);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+~".contains(byte);
    let bytes = dir.as_os_str().as_encoded_bytes();
    bytes.len() + socket.len() <= LONGEST_SOCKET_PATH && bytes.iter().all(plain)
}
