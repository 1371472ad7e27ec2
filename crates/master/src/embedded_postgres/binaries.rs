//! Finds a Postgres installation with `initdb` and `postgres` of a suitable version.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::data_dir::{DataDir, major};
use super::program::{command, spawn_error};
use super::{Settings, StartError};

/// The oldest version whose SQL gaffer relies on.
const OLDEST_MAJOR: u32 = 14;

#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) version: String,
}

impl Binaries {
    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    /// The first installation that can run the cluster; any of a sufficient version if there is no cluster yet.
    pub(super) async fn find(settings: &Settings, data_dir: &DataDir) -> Result<Binaries, StartError> {
        let cluster_major = data_dir.cluster_major()?;
        let mut unsuitable = Vec::new();
        for dir in candidates(settings) {
            let program = dir.join("postgres");
            let version = match version_of(&program, data_dir).await {
                Ok(version) => version,
                Err(error) if settings.bin_dir.is_some() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "skipping a Postgres installation");
                    continue;
                }
            };
            match major(&version) {
                Some(major)
                    if major >= OLDEST_MAJOR && cluster_major.is_none_or(|wanted| wanted == major) =>
                {
                    return Ok(Binaries { dir, version });
                }
                _ => unsuitable.push(format!("{version} in {}", dir.display())),
            }
        }
        let found = unsuitable.join(", ");
        match cluster_major {
            Some(cluster) if !found.is_empty() => {
                Err(StartError::OtherVersion { cluster_dir: data_dir.cluster(), cluster, found })
            }
            _ => {
                Err(StartError::NoBinaries { problem: problem(settings, &found), install: install_advice() })
            }
        }
    }
}

fn problem(settings: &Settings, too_old: &str) -> String {
    match (&settings.bin_dir, too_old) {
        (_, found) if !found.is_empty() => {
            format!("gaffer needs PostgreSQL {OLDEST_MAJOR} or newer; this machine has only {found}.")
        }
        (Some(dir), _) => {
            format!("GAFFER_PG_BIN={} does not contain `initdb` and `postgres`.", dir.display())
        }
        (None, _) => "gaffer needs the PostgreSQL server, which is not installed on this machine.".to_owned(),
    }
}

/// Directories with both programs, best first, each once.
pub(super) fn candidates(settings: &Settings) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    let mut consider = |dir: PathBuf| {
        // A path without links: a `postgres` linked into another directory needs the `initdb` beside the real one.
        if let Some(dir) =
            fs::canonicalize(dir.join("postgres")).ok().and_then(|file| file.parent().map(Path::to_owned))
            && is_program(&dir.join("postgres"))
            && is_program(&dir.join("initdb"))
            && !dirs.contains(&dir)
        {
            dirs.push(dir);
        }
    };
    if let Some(dir) = &settings.bin_dir {
        consider(dir.clone());
        return dirs;
    }
    let search_path = || {
        let dirs = settings.search_path.as_deref().map(std::env::split_paths).into_iter().flatten();
        // An empty entry means the current directory, where anybody may have left a program.
        dirs.filter(|dir| dir.is_absolute())
    };
    if let Some(pg_config) = search_path().map(|dir| dir.join("pg_config")).find(|file| is_program(file))
        && let Ok(output) =
            std::process::Command::new(pg_config).arg("--bindir").stdin(std::process::Stdio::null()).output()
    {
        consider(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    // Debian, PGDG's packages on Red Hat's systems, Alpine (two generations), Homebrew on Apple's and on Intel's chips.
    for (parent, prefix, suffix) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/usr/lib", "postgresql", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
    ] {
        for dir in newest_first(Path::new(parent), prefix) {
            consider(dir.join(suffix));
        }
    }
    search_path().for_each(consider);
    dirs
}

/// The entries of `parent` that are called `<prefix><version>`, newest version first.
fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((major(entry.file_name().to_str()?.strip_prefix(prefix)?)?, entry.path())))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

pub(super) fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

/// Asks a `postgres` for its version, as the user who is to run it.
async fn version_of(postgres: &Path, data_dir: &DataDir) -> Result<String, StartError> {
    let output = command(postgres, data_dir, None).arg("--version").kill_on_drop(true).output().await;
    let output = output.map_err(spawn_error(postgres, data_dir))?;
    version_in(&String::from_utf8_lossy(&output.stdout)).map_err(spawn_error(postgres, data_dir))
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` → `15.18`.
pub(super) fn version_in(output: &str) -> io::Result<String> {
    let version = output.split(") ").nth(1).and_then(|rest| rest.split_whitespace().next());
    match version.filter(|version| major(version).is_some()) {
        Some(version) => Ok(version.to_owned()),
        None => Err(io::Error::other(format!("cannot read its version from {output:?}"))),
    }
}

fn install_advice() -> String {
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    install_advice_for(std::env::consts::OS, &os_release, nix::unistd::geteuid().is_root())
}

/// How to install Postgres on this system, in one line.
pub(super) fn install_advice_for(os: &str, os_release: &str, root: bool) -> String {
    if os == "macos" {
        return "Install it with `brew install postgresql@17`".to_owned();
    }
    // Derived distributions name what they are like, nearest first: `ID_LIKE="ubuntu debian"`.
    let value_of = |key: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches(['"', '\'']))
    };
    let mut ids = [value_of("ID"), value_of("ID_LIKE")].into_iter().flatten().flat_map(str::split_whitespace);
    let command = ids.find_map(|id| match id {
        "debian" | "ubuntu" => Some("apt-get install -y postgresql"),
        "fedora" | "rhel" | "centos" => Some("dnf install -y postgresql-server"),
        "alpine" => Some("apk add postgresql"),
        "arch" => Some("pacman -S --noconfirm postgresql"),
        "suse" | "opensuse" => Some("zypper install -y postgresql-server"),
        _ => None,
    });
    match command {
        Some(command) => format!("Install it with `{}{command}`", if root { "" } else { "sudo " }),
        None => "Install your system's package of the PostgreSQL server".to_owned(),
    }
}
