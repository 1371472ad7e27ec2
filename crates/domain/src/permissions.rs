//! The list of who may do what, and with which key; every operation checks it first.

use std::fmt;

use crate::scopes::{Scope, Scopes};

/// The role of an actor. Members of a project are viewers, operators or admins of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A member who only reads.
    Viewer,
    /// A member who runs jobs and directs workers.
    Operator,
    /// A member who also decides who the members are, and manages the keys of workers.
    Admin,
    /// An administrator of the installation, whatever their role in the project is.
    InstallationAdmin,
    /// A worker, with its key: it takes work, and asks for nothing.
    Worker,
    /// A monitoring system, with the token for metrics.
    Monitor,
}

/// What somebody is: their role in the project, and whether they administer the installation, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Their role in the project.
    pub role: Role,
    /// Whether they are also an administrator of the installation.
    pub is_installation_admin: bool,
}

/// An action in the actor's project, unless its name says that it concerns the whole installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read jobs, tasks, output, history, workers and the queue.
    Look,
    /// Submit a job, run one again, or update a service.
    SubmitJob,
    /// Save a version of a template, or delete a template.
    ManageTemplates,
    /// Stop a job.
    StopJob,
    /// Keep another number of instances of a service.
    ScaleService,
    /// Delete a finished job.
    DeleteJob,
    /// Pin a job, or unpin it.
    PinJob,
    /// Send a signal to a task.
    SignalTask,
    /// Write to the standard input of a task.
    WriteToTask,
    /// Let a worker drain, cordon it, or let it take work again.
    DirectWorker,
    /// Remove a disconnected worker.
    RemoveWorker,
    /// List one's own keys, without what they are.
    ListKeys,
    /// Create a key of one's own.
    CreateKey,
    /// Replace a key with a new one, and let the old one expire.
    RotateKey,
    /// Revoke a key of one's own.
    RevokeKey,
    /// Create and rotate keys of workers; list and revoke those of workers and of other users.
    ManageProjectKeys,
    /// Create and rotate keys of workers that take tasks of other projects, too.
    ShareWorkers,
    /// List secrets, without their values.
    ListSecrets,
    /// Store the value of a secret.
    SetSecret,
    /// Delete a secret.
    DeleteSecret,
    /// Create a link that signs oneself in.
    CreateSignInLink,
    /// See one's own browser sessions, and end them.
    ManageSessions,
    /// Change one's own password.
    ChangePassword,
    /// See what the database refused.
    ListDeadLetters,
    /// Try again to store what the database refused.
    RetryDeadLetter,
    /// Delete what the database refused.
    DeleteDeadLetter,
    /// See how the master's loops and its database are doing.
    LookAtSystem,
    /// See how the scheduler is doing, for all projects.
    LookAtScheduler,
    /// Read the metrics, which count what all projects do.
    ReadMetrics,
    /// Read who changed what in the project.
    ReadAudit,
    /// Read who changed what in the installation as a whole.
    ReadAuditOfInstallation,
    /// List the projects that one is a member of, and their members.
    LookAtProjects,
    /// Rename or delete the project.
    ManageProject,
    /// Add members to the project, change their roles, remove them.
    ManageMembers,
    /// Create a project.
    CreateProject,
    /// Set the weights and quotas of projects.
    SetTerms,
    /// List the users of the installation.
    ListUsers,
    /// Create, disable, enable and delete users, and say who administers the installation.
    ManageUsers,
}

/// Why somebody may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The role may not, whatever the key.
    Role,
    /// The key lacks these scopes.
    Scopes(Scopes),
}

/// Whether they may do that with a key of these scopes. The role decides first: a scope gives nothing that its user may
/// not do.
///
/// # Errors
/// When it may not, with the reason.
pub fn check(standing: Standing, scopes: Scopes, action: Action) -> Result<(), Denied> {
    if !standing.may(action) {
        return Err(Denied::Role);
    }
    let missing = action.scopes().without(scopes);
    if missing.is_empty() { Ok(()) } else { Err(Denied::Scopes(missing)) }
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 6] =
        [Role::Viewer, Role::Operator, Role::Admin, Role::InstallationAdmin, Role::Worker, Role::Monitor];

    /// Whether this one may do that.
    pub fn may(self, action: Action) -> bool {
        allowed(action).contains(&self)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::InstallationAdmin => "installation admin",
            Role::Worker => "worker",
            Role::Monitor => "monitor",
        }
    }
}

