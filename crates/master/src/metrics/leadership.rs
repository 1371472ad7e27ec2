//! Whether this master leads.

use super::registrar::{Gauge, Registrar};

#[derive(Debug, Clone)]
pub struct LeadershipMetrics {
    leads: Gauge,
    term: Gauge,
}

impl LeadershipMetrics {
    pub fn register(registrar: &mut Registrar) -> LeadershipMetrics {
        LeadershipMetrics {
            leads: registrar.gauge(
                "gaffer_leader",
                "1 if this master leads and may act on it, 0 if another one leads or the database does not confirm it",
            ),
            term: registrar.gauge(
                "gaffer_leader_term",
                "Number of this master's term; a higher one is another leader's; 0 on a standby",
            ),
        }
    }

    pub fn show(&self, leads: bool, term: i64) {
        self.leads.set(leads.into());
        self.term.set(term);
    }
}
