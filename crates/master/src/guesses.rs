//! Rate limit for unknown keys, sign-in links and session cookies, without a query for each; valid ones still pass
//! from the same address.
//!
//! Every secret that the database refuses is charged to the address that it came from and to its own visible beginning.
//! Once an allowance is used up, further secrets are refused, unless they are known to be good: those are kept as hashes,
//! and are read again from the database when an unknown one comes, at most every few seconds.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::rate::{Buckets, Rate};
use crate::store::{StoreError, WriteStore};

/// How many wrong secrets an address, or a beginning, may have at once, and then in each second.
const WRONG: Rate = Rate { at_once: 30.0, per_second: 0.5 };
/// The most addresses and beginnings that are remembered.
const MAX_GUESSERS: usize = 20_000;
/// The most secrets that are remembered as good: 32 bytes each.
const MAX_KNOWN: usize = 100_000;
/// The good ones are read at most so often.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Interval of log messages about rate limits.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The hash of a secret.
type Sha256 = [u8; 32];

/// Who is charged for wrong secrets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Guesser {
    Address(IpAddr),
    Beginning(String),
}

/// A presented secret.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    pub sha256: &'a Sha256,
    /// Its beginning, which may be shown.
    pub beginning: &'a str,
    pub address: Option<IpAddr>,
}

/// Wait this long before the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany(pub Duration);

/// Counters of wrong secrets, and hashes of valid ones.
#[derive(Debug, Default)]
pub struct Guesses {
    inner: Mutex<Inner>,
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    wrong: Buckets<Guesser>,
    known: HashSet<Sha256>,
    read_at: Option<Instant>,
    slowed_down: u64,
    logged_at: Option<Instant>,
}

impl Default for Inner {
    fn default() -> Inner {
        let wrong = Buckets::new(WRONG, MAX_GUESSERS);
        Inner { wrong, known: HashSet::new(), read_at: None, slowed_down: 0, logged_at: None }
    }
}

