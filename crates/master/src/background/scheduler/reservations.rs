//! Workers reserved by the last pass for large waiting tasks; nothing else is placed or moved there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gaffer_domain::placement::Requirements;
use gaffer_domain::{ProjectId, WorkerId};

/// Workers with what each is kept for.
pub type ReservedFor = BTreeMap<WorkerId, KeptFor>;

/// A class that a worker is kept for.
#[derive(Debug, Clone)]
pub struct KeptFor {
    /// Number of the class.
    pub class: i64,
    pub project: ProjectId,
    pub needs: Requirements,
}

/// What the last pass left.
#[derive(Debug, Clone, Default)]
pub struct Reservations(Arc<Mutex<ReservedFor>>);

impl Reservations {
    /// Replaces what the pass before had kept.
    pub fn set(&self, reserved: ReservedFor) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reserved;
    }

    /// The workers that the last pass kept.
    pub fn get(&self) -> ReservedFor {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
