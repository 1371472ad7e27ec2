//! Sets of exit codes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::field::Kind;
use super::node::{FieldValue as _, Node};

/// The kind of a field that lists exit codes.
pub const EXIT_CODES: Kind = Kind::List { noun: "exit codes", max: 256, item: &Kind::Whole(0..=255) };

/// A set of exit codes from 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExitCodes([u64; 4]);

impl ExitCodes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == ExitCodes::default()
    }

    /// Whether the set has this exit code. It never has one that is not from 0 to 255.
    pub fn contains(&self, code: i32) -> bool {
        u8::try_from(code).is_ok_and(|code| self.0[usize::from(code >> 6)] >> (code & 63) & 1 == 1)
    }

    /// Adds one; false if it was there.
    pub fn insert(&mut self, code: u8) -> bool {
        let is_new = !self.contains(code.into());
        self.0[usize::from(code >> 6)] |= 1 << (code & 63);
        is_new
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |code| self.contains((*code).into()))
    }
}

impl FromIterator<u8> for ExitCodes {
    fn from_iter<I: IntoIterator<Item = u8>>(codes: I) -> ExitCodes {
        let mut set = ExitCodes::default();
        codes.into_iter().for_each(|code| _ = set.insert(code));
        set
    }
}

impl Serialize for ExitCodes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for ExitCodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ExitCodes, D::Error> {
        Ok(Vec::<u8>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Reads a list of at least one exit code, each named once, and none that `other` has a meaning for.
pub(super) fn read(node: &Node<'_>, other: impl Fn(u8) -> Option<&'static str>) -> Option<ExitCodes> {
    let mut codes = ExitCodes::default();
    let members = node.list()?;
    if members.len() == 0 {
        return node.wrong("the list has no exit code: name one, or leave the field out");
    }
    for member in members {
        let Some(code) = u8::read(&member, &Kind::Whole(0..=255)) else { continue };
        if let Some(meaning) = other(code) {
            member.wrong::<()>(format!("exit code {code} {meaning}"));
        } else if !codes.insert(code) {
            member.wrong::<()>(format!("exit code {code} is named twice"));
        }
    }
    Some(codes)
}
