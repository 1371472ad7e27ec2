//! Logins of commands that wait until their user allows them in the dashboard. They are in memory, at most for ten minutes: the command
//! that asks has shown nothing yet, and must not write to the database; and the key that the user allows is kept nowhere else.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use gaffer_domain::Time;
use gaffer_domain::device_codes::{ALPHABET, CODE_CHARS, Decision, INTERVAL, PollAnswer, VALID, poll};
use rand::Rng as _;
use zeroize::Zeroizing;

use crate::rate::{Buckets, Rate};
use crate::secret::{NewSecret, Purpose};

/// The most logins that wait at the same time.
const MAX_OPEN: usize = 1_000;
/// The most of one address.
const MAX_OF_ADDRESS: usize = 20;
/// How many codes a user may try at once, and then in each second.
const CODES_OF_USER: Rate = Rate { at_once: 10.0, per_second: 1.0 / 30.0 };
/// The most users whose tries are remembered.
const MAX_USERS: usize = 20_000;

/// All logins that wait.
#[derive(Debug)]
pub struct DeviceLogins(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    /// By the hash of the device's code.
    waiting: HashMap<[u8; 32], Login>,
    tries: Buckets<i64>,
}

#[derive(Debug)]
struct Login {
    asked: Asked,
    begun: Instant,
    last_poll: Option<Instant>,
    interval: Duration,
    decision: Decision,
    /// Somebody is deciding.
    is_claimed: bool,
    key: Option<GrantedKey>,
}

/// Who asks for a login, as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The code that people compare.
    pub code: String,
    /// What the command calls its machine.
    pub client: String,
    pub address: Option<IpAddr>,
    pub at: Time,
}

/// The key that a user allows.
#[derive(Debug, Clone)]
pub struct GrantedKey {
    pub secret: Zeroizing<String>,
    /// Names of the user and of the key's project.
    pub user: String,
    pub project: String,
    pub expires_at: Option<Time>,
}

/// Why no login begins or is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLogin {
    /// Too many wait.
    #[error("too many logins wait for their users; try again in a few minutes")]
    Full,
    /// There is no such code.
    #[error("there is no login with this code: it has expired, or was decided already")]
    Unknown,
    /// They have tried too many codes; the wait until the next.
    #[error("too many wrong codes")]
    TooMany(Duration),
}

/// What a command that asks gets.
#[derive(Debug)]
pub enum Polled {
    /// It has to ask again, or never again.
    Answer(PollAnswer),
    /// The key, once.
    Key(GrantedKey),
}

impl Default for DeviceLogins {
    fn default() -> DeviceLogins {
        let tries = Buckets::new(CODES_OF_USER, MAX_USERS);
        DeviceLogins(Mutex::new(Inner { waiting: HashMap::new(), tries }))
    }
}

impl DeviceLogins {
    /// Begins one. The secret with which the command asks, and the code for its user.
    ///
    /// # Errors
    /// When too many wait.
    pub fn begin(&self, client: String, address: Option<IpAddr>) -> Result<(String, String), NoLogin> {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.waiting.retain(|_, login| now.duration_since(login.begun) < VALID);
        let of_address = inner.waiting.values().filter(|login| login.asked.address == address).count();
        if inner.waiting.len() >= MAX_OPEN || of_address >= MAX_OF_ADDRESS {
            return Err(NoLogin::Full);
        }
        let secret = NewSecret::new(Purpose::DeviceLogin);
        let mut code = new_code();
        while inner.waiting.values().any(|login| login.asked.code == code) {
            code = new_code();
        }
        let asked = Asked { code: code.clone(), client, address, at: Utc::now() };
        let login = Login {
            asked,
            begun: now,
            last_poll: None,
            interval: INTERVAL,
            decision: Decision::Open,
            is_claimed: false,
            key: None,
        };
        inner.waiting.insert(secret.sha256, login);
        Ok((secret.text, code))
    }

    /// Who asks with this code. Each wrong code of a user counts.
    ///
    /// # Errors
    /// When nobody does, or the user has tried too many.
    pub fn asked(&self, code: &str, user_id: i64) -> Result<Asked, NoLogin> {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.tries.take(user_id, now).map_err(NoLogin::TooMany)?;
        let asked = inner.open(code).map(|login| login.asked.clone()).ok_or(NoLogin::Unknown)?;
        inner.tries.give_back(&user_id);
        Ok(asked)
    }

    /// Takes a login to decide about it: nobody else does meanwhile.
    ///
    /// # Errors
    /// As in [`DeviceLogins::asked`].
    pub fn claim(&self, code: &str, user_id: i64) -> Result<Asked, NoLogin> {
        let asked = self.asked(code, user_id)?;
        let mut inner = self.lock();
        let login = inner.open(code).ok_or(NoLogin::Unknown)?;
        login.is_claimed = true;
        Ok(asked)
    }

