//! `gaffer ports`: shows where the tasks of a job or service are reached.

use clap::Args;
use gaffer_domain::spec::PortProtocol;
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::rest::{Page, TaskPorts};
use serde::Serialize;

use crate::client::{Client, Query};
use crate::config;
use crate::failure::Failure;
use crate::listing::{Format, Output};
use crate::out::Out;
use crate::selector::One;
use crate::style;
use crate::table::{self, Cell};

const HEAD: [&str; 4] = ["TASK", "PORT", "ADDRESS", "WORKER"];
const WIDE_HEAD: [&str; 7] = ["TASK", "PORT", "ADDRESS", "TARGET", "ATTEMPT", "READY", "WORKER"];
/// Tasks of one request.
const PAGE: &str = "500";

/// Which job or service.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gaffer ports web
  gaffer ports 42 -o name --port http
  gaffer ports web --srv
  curl http://$(gaffer ports web -o name | head -n 1)/

-o name prints host:port, one per line. --srv prints a line for each port in the style of DNS service discovery (RFC 6763).")]
pub struct PortsArgs {
    /// Number of a job, last, or the name of a running service
    #[arg(value_name = "JOB|NAME")]
    job: String,
    /// Only ports of this name
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Print records like those of DNS service discovery
    #[arg(long, conflicts_with = "format")]
    srv: bool,
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// Errors of the API or the network.
pub async fn run(args: PortsArgs, out: &Out) -> Result<u8, Failure> {
    let client = Client::new(&config::access()?)?;
    let (kind, name) = match args.job.parse::<One>() {
        Ok(job) => ("jobs", job.resolve(&client).await?.to_string()),
        Err(_) => ("services", args.job.clone()),
    };
    let path = [kind, &name, "ports"];
    let mut query: Query = vec![("limit", PAGE.to_owned())];
    let mut tasks: Vec<TaskPorts> = Vec::new();
    loop {
        let answer = client.get(&path, &query).await?;
        let page: Page<TaskPorts> = answer.read()?;
        tasks.extend(page.items);
        let Some(cursor) = page.next_cursor else { break };
        query = vec![("limit", PAGE.to_owned()), ("cursor", cursor)];
    }
    if let Some(wanted) = &args.port {
        tasks.iter_mut().for_each(|task| task.ports.retain(|port| port.name == *wanted));
        tasks.retain(|task| !task.ports.is_empty());
    }
    show(out, &args, &tasks)?;
    Ok(0)
}

fn show(out: &Out, args: &PortsArgs, tasks: &[TaskPorts]) -> Result<(), Failure> {
    let all = || tasks.iter().flat_map(|task| task.ports.iter().map(move |port| (task, port)));
    if args.srv {
        return all().try_for_each(|(task, port)| out.line(&record(&args.job, task, port)));
    }
    match args.output.format {
        Format::Json => json(out, &Page { items: tasks.to_vec(), next_cursor: None }),
        Format::Jsonl => tasks.iter().try_for_each(|task| json(out, task)),
        Format::Name => all().try_for_each(|(_, port)| out.line(&style::visible(&port.address()))),
        Format::Table | Format::Wide if tasks.is_empty() => {
            out.remark("no running task has a named port");
            Ok(())
        }
        Format::Table => out.print(table::render(out, &HEAD, all().map(cells).collect()).as_bytes()),
        Format::Wide => out.print(table::render(out, &WIDE_HEAD, all().map(wide_cells).collect()).as_bytes()),
    }
}

fn json(out: &Out, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value);
    out.line(&text.map_err(|error| Failure::Local(format!("cannot write JSON: {error}")))?)
}

fn cells((task, port): (&TaskPorts, &NamedPort)) -> Vec<Cell> {
    vec![
        Cell::text(&task.address),
        Cell::text(&port.name),
        Cell::text(port.address()),
        Cell::text(&task.worker),
    ]
}

fn wide_cells((task, port): (&TaskPorts, &NamedPort)) -> Vec<Cell> {
    vec![
        Cell::text(&task.address),
        Cell::text(&port.name),
        Cell::text(port.address()),
        Cell::text(format!("{}/{}", port.target, port.protocol.as_str())),
        Cell::text(task.attempt.to_string()),
        Cell::maybe(task.ready.map(|ready| if ready { "yes" } else { "no" })),
        Cell::text(&task.worker),
    ]
}

/// `main.0._http._tcp.web SRV 0 0 20000 10.0.0.7`
fn record(name: &str, task: &TaskPorts, port: &NamedPort) -> String {
    let protocol = match port.protocol {
        PortProtocol::Tcp => "_tcp",
        PortProtocol::Udp => "_udp",
    };
    let line =
        format!("{}._{}.{protocol}.{name} SRV 0 0 {} {}", task.address, port.name, port.port, port.host);
    style::visible(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_task_port_and_service() {
        let port = NamedPort {
            name: "http".to_owned(),
            host: "10.0.0.7".to_owned(),
            port: 20_000,
            target: 80,
            protocol: PortProtocol::Tcp,
        };
        let task = TaskPorts {
            address: "main.1".to_owned(),
            attempt: 1,
            worker: "pi4".to_owned(),
            ports: vec![port.clone()],
            ready: None,
        };
        assert_eq!(record("web", &task, &port), "main.1._http._tcp.web SRV 0 0 20000 10.0.0.7");
    }
}
