//! What a project has, whether it may be deleted with it, and what was set for it.

use std::fmt;

use crate::quota::Quota;

/// How much of the shared workers a project gets beside others: twice the weight is twice as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(u32);

impl Weight {
    /// The least.
    pub const MIN: u32 = 1;
    /// The most.
    pub const MAX: u32 = 1_000;
    /// That of a project for which nothing was set.
    pub const DEFAULT: Weight = Weight(100);

    /// None if there is no such weight.
    pub const fn new(weight: u32) -> Option<Weight> {
        if weight < Weight::MIN || weight > Weight::MAX { None } else { Some(Weight(weight)) }
    }

    /// As a number from 1 to 1,000.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Weight {
        Weight::DEFAULT
    }
}

/// What administrators of the installation have set for a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Its weight beside other projects.
    pub weight: Weight,
    /// How much of it may be live at once.
    pub quota: Quota,
}

/// The most jobs of a kind that are counted in [`Holdings`].
pub const MAX_COUNTED: u32 = 1_000;

/// What a project has that would go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holdings {
    /// Jobs that have not ended, counted up to [`MAX_COUNTED`].
    pub unfinished_jobs: u32,
    /// Jobs that have ended, counted up to [`MAX_COUNTED`].
    pub finished_jobs: u32,
    /// Workers that are connected.
    pub connected_workers: u32,
    /// Workers that are not, and have tasks of other projects that may still execute.
    pub lent_workers: u32,
    /// Other workers that are not connected.
    pub other_workers: u32,
    /// Saved templates.
    pub templates: u32,
    /// Keys that are valid.
    pub keys: u32,
    /// Secrets.
    pub secrets: u32,
}

/// Why a project is not deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDeleted {
    /// Something of it still runs, or waits to.
    InUse,
    /// It has something, and nobody has confirmed that it is to go.
    Unconfirmed,
}

impl Holdings {
    /// Whether a project that has this may be deleted. `is_confirmed`: with all that it has.
    ///
    /// # Errors
    /// When it may not, with the reason.
    pub fn may_be_deleted(&self, is_confirmed: bool) -> Result<(), NotDeleted> {
        if self.unfinished_jobs > 0 || self.connected_workers > 0 || self.lent_workers > 0 {
            return Err(NotDeleted::InUse);
        }
        match is_confirmed || *self == Holdings::default() {
            true => Ok(()),
            false => Err(NotDeleted::Unconfirmed),
        }
    }

    /// The part that keeps a project from being deleted in any case.
    pub fn in_use(&self) -> Holdings {
        let Holdings { unfinished_jobs, connected_workers, lent_workers, .. } = *self;
        Holdings { unfinished_jobs, connected_workers, lent_workers, ..Holdings::default() }
    }
}

/// Such as "2 jobs that have not ended, 1 template".
impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.unfinished_jobs, "job that has not ended", "jobs that have not ended"),
            (self.finished_jobs, "finished job", "finished jobs"),
            (self.connected_workers, "connected worker", "connected workers"),
            (
                self.lent_workers,
                "disconnected worker with tasks of other projects",
                "disconnected workers with tasks of other projects",
            ),
            (self.other_workers, "disconnected worker", "disconnected workers"),
            (self.templates, "template", "templates"),
            (self.keys, "key", "keys"),
            (self.secrets, "secret", "secrets"),
        ];
        let mut is_first = true;
        for (count, one, many) in parts.into_iter().filter(|(count, _, _)| *count > 0) {
            let comma = if is_first { "" } else { ", " };
            is_first = false;
            let what = if count == 1 { one } else { many };
            let more = if count >= MAX_COUNTED { "at least " } else { "" };
            write!(f, "{comma}{more}{count} {what}")?;
        }
        if is_first { f.write_str("nothing") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_in_use_stays_and_one_with_something_needs_a_confirmation() {
        let nothing = Holdings::default();
        assert_eq!(nothing.may_be_deleted(false), Ok(()));
        for something in [
            Holdings { finished_jobs: 1, ..nothing },
            Holdings { other_workers: 1, ..nothing },
            Holdings { templates: 1, ..nothing },
            Holdings { keys: 1, ..nothing },
            Holdings { secrets: 1, ..nothing },
        ] {
            assert_eq!(something.may_be_deleted(false), Err(NotDeleted::Unconfirmed), "{something}");
            assert_eq!(something.may_be_deleted(true), Ok(()), "{something}");
        }
        for in_use in
            [Holdings { unfinished_jobs: 1, ..nothing }, Holdings { connected_workers: 1, ..nothing }]
        {
            for is_confirmed in [false, true] {
                assert_eq!(in_use.may_be_deleted(is_confirmed), Err(NotDeleted::InUse), "{in_use}");
            }
        }
    }

    #[test]
    fn what_it_has_is_told_in_words() {
        let all = Holdings {
            unfinished_jobs: 1,
            finished_jobs: MAX_COUNTED,
            connected_workers: 2,
            lent_workers: 0,
            other_workers: 1,
            templates: 0,
            keys: 3,
            secrets: 2,
        };
        assert_eq!(
            all.to_string(),
            "1 job that has not ended, at least 1000 finished jobs, 2 connected workers, 1 disconnected worker, 3 keys, 2 secrets"
        );
        assert_eq!(all.in_use().to_string(), "1 job that has not ended, 2 connected workers");
        assert_eq!(Holdings::default().to_string(), "nothing");
    }
}
