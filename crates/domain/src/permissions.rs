//! The list of who may do what, and with which key; every operation checks it first.

use std::fmt;

use crate::scopes::{Scope, Scopes};

/// The role of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A user of the first project, whose key or browser session it is: the installation is theirs.
    Operator,
    /// A user of another project, with a key or a browser session.
    User,
    /// A worker, with its key: it takes work, and asks for nothing.
    Worker,
    /// A monitoring system, with the token for metrics.
    Monitor,
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
    /// List keys, without what they are.
    ListKeys,
    /// Create a key.
    CreateKey,
    /// Replace a key with a new one, and let the old one expire.
    RotateKey,
    /// Revoke a key.
    RevokeKey,
    /// Create a link that signs oneself in.
    CreateSignInLink,
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
}

/// Why somebody may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The role may not, whatever the key.
    Role,
    /// The key lacks these scopes.
    Scopes(Scopes),
}

/// Whether this role may do that with a key of these scopes. The role decides first: a scope gives nothing that its user may
/// not do.
///
/// # Errors
/// When it may not, with the reason.
pub fn check(role: Role, scopes: Scopes, action: Action) -> Result<(), Denied> {
    if !role.may(action) {
        return Err(Denied::Role);
    }
    let missing = action.scopes().without(scopes);
    if missing.is_empty() { Ok(()) } else { Err(Denied::Scopes(missing)) }
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Role::Operator, Role::User, Role::Worker, Role::Monitor];

    /// Whether this one may do that.
    pub fn may(self, action: Action) -> bool {
        allowed(action).contains(&self)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::User => "user",
            Role::Worker => "worker",
            Role::Monitor => "monitor",
        }
    }
}

/// The list: who may do this.
fn allowed(action: Action) -> &'static [Role] {
    use Role::{Monitor, Operator, User};
    match action {
        Action::Look => &[Operator, User],
        Action::SubmitJob => &[Operator, User],
        Action::ManageTemplates => &[Operator, User],
        Action::StopJob => &[Operator, User],
        Action::ScaleService => &[Operator, User],
        Action::DeleteJob => &[Operator, User],
        Action::PinJob => &[Operator, User],
        Action::SignalTask => &[Operator, User],
        Action::WriteToTask => &[Operator, User],
        Action::DirectWorker => &[Operator, User],
        Action::RemoveWorker => &[Operator, User],
        Action::ListKeys => &[Operator, User],
        Action::CreateKey => &[Operator, User],
        Action::RotateKey => &[Operator, User],
        Action::RevokeKey => &[Operator, User],
        Action::CreateSignInLink => &[Operator, User],
        Action::ListDeadLetters => &[Operator, User],
        Action::RetryDeadLetter => &[Operator, User],
        Action::DeleteDeadLetter => &[Operator, User],
        Action::LookAtSystem => &[Operator, User],
        Action::LookAtScheduler => &[Operator],
        Action::ReadMetrics => &[Operator, Monitor],
        Action::ReadAudit => &[Operator, User],
        Action::ReadAuditOfInstallation => &[Operator],
    }
}

impl Action {
    /// The scopes that a user key needs for this, all of them.
    pub const fn scopes(self) -> Scopes {
        match self {
            Action::Look
            | Action::ListDeadLetters
            | Action::LookAtSystem
            | Action::LookAtScheduler
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
            | Action::DeleteDeadLetter => Scopes::only(Scope::Operate),
            Action::ListKeys
            | Action::CreateKey
            | Action::RotateKey
            | Action::RevokeKey
            | Action::ReadAudit
            | Action::ReadAuditOfInstallation => Scopes::only(Scope::Admin),
            // The session that the link opens may do all that its user may.
            Action::CreateSignInLink => Scopes::ALL,
        }
    }

