//! Rate limit for wrong passwords, by account and by address. A password that is right costs nothing.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::rate::{Buckets, Rate};

/// How many wrong passwords an account may have at once, and then in each second. Guesses from many addresses share it.
const OF_ACCOUNT: Rate = Rate { at_once: 10.0, per_second: 1.0 / 30.0 };
/// The same for an address, whatever the accounts.
const OF_ADDRESS: Rate = Rate { at_once: 30.0, per_second: 0.2 };
/// The most accounts, and addresses, that are remembered.
const MAX_GUESSERS: usize = 20_000;
/// No user has a longer name; one is counted by its beginning.
const MAX_NAME_CHARS: usize = 64;

/// Counters of wrong passwords.
#[derive(Debug, Clone)]
pub struct PasswordGuesses(Arc<Mutex<Counters>>);

#[derive(Debug)]
struct Counters {
    accounts: Buckets<String>,
    addresses: Buckets<IpAddr>,
}

/// A password that is tried: taken off both allowances until it turns out to be right.
#[derive(Debug)]
pub struct Attempt {
    guesses: PasswordGuesses,
    account: String,
    address: Option<IpAddr>,
}

impl Default for PasswordGuesses {
    fn default() -> PasswordGuesses {
        let accounts = Buckets::new(OF_ACCOUNT, MAX_GUESSERS);
        let addresses = Buckets::new(OF_ADDRESS, MAX_GUESSERS);
        PasswordGuesses(Arc::new(Mutex::new(Counters { accounts, addresses })))
    }
}

impl PasswordGuesses {
    /// Lets a password be tried, or says how long to wait. It makes no difference whether there is such an account.
    ///
    /// # Errors
    /// The wait.
    pub fn begin(&self, account: &str, address: Option<IpAddr>) -> Result<Attempt, Duration> {
        self.begin_at(account, address, Instant::now())
    }

    fn begin_at(&self, account: &str, address: Option<IpAddr>, now: Instant) -> Result<Attempt, Duration> {
        let account: String = account.chars().take(MAX_NAME_CHARS).collect();
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = address {
            counters.addresses.take(address, now)?;
        }
        // Who is refused for the address says nothing about the account.
        counters.accounts.take(account.clone(), now)?;
        Ok(Attempt { guesses: self.clone(), account, address })
    }
}

impl Attempt {
    /// The password was right.
    pub fn was_right(self) {
        let mut counters = self.guesses.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters.accounts.give_back(&self.account);
        if let Some(address) = self.address {
            counters.addresses.give_back(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(host: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, host]))
    }

    #[test]
    fn an_account_is_not_guessed_from_many_addresses_nor_many_accounts_from_one() {
        let (guesses, now) = (PasswordGuesses::default(), Instant::now());
        let of_one = (0..100).filter(|n| guesses.begin_at("ana", address(*n), now).is_ok()).count();
        assert_eq!(of_one, 10);
        let from_one =
            (0..100).filter(|n| guesses.begin_at(&format!("u{n}"), address(200), now).is_ok()).count();
        assert_eq!(from_one, 30);
        // Others are not concerned, and time helps.
        assert!(guesses.begin_at("bob", address(201), now).is_ok());
        assert!(guesses.begin_at("ana", address(202), now + Duration::from_secs(31)).is_ok());
    }

    #[test]
    fn what_is_right_costs_nothing() {
        let (guesses, now) = (PasswordGuesses::default(), Instant::now());
        for _ in 0..1_000 {
            guesses.begin_at("ana", address(1), now).unwrap().was_right();
        }
    }
}
