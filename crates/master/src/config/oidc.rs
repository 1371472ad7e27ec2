//! Settings of sign-in through an OpenID Connect provider.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use clap::Args;
use gaffer_domain::groups::GroupRoles;
use url::Url;
use zeroize::Zeroizing;

/// The longest client secret in a file.
const MAX_SECRET_BYTES: usize = 4_096;

/// The provider, and what its word counts for.
#[derive(Debug, Clone, Default, Args)]
pub struct OidcConfig {
    /// OpenID Connect provider for signing in to the dashboard
    ///
    /// Its issuer, such as https://login.example.org/realms/lab. The redirect address to register there is
    /// GAFFER_PUBLIC_URL with /login/oidc/callback behind it.
    #[arg(long, env = "GAFFER_OIDC_ISSUER", value_name = "URL")]
    pub oidc_issuer: Option<String>,

    /// Name of this gaffer at the provider
    #[arg(long, env = "GAFFER_OIDC_CLIENT_ID", value_name = "ID")]
    pub oidc_client_id: Option<String>,

    /// Client secret; better use a file
    ///
    /// Without one, gaffer is a public client, which PKCE protects.
    #[arg(long, env = "GAFFER_OIDC_CLIENT_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub oidc_client_secret: Option<ClientSecret>,

    /// File with the client secret
    #[arg(
        long,
        env = "GAFFER_OIDC_CLIENT_SECRET_FILE",
        value_name = "FILE",
        conflicts_with = "oidc_client_secret"
    )]
    pub oidc_client_secret_file: Option<PathBuf>,

    /// Name of the provider on the button [default: its host name]
    #[arg(long, env = "GAFFER_OIDC_NAME", value_name = "NAME")]
    pub oidc_name: Option<String>,

    /// Scopes to request beside openid
    #[arg(long, env = "GAFFER_OIDC_SCOPES", value_name = "SCOPES", default_value = "profile email")]
    pub oidc_scopes: String,

    /// Claim that suggests the name of a new user
    #[arg(long, env = "GAFFER_OIDC_USER_CLAIM", value_name = "CLAIM", default_value = "preferred_username")]
    pub oidc_user_claim: String,

    /// Claim with the groups of a user
    #[arg(long, env = "GAFFER_OIDC_GROUPS_CLAIM", value_name = "CLAIM", default_value = "groups")]
    pub oidc_groups_claim: String,

    /// Roles by groups of the provider
    ///
    /// GROUP=PROJECT:ROLE or GROUP=installation-admin, separated by commas, such as
    /// engineers=lab:operator,sre=lab:admin,root=installation-admin. They are applied at each sign-in. If it is set, somebody whom no group gives a role does not become a user.
    #[arg(
        long,
        env = "GAFFER_OIDC_GROUPS",
        value_name = "ROLES",
        default_value_t,
        hide_default_value = true
    )]
    pub oidc_groups: GroupRoles,
}

/// The client secret, which is never printed.
#[derive(Clone)]
pub struct ClientSecret(pub Zeroizing<String>);

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret(…)")
    }
}

impl FromStr for ClientSecret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<ClientSecret, Self::Err> {
        Ok(ClientSecret(Zeroizing::new(text.trim().to_owned())))
    }
}

/// Settings of a provider, checked.
#[derive(Debug, Clone)]
pub struct OidcSettings {
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Option<ClientSecret>,
    /// Its name, for people.
    pub name: String,
    pub scopes: Vec<String>,
    pub user_claim: String,
    pub groups_claim: String,
    pub groups: GroupRoles,
}

