//! The certificate of the ports.

use super::registrar::{Gauge, Registrar};

#[derive(Debug, Clone)]
pub struct TlsMetrics {
    expiry: Gauge,
    is_broken: Gauge,
}

impl TlsMetrics {
    pub fn register(registrar: &mut Registrar) -> TlsMetrics {
        TlsMetrics {
            expiry: registrar.gauge(
                "gaffer_tls_certificate_expiry_timestamp_seconds",
                "When the certificate of the ports expires; 0 without TLS",
            ),
            is_broken: registrar.gauge(
                "gaffer_tls_certificate_unusable",
                "1 if the certificate files have changed and cannot be used, so that the previous certificate still is",
            ),
        }
    }

    /// `expiry`: seconds since 1970.
    pub fn show(&self, expiry: i64, is_broken: bool) {
        self.expiry.set(expiry);
        self.is_broken.set(is_broken.into());
    }
}
