//! Encrypts the values of secrets. The master key is not in the database, and what is in the database is of no use without it.
//!
//! *Envelopes.* Each version of a secret has a random data key, which encrypts its value (XChaCha20-Poly1305); the master key
//! encrypts the data key. Both are bound to the project, the name and the version, so a row that was copied to another place
//! cannot be opened there. So a new master key needs no value to be decrypted: only data keys are encrypted again.

pub mod master_key;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use gaffer_domain::ProjectId;
use gaffer_domain::secrets::SecretValue;
use rand::RngCore as _;
use zeroize::Zeroizing;

use crate::records::{KeyUse, Sealed};
use master_key::{KeyBytes, KeyRing, MasterKey, NoKey};

const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
/// What a key proves itself with.
const PROOF: &[u8] = b"gaffer: this key opens the secrets of this installation";

/// What a value is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub project: ProjectId,
    pub name: &'a str,
    pub version: i64,
}

/// Why a value cannot be encrypted or decrypted. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error(transparent)]
    NoKey(#[from] NoKey),
    /// It was encrypted with another key.
    #[error(
        "the secret {name} is encrypted with the master key {key_id}, which {source_name} does not have: add that key, or set \
         the secret again"
    )]
    OtherKey { name: String, key_id: String, source_name: String },
    /// The key is right, and the row is not what was stored.
    #[error("the secret {name} is damaged in the database: set it again")]
    Damaged { name: String },
    /// The self-test failed: nothing is encrypted.
    #[error("encryption does not work in this program: {0}")]
    Broken(&'static str),
}

/// Encrypts and decrypts with the keys of an installation.
#[derive(Debug)]
pub struct Vault {
    keys: Result<KeyRing, VaultError>,
}

impl Vault {
    /// With these keys, after a self-test.
    pub fn new(keys: Result<KeyRing, NoKey>) -> Vault {
        let keys = keys.map_err(VaultError::from);
        let tested = keys.and_then(|keys| self_test(&keys).map(|()| keys).map_err(VaultError::Broken));
        Vault { keys: tested }
    }

    /// Says in the log what keeps secrets from being used, if there is a setting and it is wrong.
    pub fn log(&self) {
        match &self.keys {
            Err(VaultError::NoKey(NoKey::NotSet)) | Ok(_) => {}
            Err(error) => tracing::error!(%error, "secrets cannot be used"),
        }
    }

    /// What keeps secrets from being used, with what to do. None if nothing does, or nobody uses any.
    pub fn problem(&self, uses: &[KeyUse]) -> Option<String> {
        match self.ring() {
            Err(VaultError::NoKey(NoKey::NotSet)) if uses.is_empty() => None,
            Err(error) => Some(error.to_string()),
            Ok(ring) => {
                let missing: Vec<&KeyUse> =
                    uses.iter().filter(|used| ring.get(&used.key_id).is_none()).collect();
                let count: u64 = missing.iter().map(|used| used.secrets).sum();
                let keys: Vec<&str> = missing.iter().map(|used| used.key_id.as_str()).collect();
                let (source, keys) = (ring.source(), keys.join(", "));
                (count > 0).then(|| {
                    format!(
                        "{count} secrets are encrypted with the master key {keys}, which {source} does not have: add that \
                         key behind the present one, or delete these secrets; until then no secret can be set"
                    )
                })
            }
        }
    }

    /// The name of the present key, and how many secrets are still encrypted with another one of the list.
    pub fn present_use(&self, uses: &[KeyUse]) -> Option<(String, u64)> {
        let (ring, present) = (self.ring().ok()?, self.present().ok()?);
        let old = uses.iter().filter(|used| used.key_id != present.id() && ring.get(&used.key_id).is_some());
        Some((present.id().to_owned(), old.map(|used| used.secrets).sum()))
    }

    /// The key for new values.
    ///
    /// # Errors
    /// When there is none.
    pub fn present(&self) -> Result<&MasterKey, VaultError> {
        Ok(self.ring()?.first())
    }

    /// All keys.
    ///
    /// # Errors
    /// When there is none.
    pub fn ring(&self) -> Result<&KeyRing, VaultError> {
        self.keys.as_ref().map_err(Clone::clone)
    }

    /// Encrypts a value with the present key.
    ///
    /// # Errors
    /// When there is no key.
    pub fn seal(&self, place: Place<'_>, value: &[u8]) -> Result<Sealed, VaultError> {
        seal(self.present()?, place, value)
    }

