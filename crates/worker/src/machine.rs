//! Identifies this machine and its data directory, to detect copies.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use gaffer_domain::worker::place::Place;
use sha2::{Digest as _, Sha256};

/// The machine id; only a hash of it may be sent to others.
const MACHINE_ID: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// Where the hardware's number is, on PCs and virtual machines, and on boards.
const HARDWARE_ID: [&str; 2] = ["/sys/class/dmi/id/product_uuid", "/proc/device-tree/serial-number"];

/// The place of a worker with this data directory.
pub(crate) fn place(data_dir: &Path, boot_id: &str) -> Place {
    Place {
        boot_id: boot_id.to_owned(),
        machine: digest_of_first(&MACHINE_ID),
        hardware: digest_of_first(&HARDWARE_ID),
        host: nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()),
        directory: directory(data_dir),
    }
}

/// What tells a directory from every other one, as long as its file system stays mounted.
pub(crate) fn directory(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
    Some(format!("{}:{}", metadata.dev(), metadata.ino()))
}

fn digest_of_first(files: &[&str]) -> Option<String> {
    let text = files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        let text = text.trim_matches(|char: char| char.is_whitespace() || char == '\0').to_lowercase();
        // Images that are still to be given one say `uninitialized`; boards without one have zeros.
        let is_one =
            text.len() >= 8 && text != "uninitialized" && text.bytes().any(|byte| !b"0-".contains(&byte));
        is_one.then_some(text)
    })?;
    let digest = Sha256::new().chain_update(b"gaffer place").chain_update(text).finalize();
    Some(digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_copy_of_a_directory_is_another_one_and_the_machine_stays_the_same() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, other) = (place(one.path(), "b"), place(other.path(), "b"));
        assert!(one.directory.is_some() && one.directory != other.directory);
        assert_eq!(Place { directory: None, ..one.clone() }, Place { directory: None, ..other });
        let text = format!("{one:?}");
        if let Ok(id) = fs::read_to_string("/etc/machine-id") {
            assert!(id.trim().is_empty() || !text.contains(id.trim()), "{text}");
        }
    }

    #[test]
    fn ids_that_are_none_prove_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id");
        for (text, is_one) in [
            ("", false),
            ("uninitialized\n", false),
            ("00000000-0000-0000\n", false),
            ("4c4c4544-0042\n", true),
            ("10000000abcdef01\0", true),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(digest_of_first(&[file.to_str().unwrap()]).is_some(), is_one, "{text:?}");
        }
    }
}
