//! Creates and locks the directories, and gives them to the server's user.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::{Gid, Pid, Uid, User};

use super::StartError;

/// How long to wait for the lock: a gaffer that was killed a moment ago, or a child it was just starting, may still hold it.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How the name of a cluster in the making begins.
const UNFINISHED: &str = "initdb-";
/// And how that of one that was put aside begins.
const REPLACED: &str = "replaced-";

/// gaffer's data directory, locked for this process.
#[derive(Debug)]
pub(super) struct DataDir {
    /// As the caller named it, without links, absolute: the server's current directory is another one.
    path: PathBuf,
    /// Who runs the server, if that is not the user of this process.
    pub(super) server_user: Option<ServerUser>,
    _lock: Flock<File>,
}

/// Postgres refuses to run as root; this is who runs it then.
#[derive(Debug, Clone)]
pub(super) struct ServerUser {
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

/// What a program is told as the name of a directory. If root's data directory lies behind a directory that the program's
/// user may not pass (root's home, one of `mktemp -d`), root opens it, and the program finds it by the number of that handle:
/// so nothing in root's directories need be opened to others.
#[derive(Debug)]
pub(super) struct WayInto {
    pub(super) name: OsString,
    /// To be inherited under the same number.
    pub(super) handle: Option<File>,
}

impl DataDir {
    /// Creates what is missing and takes the lock.
    pub(super) async fn open(path: &Path) -> Result<DataDir, StartError> {
        let root = nix::unistd::geteuid().is_root();
        make_dir(path, root)?;
        let path = fs::canonicalize(path).map_err(StartError::file("find", path))?;
        let home = path.join("postgres");
        make_dir(&home, root)?;
        let server_user = if root { Some(ServerUser::choose(&home.join("cluster"))?) } else { None };
        let lock = lock(&path, server_user.as_ref()).await?;
        Ok(DataDir { path, server_user, _lock: lock })
    }

    /// The directory that holds all but the log.
    pub(super) fn home(&self) -> PathBuf {
        self.path.join("postgres")
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.home().join("cluster")
    }

    /// Where a cluster is made. Each time another place: an initdb of a killed gaffer may still be tidying up its own.
    pub(super) fn new_cluster(&self) -> PathBuf {
        self.home().join(format!("{UNFINISHED}{:08x}", rand::random::<u32>()))
    }

    /// Clusters whose making was interrupted.
    pub(super) fn unfinished_clusters(&self) -> Result<Vec<PathBuf>, StartError> {
        let home = self.home();
        let entries = fs::read_dir(&home).map_err(StartError::file("read", &home))?.flatten();
        let unfinished =
            entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()));
        Ok(unfinished.map(|entry| entry.path()).collect())
    }

    /// The cluster that was replaced last, if there is any.
    pub(super) fn last_replaced(&self) -> Result<Option<PathBuf>, StartError> {
        let home = self.home();
        let entries = fs::read_dir(&home).map_err(StartError::file("read", &home))?.flatten();
        let replaced = entries.map(|entry| entry.file_name());
        let replaced = replaced.filter(|name| name.as_encoded_bytes().starts_with(REPLACED.as_bytes()));
        Ok(replaced.max().map(|name| home.join(name)))
    }

    /// Where a cluster is put aside for another one.
    pub(super) fn replaced(&self, suffix: &str) -> PathBuf {
        self.home().join(format!("{REPLACED}{suffix}"))
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    /// The uid of the server.
    pub(super) fn server_uid(&self) -> Uid {
        self.server_user.as_ref().map_or_else(nix::unistd::geteuid, |user| user.uid)
    }

    /// The major version of the cluster, if there is a cluster.
    pub(super) fn cluster_major(&self) -> Result<Option<u32>, StartError> {
        cluster_major(&self.cluster())
    }

    /// Makes a directory that only the server's user may enter.
    pub(super) fn make_private(&self, dir: &Path) -> Result<(), StartError> {
        fs::DirBuilder::new().mode(0o700).create(dir).map_err(StartError::file("create", dir))?;
        self.give(dir)
    }

    /// Gives a file to the server's user.
    pub(super) fn give(&self, path: &Path) -> Result<(), StartError> {
        match &self.server_user {
            Some(user) => std::os::unix::fs::lchown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(StartError::file("change the owner of", path)),
            None => Ok(()),
        }
    }

    /// Gives a whole cluster to the server's user if it is root's, as after a copy of root's.
    pub(super) fn give_cluster(&self) -> Result<(), StartError> {
        let cluster = self.cluster();
        if self.server_user.is_none() || !fs::symlink_metadata(&cluster).is_ok_and(|it| it.uid() == 0) {
            return Ok(());
        }
        // The top last: it is what tells that the rest has been done.
        let mut found = vec![cluster];
        let mut next = 0;
        while let Some(path) = found.get(next) {
            if fs::symlink_metadata(path).is_ok_and(|it| it.is_dir()) {
                let entries = fs::read_dir(path).map_err(StartError::file("read", path))?;
                found.extend(entries.flatten().map(|entry| entry.path()));
            }
            next += 1;
        }
        found.iter().rev().try_for_each(|path| self.give(path))
    }

    /// Keeps the log of the last run apart, once per run of gaffer.
    pub(super) fn rotate_log(&self) -> Result<(), StartError> {
        let log = self.log();
        match fs::rename(&log, log.with_extension("log.old")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StartError::file("rename", &log)(error))
            }
            _ => Ok(()),
        }
    }

    /// Opens the log for appending, and returns its length.
    pub(super) fn open_log(&self) -> Result<(File, u64), StartError> {
        let path = self.log();
        let log = open(&path, OpenOptions::new().append(true), self.server_user.as_ref())?;
        let length = log.metadata().map_err(StartError::file("read", &path))?.len();
        Ok((log, length))
    }

    /// How the server's user gets into one of the server's directories.
    pub(super) fn way_into(&self, dir: &Path) -> Result<WayInto, StartError> {
        let (Some(user), Some(closed)) = (&self.server_user, self.closed_on_the_way(dir)) else {
            return Ok(WayInto { name: dir.into(), handle: None });
        };
        let handle = File::open(dir).map_err(StartError::file("open", dir))?;
        let name = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
        if !name.exists() {
            return Err(StartError::Unreachable { closed, wanted: dir.to_owned(), user: user.name.clone() });
        }
        Ok(WayInto { name: name.into(), handle: Some(handle) })
    }

    /// The first directory on the way that the server's user may not pass, judged by its mode.
    pub(super) fn closed_on_the_way(&self, path: &Path) -> Option<PathBuf> {
        let user = self.server_user.as_ref()?;
        let mut way: Vec<&Path> = path.ancestors().collect();
        way.reverse();
        let closed = way.into_iter().find(|dir| {
            let Ok(it) = fs::metadata(dir) else { return false };
            let needed = match () {
                () if it.uid() == user.uid.as_raw() => 0o100,
                () if it.gid() == user.gid.as_raw() => 0o010,
                () => 0o001,
            };
            it.is_dir() && it.mode() & needed == 0
        });
        closed.map(Path::to_owned)
    }
}