impl Standing {
    /// A role, and nothing beyond it.
    pub fn only(role: Role) -> Standing {
        Standing { role, is_installation_admin: false }
    }

    /// Whether somebody like this may do that.
    pub fn may(self, action: Action) -> bool {
        self.role.may(action) || (self.is_installation_admin && Role::InstallationAdmin.may(action))
    }
}

/// The list: who may do this.
fn allowed(action: Action) -> &'static [Role] {
    use Role::{Admin, InstallationAdmin, Monitor, Operator, Viewer};
    match action {
        Action::Look => &[Viewer, Operator, Admin],
        Action::SubmitJob => &[Operator, Admin],
        Action::ManageTemplates => &[Operator, Admin],
        Action::StopJob => &[Operator, Admin],
        Action::ScaleService => &[Operator, Admin],
        Action::DeleteJob => &[Operator, Admin],
        Action::PinJob => &[Operator, Admin],
        Action::SignalTask => &[Operator, Admin],
        Action::WriteToTask => &[Operator, Admin],
        Action::DirectWorker => &[Operator, Admin],
        Action::RemoveWorker => &[Operator, Admin],
        Action::ListKeys => &[Viewer, Operator, Admin],
        Action::CreateKey => &[Viewer, Operator, Admin],
        Action::RotateKey => &[Viewer, Operator, Admin],
        Action::RevokeKey => &[Viewer, Operator, Admin],
        Action::ManageProjectKeys => &[Admin],
        Action::ShareWorkers => &[InstallationAdmin],
        Action::ListSecrets => &[Operator, Admin],
        Action::SetSecret => &[Admin],
        Action::DeleteSecret => &[Admin],
        Action::CreateSignInLink => &[Viewer, Operator, Admin],
        Action::ManageSessions => &[Viewer, Operator, Admin],
        Action::ChangePassword => &[Viewer, Operator, Admin],
        Action::ListDeadLetters => &[Viewer, Operator, Admin],
        Action::RetryDeadLetter => &[Operator, Admin],
        Action::DeleteDeadLetter => &[Operator, Admin],
        Action::LookAtSystem => &[Viewer, Operator, Admin],
        Action::LookAtScheduler => &[InstallationAdmin],
        Action::ReadMetrics => &[InstallationAdmin, Monitor],
        Action::ReadAudit => &[Admin],
        Action::ReadAuditOfInstallation => &[InstallationAdmin],
        Action::LookAtProjects => &[Viewer, Operator, Admin, InstallationAdmin],
        Action::ManageProject => &[Admin, InstallationAdmin],
        Action::ManageMembers => &[Admin, InstallationAdmin],
        Action::CreateProject => &[InstallationAdmin],
        Action::SetTerms => &[InstallationAdmin],
        Action::ListUsers => &[InstallationAdmin],
        Action::ManageUsers => &[InstallationAdmin],
    }
}

