//! Deletes objects that nobody needs any more: first their row goes, then the object.
//!
//! Most are known by name, because a job was deleted or an era was dropped. Once a day all objects of this installation are
//! listed for those that no row ever named: a master ended between putting them there and noting them.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures::StreamExt as _;
use tokio::time::Instant;

use super::driver::{Background, Ran};
use crate::output_store::{OutputStore, named_part};
use crate::store::output::objects::NamedPart;
use crate::store::{Store, StoreError};

/// How many are deleted together.
const TOGETHER: u32 = 500;
/// An object that was put there later than this may be about to be noted.
const UNUSED_AFTER: TimeDelta = TimeDelta::hours(6);
/// How often all objects are listed.
const LISTED_EVERY: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug)]
pub struct UnusedObjects {
    store: Store,
    objects: Arc<OutputStore>,
    /// The last object of a dropped era that was looked at.
    looked_at: Option<(i64, i32, i64)>,
    /// When all objects are listed again.
    list_at: Instant,
}

impl UnusedObjects {
    /// Lists all objects in its first run.
    pub fn new(store: Store, objects: Arc<OutputStore>) -> UnusedObjects {
        UnusedObjects { store, objects, looked_at: None, list_at: Instant::now() }
    }

    /// Deletes some of the objects whose rows are gone; returns how many.
    async fn delete_some(&self) -> Result<u64, StoreError> {
        let names = self.store.objects_unused(TOGETHER).await?;
        if !names.is_empty() {
            self.objects.delete(&names).await?;
            self.store.objects_forget(&names).await?;
        }
        Ok(names.len() as u64)
    }

    /// Looks through dropped eras. Returns how many objects are unused now, and whether there is more to look at.
    async fn look_through(&mut self) -> Result<(u64, bool), StoreError> {
        let Some(era) = self.store.eras_with_objects_to_look_through().await?.first().copied() else {
            return Ok((0, false));
        };
        let look = self.store.era_look_through(era, self.looked_at).await?;
        self.looked_at = look.next;
        Ok((look.removed, true))
    }

    /// Deletes objects of this installation that no row names; returns how many.
    async fn delete_unnamed(&self) -> Result<u64, StoreError> {
        let directory = self.store.output_directory().await?;
        let put_before = Utc::now() - UNUSED_AFTER;
        let mut listed = self.objects.list(directory);
        let (mut parts, mut deleted) = (Vec::new(), 0);
        while let Some(object) = listed.next().await {
            let object = object?;
            if object.modified_at < put_before {
                // What has another name is not ours.
                parts.extend(named_part(&object.name));
            }
            if parts.len() >= TOGETHER as usize {
                deleted += self.delete_unused(std::mem::take(&mut parts)).await?;
            }
        }
        Ok(deleted + self.delete_unused(parts).await?)
    }

    async fn delete_unused(&self, parts: Vec<NamedPart>) -> Result<u64, StoreError> {
        let used = self.store.output_objects_used(&parts).await?;
        let names: Vec<String> =
            parts.into_iter().map(|part| part.name).filter(|name| !used.contains(name)).collect();
        self.objects.delete(&names).await?;
        Ok(names.len() as u64)
    }
}

impl Background for UnusedObjects {
    const NAME: &'static str = "unused_objects";
    const DESCRIPTION: &'static str = "deletes objects with output that nobody needs any more";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let deleted = self.delete_some().await?;
        if deleted > 0 {
            return Ok(Ran { done: deleted, again_after: Some(Duration::ZERO) });
        }
        let (removed, is_more) = self.look_through().await?;
        if is_more {
            return Ok(Ran { done: removed, again_after: Some(Duration::ZERO) });
        }
        if Instant::now() < self.list_at {
            return Ok(Ran::default());
        }
        let unnamed = self.delete_unnamed().await?;
        if unnamed > 0 {
            tracing::info!(objects = unnamed, "deleted objects with output that were never noted");
        }
        self.list_at = Instant::now() + LISTED_EVERY;
        Ok(Ran { done: unnamed, again_after: None })
    }
}
