//! Scopes of user keys: what a key may be used for, within what its user may do.

use std::fmt;
use std::str::FromStr;

/// One of the things a user key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Read jobs, output, history, workers and the queue.
    Read,
    /// Submit jobs, run them again, and update services.
    Submit,
    /// Stop, scale and delete jobs, write to tasks, direct workers, change templates.
    Operate,
    /// Manage keys and secrets.
    Admin,
}

/// A set of scopes. No scope includes another one: a key that only submits cannot read the output of others, and a key that
/// manages keys cannot make one that may do more than itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scopes(u8);

impl Scope {
    /// All of them, in their order.
    pub const ALL: [Scope; 4] = [Scope::Read, Scope::Submit, Scope::Operate, Scope::Admin];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Submit => "submit",
            Scope::Operate => "operate",
            Scope::Admin => "admin",
        }
    }

    /// What a key with it may do, in a few words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Scope::Read => "read jobs, output, history and workers",
            Scope::Submit => "submit and rerun jobs, update services",
            Scope::Operate => "stop, scale and delete jobs, write to tasks, direct workers, change templates",
            Scope::Admin => "manage keys and secrets",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Scope::Read => 1,
            Scope::Submit => 2,
            Scope::Operate => 4,
            Scope::Admin => 8,
        }
    }
}

/// The text is no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownScope;

impl fmt::Display for UnknownScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a scope: {}", Scopes::ALL)
    }
}

impl std::error::Error for UnknownScope {}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Scope, UnknownScope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownScope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Scopes {
    /// No scope: what worker keys have.
    pub const NONE: Scopes = Scopes(0);
    /// All scopes: what a browser session of a user has.
    pub const ALL: Scopes =
        Scopes(Scope::Read.bit() | Scope::Submit.bit() | Scope::Operate.bit() | Scope::Admin.bit());

    /// This scope alone.
    pub const fn only(scope: Scope) -> Scopes {
        Scopes(scope.bit())
    }

    /// Whether this scope is in the set.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// The scopes of this set that the other one lacks.
    pub const fn without(self, other: Scopes) -> Scopes {
        Scopes(self.0 & !other.0)
    }

    /// Whether there is no scope in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes in their order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Scopes {
        Scopes(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

/// The names, with commas.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            f.write_str(if index > 0 { ", " } else { "" })?;
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_from_its_name_and_from_nothing_else() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        for text in ["", "READ", "read ", "root", "read,submit", "*"] {
            assert_eq!(text.parse::<Scope>(), Err(UnknownScope), "{text:?}");
        }
        assert_eq!(UnknownScope.to_string(), "expected a scope: read, submit, operate, admin");
    }

    #[test]
    fn no_scope_includes_another_one() {
        for scope in Scope::ALL {
            let only = Scopes::only(scope);
            assert_eq!(only.iter().collect::<Vec<_>>(), [scope]);
            assert_eq!(Scope::ALL.into_iter().filter(|other| only.contains(*other)).count(), 1);
        }
        assert_eq!(Scope::ALL.into_iter().collect::<Scopes>(), Scopes::ALL);
        assert_eq!(Scopes::ALL.iter().count(), Scope::ALL.len());
        assert_eq!(Scopes::NONE.iter().count(), 0);
    }

    #[test]
    fn what_a_set_lacks_is_told_in_order() {
        let some: Scopes = [Scope::Admin, Scope::Read].into_iter().collect();
        assert_eq!(Scopes::ALL.without(some).to_string(), "submit, operate");
        assert!(some.without(Scopes::ALL).is_empty());
    }
}
