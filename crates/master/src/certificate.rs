//! The certificate with which the ports speak TLS. It is loaded again when its files change; files that cannot be used leave the
//! old one in place.

mod validity;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{TimeDelta, Utc};
use gaffer_domain::Time;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::metrics::tls::TlsMetrics;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A certificate that expires within this time is reported as a problem.
const EXPIRES_SOON: TimeDelta = TimeDelta::days(14);
/// The longest file that is read: chains have a few kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The present certificate and its files.
#[derive(Debug)]
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    config: Arc<ServerConfig>,
    expires_at: Option<Time>,
    /// What the files had in them when they were looked at last.
    seen: [u8; 32],
    /// Why the files cannot be used now.
    broken: Option<Broken>,
}

#[derive(Debug)]
struct Broken {
    reason: String,
    /// Seen twice. Certificate and key are replaced one after the other, and do not fit in between.
    is_certain: bool,
}

/// How the certificate is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateState {
    /// When it expires, or the first of its chain; none if its encoding is not understood.
    pub expires_at: Option<Time>,
    /// What is wrong with it, and what to do.
    pub problem: Option<String>,
}

/// What the two files have in them.
struct Files {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    sha256: [u8; 32],
}

impl Certificate {
    /// Loads it.
    ///
    /// # Errors
    /// When the files cannot be read or used.
    pub async fn load(certificate: &Path, key: &Path) -> anyhow::Result<Certificate> {
        let files = read(certificate, key).await?;
        let (config, expires_at) = server_config(&files, (certificate, key))?;
        let known = Known { config, expires_at, seen: files.sha256, broken: None };
        let loaded =
            Certificate { certificate: certificate.into(), key: key.into(), known: Mutex::new(known) };
        if let Some(problem) = loaded.state(Utc::now()).problem {
            tracing::warn!("{problem}");
        }
        Ok(loaded)
    }

    /// What new connections are to use.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.lock().config.clone()
    }

    /// How it is doing.
    pub fn state(&self, now: Time) -> CertificateState {
        let known = self.lock();
        let (expires_at, file) = (known.expires_at, self.certificate.display());
        let broken = known.broken.as_ref().filter(|broken| broken.is_certain).map(|broken| {
            format!("the new TLS certificate cannot be used, the previous one still is: {}", broken.reason)
        });
        let expiry = expires_at.and_then(|at| match at - now {
            left if left <= TimeDelta::zero() => Some(format!(
                "the TLS certificate in {file} has expired: clients refuse it. Replace the file"
            )),
            left if left <= EXPIRES_SOON => Some(format!(
                "the TLS certificate in {file} expires in {} days: replace the file before that",
                left.num_days()
            )),
            _ => None,
        });
        CertificateState { expires_at, problem: broken.or(expiry) }
    }

    /// Loads changed files until `shutdown`.
    pub async fn watch(self: Arc<Certificate>, metrics: TlsMetrics, shutdown: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(look.tick()).await.is_some() {
            self.look().await;
            let known = self.lock();
            let is_broken = known.broken.as_ref().is_some_and(|broken| broken.is_certain);
            metrics.show(known.expires_at.map_or(0, |at| at.timestamp()), is_broken);
        }
    }

    /// Looks at the files once.
    async fn look(&self) {
        let read = read(&self.certificate, &self.key).await;
        let (seen, loaded) = match &read {
            // A file that cannot be read has nothing in it.
            Err(_) => ([0; 32], None),
            Ok(files) => {
                let known = self.lock();
                if known.seen == files.sha256 && known.broken.is_none() {
                    return;
                }
                drop(known);
                (files.sha256, Some(server_config(files, (&self.certificate, &self.key))))
            }
        };
        let loaded = match (read, loaded) {
            (Err(error), _) | (Ok(_), Some(Err(error))) => Err(format!("{error:#}")),
            (Ok(_), Some(Ok(loaded))) => Ok(loaded),
            (Ok(_), None) => return,
        };
        let mut known = self.lock();
        match loaded {
            Ok((config, expires_at)) => {
                *known = Known { config, expires_at, seen, broken: None };
                let expires_at = expires_at.map(|at| at.to_rfc3339());
                tracing::info!(file = %self.certificate.display(), expires_at, "loaded a new TLS certificate");
            }
            Err(reason) => {
                let before =
                    known.broken.take().filter(|broken| broken.reason == reason && known.seen == seen);
                let was_certain = before.as_ref().is_some_and(|broken| broken.is_certain);
                if before.is_some() && !was_certain {
                    tracing::warn!(
                        "the new TLS certificate cannot be used, the previous one still is: {reason}"
                    );
                }
                known.broken = Some(Broken { reason, is_certain: before.is_some() });
                known.seen = seen;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(certificate: &Path, key: &Path) -> anyhow::Result<Files> {
    let certificate_bytes = read_file(certificate).await.with_context(|| {
        format!("cannot read the TLS certificate {} (GAFFER_TLS_CERT)", certificate.display())
    })?;
    let key = read_file(key)
        .await
        .with_context(|| format!("cannot read the TLS key {} (GAFFER_TLS_KEY)", key.display()))?;
    let key = Zeroizing::new(key);
    let mut sha256 = Sha256::new();
    for part in [&certificate_bytes, &*key] {
        sha256.update((part.len() as u64).to_be_bytes());
        sha256.update(part);
    }
    Ok(Files { certificate: certificate_bytes, key, sha256: sha256.finalize().into() })
}

async fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let length = tokio::fs::metadata(path).await?.len();
    if length > MAX_FILE_BYTES {
        return Err(io::Error::other("the file is too long for a certificate or key"));
    }
    tokio::fs::read(path).await
}

/// The setting of a TLS server with these files, and when their first certificate expires.
fn server_config(
    files: &Files,
    (certificate, key): (&Path, &Path),
) -> anyhow::Result<(Arc<ServerConfig>, Option<Time>)> {
    let cannot = || format!("cannot read the TLS certificate {} (GAFFER_TLS_CERT)", certificate.display());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&files.certificate).collect::<Result<_, _>>().with_context(cannot)?;
    ensure!(!chain.is_empty(), "{} contains no certificate in PEM (GAFFER_TLS_CERT)", certificate.display());
    let secret = PrivateKeyDer::from_pem_slice(&files.key).map_err(|_| {
        anyhow::anyhow!("{} contains no unencrypted private key in PEM (GAFFER_TLS_KEY)", key.display())
    })?;
    let expires_at = chain.iter().filter_map(|certificate| validity::not_after(certificate)).min();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().context("TLS")?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, secret).with_context(|| {
        format!("the key {} does not fit the certificate {}", key.display(), certificate.display())
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), expires_at))
}

#[cfg(test)]
mod tests;