    /// Decrypts a value.
    ///
    /// # Errors
    /// When its key is not here, or it is not what was stored in that place.
    pub fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<SecretValue, VaultError> {
        let damaged = || VaultError::Damaged { name: place.name.to_owned() };
        let data_key = self.open_data_key(place, sealed)?;
        let value = decrypt(&data_key, &place.bound(b"value", ""), &sealed.value).ok_or_else(damaged)?;
        Ok(SecretValue::new(value))
    }

    /// Encrypts a data key with the present key, without the value.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub fn seal_again(&self, place: Place<'_>, sealed: &Sealed) -> Result<Vec<u8>, VaultError> {
        let data_key = self.open_data_key(place, sealed)?;
        let present = self.present()?;
        encrypt(present.bytes(), &place.bound(b"data key", present.id()), &data_key[..])
            .ok_or(VaultError::Broken("a data key could not be encrypted"))
    }

    fn open_data_key(&self, place: Place<'_>, sealed: &Sealed) -> Result<KeyBytes, VaultError> {
        let ring = self.ring()?;
        let name = || place.name.to_owned();
        let key = ring.get(&sealed.key_id).ok_or_else(|| VaultError::OtherKey {
            name: name(),
            key_id: sealed.key_id.clone(),
            source_name: ring.source().to_owned(),
        })?;
        let data_key = decrypt(key.bytes(), &place.bound(b"data key", key.id()), &sealed.data_key);
        let data_key =
            data_key.map(Zeroizing::new).and_then(|bytes| <[u8; KEY_BYTES]>::try_from(&bytes[..]).ok());
        data_key.map(Zeroizing::new).ok_or_else(|| VaultError::Damaged { name: name() })
    }
}

/// What shows later that a key is the same.
///
/// # Errors
/// When encryption does not work.
pub fn proof(key: &MasterKey) -> Result<Vec<u8>, VaultError> {
    encrypt(key.bytes(), key.id().as_bytes(), PROOF)
        .ok_or(VaultError::Broken("a proof could not be encrypted"))
}

/// Whether a key is the one that this proof was made with.
pub fn is_proven(key: &MasterKey, proof: &[u8]) -> bool {
    decrypt(key.bytes(), key.id().as_bytes(), proof).is_some_and(|text| text == PROOF)
}

impl Place<'_> {
    /// Everything that a ciphertext is bound to; no two places have the same.
    fn bound(&self, purpose: &[u8], key_id: &str) -> Vec<u8> {
        let mut bound = b"gaffer secret\0".to_vec();
        for part in [purpose, key_id.as_bytes(), self.name.as_bytes()] {
            bound.extend((part.len() as u64).to_be_bytes());
            bound.extend(part);
        }
        bound.extend(self.project.0.to_be_bytes());
        bound.extend(self.version.to_be_bytes());
        bound
    }
}

fn seal(key: &MasterKey, place: Place<'_>, value: &[u8]) -> Result<Sealed, VaultError> {
    let mut data_key: KeyBytes = Zeroizing::default();
    rand::rng().fill_bytes(&mut data_key[..]);
    let sealed = encrypt(&data_key, &place.bound(b"value", ""), value).zip(encrypt(
        key.bytes(),
        &place.bound(b"data key", key.id()),
        &data_key[..],
    ));
    let (value, data_key) = sealed.ok_or(VaultError::Broken("a value could not be encrypted"))?;
    Ok(Sealed { key_id: key.id().to_owned(), data_key, value })
}

/// A random nonce and the ciphertext. None only if the text is too long for the cipher.
fn encrypt(key: &KeyBytes, bound: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_BYTES];
    rand::rng().fill_bytes(&mut nonce);
    let cipher = XChaCha20Poly1305::new(&Key::from(**key));
    let encrypted = cipher.encrypt(&XNonce::from(nonce), Payload { msg: text, aad: bound }).ok()?;
    Some([&nonce[..], &encrypted].concat())
}

/// The text; none if it was encrypted with another key, is bound to something else, or was changed.
fn decrypt(key: &KeyBytes, bound: &[u8], encrypted: &[u8]) -> Option<Vec<u8>> {
    let (nonce, encrypted) = encrypted.split_first_chunk::<NONCE_BYTES>()?;
    let cipher = XChaCha20Poly1305::new(&Key::from(**key));
    cipher.decrypt(&XNonce::from(*nonce), Payload { msg: encrypted, aad: bound }).ok()
}

