//! Passwords as hashes: Argon2id, on threads that may block, a few at a time.
//!
//! A hash costs memory and tens of milliseconds of a processor, on purpose. So there is a limit on how many are computed at once,
//! and who would wait for longer than a few seconds is asked to come back.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::Rng;
use tokio::sync::Semaphore;

/// Memory of one hash, in KiB; with [`PASSES`] and [`LANES`] the smallest choice that OWASP recommends for Argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
/// How often that memory is gone over.
const PASSES: u32 = 2;
/// How many threads one hash may use.
const LANES: u32 = 1;
/// Length of a hash in bytes.
const HASH_BYTES: usize = 32;
/// How many hashes are computed at the same time.
const AT_ONCE: usize = 2;
/// How long one waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Hashed in place of the salt of somebody who is unknown.
const NOBODYS_SALT: &[u8; 16] = b"nobody has this.";

/// Computes hashes, in turn.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
}

/// The hash was not computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotHashed {
    /// Too many others wait.
    Busy,
    /// It failed, which is in the log.
    Failed,
}

/// What became of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    pub is_right: bool,
    /// The stored hash was made with other parameters than today's.
    pub is_outdated: bool,
}

impl Default for Passwords {
    fn default() -> Passwords {
        Passwords { turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Passwords {
    /// The hash of a password, with its parameters and a new salt, in one text.
    ///
    /// # Errors
    /// When too many others wait.
    pub async fn hash(&self, password: String) -> Result<String, NotHashed> {
        let salt: [u8; 16] = rand::rng().random();
        self.in_turn(move || {
            let salt = SaltString::encode_b64(&salt).ok()?;
            Some(algorithm()?.hash_password(password.as_bytes(), &salt).ok()?.to_string())
        })
        .await
    }

    /// Whether this is the password of a stored hash. Without a hash it is wrong, after the same time.
    ///
    /// # Errors
    /// When too many others wait.
    pub async fn compare(&self, password: String, stored: Option<String>) -> Result<Compared, NotHashed> {
        self.in_turn(move || {
            let stored = stored.as_deref().and_then(|stored| PasswordHash::new(stored).ok());
            let Some(stored) = stored else {
                let mut hash = [0; HASH_BYTES];
                algorithm()?.hash_password_into(password.as_bytes(), NOBODYS_SALT, &mut hash).ok()?;
                return Some(Compared { is_right: false, is_outdated: false });
            };
            let is_right = algorithm()?.verify_password(password.as_bytes(), &stored).is_ok();
            Some(Compared { is_right, is_outdated: is_outdated(&stored) })
        })
        .await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        compute: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Result<T, NotHashed> {
        let turn = tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(NotHashed::Busy) };
        let computed = tokio::task::spawn_blocking(move || {
            // Until it is computed, also if nobody waits for it any more.
            let _turn = turn;
            compute()
        });
        computed.await.ok().flatten().ok_or_else(|| {
            tracing::error!("cannot compute the hash of a password");
            NotHashed::Failed
        })
    }
}

fn parameters() -> Option<Params> {
    Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES)).ok()
}

fn algorithm() -> Option<Argon2<'static>> {
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters()?))
}

fn is_outdated(stored: &PasswordHash<'_>) -> bool {
    let is_same =
        |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY_KIB, PASSES, LANES);
    stored.algorithm != Algorithm::Argon2id.ident()
        || !Params::try_from(stored).is_ok_and(|params| is_same(&params))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The hash of "correct horse" by an earlier choice of parameters.
    fn of_before() -> String {
        let params = Params::new(64, 1, 1, Some(HASH_BYTES)).unwrap();
        let salt = SaltString::encode_b64(b"0123456789abcdef").unwrap();
        let before = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        before.hash_password(b"correct horse", &salt).unwrap().to_string()
    }

    #[tokio::test]
    async fn a_password_is_right_for_its_own_hash_alone() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(passwords.hash("correct horse".to_owned()).await.unwrap(), hash, "another salt");
        for (password, stored, is_right) in [
            ("correct horse", Some(hash.clone()), true),
            ("Correct horse", Some(hash.clone()), false),
            ("", Some(hash), false),
            ("correct horse", None, false),
            ("correct horse", Some("no hash".to_owned()), false),
            ("", Some(String::new()), false),
        ] {
            let compared = passwords.compare(password.to_owned(), stored.clone()).await.unwrap();
            assert_eq!(compared, Compared { is_right, is_outdated: false }, "{password} {stored:?}");
        }
    }

    #[tokio::test]
    async fn a_hash_by_other_parameters_is_good_and_outdated() {
        let passwords = Passwords::default();
        for (password, is_right) in [("correct horse", true), ("another", false)] {
            let compared = passwords.compare(password.to_owned(), Some(of_before())).await.unwrap();
            assert_eq!(compared, Compared { is_right, is_outdated: true });
        }
    }

    #[tokio::test]
    async fn no_more_are_computed_at_once_than_may_be() {
        let passwords = Passwords::default();
        let turns = passwords.turns.clone().acquire_many_owned(AT_ONCE as u32).await.unwrap();
        let mut waiting = std::pin::pin!(passwords.hash("correct horse".to_owned()));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert_eq!(passwords.turns.available_permits(), 0);
        drop(turns);
        assert!(waiting.await.is_ok());
    }
}