impl Guesses {
    /// Whether the database may be asked about a secret. Afterwards, [`Guesses::is_good`], [`Guesses::is_wrong`] or
    /// [`Guesses::is_no_guess`] must be called.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn may_ask(
        &self,
        store: &WriteStore,
        presented: Presented<'_>,
    ) -> Result<Result<(), TooMany>, StoreError> {
        let Err(wait) = self.inner().charge(presented, Instant::now()) else { return Ok(Ok(())) };
        {
            // Others wait while they are read: a thousand workers may be back at once.
            let _turn = self.reading.lock().await;
            let now = Instant::now();
            if self.inner().is_time_to_read(now) {
                let good = store.secrets_good(MAX_KNOWN as u32).await?;
                let mut inner = self.inner();
                (inner.known, inner.read_at) = (good.into_iter().collect(), Some(now));
            }
        }
        let mut inner = self.inner();
        if inner.known.contains(presented.sha256) {
            return Ok(Ok(()));
        }
        inner.log(presented, Instant::now());
        Ok(Err(TooMany(wait)))
    }

    /// The secret was good: it costs nothing, now and later.
    pub fn is_good(&self, presented: Presented<'_>) {
        let mut inner = self.inner();
        if inner.known.contains(presented.sha256) {
            return;
        }
        inner.give_back(presented);
        inner.learn(presented.sha256);
    }

    /// A wrong secret beside a valid one, such as an old cookie, is not a guess.
    pub fn is_no_guess(&self, presented: Presented<'_>) {
        self.inner().give_back(presented);
    }

    /// A secret was made just now.
    pub fn is_made(&self, sha256: &Sha256) {
        self.inner().learn(sha256);
    }

    /// The secret was wrong, or is by now.
    ///
    /// # Errors
    /// When it passed as one that was good, and others from there have used up what it would be charged to: it meets the same limit
    /// as a secret that nobody has.
    pub fn is_wrong(&self, presented: Presented<'_>) -> Result<(), TooMany> {
        let mut inner = self.inner();
        match inner.known.remove(presented.sha256) {
            true => inner.charge(presented, Instant::now()).map_err(TooMany),
            false => Ok(()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn guessers(presented: Presented<'_>) -> impl Iterator<Item = Guesser> {
    let beginning = Guesser::Beginning(presented.beginning.to_owned());
    presented.address.map(Guesser::Address).into_iter().chain([beginning])
}

impl Inner {
    fn learn(&mut self, sha256: &Sha256) {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(*sha256);
    }

    /// Takes one from each allowance that is concerned, unless the secret is known to be good.
    fn charge(&mut self, presented: Presented<'_>, now: Instant) -> Result<(), Duration> {
        if self.known.contains(presented.sha256) {
            return Ok(());
        }
        let mut longest: Result<(), Duration> = Ok(());
        for guesser in guessers(presented) {
            if let Err(wait) = self.wrong.take(guesser, now) {
                longest = Err(longest.err().unwrap_or_default().max(wait));
            }
        }
        longest
    }

    fn give_back(&mut self, presented: Presented<'_>) {
        for guesser in guessers(presented) {
            self.wrong.give_back(&guesser);
        }
    }

    fn is_time_to_read(&self, now: Instant) -> bool {
        self.read_at.is_none_or(|at| now.saturating_duration_since(at) >= READ_AGAIN_AFTER)
    }

    fn log(&mut self, presented: Presented<'_>, now: Instant) {
        self.slowed_down += 1;
        if self.logged_at.is_some_and(|at| now.saturating_duration_since(at) < LOG_EVERY) {
            return;
        }
        self.logged_at = Some(now);
        tracing::warn!(
            address = presented.address.as_ref().map(tracing::field::display),
            begins_with = presented.beginning,
            since_last_time = std::mem::take(&mut self.slowed_down),
            "too many unknown keys, sign-in links or sessions: answering 429; valid ones still pass"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn secret(number: u32) -> Sha256 {
        let mut sha256 = [0; 32];
        sha256[..4].copy_from_slice(&number.to_le_bytes());
        sha256
    }

    fn from<'a>(host: u8, sha256: &'a Sha256, beginning: &'a str) -> Presented<'a> {
        Presented { sha256, beginning, address: Some(IpAddr::from([10, 0, 0, host])) }
    }

    #[test]
    fn a_client_that_guesses_has_to_wait_and_nobody_else() {
        let (mut inner, now) = (Inner::default(), Instant::now());
        let passed =
            (0..300).filter(|n| inner.charge(from(1, &secret(*n), &format!("gfu_{n}")), now).is_ok()).count();
        assert_eq!(passed, 30);
        assert!(inner.charge(from(2, &secret(999), "gfu_x"), now).is_ok());
        let later = now + Duration::from_secs(20);
        assert!(inner.charge(from(1, &secret(1_000), "gfu_y"), later).is_ok());
    }

    #[test]
    fn one_key_is_not_guessed_from_many_addresses() {
        let (mut inner, now) = (Inner::default(), Instant::now());
        let passed = (0..200)
            .filter(|n| inner.charge(from(*n, &secret(u32::from(*n)), "gfu_target"), now).is_ok())
            .count();
        assert_eq!(passed, 30);
    }

    #[test]
    fn a_stale_secret_beside_a_good_one_costs_nothing() {
        let (guesses, stale) = (Guesses::default(), secret(7));
        for _ in 0..1_000 {
            let presented = from(1, &stale, "gfs_stale");
            assert!(guesses.inner().charge(presented, Instant::now()).is_ok());
            guesses.is_no_guess(presented);
        }
    }

    #[test]
    fn what_is_known_to_be_good_costs_nothing_until_it_is_wrong() {
        let (guesses, good) = (Guesses::default(), secret(7));
        let presented = from(1, &good, "gfu_good");
        assert!(guesses.inner().charge(presented, Instant::now()).is_ok());
        guesses.is_good(presented);
        for n in 100..400 {
            let _ = guesses.inner().charge(from(1, &secret(n), "gfu_bad"), Instant::now());
        }
        assert!(guesses.inner().charge(presented, Instant::now()).is_ok());
        assert!(guesses.is_wrong(presented).is_err());
        assert!(guesses.inner().charge(presented, Instant::now()).is_err());
    }
}
