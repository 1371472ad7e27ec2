//! Processor time and memory of the processes of a scratch installation, as the kernel counts them.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

use super::scratch::Scratch;

/// Processor time since the start, in seconds, without that of tasks.
#[derive(Debug, Clone, Copy)]
pub struct ProcessorTime {
    /// Master, agent and executor.
    pub gaffer: f64,
    /// All processes of the database.
    pub postgres: f64,
}

impl ProcessorTime {
    /// That of a scratch installation until now; none if the system does not tell.
    pub fn of(scratch: &Scratch) -> Option<ProcessorTime> {
        let own = |pid: Option<u32>| Some(Stat::of(pid?)?.own_ticks);
        let postmaster = scratch.postgres()?;
        let first = Stat::of(postmaster)?;
        let of_children: u64 =
            all().filter(|stat| stat.parent == postmaster).map(|stat| stat.own_ticks).sum();
        let ticks_per_second = sysconf(SysconfVar::CLK_TCK).ok()?? as f64;
        Some(ProcessorTime {
            gaffer: (own(scratch.pid())? + own(scratch.executor())?) as f64 / ticks_per_second,
            postgres: (first.own_ticks + first.ticks_of_ended + of_children) as f64 / ticks_per_second,
        })
    }

    /// The time since `earlier`.
    pub fn since(self, earlier: ProcessorTime) -> ProcessorTime {
        ProcessorTime { gaffer: self.gaffer - earlier.gaffer, postgres: self.postgres - earlier.postgres }
    }
}

/// Memory of a process that is in use now, in KiB.
pub fn resident_kib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

/// What the kernel says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own_ticks: u64,
    /// Of children that have ended.
    ticks_of_ended: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        Stat::read(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name of the program, in parentheses, may contain anything.
    fn read(text: &str) -> Option<Stat> {
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Stat {
            parent: u32::try_from(number(1)?).ok()?,
            own_ticks: number(11)? + number(12)?,
            ticks_of_ended: number(13)? + number(14)?,
        })
    }
}

fn all() -> impl Iterator<Item = Stat> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| Stat::of(name.to_str()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_process_are_found_whatever_its_name_is() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 30 12 5 6 20 0 1 0 100 0 0";
        assert_eq!(Stat::read(text), Some(Stat { parent: 7, own_ticks: 42, ticks_of_ended: 11 }));
        assert_eq!(Stat::read("42 (x"), None);
        assert!(Stat::of(std::process::id()).is_some());
    }
}