    /// All of them.
    pub const ALL: [Action; 24] = [
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
        Action::CreateSignInLink,
        Action::ListDeadLetters,
        Action::RetryDeadLetter,
        Action::DeleteDeadLetter,
        Action::LookAtSystem,
        Action::LookAtScheduler,
        Action::ReadMetrics,
        Action::ReadAudit,
        Action::ReadAuditOfInstallation,
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
            Action::ListDeadLetters => "list_dead_letters",
            Action::RetryDeadLetter => "retry_dead_letter",
            Action::DeleteDeadLetter => "delete_dead_letter",
            Action::LookAtSystem => "look_at_system",
            Action::LookAtScheduler => "look_at_scheduler",
            Action::ReadMetrics => "read_metrics",
            Action::ReadAudit => "read_audit",
            Action::ReadAuditOfInstallation => "read_audit_of_installation",
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
            Action::ListKeys => "list keys",
            Action::CreateKey => "create keys",
            Action::RotateKey => "rotate keys",
            Action::RevokeKey => "revoke keys",
            Action::CreateSignInLink => "create a sign-in link for themselves",
            Action::ListDeadLetters => "list dead letters",
            Action::RetryDeadLetter => "retry dead letters",
            Action::DeleteDeadLetter => "delete dead letters",
            Action::LookAtSystem => "read the state of the master",
            Action::LookAtScheduler => "read the scheduler's statistics of all projects",
            Action::ReadMetrics => "read the metrics of all projects",
            Action::ReadAudit => "read the audit log",
            Action::ReadAuditOfInstallation => "read the audit log of the installation",
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

    #[test]
    fn a_key_may_do_what_its_scopes_say_and_nothing_else() {
        let allowed = |scope| {
            let of = |action: &Action| check(Role::Operator, Scopes::only(scope), *action).is_ok();
            Action::ALL.iter().copied().filter(of).collect::<Vec<_>>()
        };
        assert_eq!(
            allowed(Scope::Read),
            [
                Action::Look,
                Action::ListDeadLetters,
                Action::LookAtSystem,
                Action::LookAtScheduler,
                Action::ReadMetrics
            ]
        );
        assert_eq!(allowed(Scope::Submit), [Action::SubmitJob]);
        assert_eq!(
            allowed(Scope::Admin),
            [Action::ListKeys, Action::CreateKey, Action::RotateKey, Action::RevokeKey]
        );
        // All the rest is operating, except what opens a session that may do everything.
        let one_is_enough = Scope::ALL.into_iter().map(|scope| allowed(scope).len()).sum::<usize>();
        assert_eq!(one_is_enough, Action::ALL.len() - 1);
        for scope in Scope::ALL {
            let without = Scopes::ALL.without(Scopes::only(scope));
            let denied = check(Role::Operator, without, Action::CreateSignInLink);
            assert_eq!(denied, Err(Denied::Scopes(Scopes::only(scope))));
        }
    }

    #[test]
    fn a_key_with_all_scopes_may_do_what_its_user_may_and_one_without_scopes_nothing() {
        for action in Action::ALL {
            for role in Role::ALL {
                assert_eq!(check(role, Scopes::ALL, action).is_ok(), role.may(action), "{action}");
                let denied = check(role, Scopes::NONE, action);
                let why = if role.may(action) { Denied::Scopes(action.scopes()) } else { Denied::Role };
                assert_eq!(denied, Err(why), "{action}");
            }
            assert!(!action.scopes().is_empty(), "{action}");
        }
    }

    #[test]
    fn users_may_do_everything_in_their_project_and_workers_nothing() {
        for action in Action::ALL {
            assert!(Role::Operator.may(action), "{action}");
            let is_of_all_projects = [Action::LookAtScheduler, Action::ReadMetrics].contains(&action);
            assert_eq!(Role::User.may(action), !is_of_all_projects, "{action}");
            assert!(!Role::Worker.may(action), "{action}");
            assert_eq!(Role::Monitor.may(action), action == Action::ReadMetrics, "{action}");
        }
    }
}