impl OidcConfig {
    /// The provider; none if none is set.
    ///
    /// # Errors
    /// When a setting is missing or wrong.
    pub fn settings(&self) -> anyhow::Result<Option<OidcSettings>> {
        let given = |text: &Option<String>| {
            text.as_ref().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let Some(issuer) = given(&self.oidc_issuer) else {
            ensure!(
                given(&self.oidc_client_id).is_none(),
                "GAFFER_OIDC_CLIENT_ID is set: set GAFFER_OIDC_ISSUER to the provider's issuer as well"
            );
            return Ok(None);
        };
        let url = Url::parse(&issuer).context("GAFFER_OIDC_ISSUER")?;
        ensure!(
            is_protected(&url)
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty(),
            "GAFFER_OIDC_ISSUER={issuer}: expected an https address without a query, or http on this machine"
        );
        let client_id = given(&self.oidc_client_id)
            .context("set GAFFER_OIDC_CLIENT_ID to the name of this gaffer at the provider")?;
        let name = given(&self.oidc_name).unwrap_or_else(|| url.host_str().unwrap_or_default().to_owned());
        Ok(Some(OidcSettings {
            name,
            client_id,
            client_secret: self.secret()?,
            scopes: self
                .oidc_scopes
                .split([' ', ','])
                .filter(|scope| !scope.is_empty())
                .map(str::to_owned)
                .collect(),
            user_claim: self.oidc_user_claim.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups: self.oidc_groups.clone(),
            issuer,
        }))
    }

    fn secret(&self) -> anyhow::Result<Option<ClientSecret>> {
        let file = self.oidc_client_secret_file.as_ref().filter(|path| !path.as_os_str().is_empty());
        let secret = match file {
            Some(path) => {
                let cannot = || format!("cannot read {} (GAFFER_OIDC_CLIENT_SECRET_FILE)", path.display());
                let text = Zeroizing::new(std::fs::read_to_string(path).with_context(cannot)?);
                ensure!(
                    !text.trim().is_empty() && text.len() <= MAX_SECRET_BYTES,
                    "{} holds no client secret (GAFFER_OIDC_CLIENT_SECRET_FILE)",
                    path.display()
                );
                Some(ClientSecret(Zeroizing::new(text.trim().to_owned())))
            }
            None => self.oidc_client_secret.clone(),
        };
        Ok(secret.filter(|secret| !secret.0.is_empty()))
    }
}

/// Whether nobody between this machine and that address can read or change what is said.
pub fn is_protected(url: &Url) -> bool {
    let is_local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_local)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn config(issuer: &str) -> OidcConfig {
        OidcConfig {
            oidc_issuer: Some(issuer.to_owned()),
            oidc_client_id: Some("gaffer".to_owned()),
            oidc_scopes: "profile, groups".to_owned(),
            ..OidcConfig::default()
        }
    }

    #[test]
    fn a_provider_is_reached_by_tls_or_on_this_machine() {
        for issuer in [
            "https://login.lab",
            "https://login.lab/realms/x",
            "http://127.0.0.1:5556/dex",
            "http://localhost:1",
        ] {
            assert!(config(issuer).settings().unwrap().is_some(), "{issuer}");
        }
        for issuer in [
            "http://login.lab",
            "login.lab",
            "https://login.lab/?x=1",
            "https://a@login.lab",
            "ftp://127.0.0.1",
        ] {
            let error = format!("{:#}", config(issuer).settings().unwrap_err());
            assert!(error.contains("GAFFER_OIDC_ISSUER"), "{issuer}: {error}");
        }
    }

    #[test]
    fn settings_without_an_issuer_or_a_client_are_half_of_them() {
        assert!(OidcConfig::default().settings().unwrap().is_none());
        assert!(config("").settings().is_err());
        let without = OidcConfig { oidc_client_id: None, ..config("https://login.lab") };
        assert!(without.settings().is_err());
        let settings = config("https://login.lab").settings().unwrap().unwrap();
        assert_eq!((settings.name.as_str(), settings.scopes.len()), ("login.lab", 2));
    }

    #[test]
    fn a_client_secret_comes_from_its_file_and_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with =
            OidcConfig { oidc_client_secret_file: Some(file.path().into()), ..config("https://login.lab") };
        assert!(with.settings().is_err(), "it is empty");
        std::fs::write(file.path(), "geheim\n").unwrap();
        let settings = with.settings().unwrap().unwrap();
        assert_eq!(settings.client_secret.as_ref().unwrap().0.as_str(), "geheim");
        assert!(!format!("{settings:?}").contains("geheim"));
    }
}