impl Action {
    /// The roles that may do this.
    pub fn roles(self) -> &'static [Role] {
        allowed(self)
    }

    /// The scopes that a user key needs for this, all of them.
    pub const fn scopes(self) -> Scopes {
        match self {
            Action::Look
            | Action::ListDeadLetters
            | Action::LookAtSystem
            | Action::LookAtScheduler
            | Action::LookAtProjects
            | Action::ReadMetrics => Scopes::only(Scope::Read),
            Action::SubmitJob => Scopes::only(Scope::Submit),
            // A changed template changes what others submit.
            Action::ManageTemplates
            | Action::StopJob
            | Action::ScaleService
            | Action::DeleteJob
            | Action::PinJob
            | Action::SignalTask
            | Action::WriteToTask
            | Action::DirectWorker
            | Action::RemoveWorker
            | Action::RetryDeadLetter
            | Action::DeleteDeadLetter
            // Their names, for those who write specifications and see why tasks do not start.
            | Action::ListSecrets => Scopes::only(Scope::Operate),
            // A secret that is replaced changes what every job does that uses it.
            Action::SetSecret | Action::DeleteSecret => Scopes::only(Scope::Admin),
            Action::ListKeys
            | Action::CreateKey
            | Action::RotateKey
            | Action::RevokeKey
            | Action::ManageProjectKeys
            | Action::ShareWorkers
            | Action::ManageSessions
            | Action::ManageProject
            | Action::CreateProject
            | Action::SetTerms
            | Action::ListUsers
            | Action::ReadAudit
            | Action::ReadAuditOfInstallation => Scopes::only(Scope::Admin),
            // The session that a link opens may do all that its user may, and so may who becomes a member or a user.
            Action::CreateSignInLink
            | Action::ChangePassword
            | Action::ManageMembers
            | Action::ManageUsers => Scopes::ALL,
        }
    }

    /// All of them.
    pub const ALL: [Action; 38] = [
        Action::Look,
        Action::SubmitJob,
        Action::ManageTemplates,
        Action::StopJob,
        Action::ScaleService,
        Action::DeleteJob,
        Action::PinJob,
        Action::SignalTask,
        Action::WriteToTask,
        Action::DirectWorker,
        Action::RemoveWorker,
        Action::ListKeys,
        Action::CreateKey,
        Action::RotateKey,
        Action::RevokeKey,
        Action::ManageProjectKeys,
        Action::ShareWorkers,
        Action::ListSecrets,
        Action::SetSecret,
        Action::DeleteSecret,
        Action::CreateSignInLink,
        Action::ManageSessions,
        Action::ChangePassword,
        Action::ListDeadLetters,
        Action::RetryDeadLetter,
        Action::DeleteDeadLetter,
        Action::LookAtSystem,
        Action::LookAtScheduler,
        Action::ReadMetrics,
        Action::ReadAudit,
        Action::ReadAuditOfInstallation,
        Action::LookAtProjects,
        Action::ManageProject,
        Action::ManageMembers,
        Action::CreateProject,
        Action::SetTerms,
        Action::ListUsers,
        Action::ManageUsers,
    ];

    /// Its name for programs, as the audit log has it.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Look => "look",
            Action::SubmitJob => "submit_job",
            Action::ManageTemplates => "manage_templates",
            Action::StopJob => "stop_job",
            Action::ScaleService => "scale_service",
            Action::DeleteJob => "delete_job",
            Action::PinJob => "pin_job",
            Action::SignalTask => "signal_task",
            Action::WriteToTask => "write_to_task",
            Action::DirectWorker => "direct_worker",
            Action::RemoveWorker => "remove_worker",
            Action::ListKeys => "list_keys",
            Action::CreateKey => "create_key",
            Action::RotateKey => "rotate_key",
            Action::RevokeKey => "revoke_key",
            Action::CreateSignInLink => "create_sign_in_link",
            Action::ManageSessions => "manage_sessions",
            Action::ChangePassword => "change_password",
            Action::ListDeadLetters => "list_dead_letters",
            Action::RetryDeadLetter => "retry_dead_letter",
            Action::DeleteDeadLetter => "delete_dead_letter",
            Action::LookAtSystem => "look_at_system",
            Action::LookAtScheduler => "look_at_scheduler",
            Action::ReadMetrics => "read_metrics",
            Action::ReadAudit => "read_audit",
            Action::ReadAuditOfInstallation => "read_audit_of_installation",
            Action::ManageProjectKeys => "manage_project_keys",
            Action::ShareWorkers => "share_workers",
            Action::ListSecrets => "list_secrets",
            Action::SetSecret => "set_secret",
            Action::DeleteSecret => "delete_secret",
            Action::LookAtProjects => "look_at_projects",
            Action::ManageProject => "manage_project",
            Action::ManageMembers => "manage_members",
            Action::CreateProject => "create_project",
            Action::SetTerms => "set_terms",
            Action::ListUsers => "list_users",
            Action::ManageUsers => "manage_users",
        }
    }

    /// Whether it changes nothing: what does is in the audit log.
    pub const fn only_reads(self) -> bool {
        matches!(
            self,
            Action::Look
                | Action::ListKeys
                | Action::ListDeadLetters
                | Action::LookAtSystem
                | Action::LookAtScheduler
                | Action::ReadMetrics
                | Action::ReadAudit
                | Action::ReadAuditOfInstallation
                | Action::LookAtProjects
                | Action::ListUsers
                | Action::ListSecrets
        )
    }
}

