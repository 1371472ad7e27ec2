//! Members of projects and users of the installation: their names, and the changes that would leave nobody in charge.

use std::fmt;
use std::str::FromStr;

use crate::permissions::Role;

/// The longest name of a user or a project.
pub const MAX_NAME_CHARS: usize = 40;

/// What a name of a user or a project may be, for people.
const NAME_RULE: &str =
    "expected 1 to 40 characters: a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit";

/// The name of a user or of a project. It stands in addresses as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// The text is no name of a user or a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidName;

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAME_RULE)
    }
}

impl std::error::Error for InvalidName {}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Name, InvalidName> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_valid = text.len() <= MAX_NAME_CHARS
            && text.starts_with(is_plain)
            && text.chars().all(|c| is_plain(c) || matches!(c, '-' | '_' | '.'));
        if is_valid { Ok(Name(text.to_owned())) } else { Err(InvalidName) }
    }
}

/// The role of a member in a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// Reads.
    Viewer,
    /// Runs jobs and directs workers.
    Operator,
    /// Manages members and keys as well.
    Admin,
}

/// The text is no role of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownRole;

impl fmt::Display for UnknownRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a role: viewer, operator, admin")
    }
}

impl std::error::Error for UnknownRole {}

impl MemberRole {
    /// All of them; each may do what the ones before it may.
    pub const ALL: [MemberRole; 3] = [MemberRole::Viewer, MemberRole::Operator, MemberRole::Admin];

    /// The same role in the list of permissions.
    pub const fn role(self) -> Role {
        match self {
            MemberRole::Viewer => Role::Viewer,
            MemberRole::Operator => Role::Operator,
            MemberRole::Admin => Role::Admin,
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            MemberRole::Viewer => "viewer",
            MemberRole::Operator => "operator",
            MemberRole::Admin => "admin",
        }
    }

    /// What a member with it may do, in a few words.
    pub const fn meaning(self) -> &'static str {
        match self {
            MemberRole::Viewer => "read jobs, output, history and workers",
            MemberRole::Operator => "also run and stop jobs, direct workers, change templates",
            MemberRole::Admin => "also manage members and keys of workers",
        }
    }
}

impl FromStr for MemberRole {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<MemberRole, UnknownRole> {
        MemberRole::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A member of a project, as far as it matters to who is in charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Number of the user.
    pub user: i64,
    /// Their role.
    pub role: MemberRole,
    /// Whether the user is disabled, and so can do nothing.
    pub is_disabled: bool,
}

/// Why a member keeps their role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepsRole {
    /// They are the last admin who can do anything.
    LastAdmin,
    /// It is their personal project.
    Personal,
}

/// Whether a member may get another role, or none. `personal_of`: the user whose personal project it is.
///
/// # Errors
/// When the project would be left without an admin, or somebody without their personal project.
pub fn may_change_role(
    members: &[Member],
    personal_of: Option<i64>,
    user: i64,
    wanted: Option<MemberRole>,
) -> Result<(), KeepsRole> {
    if wanted == Some(MemberRole::Admin) {
        return Ok(());
    }
    if personal_of == Some(user) {
        return Err(KeepsRole::Personal);
    }
    let in_charge = |member: &&Member| member.role == MemberRole::Admin && !member.is_disabled;
    let is_one = members.iter().any(|member| member.user == user && in_charge(&member));
    match is_one && members.iter().filter(in_charge).count() == 1 {
        true => Err(KeepsRole::LastAdmin),
        false => Ok(()),
    }
}

/// Whether the installation keeps an administrator without this one. `admins`: the numbers of the users that administer it and
/// are not disabled.
pub fn leaves_an_administrator(admins: &[i64], without: i64) -> bool {
    admins.iter().any(|admin| *admin != without)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_stand_in_an_address_as_it_is() {
        for name in ["a", "ana", "lab-2", "0", "x_y.z", &"a".repeat(MAX_NAME_CHARS)] {
            assert_eq!(name.parse::<Name>().map(|name| name.to_string()), Ok(name.to_owned()));
        }
        let long = "a".repeat(MAX_NAME_CHARS + 1);
        for text in
            ["", "Ana", "-a", "_a", ".", "..", "a b", "a/b", "a%2f", "ä", "a\n", "a?b", "deleted 7", &long]
        {
            assert_eq!(text.parse::<Name>(), Err(InvalidName), "{text:?}");
        }
    }

    #[test]
    fn a_role_is_read_from_its_name_and_from_nothing_else() {
        for role in MemberRole::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
            assert_eq!(role.role().as_str(), role.as_str());
        }
        for text in ["", "Admin", "owner", "installation admin", "worker"] {
            assert_eq!(text.parse::<MemberRole>(), Err(UnknownRole), "{text:?}");
        }
    }

    #[test]
    fn the_last_admin_stays_admin_and_anybody_else_may_go() {
        use MemberRole::{Admin, Operator, Viewer};
        let member = |user, role, is_disabled| Member { user, role, is_disabled };
        let alone = [member(1, Admin, false), member(2, Operator, false), member(3, Admin, true)];
        for wanted in [None, Some(Viewer), Some(Operator)] {
            assert_eq!(may_change_role(&alone, None, 1, wanted), Err(KeepsRole::LastAdmin));
            assert_eq!(may_change_role(&alone, None, 2, wanted), Ok(()));
            // Who is disabled is in charge of nothing.
            assert_eq!(may_change_role(&alone, None, 3, wanted), Ok(()));
            let two = [member(1, Admin, false), member(2, Admin, false)];
            assert_eq!(may_change_role(&two, None, 1, wanted), Ok(()));
            assert_eq!(may_change_role(&two, Some(1), 1, wanted), Err(KeepsRole::Personal));
            assert_eq!(may_change_role(&two, Some(1), 2, wanted), Ok(()));
        }
        assert_eq!(may_change_role(&alone, None, 1, Some(Admin)), Ok(()));
        assert_eq!(may_change_role(&alone, Some(1), 4, Some(Viewer)), Ok(()), "a new member");
    }

    #[test]
    fn somebody_administers_the_installation() {
        assert!(!leaves_an_administrator(&[], 1));
        assert!(!leaves_an_administrator(&[1], 1));
        assert!(leaves_an_administrator(&[1, 2], 1));
        assert!(leaves_an_administrator(&[2], 1));
    }
}
