//! Quotas: how much of a project may be live at once.
//!
//! Tasks that would exceed a quota wait until others have ended. A task that exceeds it alone is refused when it is submitted; if the
//! quota was lowered later, it waits until somebody raises it again. What is live stays, also above a quota that was lowered.

use std::fmt;

use crate::quantity::{Bytes, Cpu};
use crate::resources::Resources;

/// What all live attempts of a project may have together; none: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// Reserved processors.
    pub cpu: Option<Cpu>,
    /// Reserved memory.
    pub memory: Option<Bytes>,
    /// Live attempts.
    pub tasks: Option<u32>,
}

/// What some live attempts have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Reserved processors, in thousandths.
    pub cpu_millis: u64,
    /// Reserved memory.
    pub memory_bytes: u64,
    /// How many they are.
    pub tasks: u64,
}

/// What a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Limited {
    Cpu,
    Memory,
    Tasks,
}

/// A quota that leaves no room for a task. Processors are in thousandths, memory is in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverQuota {
    /// Which quota.
    pub what: Limited,
    /// What one more task takes.
    pub wanted: u64,
    /// What is in use.
    pub used: u64,
    /// The quota.
    pub limit: u64,
}

impl Usage {
    /// What `count` attempts with these resources have.
    pub fn of(resources: &Resources, count: u32) -> Usage {
        let count = u64::from(count);
        Usage {
            cpu_millis: u64::from(resources.cpu.millis()).saturating_mul(count),
            memory_bytes: resources.memory.get().saturating_mul(count),
            tasks: count,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            tasks: self.tasks.saturating_add(other.tasks),
        }
    }

    /// This one without the other.
    #[must_use]
    pub fn minus(self, other: Usage) -> Usage {
        Usage {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            tasks: self.tasks.saturating_sub(other.tasks),
        }
    }
}

impl Quota {
    /// The first quota that one more attempt with these resources would exceed.
    pub fn over(&self, used: Usage, resources: &Resources) -> Option<OverQuota> {
        let one = Usage::of(resources, 1);
        let limits = [
            (Limited::Cpu, one.cpu_millis, used.cpu_millis, self.cpu.map(|cpu| u64::from(cpu.millis()))),
            (Limited::Memory, one.memory_bytes, used.memory_bytes, self.memory.map(Bytes::get)),
            (Limited::Tasks, one.tasks, used.tasks, self.tasks.map(u64::from)),
        ];
        let mut limits = limits
            .into_iter()
            .filter_map(|(what, wanted, used, limit)| Some(OverQuota { what, wanted, used, limit: limit? }));
        // A task that takes nothing of something is not held up by a quota of it that was lowered.
        limits.find(|over| over.wanted > 0 && over.used.saturating_add(over.wanted) > over.limit)
    }
}

impl Limited {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Limited::Cpu => "cpu",
            Limited::Memory => "memory",
            Limited::Tasks => "tasks",
        }
    }

    /// An amount of it, in words.
    pub fn show(self, amount: u64) -> String {
        match self {
            Limited::Cpu => (amount as f64 / 1e3).to_string(),
            Limited::Memory => Bytes(amount).to_string(),
            Limited::Tasks => amount.to_string(),
        }
    }
}

impl OverQuota {
    /// Whether not even one task fits, whatever is in use.
    pub fn is_for_ever(&self) -> bool {
        self.wanted > self.limit
    }
}

/// Such as "quota of the project: cpu 8 of 8 in use, 1 requested".
impl fmt::Display for OverQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OverQuota { what, wanted, used, limit } = *self;
        let [wanted, used, limit] = [wanted, used, limit].map(|amount| what.show(amount));
        let name = what.as_str();
        match self.is_for_ever() {
            true => write!(f, "quota of the project: {name} {limit} in all, and one task requests {wanted}"),
            false => write!(f, "quota of the project: {name} {used} of {limit} in use, {wanted} requested"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(cpu_millis: u32, memory: u64) -> Resources {
        Resources { cpu: Cpu::from_millis(cpu_millis), memory: Bytes(memory), disk: Bytes(0) }
    }

    #[test]
    fn a_quota_is_exceeded_by_what_is_in_use_and_one_more_task() {
        let quota =
            Quota { cpu: Some(Cpu::from_millis(2_000)), memory: Some(Bytes(1 << 30)), tasks: Some(3) };
        let used = |cpu_millis, memory_bytes, tasks| Usage { cpu_millis, memory_bytes, tasks };
        let told = |used, needs: Resources| quota.over(used, &needs).map(|over| over.to_string());
        assert_eq!(told(used(1_500, 0, 1), resources(500, 0)), None);
        assert_eq!(
            told(used(1_500, 0, 1), resources(501, 0)).as_deref(),
            Some("quota of the project: cpu 1.5 of 2 in use, 0.501 requested")
        );
        assert_eq!(
            told(used(0, 1 << 29, 1), resources(0, 1 << 30)).as_deref(),
            Some("quota of the project: memory 512MiB of 1GiB in use, 1GiB requested")
        );
        assert_eq!(
            told(used(0, 0, 3), resources(0, 0)).as_deref(),
            Some("quota of the project: tasks 3 of 3 in use, 1 requested")
        );
        // The quota was lowered, and the task takes nothing of it.
        assert_eq!(told(used(9_000, 0, 1), resources(0, 1)), None);
        assert_eq!(Quota::default().over(used(u64::MAX, u64::MAX, u64::MAX), &resources(1, 1)), None);
    }

    #[test]
    fn a_task_that_exceeds_a_quota_alone_waits_for_ever() {
        let quota = Quota { cpu: Some(Cpu::from_millis(2_000)), ..Quota::default() };
        let over = quota.over(Usage::default(), &resources(4_000, 0));
        assert!(over.is_some_and(|over| over.is_for_ever()));
        let text = over.map(|over| over.to_string());
        assert_eq!(text.as_deref(), Some("quota of the project: cpu 2 in all, and one task requests 4"));
    }
}
