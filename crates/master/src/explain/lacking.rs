//! What tasks will lack when their turn comes: secrets that do not exist, or cannot be read.

use gaffer_domain::ProjectId;
use gaffer_domain::spec::{JobSpec, TaskSpec, missing_secrets, secret_names};

use crate::records::WaitingTasks;
use crate::store::StoreError;
use crate::views::Views;

/// The state of the secrets of a project, as far as a job uses any.
pub(super) struct Lacking {
    /// Those that exist.
    known: Vec<String>,
    /// Why none can be used.
    problem: Option<String>,
}

impl Lacking {
    pub async fn of(views: &Views, project: ProjectId, spec: &JobSpec) -> Result<Lacking, StoreError> {
        if spec.tasks.iter().all(|task| task.secrets.is_empty()) {
            return Ok(Lacking { known: Vec::new(), problem: None });
        }
        let problem = views.status.vault.ring().err().map(|error| error.to_string());
        Ok(Lacking { known: views.reads.secret_names(project).await?, problem })
    }

    /// The explanation of waiting tasks, with what they will lack.
    pub fn added_to(&self, task: &TaskSpec, waiting: WaitingTasks) -> WaitingTasks {
        let used = secret_names(&task.secrets);
        let unknown: Vec<&str> =
            used.iter().copied().filter(|name| !self.known.iter().any(|known| known == name)).collect();
        let lacks = match (unknown.is_empty(), &self.problem) {
            _ if used.is_empty() => return waiting,
            (false, _) => missing_secrets(&unknown),
            (true, Some(problem)) => problem.clone(),
            (true, None) => return waiting,
        };
        WaitingTasks { message: format!("{}; it will not start: {lacks}", waiting.message), ..waiting }
    }
}
