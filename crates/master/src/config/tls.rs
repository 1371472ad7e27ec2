//! Settings of TLS on the three ports, and of the reverse proxies in front of them.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::ensure;
use clap::Args;
use gaffer_protocol::network::{InvalidNetwork, Network};

/// What the ports speak, and whose word about clients counts.
#[derive(Debug, Clone, Default, Args)]
pub struct TlsConfig {
    /// Certificate (PEM) with which the three ports speak TLS
    ///
    /// The server's certificate, followed by those of intermediate authorities. The ports then speak TLS only. A changed file
    /// is loaded within 20 seconds, without a restart.
    #[arg(long, env = "GAFFER_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key (PEM) of the certificate
    #[arg(long, env = "GAFFER_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Reverse proxies whose headers are believed
    ///
    /// Addresses and networks, separated by commas, such as 127.0.0.1,10.0.0.0/8. The client's address is read from
    /// X-Forwarded-For, and whether it speaks TLS from X-Forwarded-Proto, if the connection comes from one of them.
    #[arg(
        long,
        env = "GAFFER_TRUSTED_PROXIES",
        value_name = "NETWORKS",
        default_value_t,
        hide_default_value = true
    )]
    pub trusted_proxies: TrustedProxies,
}

impl TlsConfig {
    /// The files of certificate and key; none without TLS.
    ///
    /// # Errors
    /// When only one of them is set.
    pub fn files(&self) -> anyhow::Result<Option<(&Path, &Path)>> {
        ensure!(
            self.tls_cert.is_some() == self.tls_key.is_some(),
            "TLS needs both files: set GAFFER_TLS_CERT to the certificate and GAFFER_TLS_KEY to its private key"
        );
        Ok(self.tls_cert.as_deref().zip(self.tls_key.as_deref()))
    }
}

/// Networks of reverse proxies. None of them: no proxy is trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is the address of one.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromStr for TrustedProxies {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<TrustedProxies, InvalidNetwork> {
        let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(TrustedProxies)
    }
}

impl Display for TrustedProxies {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let networks: Vec<String> = self.0.iter().map(Network::to_string).collect();
        f.write_str(&networks.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_needs_a_certificate_and_its_key() -> anyhow::Result<()> {
        let config = |cert: Option<&str>, key: Option<&str>| TlsConfig {
            tls_cert: cert.map(PathBuf::from),
            tls_key: key.map(PathBuf::from),
            ..TlsConfig::default()
        };
        assert_eq!(config(Some("a"), Some("b")).files()?, Some((Path::new("a"), Path::new("b"))));
        assert_eq!(config(None, None).files()?, None);
        assert!(config(Some("a"), None).files().is_err() && config(None, Some("b")).files().is_err());
        Ok(())
    }

    #[test]
    fn trusted_proxies_are_networks() -> anyhow::Result<()> {
        let trusted: TrustedProxies = "127.0.0.1, 10.0.0.0/8,".parse()?;
        assert!(trusted.contains("10.9.9.9".parse()?) && !trusted.contains("127.0.0.2".parse()?));
        assert_eq!(trusted.to_string().parse::<TrustedProxies>()?, trusted);
        assert!("".parse::<TrustedProxies>()?.is_empty());
        assert!("proxy.lab".parse::<TrustedProxies>().is_err());
        Ok(())
    }
}
