//! The master keys: where they come from, and how they are written.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::config::SecretsKeyConfig;

/// A key, overwritten when it is dropped.
pub(super) type KeyBytes = Zeroizing<[u8; super::KEY_BYTES]>;

/// How long a command may take to print the keys.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// More than this is not a list of keys.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// The file in the data directory of an installation with a private Postgres.
const FILE: &str = "secrets.key";

/// A master key.
#[derive(Clone)]
pub struct MasterKey {
    id: String,
    bytes: KeyBytes,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

impl MasterKey {
    fn new(bytes: KeyBytes) -> MasterKey {
        let digest = Sha256::new().chain_update(b"gaffer master key\0").chain_update(&bytes[..]).finalize();
        let id = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        MasterKey { id, bytes }
    }

    /// Its name, which may be shown: a part of its hash.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &KeyBytes {
        &self.bytes
    }
}

/// Why there is no master key. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    #[error(
        "no master key for secrets is set: write one with `openssl rand -base64 32 > FILE`, keep it apart from backups of the \
         database, and restart the master with GAFFER_SECRETS_KEY_FILE=FILE"
    )]
    NotSet,
    #[error("{setting}: {problem}")]
    Invalid { setting: String, problem: String },
}

/// The master keys, at least one: the first encrypts, all of them decrypt.
#[derive(Debug, Clone)]
pub struct KeyRing {
    keys: Vec<MasterKey>,
    source: String,
}

impl KeyRing {
    /// Reads keys from a text: one per line, or apart from each other by commas or spaces. Lines that begin with `#` are comments.
    ///
    /// # Errors
    /// When there is none, or one is not 32 bytes in base64 or hexadecimal. No error has a key in it.
    pub fn parse(text: &str, source: &str) -> Result<KeyRing, NoKey> {
        let invalid = |problem: String| NoKey::Invalid { setting: source.to_owned(), problem };
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let words = lines.flat_map(|line| line.split([',', ' ', '\t', '\r']));
        let mut keys: Vec<MasterKey> = Vec::new();
        for word in words.filter(|word| !word.is_empty()) {
            let number = keys.len() + 1;
            let bytes = read_key(word).ok_or_else(|| {
                invalid(format!(
                    "key {number} is not 32 bytes in base64 or hexadecimal; `openssl rand -base64 32` prints one"
                ))
            })?;
            if bytes.iter().all(|byte| Some(byte) == bytes.first()) {
                return Err(invalid(format!(
                    "key {number} is not random; `openssl rand -base64 32` prints one"
                )));
            }
            keys.push(MasterKey::new(bytes));
        }
        if keys.is_empty() {
            return Err(invalid("there is no key; `openssl rand -base64 32` prints one".to_owned()));
        }
        Ok(KeyRing { keys, source: source.to_owned() })
    }

    /// The one that encrypts.
    pub fn first(&self) -> &MasterKey {
        // There is at least one.
        &self.keys[0]
    }

    /// All of them.
    pub fn all(&self) -> &[MasterKey] {
        &self.keys
    }

    /// The one with this name.
    pub fn get(&self, id: &str) -> Option<&MasterKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// The setting that they come from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Reads the keys from where the settings say.
    ///
    /// # Errors
    /// When nothing is set, or what is set gives no keys.
    pub async fn load(config: &SecretsKeyConfig) -> Result<KeyRing, NoKey> {
        let invalid = |setting: &str| {
            let setting = setting.to_owned();
            move |problem: String| NoKey::Invalid { setting, problem }
        };
        if let Some(key) = &config.secrets_key {
            return KeyRing::parse(&key.0, "GAFFER_SECRETS_KEY");
        }
        if let Some(path) = &config.secrets_key_file {
            let setting = format!("GAFFER_SECRETS_KEY_FILE={}", path.display());
            let text = read_file(path)
                .map_err(|error| invalid(&setting)(format!("cannot read the file: {error}")))?;
            return KeyRing::parse(&text, &setting);
        }
        if let Some(command) = &config.secrets_key_command {
            let setting = "GAFFER_SECRETS_KEY_COMMAND";
            let text = run(command).await.map_err(invalid(setting))?;
            return KeyRing::parse(&text, setting);
        }
        Err(NoKey::NotSet)
    }

    /// The keys of an installation with a private Postgres: those of the settings, else of a file in the data directory, which is made
    /// if there is none. The caller has the data directory for itself.
    ///
    /// # Errors
    /// As [`KeyRing::load`], and when the file cannot be made.
    pub async fn load_or_create(config: &SecretsKeyConfig, data_dir: &Path) -> Result<KeyRing, NoKey> {
        match KeyRing::load(config).await {
            Err(NoKey::NotSet) => {}
            loaded => return loaded,
        }
        let path = data_dir.join(FILE);
        let invalid = |what: &str, error: io::Error| NoKey::Invalid {
            setting: path.display().to_string(),
            problem: format!("{what}: {error}"),
        };
        if !path.try_exists().map_err(|error| invalid("cannot look for the master key of secrets", error))? {
            create(&path).map_err(|error| invalid("cannot write a master key for secrets", error))?;
            tracing::info!(path = %path.display(), "made a master key for secrets; keep a copy of it apart from backups");
        }
        let text =
            read_file(&path).map_err(|error| invalid("cannot read the master key of secrets", error))?;
        KeyRing::parse(&text, &path.display().to_string())
    }
}