impl ServerUser {
    /// The owner of an existing cluster, else `postgres`, else `nobody`.
    fn choose(cluster: &Path) -> Result<ServerUser, StartError> {
        if let Ok(it) = fs::symlink_metadata(cluster)
            && it.uid() != 0
        {
            let uid = Uid::from_raw(it.uid());
            let name = User::from_uid(uid).ok().flatten().map_or_else(|| format!("#{uid}"), |user| user.name);
            return Ok(ServerUser { name, uid, gid: Gid::from_raw(it.gid()) });
        }
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = user.filter(|user| !user.uid.is_root()).ok_or(StartError::NoUser)?;
        Ok(ServerUser { name: user.name, uid: user.uid, gid: user.gid })
    }
}

/// Makes a directory with those above it. Root's can be passed by the server's user (whatever the umask says), but not listed.
fn make_dir(dir: &Path, root: bool) -> Result<(), StartError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dir(parent, root)?;
    }
    let mode = if root { 0o711 } else { 0o700 };
    match fs::create_dir(dir) {
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(mode))
            .map_err(StartError::file("set the mode of", dir)),
        // Made by another gaffer at the same moment.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StartError::file("create", dir)(error)),
    }
}

/// Opens (or makes) a private file, which is the server's user's like everything else, so that a gaffer which is not root
/// can go on where one that was root stopped.
fn open(path: &Path, options: &mut OpenOptions, owner: Option<&ServerUser>) -> Result<File, StartError> {
    let file = options.create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path);
    let file = file.map_err(StartError::file("open", path))?;
    if let Some(user) = owner {
        std::os::unix::fs::fchown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .map_err(StartError::file("change the owner of", path))?;
    }
    Ok(file)
}

async fn lock(data_dir: &Path, owner: Option<&ServerUser>) -> Result<Flock<File>, StartError> {
    let path = data_dir.join("postgres/lock");
    let mut file = open(&path, OpenOptions::new().read(true).write(true).truncate(false), owner)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut locked) => {
                let written = locked
                    .set_len(0)
                    .and_then(|()| locked.rewind())
                    .and_then(|()| locked.write_all(format!("{}\n", Pid::this()).as_bytes()));
                written.map_err(StartError::file("write", &path))?;
                return Ok(locked);
            }
            Err((mut held, Errno::EWOULDBLOCK)) => {
                if Instant::now() > deadline {
                    let mut holder = String::new();
                    // What cannot be read is only missing from the message.
                    let _ = held.rewind().and_then(|()| held.read_to_string(&mut holder));
                    let holder = format!("process {}", holder.trim());
                    return Err(StartError::InUse { data_dir: data_dir.to_owned(), holder });
                }
                file = held;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err((_, errno)) => return Err(StartError::file("lock", &path)(errno.into())),
        }
    }
}

/// `15.18` → 15, `18beta1` → 18.
pub fn major(version: &str) -> Option<u32> {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

/// The major version of a cluster; none if there is nothing in its directory.
pub(super) fn cluster_major(cluster: &Path) -> Result<Option<u32>, StartError> {
    let file = cluster.join("PG_VERSION");
    match fs::read_to_string(&file) {
        Ok(version) => match major(&version) {
            Some(major) => Ok(Some(major)),
            None => Err(StartError::NoCluster(cluster.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => match is_empty(cluster) {
            true => Ok(None),
            false => Err(StartError::NoCluster(cluster.to_owned())),
        },
        Err(error) => Err(StartError::file("read", &file)(error)),
    }
}

/// Whether there is nothing in a directory, or no directory.
pub(super) fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}
