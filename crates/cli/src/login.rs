//! Addresses and keys stored in files: the user's login, and the `dev.env` of a running `gaffer dev`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gaffer_domain::text::without_bom;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::access::{Access, Key, server_url};
use crate::failure::Failure;

#[derive(Serialize, Deserialize)]
struct Login {
    url: String,
    key: String,
}

/// Reads the stored login; none if there is none.
///
/// # Errors
/// [`Failure::Usage`] if the file exists and is invalid.
pub fn read_login(path: PathBuf) -> Result<Option<Access>, Failure> {
    let Some(text) = read(&path)? else { return Ok(None) };
    let login: Login = toml::from_str(&text).map_err(|error| {
        Failure::Usage(format!(
            "cannot read {} ({}): run `gaffer login` again",
            path.display(),
            error.message()
        ))
    })?;
    Ok(Some(Access {
        url: server_url(&login.url)?,
        key: Key::new(&login.key),
        source: path.display().to_string(),
    }))
}

/// Reads the file that `gaffer dev` writes; none if there is none.
///
/// # Errors
/// [`Failure::Usage`] if the file is there and can't be read.
pub fn read_dev(path: PathBuf) -> Result<Option<Access>, Failure> {
    let Some(text) = read(&path)? else { return Ok(None) };
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        // The file is one that a shell can read, so a value may be quoted.
        shell_words::split(line).ok()?.into_iter().next()
    };
    match (value("GAFFER_URL"), value("GAFFER_KEY")) {
        (Some(url), Some(key)) => Ok(Some(Access {
            url: server_url(&url)?,
            key: Key::new(&key),
            source: path.display().to_string(),
        })),
        _ => Ok(None),
    }
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(without_bom(&text).to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // Another user's `gaffer dev` is none of ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(Failure::Usage(format!("cannot read {}: {error}", path.display()))),
    }
}

/// Stores a login for this user alone, in one step: a reader sees the old one or the new one.
///
/// # Errors
/// [`Failure::Local`] if that can't be done.
pub fn store(path: &Path, access: &Access) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let login = Login { url: access.url.to_string(), key: access.key.reveal().to_owned() };
        let text = toml::to_string(&login).map_err(io::Error::other)?;
        let mut file = NamedTempFile::new_in(directory)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Failure::Local(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_login_is_read_again_and_is_private() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("deep/er/login.toml");
        let access = Access {
            url: "http://host:8000".parse()?,
            key: Key::new("secret"),
            source: path.display().to_string(),
        };
        assert_eq!(read_login(path.clone())?, None);
        store(&path, &access)?;
        assert_eq!(read_login(path.clone())?, Some(access));
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);

        fs::write(&path, "url = 3")?;
        assert!(matches!(read_login(path), Err(Failure::Usage(_))));
        Ok(())
    }

    #[test]
    fn the_file_of_dev_is_read_as_a_shell_would() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("dev.env");
        fs::write(&path, "MASTER_URL=ws://x\nGAFFER_URL='http://127.0.0.1:8000/api/v1'\nGAFFER_KEY=abc\n")?;
        let access = read_dev(path.clone())?;
        let url = access.as_ref().map(|access| access.url.to_string());
        assert_eq!(url.as_deref(), Some("http://127.0.0.1:8000"));
        assert_eq!(access.as_ref().map(|access| access.key.reveal()), Some("abc"));
        fs::write(&path, "GAFFER_URL=http://x\n")?;
        assert_eq!(read_dev(path)?, None);
        Ok(())
    }
}
