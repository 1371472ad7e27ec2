//! `/jobs/{job}/ports` and `/services/{service}`: where running tasks are reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gaffer_domain::JobId;
use gaffer_domain::permissions::Action;
use gaffer_protocol::rest::{
    Page, TaskPorts, TraefikBalancer, TraefikConfiguration, TraefikHttp, TraefikServer, TraefikService,
};

use super::super::bodies;
use super::super::description::{LIMIT, Listed, Operation, Parameter, Values};
use super::super::error::Error;
use super::super::params::{Params, id, task_cursor};
use crate::operations::{Actor, services, tasks};
use crate::records;
use crate::views::Views;

/// `next_cursor` of a list of tasks.
const CURSOR: Parameter =
    Parameter::new("cursor", Values::Pattern(r"^c\d+\.\d+$", "c0.49"), "`next_cursor` of the previous page.");
/// Which port of each task.
const PORT: Parameter =
    Parameter::new("port", Values::Text, "Name of the port; without it, the first TCP port of each task.");

pub const OF_JOB: Operation = Operation {
    description: "The running tasks that have named ports, in the order of their definitions and indices.",
    query: &[LIMIT, CURSOR],
    ..Operation::new("list_ports", "List the ports of a job", Action::Look)
};

/// `GET /jobs/{job}/ports`
pub async fn of_job(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(job): Path<String>,
    params: Params,
) -> Result<Listed<TaskPorts>, Error> {
    let job: JobId = id(&job, "job")?;
    tasks::own_job(&views.reads, &actor, job).await?;
    page(&views, job, &params).await
}

pub const OF_SERVICE: Operation = Operation {
    description: "A service is found by its name: the newest job of `type: service` with that name that has not ended.",
    query: &[LIMIT, CURSOR],
    ..Operation::new("list_service_ports", "List the ports of a service", Action::Look)
};

/// `GET /services/{service}/ports`
pub async fn of_service(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(service): Path<String>,
    params: Params,
) -> Result<Listed<TaskPorts>, Error> {
    let job = services::find(&views.reads, &actor, &service).await?;
    page(&views, job, &params).await
}

async fn page(views: &Views, job: JobId, params: &Params) -> Result<Listed<TaskPorts>, Error> {
    let limit = params.limit()?;
    let mut tasks = views.reads.task_ports(job, params.task_cursor()?, limit + 1).await?;
    let has_more = tasks.len() > limit as usize;
    tasks.truncate(limit as usize);
    views.healths.add_readiness(&mut tasks);
    let cursor = |task: &records::TaskPorts| task_cursor(task.position, task.index);
    let next_cursor = tasks.last().filter(|_| has_more).map(cursor);
    let items = tasks.into_iter().map(bodies::task_ports).collect();
    Ok(Listed::of(params, Page { items, next_cursor }))
}

pub const TRAEFIK: Operation = Operation {
    description: "For the HTTP provider of Traefik: a router of your own names the service as `NAME@http`. Tasks whose checks \
        say that they are not available are left out.",
    query: &[PORT],
    ..Operation::new("get_service_for_traefik", "Get a service for Traefik", Action::Look)
};

/// `GET /services/{service}/traefik`
pub async fn traefik(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(service): Path<String>,
    params: Params,
) -> Result<Json<TraefikConfiguration>, Error> {
    let found = services::for_balancer(&views, &actor, &service).await?;
    let targets = found.ready_targets(params.text("port"));
    let servers = targets.map(|port| TraefikServer { url: format!("http://{}", port.address()) });
    let load_balancer = TraefikBalancer { servers: servers.collect() };
    let services = BTreeMap::from([(service, TraefikService { load_balancer })]);
    Ok(Json(TraefikConfiguration { http: TraefikHttp { services } }))
}

pub const HTTP_SD: Operation = Operation {
    description: "For `http_sd_configs` of Prometheus: a group for each task, with labels for its job, address, attempt and \
        worker.",
    query: &[PORT],
    ..Operation::new("get_service_for_prometheus", "Get a service for Prometheus", Action::Look)
};

/// `GET /services/{service}/http-sd`
pub async fn http_sd(
    State(views): State<Arc<Views>>,
    actor: Actor,
    Path(service): Path<String>,
    params: Params,
) -> Result<Json<Vec<gaffer_protocol::rest::TargetGroup>>, Error> {
    let found = services::for_balancer(&views, &actor, &service).await?;
    let group = |(task, port): (&records::TaskPorts, &gaffer_protocol::ports::NamedPort)| {
        let labels = [
            ("job", found.job.to_string()),
            ("service", service.clone()),
            ("task", task.address.clone()),
            ("attempt", task.attempt.to_string()),
            ("worker", task.worker.clone()),
            ("port", port.name.clone()),
        ];
        let labels = labels.map(|(name, value)| (format!("__meta_gaffer_{name}"), value));
        gaffer_protocol::rest::TargetGroup { targets: vec![port.address()], labels: labels.into() }
    };
    Ok(Json(found.targets(params.text("port")).map(group).collect()))
}