/// What follows "may", in an error and in the table.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Look => "read jobs, output, history, workers and the queue",
            Action::SubmitJob => "submit and rerun jobs, update services",
            Action::ManageTemplates => "save and delete templates",
            Action::StopJob => "stop jobs",
            Action::ScaleService => "scale services",
            Action::DeleteJob => "delete jobs",
            Action::PinJob => "pin and unpin jobs",
            Action::SignalTask => "send signals to tasks",
            Action::WriteToTask => "write to the standard input of tasks",
            Action::DirectWorker => "drain, cordon and resume workers",
            Action::RemoveWorker => "remove workers",
            Action::ListKeys => "list their own keys",
            Action::CreateKey => "create keys of their own",
            Action::RotateKey => "rotate their own keys",
            Action::RevokeKey => "revoke their own keys",
            Action::ManageProjectKeys => {
                "create and rotate keys of workers, list and revoke those of workers and of other users"
            }
            Action::ShareWorkers => "create and rotate keys of shared workers",
            Action::ListSecrets => "list secrets",
            Action::SetSecret => "set secrets",
            Action::DeleteSecret => "delete secrets",
            Action::CreateSignInLink => "create a sign-in link for themselves",
            Action::ManageSessions => "list and end their own browser sessions",
            Action::ChangePassword => "change their own password",
            Action::ListDeadLetters => "list dead letters",
            Action::RetryDeadLetter => "retry dead letters",
            Action::DeleteDeadLetter => "delete dead letters",
            Action::LookAtSystem => "read the state of the master",
            Action::LookAtScheduler => "read the scheduler's statistics of all projects",
            Action::ReadMetrics => "read the metrics of all projects",
            Action::ReadAudit => "read the audit log",
            Action::ReadAuditOfInstallation => "read the audit log of the installation",
            Action::LookAtProjects => "list their projects and the members",
            Action::ManageProject => "rename and delete the project",
            Action::ManageMembers => "add and remove members, change their roles",
            Action::CreateProject => "create projects",
            Action::SetTerms => "set weights and quotas of projects",
            Action::ListUsers => "list users",
            Action::ManageUsers => "create, disable, enable and delete users",
        })
    }
}

