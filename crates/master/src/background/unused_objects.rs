//! Deletes objects that nobody needs any more: first their row goes, then the object.
//!
//! Most are known by name, because a job was deleted or an era was dropped. Once a day all objects of this installation are
//! listed for those that no row ever named: a master ended between putting them there and noting them.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;

use super::driver::{Background, Ran};
use crate::output_store::{DELETED_TOGETHER, Listing, OutputStore, named_part};
use crate::store::output::objects::{NamedPart, ObjectPlace};
use crate::store::{Store, StoreError};

/// Maximum number of listed objects that a run looks at.
const LISTED_TOGETHER: usize = 5_000;
/// An object that was put there later than this may be about to be noted.
const UNUSED_AFTER: TimeDelta = TimeDelta::hours(6);
/// How often all objects are listed.
const LISTED_EVERY: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug)]
pub struct UnusedObjects {
    store: Store,
    objects: Arc<OutputStore>,
    /// A dropped era, and its last object that was looked at. Another era may be dropped before it is looked through.
    looked_at: Option<(i64, ObjectPlace)>,
    /// The last object that was to be deleted. Those before it that are left could not be deleted.
    tried: Option<String>,
    /// The listing that has begun.
    listing: Option<Listing>,
    /// When all objects are listed again.
    list_at: Instant,
    /// The first error since the last one that was reported. It is reported after everything else was done, because one object
    /// that cannot be deleted must not keep the others.
    problem: Option<StoreError>,
}

impl UnusedObjects {
    /// Lists all objects in its first runs.
    pub fn new(store: Store, objects: Arc<OutputStore>) -> UnusedObjects {
        UnusedObjects {
            store,
            objects,
            looked_at: None,
            tried: None,
            listing: None,
            list_at: Instant::now(),
            problem: None,
        }
    }

    /// Looks through dropped eras. Returns how many objects are unused now, and whether there is more to look at.
    async fn look_through(&mut self) -> Result<(u64, bool), StoreError> {
        let Some(era) = self.store.eras_with_objects_to_look_through().await?.first().copied() else {
            return Ok((0, false));
        };
        let after = self.looked_at.filter(|(looked_at, _)| *looked_at == era).map(|(_, place)| place);
        let look = self.store.era_look_through(era, after).await?;
        self.looked_at = look.next.map(|place| (era, place));
        Ok((look.removed, true))
    }

    /// Deletes some of the objects whose rows are gone. Returns how many, and whether there are more to try at once.
    async fn delete_some(&mut self) -> Result<(u64, bool), StoreError> {
        let names = self.store.objects_unused(self.tried.as_deref(), DELETED_TOGETHER).await?;
        let is_last = names.len() < DELETED_TOGETHER as usize;
        if !names.is_empty() {
            // What is not found counts as deleted, which is true only of the store that it was put into.
            self.objects.recognise(true).await?;
        }
        let gone = self.delete(&names).await;
        if !gone.is_empty() {
            self.store.objects_forget(&gone).await?;
        }
        // After the last one it begins with the first one again.
        self.tried = names.into_iter().next_back().filter(|_| !is_last);
        // When none was deleted, the store may be away.
        Ok((gone.len() as u64, !is_last && !gone.is_empty()))
    }

    /// Deletes objects of this installation that no row names. Returns how many, and whether there are more to look at.
    async fn delete_unnamed(&mut self) -> Result<(u64, bool), StoreError> {
        let mut listing = match self.listing.take() {
            Some(listing) => listing,
            None => self.objects.list(self.store.output_directory().await?),
        };
        let put_before = Utc::now() - UNUSED_AFTER;
        let listed = self.objects.next_listed(&mut listing, LISTED_TOGETHER).await?;
        let is_last = listed.len() < LISTED_TOGETHER;
        let old = listed.into_iter().filter(|object| object.modified_at < put_before);
        // What has another name is not ours.
        let parts: Vec<NamedPart> = old.filter_map(|object| named_part(&object.name)).collect();
        let mut deleted = 0;
        for parts in parts.chunks(DELETED_TOGETHER as usize) {
            let used = self.store.output_objects_used(parts).await?;
            let names = parts.iter().map(|part| part.name.clone()).filter(|name| !used.contains(name));
            deleted += self.delete(&names.collect::<Vec<_>>()).await.len() as u64;
        }
        self.listing = (!is_last).then_some(listing);
        Ok((deleted, !is_last))
    }

    async fn run_some(&mut self) -> Result<Ran, StoreError> {
        let at_once = |done| Ok(Ran { done, again_after: Some(Duration::ZERO) });
        let (removed, is_more) = self.look_through().await?;
        if is_more {
            return at_once(removed);
        }
        let (mut done, is_more) = self.delete_some().await?;
        if is_more {
            return at_once(done);
        }
        if Instant::now() >= self.list_at {
            let (unnamed, is_more) = self.delete_unnamed().await?;
            if unnamed > 0 {
                tracing::info!(objects = unnamed, "deleted objects with output that were never noted");
            }
            done += unnamed;
            if is_more {
                return at_once(done);
            }
            self.list_at = Instant::now() + LISTED_EVERY;
        }
        match self.problem.take() {
            Some(problem) => Err(problem),
            None => Ok(Ran { done, again_after: None }),
        }
    }

    /// Deletes objects. Returns those that are gone, and keeps the error.
    async fn delete(&mut self, names: &[String]) -> Vec<String> {
        if names.is_empty() {
            return Vec::new();
        }
        let (gone, result) = self.objects.delete_all(names).await;
        self.problem = self.problem.take().or(result.err());
        gone
    }
}

impl Background for UnusedObjects {
    const NAME: &'static str = "unused_objects";
    const DESCRIPTION: &'static str = "deletes objects with output that nobody needs any more";

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn run_once(&mut self) -> Result<Ran, StoreError> {
        let ran = self.run_some().await;
        if ran.is_err() {
            self.problem = None;
        }
        ran
    }
}
