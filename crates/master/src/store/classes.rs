//! A cache of task classes, which never change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gaffer_domain::ProjectId;
use gaffer_domain::placement::Requirements;

use super::kept::Kept;
use super::{ReadStore, StoreError};

/// Classes are kept up to this size, measured as the JSON of their needs.
const MAX_KEPT_BYTES: usize = 16 << 20;
/// What a class takes beside that, about.
const BYTES_BESIDE_NEEDS: usize = 256;

/// What tasks have in common that the scheduler looks at together.
#[derive(Debug, Clone)]
pub struct SchedulingClass {
    pub project: ProjectId,
    pub owner: String,
    /// Their priority.
    pub priority: i16,
    pub needs: Requirements,
}

/// Recently used classes, by number.
#[derive(Debug, Clone)]
pub struct ClassCache(Arc<Mutex<Kept<i64, Arc<SchedulingClass>>>>);

impl Default for ClassCache {
    fn default() -> Self {
        ClassCache(Arc::new(Mutex::new(Kept::new(MAX_KEPT_BYTES))))
    }
}

impl ClassCache {
    /// Takes those that are there out of `wanted`.
    fn take_known(&self, wanted: &mut Vec<i64>) -> HashMap<i64, Arc<SchedulingClass>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = HashMap::with_capacity(wanted.len());
        wanted.retain(|id| match kept.get(*id) {
            Some(class) => {
                known.insert(*id, class.clone());
                false
            }
            None => true,
        });
        known
    }

    fn put(&self, id: i64, class: Arc<SchedulingClass>, needs_bytes: usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(id, class, needs_bytes + BYTES_BESIDE_NEEDS);
    }
}

impl ReadStore {
    /// These classes, as far as they exist and it is known what they need.
    pub(super) async fn classes(
        &self,
        ids: impl Iterator<Item = i64>,
    ) -> Result<HashMap<i64, Arc<SchedulingClass>>, StoreError> {
        let mut wanted: Vec<i64> = ids.collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut classes = self.classes.take_known(&mut wanted);
        if wanted.is_empty() {
            return Ok(classes);
        }
        let rows: Vec<(i64, i64, String, i16, String)> = sqlx::query_as(
            "SELECT id, project_id, owner, priority, needs::text FROM classes WHERE id = ANY($1)",
        )
        .bind(wanted)
        .fetch_all(&self.pool)
        .await?;
        for (id, project, owner, priority, stored) in rows {
            let class =
                |needs| Arc::new(SchedulingClass { project: ProjectId(project), owner, priority, needs });
            if let Ok(needs) = serde_json::from_str::<Requirements>(&stored) {
                let class = class(needs);
                self.classes.put(id, class.clone(), stored.len());
                classes.insert(id, class);
            } else if let Some(needs) = self.class_needs(id, &stored).await? {
                // What follows from a job is as good as that job's tasks: it is not kept.
                classes.insert(id, class(needs));
            }
        }
        Ok(classes)
    }
}