/// The list as a table in Markdown, as SECURITY.md has it.
pub fn matrix() -> String {
    let heads: String = Role::ALL.iter().map(|role| format!(" {} |", role.as_str())).collect();
    let mut table = format!("| may | scope of a key |{heads}\n|---|---|{}\n", "---|".repeat(Role::ALL.len()));
    for action in Action::ALL {
        let answers = Role::ALL.map(|role| if role.may(action) { " yes |" } else { " no |" });
        let scopes = match action.scopes() {
            Scopes::ALL => "all four".to_owned(),
            scopes => format!("`{scopes}`"),
        };
        table.push_str(&format!("| {action} | {scopes} |{}\n", answers.concat()));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_in_the_table_once() {
        let table = matrix();
        for action in Action::ALL {
            assert_eq!(table.matches(&format!("| {action} |")).count(), 1, "{table}");
        }
        assert_eq!(table.lines().count(), Action::ALL.len() + 2);
    }

    /// Somebody who may do as much as anybody may in a project, and beyond it.
    const OWNER: Standing = Standing { role: Role::Admin, is_installation_admin: true };

    #[test]
    fn a_key_may_do_what_its_scopes_say_and_nothing_else() {
        let allowed = |scope| {
            let of = |action: &Action| check(OWNER, Scopes::only(scope), *action).is_ok();
            Action::ALL.iter().copied().filter(of).collect::<Vec<_>>()
        };
        assert_eq!(
            allowed(Scope::Read),
            [
                Action::Look,
                Action::ListDeadLetters,
                Action::LookAtSystem,
                Action::LookAtScheduler,
                Action::ReadMetrics,
                Action::LookAtProjects
            ]
        );
        assert_eq!(allowed(Scope::Submit), [Action::SubmitJob]);
        assert_eq!(
            allowed(Scope::Admin),
            [
                Action::ListKeys,
                Action::CreateKey,
                Action::RotateKey,
                Action::RevokeKey,
                Action::ManageProjectKeys,
                Action::ShareWorkers,
                Action::SetSecret,
                Action::DeleteSecret,
                Action::ManageSessions,
                Action::ReadAudit,
                Action::ReadAuditOfInstallation,
                Action::ManageProject,
                Action::CreateProject,
                Action::SetTerms,
                Action::ListUsers
            ]
        );
        // All the rest is operating, except what gives somebody a session that may do everything.
        let needs_all =
            [Action::CreateSignInLink, Action::ChangePassword, Action::ManageMembers, Action::ManageUsers];
        let one_is_enough = Scope::ALL.into_iter().map(|scope| allowed(scope).len()).sum::<usize>();
        assert_eq!(one_is_enough, Action::ALL.len() - needs_all.len());
        for (scope, action) in
            Scope::ALL.into_iter().flat_map(|scope| needs_all.map(|action| (scope, action)))
        {
            let without = Scopes::ALL.without(Scopes::only(scope));
            assert_eq!(check(OWNER, without, action), Err(Denied::Scopes(Scopes::only(scope))), "{action}");
        }
    }

    #[test]
    fn a_key_with_all_scopes_may_do_what_its_user_may_and_one_without_scopes_nothing() {
        for action in Action::ALL {
            for standing in Role::ALL.map(Standing::only).into_iter().chain([OWNER]) {
                assert_eq!(check(standing, Scopes::ALL, action).is_ok(), standing.may(action), "{action}");
                let denied = check(standing, Scopes::NONE, action);
                let why = if standing.may(action) { Denied::Scopes(action.scopes()) } else { Denied::Role };
                assert_eq!(denied, Err(why), "{action}");
            }
            assert!(!action.scopes().is_empty(), "{action}");
        }
    }

    #[test]
    fn each_role_of_a_project_may_do_what_the_one_below_may_and_more() {
        let allowed = |role: Role| Action::ALL.into_iter().filter(|action| role.may(*action)).count();
        for (lower, higher) in [(Role::Viewer, Role::Operator), (Role::Operator, Role::Admin)] {
            for action in Action::ALL {
                assert!(higher.may(action) || !lower.may(action), "{action}");
            }
            assert!(allowed(lower) < allowed(higher));
        }
        assert_eq!(allowed(Role::Worker), 0);
    }

    #[test]
    fn a_viewer_changes_nothing_but_their_own_keys() {
        let own = [
            Action::CreateKey,
            Action::RotateKey,
            Action::RevokeKey,
            Action::CreateSignInLink,
            Action::ManageSessions,
            Action::ChangePassword,
        ];
        let looks = [
            Action::Look,
            Action::ListKeys,
            Action::ListDeadLetters,
            Action::LookAtSystem,
            Action::LookAtProjects,
        ];
        for action in Action::ALL {
            assert_eq!(
                Role::Viewer.may(action),
                own.contains(&action) || looks.contains(&action),
                "{action}"
            );
        }
    }

    #[test]
    fn who_administers_the_installation_sees_nothing_of_a_project_without_a_role_in_it() {
        let allowed: Vec<Action> =
            Action::ALL.into_iter().filter(|action| Role::InstallationAdmin.may(*action)).collect();
        assert_eq!(
            allowed,
            [
                Action::ShareWorkers,
                Action::LookAtScheduler,
                Action::ReadMetrics,
                Action::ReadAuditOfInstallation,
                Action::LookAtProjects,
                Action::ManageProject,
                Action::ManageMembers,
                Action::CreateProject,
                Action::SetTerms,
                Action::ListUsers,
                Action::ManageUsers
            ]
        );
        for action in Action::ALL {
            let viewer = Standing { role: Role::Viewer, is_installation_admin: true };
            assert_eq!(viewer.may(action), Role::Viewer.may(action) || allowed.contains(&action), "{action}");
            assert_eq!(Role::Monitor.may(action), action == Action::ReadMetrics, "{action}");
        }
    }
}
