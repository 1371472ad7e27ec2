//! Encrypts the data keys of secrets again when there is a new master key, and notes which master keys are in use.
//!
//! A list of keys in the setting is all that a rotation takes, and no key travels through the API. The old key can leave the list
//! when nothing is encrypted with it any more, which the page System and `gaffer doctor` tell.

use std::sync::Arc;
use std::time::Duration;

use gaffer_domain::ProjectId;

use super::driver::{Background, Ran};
use crate::store::secrets::SealedSecret;
use crate::store::{Store, StoreError};
use crate::vault::{Place, Vault, is_proven, proof};

/// Secrets of one run.
const TOGETHER: i64 = 100;

#[derive(Debug)]
pub struct SecretKeys {
    pub store: Store,
    pub vault: Arc<Vault>,
}

impl SecretKeys {
    /// Encrypts the key of a secret again; false if it cannot be opened.
    async fn seal_again(&self, secret: &SealedSecret, present: &str) -> Result<bool, StoreError> {
        let place = Place { project: secret.project, name: &secret.name, version: secret.version };
        match self.vault.seal_again(place, &secret.sealed) {
            Ok(data_key) => {
                self.store.secret_sealed_again(secret, present, &data_key).await?;
                Ok(true)
            }
            Err(error) => {
                tracing::error!(%error, "a secret keeps its old master key");
                Ok(false)
            }
        }
    }

    /// Notes that the present key is in use.
    async fn note_present_key(&self) -> Result<(), StoreError> {
        let broken = |error: crate::vault::VaultError| StoreError::Unreadable(error.to_string());
        let (ring, present) = (self.vault.ring().map_err(broken)?, self.vault.present().map_err(broken)?);
        let proofs = self.store.secret_proofs().await?;
        for (id, proven) in &proofs {
            if ring.get(id).is_some_and(|key| !is_proven(key, proven)) {
                let problem =
                    format!("the proof of the master key {id} in the table secret_keys was changed");
                return Err(StoreError::Unreadable(problem));
            }
        }
        if !proofs.iter().any(|(id, _)| id == present.id()) {
            self.store.secret_proof_insert(present.id(), &proof(present).map_err(broken)?).await?;
        }
        Ok(())
    }
}

impl Background for SecretKeys {
    const NAME: &'static str = "secret_keys";
    const DESCRIPTION: &'static str = "encrypts the keys of secrets with a new master key";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        // Without a key there is nothing to do; the page System says what is missing.
        let (Ok(ring), Ok(present)) = (self.vault.ring(), self.vault.present()) else {
            return Ok(Ran { done: 0, again_after: None });
        };
        self.note_present_key().await?;
        let mut done = 0;
        for old in self.store.secret_key_uses().await? {
            if old.key_id == present.id() || ring.get(&old.key_id).is_none() {
                continue;
            }
            // Those that cannot be opened stay, and must not keep others from their turn.
            let mut after: Option<(ProjectId, String)> = None;
            loop {
                let place = after.as_ref().map(|(project, name)| (*project, name.as_str()));
                let some = self.store.secrets_of_key(&old.key_id, place, TOGETHER).await?;
                let Some(last) = some.last() else { break };
                after = Some((last.project, last.name.clone()));
                for secret in &some {
                    done += u64::from(self.seal_again(secret, present.id()).await?);
                }
            }
        }
        Ok(Ran { done, again_after: None })
    }
}