fn read_key(word: &str) -> Option<KeyBytes> {
    let decoded = if word.len() == 2 * super::KEY_BYTES && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digits = |at: usize| u8::from_str_radix(word.get(at..at + 2)?, 16).ok();
        (0..super::KEY_BYTES).map(|at| digits(2 * at)).collect::<Option<Vec<u8>>>()
    } else {
        [STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD].iter().find_map(|engine| engine.decode(word).ok())
    };
    let decoded = Zeroizing::new(decoded?);
    <[u8; super::KEY_BYTES]>::try_from(&decoded[..]).ok().map(Zeroizing::new)
}

fn read_file(path: &Path) -> io::Result<Zeroizing<String>> {
    let metadata = fs::metadata(path)?;
    // The mode of a pipe says nothing.
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "others than its owner may read the master key of secrets: chmod 600");
    }
    if metadata.is_file() && metadata.len() > MAX_TEXT_BYTES as u64 {
        return Err(io::Error::other(format!("it has more than {MAX_TEXT_BYTES} bytes")));
    }
    fs::read_to_string(path).map(Zeroizing::new)
}

/// Makes a file with a new key: readable by its owner alone, and complete as soon as it is there.
fn create(path: &Path) -> io::Result<()> {
    let mut bytes: KeyBytes = Zeroizing::default();
    rand::rng().fill_bytes(&mut bytes[..]);
    let text = Zeroizing::new(format!(
        "# Master key of the secrets of this gaffer installation. Without it they cannot be read. Keep a copy apart from\n\
         # backups of the database.\n{}\n",
        *Zeroizing::new(STANDARD.encode(&bytes[..]))
    ));
    let draft = path.with_extension("key.draft");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// What a command prints.
async fn run(command: &str) -> Result<Zeroizing<String>, String> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_TIMEOUT, shell.output())
        .await
        .map_err(|_| format!("the command did not end within {} s", COMMAND_TIMEOUT.as_secs()))?
        .map_err(|error| format!("cannot run the command: {error}"))?;
    let stdout = Zeroizing::new(output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().chars().take(500).collect();
        return Err(format!("the command failed ({}): {said}", output.status));
    }
    if stdout.len() > MAX_TEXT_BYTES {
        return Err(format!("the command printed more than {MAX_TEXT_BYTES} bytes"));
    }
    let text = std::str::from_utf8(&stdout).map_err(|_| "the command printed no text".to_owned())?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::SecretsKey;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_key_is_read_in_each_spelling_and_the_first_encrypts() {
        let ids = [HEX, BASE64, BASE64.trim_end_matches('=')].map(|text| {
            KeyRing::parse(&format!("# a comment\n{text}\n"), "x").unwrap().first().id().to_owned()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
        let other = HEX.replace("00", "ff");
        let ring = KeyRing::parse(&format!("{other}, {BASE64}"), "x").unwrap();
        assert_eq!(ring.all().len(), 2);
        assert_ne!(ring.first().id(), ids[0]);
        assert!(ring.get(&ids[0]).is_some());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        for text in ["", "# none", "hunter2hunter2", &HEX[2..], &"00".repeat(32), &format!("{HEX}00"), "AAAA"]
        {
            let error = KeyRing::parse(text, "GAFFER_SECRETS_KEY").unwrap_err().to_string();
            assert!(error.starts_with("GAFFER_SECRETS_KEY: ") && error.contains("openssl rand"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    fn config() -> SecretsKeyConfig {
        SecretsKeyConfig { secrets_key: None, secrets_key_file: None, secrets_key_command: None }
    }

    #[tokio::test]
    async fn keys_come_from_a_variable_a_file_or_a_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let id = KeyRing::parse(HEX, "x").unwrap().first().id().to_owned();
        let of = |loaded: Result<KeyRing, NoKey>| loaded.unwrap().first().id().to_owned();
        let variable = SecretsKeyConfig { secrets_key: Some(SecretsKey::from(HEX)), ..config() };
        assert_eq!(of(KeyRing::load(&variable).await), id);
        fs::write(&path, BASE64).unwrap();
        let file = SecretsKeyConfig { secrets_key_file: Some(path.clone()), ..config() };
        assert_eq!(of(KeyRing::load(&file).await), id);
        let command = format!("cat {}", path.display());
        let command = SecretsKeyConfig { secrets_key_command: Some(command), ..config() };
        assert_eq!(of(KeyRing::load(&command).await), id);
        assert_eq!(KeyRing::load(&config()).await.unwrap_err(), NoKey::NotSet);
        let fails = Some("echo sorry >&2; exit 3".to_owned());
        let fails = SecretsKeyConfig { secrets_key_command: fails, ..config() };
        let error = KeyRing::load(&fails).await.unwrap_err().to_string();
        assert!(error.contains("GAFFER_SECRETS_KEY_COMMAND") && error.contains("sorry"), "{error}");
        let none = SecretsKeyConfig { secrets_key_file: Some(dir.path().join("none")), ..config() };
        assert!(KeyRing::load(&none).await.unwrap_err().to_string().contains("cannot read the file"));
    }

    #[tokio::test]
    async fn a_private_installation_makes_a_key_for_its_owner_alone_once() {
        let dir = tempfile::tempdir().unwrap();
        let made = KeyRing::load_or_create(&config(), dir.path()).await.unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = KeyRing::load_or_create(&config(), dir.path()).await.unwrap();
        assert_eq!(again.first().id(), made.first().id());
        fs::write(&path, "not a key").unwrap();
        assert!(KeyRing::load_or_create(&config(), dir.path()).await.is_err(), "it is not replaced");
    }
}