/// Shows that ciphertext is ciphertext: it does not have the text in it, no two are the same, it opens with its key in its place, and
/// nowhere else.
fn self_test(keys: &KeyRing) -> Result<(), &'static str> {
    let text = b"gaffer tests that this text cannot be read in what it stores";
    let place = Place { project: ProjectId(1), name: "SELF_TEST", version: 1 };
    let other = Place { version: 2, ..place };
    let vault = Vault { keys: Ok(keys.clone()) };
    let seal = || seal(keys.first(), place, text).map_err(|_| "nothing can be encrypted");
    let (sealed, again) = (seal()?, seal()?);
    let is_readable =
        |bytes: &[u8]| bytes.windows(8).any(|part| text.windows(8).any(|of_text| of_text == part));
    if is_readable(&sealed.value) || is_readable(&sealed.data_key) {
        return Err("the ciphertext has the text in it");
    }
    if sealed.value == again.value || sealed.data_key == again.data_key {
        return Err("two ciphertexts of one text are the same");
    }
    if !vault.open(place, &sealed).is_ok_and(|value| value.bytes() == text) {
        return Err("the ciphertext does not give the text back");
    }
    if vault.open(other, &sealed).is_ok() {
        return Err("the ciphertext opens in another place");
    }
    let mut changed = sealed;
    if let Some(byte) = changed.value.last_mut() {
        *byte ^= 1;
    }
    match vault.open(place, &changed) {
        Ok(_) => Err("a changed ciphertext opens"),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const PLACE: Place<'static> = Place { project: ProjectId(1), name: "A", version: 1 };

    fn vault(keys: &[&str]) -> Vault {
        Vault::new(KeyRing::parse(&keys.join("\n"), "the test"))
    }

    fn key(digit: char) -> String {
        format!("0123456789abcde{digit}").repeat(4)
    }

    #[test]
    fn a_value_opens_in_its_place_with_its_key_and_nowhere_else() {
        let vault = vault(&[&key('1')]);
        let sealed = vault.seal(PLACE, b"hunter2").unwrap();
        assert_eq!(vault.open(PLACE, &sealed).unwrap().bytes(), b"hunter2");
        let others = [
            Place { project: ProjectId(2), ..PLACE },
            Place { name: "B", ..PLACE },
            Place { version: 2, ..PLACE },
        ];
        for place in others {
            assert_eq!(vault.open(place, &sealed), Err(VaultError::Damaged { name: place.name.to_owned() }));
        }
        // Neither part of one row goes with the other part of another one.
        let other = vault.seal(Place { version: 2, ..PLACE }, b"other").unwrap();
        assert!(vault.open(PLACE, &Sealed { value: other.value.clone(), ..sealed.clone() }).is_err());
        assert!(vault.open(PLACE, &Sealed { data_key: other.data_key, ..sealed.clone() }).is_err());
        for at in 0..sealed.value.len() {
            let mut changed = sealed.clone();
            changed.value[at] ^= 1;
            assert!(vault.open(PLACE, &changed).is_err());
        }
        for cut in 0..sealed.data_key.len() {
            let data_key = sealed.data_key[..cut].to_vec();
            assert!(vault.open(PLACE, &Sealed { data_key, ..sealed.clone() }).is_err());
        }
    }

    #[test]
    fn a_new_key_opens_what_an_old_one_of_the_list_has_encrypted_and_encrypts_it_again() {
        let old = vault(&[&key('1')]);
        let sealed = old.seal(PLACE, b"hunter2").unwrap();
        let both = vault(&[&key('2'), &key('1')]);
        assert_eq!(both.open(PLACE, &sealed).unwrap().bytes(), b"hunter2");
        let data_key = both.seal_again(PLACE, &sealed).unwrap();
        let again = Sealed { key_id: both.present().unwrap().id().to_owned(), data_key, ..sealed.clone() };
        let new = vault(&[&key('2')]);
        assert_eq!(new.open(PLACE, &again).unwrap().bytes(), b"hunter2");
        let error = new.open(PLACE, &sealed).unwrap_err().to_string();
        assert!(error.contains(&sealed.key_id) && error.contains("the test"), "{error}");
        assert_eq!(both.seal(PLACE, b"x").unwrap().key_id, new.present().unwrap().id());
    }

    #[test]
    fn a_proof_is_of_one_key() {
        let ring = KeyRing::parse(&[key('1'), key('2')].join("\n"), "the test").unwrap();
        let keys: Vec<&MasterKey> = ring.all().iter().collect();
        let proven = proof(keys[0]).unwrap();
        assert!(is_proven(keys[0], &proven) && !is_proven(keys[1], &proven));
    }

    #[test]
    fn nothing_of_a_key_or_a_value_is_in_what_is_printed() {
        let vault = vault(&[&key('1')]);
        let sealed = vault.seal(PLACE, b"hunter2").unwrap();
        let printed = format!("{vault:?} {sealed:?}");
        assert!(!printed.contains("0123456789") && !printed.contains("hunter2"), "{printed}");
    }
}
