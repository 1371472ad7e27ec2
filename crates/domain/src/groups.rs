//! Roles by the groups that an identity provider tells: at each sign-in they decide which memberships somebody has by them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::members::{MAX_NAME_CHARS, MemberRole, Name};

/// The role of a group that administers the installation.
const INSTALLATION_ADMIN: &str = "installation-admin";
/// The most groups of somebody that count.
pub const MAX_GROUPS: usize = 1_000;

/// Which role a group gives: `engineers=lab:operator,root=installation-admin`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupRoles(Vec<(String, GroupRole)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum GroupRole {
    InProject(Name, MemberRole),
    InstallationAdmin,
}

/// The text is no list of groups and their roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidGroupRoles(String);

impl fmt::Display for InvalidGroupRoles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}`: expected GROUP=PROJECT:ROLE with the role viewer, operator or admin, or GROUP={INSTALLATION_ADMIN}",
            self.0
        )
    }
}

impl std::error::Error for InvalidGroupRoles {}

/// What somebody's groups give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// The highest role in each project.
    pub memberships: BTreeMap<String, MemberRole>,
    /// Whether they administer the installation.
    pub is_installation_admin: bool,
}

impl Granted {
    /// Whether they give nothing.
    pub fn is_empty(&self) -> bool {
        self.memberships.is_empty() && !self.is_installation_admin
    }
}

/// A membership, and whether groups made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Name of the project.
    pub project: String,
    /// Their role in it.
    pub role: MemberRole,
    /// Whether groups made it.
    pub is_by_groups: bool,
}

/// What becomes of a membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipChange {
    /// Name of the project.
    pub project: String,
    /// Their role from now on; none if they are removed.
    pub role: Option<MemberRole>,
}

impl GroupRoles {
    /// Whether no group gives anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What these groups give together.
    pub fn of(&self, groups: &[String]) -> Granted {
        let mut granted = Granted::default();
        let given = self.0.iter().filter(|(group, _)| groups.iter().take(MAX_GROUPS).any(|own| own == group));
        for (_, role) in given {
            match role {
                GroupRole::InstallationAdmin => granted.is_installation_admin = true,
                GroupRole::InProject(project, role) => {
                    let known = granted.memberships.entry(project.to_string()).or_insert(*role);
                    *known = (*role).max(*known);
                }
            }
        }
        granted
    }
}

/// How the memberships of somebody change when their groups give this. What was made by hand stays as it is.
pub fn membership_changes(present: &[Membership], granted: &Granted) -> Vec<MembershipChange> {
    let mut changes = Vec::new();
    for (project, role) in &granted.memberships {
        let known = present.iter().find(|membership| membership.project == *project);
        if known.is_none_or(|known| known.is_by_groups && known.role != *role) {
            changes.push(MembershipChange { project: project.clone(), role: Some(*role) });
        }
    }
    let is_gone =
        |known: &&Membership| known.is_by_groups && !granted.memberships.contains_key(&known.project);
    let gone = present.iter().filter(is_gone);
    changes.extend(gone.map(|known| MembershipChange { project: known.project.clone(), role: None }));
    changes
}

/// The user name that a provider's word for somebody suggests: in lower case, without the domain of an address. It identifies
/// nobody.
pub fn suggested_name(text: &str) -> Option<Name> {
    let local = text.split('@').next().unwrap_or_default().to_lowercase();
    let plain = local.chars().map(|c| match c {
        'a'..='z' | '0'..='9' | '-' | '_' | '.' => c,
        _ => '-',
    });
    let plain: String = plain.skip_while(|c| !c.is_ascii_alphanumeric()).take(MAX_NAME_CHARS).collect();
    plain.trim_end_matches('-').parse().ok()
}

impl FromStr for GroupRoles {
    type Err = InvalidGroupRoles;

    fn from_str(text: &str) -> Result<GroupRoles, InvalidGroupRoles> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let read = |part: &str| {
            // The name of a group may have an equals sign in it.
            let (group, role) = part.rsplit_once('=').filter(|(group, _)| !group.is_empty())?;
            if role == INSTALLATION_ADMIN {
                return Some((group.to_owned(), GroupRole::InstallationAdmin));
            }
            let (project, role) = role.split_once(':')?;
            Some((group.to_owned(), GroupRole::InProject(project.parse().ok()?, role.parse().ok()?)))
        };
        let roles = parts.map(|part| read(part).ok_or_else(|| InvalidGroupRoles(part.to_owned())));
        roles.collect::<Result<_, _>>().map(GroupRoles)
    }
}

impl fmt::Display for GroupRoles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |(group, role): &(String, GroupRole)| match role {
            GroupRole::InProject(project, role) => format!("{group}={project}:{role}"),
            GroupRole::InstallationAdmin => format!("{group}={INSTALLATION_ADMIN}"),
        };
        f.write_str(&self.0.iter().map(part).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use MemberRole::{Admin, Operator, Viewer};

    fn roles() -> GroupRoles {
        "dev=lab:operator, sre=lab:admin,dev=edge:viewer,cn=root=installation-admin".parse().unwrap()
    }

    fn groups(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn groups_give_the_highest_of_their_roles_in_each_project() {
        let given = roles().of(&groups(&["sre", "dev", "others"]));
        let expected = [("edge".to_owned(), Viewer), ("lab".to_owned(), Admin)];
        assert_eq!(given, Granted { memberships: expected.into(), is_installation_admin: false });
        assert!(roles().of(&groups(&["cn=root"])).is_installation_admin);
        // The whole name counts, as it is written.
        for other in ["DEV", "dev ", "de", "root"] {
            assert!(roles().of(&groups(&[other])).is_empty(), "{other}");
        }
        assert_eq!(roles().to_string().parse::<GroupRoles>().unwrap(), roles());
    }

    #[test]
    fn what_is_no_group_with_its_role_is_refused() {
        for text in
            ["dev", "dev=lab", "=lab:admin", "dev=lab:owner", "dev=LAB:admin", "dev=:admin", "dev=admin"]
        {
            assert!(text.parse::<GroupRoles>().is_err(), "{text}");
        }
        assert!("".parse::<GroupRoles>().unwrap().is_empty());
    }

    #[test]
    fn memberships_by_groups_follow_them_and_those_made_by_hand_stay() {
        let membership = |project: &str, role, is_by_groups| Membership {
            project: project.to_owned(),
            role,
            is_by_groups,
        };
        let change = |project: &str, role| MembershipChange { project: project.to_owned(), role };
        let present = [
            membership("lab", Viewer, true),
            membership("edge", Admin, false),
            membership("left", Operator, true),
            membership("own", Admin, false),
        ];
        let granted = roles().of(&groups(&["dev"]));
        let changes = membership_changes(&present, &granted);
        assert_eq!(changes, [change("lab", Some(Operator)), change("left", None)]);
        assert_eq!(
            membership_changes(
                &[membership("lab", Operator, true), membership("edge", Viewer, true)],
                &granted
            ),
            []
        );
        let new = membership_changes(&[], &granted);
        assert_eq!(new, [change("edge", Some(Viewer)), change("lab", Some(Operator))]);
        let without = membership_changes(&present, &Granted::default());
        assert_eq!(without, [change("lab", None), change("left", None)]);
    }

    #[test]
    fn a_name_is_suggested_from_what_the_provider_says() {
        for (text, expected) in [
            ("ana", Some("ana")),
            ("Ana.Petrović@example.org", Some("ana.petrovi")),
            ("DOMAIN\\\\Ana", Some("domain--ana")),
            ("_root", Some("root")),
            ("@example.org", None),
            ("日本", None),
            ("", None),
        ] {
            assert_eq!(suggested_name(text).as_ref().map(Name::as_str), expected, "{text}");
        }
        assert_eq!(suggested_name(&"a".repeat(300)).unwrap().as_str().len(), MAX_NAME_CHARS);
    }
}
