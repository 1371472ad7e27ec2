//! Distinguishes a restarted or moved worker from a copy of its data directory or machine.
//!
//! An identity is kept in a data directory, so a copy of that has it too. The one that is connected and well keeps it; so two
//! workers never oust each other in turns, and no attempt is adopted by a machine on which it does not run. But a worker
//! that was restarted must take its own half-dead session's place at once. What tells the two apart is where they are.

use serde::{Deserialize, Serialize};

/// Where a worker is. Unknown parts are omitted and prove nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// The kernel's boot id: the same only within one kernel, from its start to its end.
    pub boot_id: String,
    /// A digest of the machine id, which installations have and clones of them often share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// A digest of the hardware's own number, virtual or not; only root may read it on many machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// The host's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Which directory it is, as long as its kernel lives: device and inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
}

/// How the place of a newcomer compares to the one where its identity was last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// The same data directory under the same kernel. Its lock lets in one executor: it is the worker itself.
    Itself,
    /// Another data directory under the same kernel.
    Copy,
    /// The same machine after a reboot, or an indistinguishable clone.
    Restarted,
    /// Another machine.
    Elsewhere,
}

/// The present owner of an identity when another worker presents it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Connected, and heard since the newcomer came.
    Well,
    /// Not connected, or silent.
    Away {
        /// It has attempts whose leases may not have run out.
        has_attempts: bool,
    },
}

/// What becomes of a newcomer with a known identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// It is the worker now.
    TakesPlace,
    /// It is another worker and must make a new identity.
    BeginsAnew,
    /// It must stop: it could take the other worker's processes for its own.
    IsRefused,
}

impl Place {
    /// How `newcomer` compares to this place.
    pub fn relation(&self, newcomer: &Place) -> Relation {
        let same = |one: &Option<String>, other: &Option<String>| Some(one.as_ref()? == other.as_ref()?);
        if self.boot_id == newcomer.boot_id {
            return match same(&self.directory, &newcomer.directory) {
                Some(false) => Relation::Copy,
                Some(true) | None => Relation::Itself,
            };
        }
        let machine = same(&self.machine, &newcomer.machine);
        let hardware = same(&self.hardware, &newcomer.hardware);
        // Hosts change their names, and clones keep them: a name counts only where nothing else is known.
        match (machine, hardware) {
            (Some(false), _) | (_, Some(false)) => Relation::Elsewhere,
            (Some(true), _) | (_, Some(true)) => Relation::Restarted,
            (None, None) if same(&self.host, &newcomer.host) == Some(false) => Relation::Elsewhere,
            (None, None) => Relation::Restarted,
        }
    }
}

impl Relation {
    /// What becomes of a newcomer.
    pub fn admission(self, holder: Holder) -> Admission {
        match (self, holder) {
            // A frozen process or a dead connection: what it says is ignored.
            (Relation::Itself, _) => Admission::TakesPlace,
            (Relation::Copy, Holder::Well) => Admission::IsRefused,
            // Two kernels that are up at once are two machines, however alike.
            (Relation::Restarted | Relation::Elsewhere, Holder::Well) => Admission::BeginsAnew,
            // Its machine may only be cut off, with its attempts going on.
            (Relation::Elsewhere, Holder::Away { has_attempts: true }) => Admission::BeginsAnew,
            (_, Holder::Away { .. }) => Admission::TakesPlace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAY: Holder = Holder::Away { has_attempts: false };
    const CUT_OFF: Holder = Holder::Away { has_attempts: true };

    fn place(boot_id: &str, machine: &str, hardware: &str, host: &str, directory: &str) -> Place {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Place {
            boot_id: boot_id.to_owned(),
            machine: known(machine),
            hardware: known(hardware),
            host: known(host),
            directory: known(directory),
        }
    }

    #[test]
    fn places_are_told_apart_by_what_both_know() {
        let here = place("b1", "m1", "h1", "pi", "8:77");
        for (newcomer, relation) in [
            (here.clone(), Relation::Itself),
            (place("b1", "m1", "h1", "renamed", "8:77"), Relation::Itself),
            (place("b1", "", "", "", ""), Relation::Itself),
            (place("b1", "m1", "h1", "pi", "8:78"), Relation::Copy),
            (place("b2", "m1", "h1", "pi", "8:77"), Relation::Restarted),
            (place("b2", "m1", "", "dhcp-9", "9:5"), Relation::Restarted),
            (place("b2", "", "h1", "dhcp-9", "9:5"), Relation::Restarted),
            (place("b2", "", "", "pi", "8:77"), Relation::Restarted),
            (place("b2", "", "", "", ""), Relation::Restarted),
            (place("b2", "m2", "h1", "pi", "8:77"), Relation::Elsewhere),
            (place("b2", "m1", "h2", "pi", "8:77"), Relation::Elsewhere),
            (place("b2", "", "", "pi2", "8:77"), Relation::Elsewhere),
        ] {
            assert_eq!(here.relation(&newcomer), relation, "{newcomer:?}");
        }
    }

    #[test]
    fn a_worker_that_is_well_keeps_its_place_and_its_own_restart_never_waits() {
        use Admission::{BeginsAnew, IsRefused, TakesPlace};
        for (relation, well, cut_off, away) in [
            (Relation::Itself, TakesPlace, TakesPlace, TakesPlace),
            (Relation::Copy, IsRefused, TakesPlace, TakesPlace),
            (Relation::Restarted, BeginsAnew, TakesPlace, TakesPlace),
            (Relation::Elsewhere, BeginsAnew, BeginsAnew, TakesPlace),
        ] {
            let admitted = [Holder::Well, CUT_OFF, AWAY].map(|holder| relation.admission(holder));
            assert_eq!(admitted, [well, cut_off, away], "{relation:?}");
        }
    }
}
