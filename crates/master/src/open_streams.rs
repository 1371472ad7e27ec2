//! Responses that last, such as followed output, by the key or session that their reader has shown: they end with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gaffer_domain::ProjectId;
use tokio_util::sync::CancellationToken;

/// What somebody has shown to prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// An API key, by its number.
    Key(i64),
    /// A browser session, by the hash of its token, in one of its user's projects.
    WebSession([u8; 32], ProjectId),
}

/// The responses that are under way.
#[derive(Debug, Clone, Default)]
pub struct OpenStreams(Arc<Mutex<HashMap<Credential, Open>>>);

#[derive(Debug)]
struct Open {
    streams: usize,
    ended: CancellationToken,
}

/// A response under way, until it is dropped.
#[derive(Debug)]
pub struct OpenStream {
    all: OpenStreams,
    credential: Credential,
    ended: CancellationToken,
}

impl OpenStreams {
    /// A response begins.
    pub fn begin(&self, credential: Credential) -> OpenStream {
        let mut all = self.lock();
        let open =
            all.entry(credential).or_insert_with(|| Open { streams: 0, ended: CancellationToken::new() });
        open.streams += 1;
        OpenStream { all: self.clone(), credential, ended: open.ended.clone() }
    }

    /// The credentials of all responses.
    pub fn credentials(&self) -> Vec<Credential> {
        self.lock().keys().copied().collect()
    }

    /// The credential is no good any more: its responses end. How many that were.
    pub fn end(&self, credential: &Credential) -> usize {
        // Ended before anybody else sees that it is gone: else one that ends by itself would be counted off a new entry.
        let mut all = self.lock();
        let Some(open) = all.remove(credential) else { return 0 };
        open.ended.cancel();
        open.streams
    }

    /// A browser session is over: its responses end, in all projects.
    pub fn end_session(&self, sha256: &[u8; 32]) {
        let is_of_it =
            |credential: &Credential| matches!(credential, Credential::WebSession(of, _) if of == sha256);
        for credential in self.credentials().iter().filter(|credential| is_of_it(credential)) {
            self.end(credential);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Credential, Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenStream {
    /// Waits until its credential is no good any more.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl OpenStream {
    /// Whether its credential is no good any more.
    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // After its end there may be others with the same credential, of requests that were let in before.
        if let Some(open) = all.get_mut(&self.credential).filter(|_| !self.ended.is_cancelled()) {
            open.streams -= 1;
            if open.streams == 0 {
                all.remove(&self.credential);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn responses_are_known_as_long_as_they_last_and_end_with_their_credential() {
        let streams = OpenStreams::default();
        let (one, other) = (Credential::Key(1), Credential::WebSession([7; 32], ProjectId(1)));
        let (first, second) = (streams.begin(one), streams.begin(one));
        let third = streams.begin(other);
        drop(second);
        let mut known = streams.credentials();
        known.sort_by_key(|credential| *credential != one);
        assert_eq!(known, [one, other]);
        assert_eq!(streams.end(&one), 1);
        first.ended().await;
        assert_eq!((streams.end(&one), streams.credentials()), (0, vec![other]));
        // One that was let in before is found by the next look.
        let late = streams.begin(one);
        drop(first);
        assert_eq!(streams.credentials().len(), 2);
        drop((late, third));
        assert!(streams.credentials().is_empty());
        // A session that is over is over in all projects; one that has lost a project goes on in the others.
        let [first, second] =
            [1, 2].map(|project| streams.begin(Credential::WebSession([7; 32], ProjectId(project))));
        let others = streams.begin(Credential::WebSession([8; 32], ProjectId(1)));
        assert_eq!(streams.end(&Credential::WebSession([7; 32], ProjectId(1))), 1);
        first.ended().await;
        assert_eq!(streams.credentials().len(), 2);
        streams.end_session(&[7; 32]);
        second.ended().await;
        assert_eq!(streams.credentials(), [Credential::WebSession([8; 32], ProjectId(1))]);
        drop(others);
    }
}
