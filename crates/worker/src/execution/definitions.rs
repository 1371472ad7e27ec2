//! Definitions of the attempts on this worker.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use gaffer_domain::JobId;
use gaffer_protocol::definitions::Definition;

/// All attempts with the same definition share one.
#[derive(Default)]
pub(super) struct SharedDefinitions {
    alive: HashMap<(JobId, String), Weak<Definition>>,
    /// Above this number, unused definitions are removed.
    clear_at: usize,
}

impl SharedDefinitions {
    /// Replaces a definition by the one that is here already, if they are equal.
    pub fn share(&mut self, definition: &mut Arc<Definition>) {
        let key = (definition.job, definition.task.clone());
        if let Some(known) = self.alive.get(&key).and_then(Weak::upgrade)
            && known == *definition
        {
            *definition = known;
            return;
        }
        if self.alive.len() >= self.clear_at {
            self.alive.retain(|_, definition| definition.strong_count() > 0);
            self.clear_at = (self.alive.len() * 2).max(1_024);
        }
        self.alive.insert(key, Arc::downgrade(definition));
    }
}