    /// Decides about a claimed login: the key that its user allows; none if they do not.
    pub fn decide(&self, code: &str, key: Option<GrantedKey>) {
        let mut inner = self.lock();
        if let Some(login) = inner.waiting.values_mut().find(|login| login.asked.code == code) {
            login.decision = if key.is_some() { Decision::Granted } else { Decision::Denied };
            login.key = key;
        }
    }

    /// Gives a claimed login back: nothing was decided.
    pub fn release(&self, code: &str) {
        let mut inner = self.lock();
        if let Some(login) = inner.waiting.values_mut().find(|login| login.asked.code == code) {
            login.is_claimed = false;
        }
    }

    /// What a command gets that asks with the hash of its secret.
    pub fn poll(&self, sha256: &[u8; 32]) -> Polled {
        let mut inner = self.lock();
        let now = Instant::now();
        let Some(login) = inner.waiting.get_mut(sha256) else { return Polled::Answer(PollAnswer::Expired) };
        let since_last = login.last_poll.map(|at| now.duration_since(at));
        let answer = poll(login.decision, now.duration_since(login.begun), since_last, login.interval);
        login.last_poll = Some(now);
        match answer {
            PollAnswer::Pending => {}
            PollAnswer::SlowDown(interval) => login.interval = interval,
            PollAnswer::Denied | PollAnswer::Expired | PollAnswer::Granted => {
                let over = inner.waiting.remove(sha256);
                if let (PollAnswer::Granted, Some(key)) = (answer, over.and_then(|over| over.key)) {
                    return Polled::Key(key);
                }
            }
        }
        Polled::Answer(answer)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The login with this code that nobody has decided about.
    fn open(&mut self, code: &str) -> Option<&mut Login> {
        let is_open = |login: &Login| {
            login.decision == Decision::Open && !login.is_claimed && login.begun.elapsed() < VALID
        };
        self.waiting.values_mut().find(|login| login.asked.code == code && is_open(login))
    }
}

fn new_code() -> String {
    let mut rng = rand::rng();
    (0..CODE_CHARS).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::secret::hash_of;

    fn hash(secret: &str) -> [u8; 32] {
        hash_of(secret)
    }

    fn key() -> GrantedKey {
        let secret = Zeroizing::new("gfu_x".to_owned());
        GrantedKey { secret, user: "ana".to_owned(), project: "lab".to_owned(), expires_at: None }
    }

    #[test]
    fn a_key_is_handed_out_once_to_who_asked_for_it() {
        let logins = DeviceLogins::default();
        let (own, code) = logins.begin("laptop".to_owned(), None).unwrap();
        let (other, _) = logins.begin("other".to_owned(), None).unwrap();
        assert!(matches!(logins.poll(&hash(&own)), Polled::Answer(PollAnswer::Pending)));
        assert!(matches!(logins.poll(&hash(&own)), Polled::Answer(PollAnswer::SlowDown(_))));
        assert_eq!(logins.claim(&code, 1).unwrap().client, "laptop");
        assert_eq!(logins.claim(&code, 2), Err(NoLogin::Unknown), "somebody is deciding");
        logins.release(&code);
        logins.claim(&code, 2).unwrap();
        logins.decide(&code, Some(key()));
        assert_eq!(logins.asked(&code, 1), Err(NoLogin::Unknown), "it is decided");
        assert!(!matches!(logins.poll(&hash(&other)), Polled::Key(_)));
        assert!(matches!(logins.poll(&hash(&own)), Polled::Key(_)));
        assert!(matches!(logins.poll(&hash(&own)), Polled::Answer(PollAnswer::Expired)));

        let (denied, code) = logins.begin("laptop".to_owned(), None).unwrap();
        logins.claim(&code, 1).unwrap();
        logins.decide(&code, None);
        assert!(matches!(logins.poll(&hash(&denied)), Polled::Answer(PollAnswer::Denied)));
    }

    #[test]
    fn neither_logins_nor_guesses_are_without_end() {
        let logins = DeviceLogins::default();
        let address = |host| Some(IpAddr::from([10, 0, 0, host]));
        for _ in 0..MAX_OF_ADDRESS {
            logins.begin(String::new(), address(1)).unwrap();
        }
        assert_eq!(logins.begin(String::new(), address(1)), Err(NoLogin::Full));
        let (_, code) = logins.begin(String::new(), address(2)).unwrap();
        let mut wrong = 0;
        while logins.asked("BBBBBBBB", 7) == Err(NoLogin::Unknown) {
            wrong += 1;
        }
        assert_eq!(wrong, 10);
        assert!(matches!(logins.asked(&code, 7), Err(NoLogin::TooMany(_))), "a right one, too");
        assert!(logins.asked(&code, 8).is_ok());
    }
}
