//! REST bodies about named ports, and about services for load balancers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ports::NamedPort;

/// A running task and its named ports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskPorts {
    /// Address of the task in paths: `name`, or `name.index` if the definition has several tasks.
    pub address: String,
    /// Number of the attempt that has these ports.
    pub attempt: u32,
    /// Name of its worker.
    pub worker: String,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// Whether the task counts as available, if its checks have results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

/// Targets in the format of Prometheus' HTTP service discovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetGroup {
    /// Addresses, as `host:port`.
    pub targets: Vec<String>,
    /// Labels of these targets.
    pub labels: BTreeMap<String, String>,
}

/// Configuration in the format of Traefik's HTTP provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TraefikConfiguration {
    /// The part about HTTP.
    pub http: TraefikHttp,
}

/// HTTP services for Traefik.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TraefikHttp {
    /// The service by its name.
    pub services: BTreeMap<String, TraefikService>,
}

/// A service for Traefik.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TraefikService {
    /// Where requests go.
    #[serde(rename = "loadBalancer")]
    pub load_balancer: TraefikBalancer,
}

/// The servers of a service for Traefik.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TraefikBalancer {
    /// A server for each task.
    pub servers: Vec<TraefikServer>,
}

/// A server for Traefik.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TraefikServer {
    /// Its URL.
    pub url: String,
}
