//! Where this gaffer is, as browsers and workers find it.

use std::sync::Arc;

use super::BasePath;
use crate::oidc::Provider;

/// What doors know beside what they look at and change.
#[derive(Debug)]
pub struct Site {
    /// Where browsers find the dashboard, without a slash at the end.
    pub public_url: String,
    /// Scheme, host and port of that, as browsers state their origin.
    pub public_origin: String,
    pub base_path: BasePath,
    /// Whether anybody can become a user.
    pub registration_is_open: bool,
    /// Where users sign in beside passwords, if anywhere.
    pub provider: Option<Arc<Provider>>,
    /// Where workers dial in, as far as the master can tell.
    pub worker_url: String,
}

impl Site {
    /// The address that signs in with this token, once.
    pub fn sign_in_url(&self, token: &str) -> String {
        format!("{}/login?token={token}", self.public_url)
    }

    /// The address where a password is chosen with this token, once.
    pub fn reset_url(&self, token: &str) -> String {
        format!("{}/reset?token={token}", self.public_url)
    }

    /// The address where an invitation is taken with this token, once.
    pub fn invitation_url(&self, token: &str) -> String {
        format!("{}/invitation?token={token}", self.public_url)
    }
}
