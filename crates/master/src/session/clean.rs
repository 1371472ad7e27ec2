//! Sanitises text and numbers of a worker for storage and display.

use std::str::FromStr as _;

use gaffer_domain::constraint::is_resource_name;
use gaffer_domain::placement::Feature;
use gaffer_domain::spec::MAX_PORT_NAME_LEN;
use gaffer_domain::visible::spoils_a_line;
use gaffer_protocol::ports::NamedPort;
use gaffer_protocol::wire::{ContainerFacts, DriverStatus, Hello};

use super::SessionEnd;

/// Longest text that is taken from a worker for people to read.
pub(super) const MAX_TEXT_CHARS: usize = 2_000;
pub(super) const MAX_NOTE_CHARS: usize = 300;
const MAX_NAME_CHARS: usize = 100;
const MAX_LABELS: usize = 64;
const MAX_COUNTABLES: usize = 64;
const MAX_DRIVERS: usize = 16;
const MAX_PORTS: usize = 64;
const MAX_HOST_CHARS: usize = 255;

/// A hello in which every text is fit to be stored and shown.
pub(super) fn cleaned(mut hello: Hello) -> Result<Hello, SessionEnd> {
    hello.name = clean(&hello.name, MAX_NAME_CHARS).trim().to_owned();
    // A numeric name could be mistaken for a number.
    if hello.name.is_empty() || hello.name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(SessionEnd::protocol("a worker's name must have a letter in it (GAFFER_WORKER_NAME)"));
    }
    if hello.labels.len() > MAX_LABELS || hello.warnings.len() > 16 {
        return Err(SessionEnd::protocol("the hello has too many labels or warnings"));
    }
    if hello.countables.len() > MAX_COUNTABLES || !hello.countables.keys().all(|name| is_resource_name(name))
    {
        return Err(SessionEnd::protocol(
            "the hello has too many countable resources, or one with an invalid name",
        ));
    }
    if hello.capacity.memory.get() > i64::MAX as u64 || hello.capacity.disk.get() > i64::MAX as u64 {
        return Err(SessionEnd::protocol("the memory or disk capacity in the hello is out of range"));
    }
    hello.capacity.cpu = hello.capacity.cpu.min(gaffer_domain::quantity::Cpu::from_millis(i32::MAX as u32));
    hello.labels = hello.labels.iter().map(|(key, value)| (clean(key, 63), clean(value, 255))).collect();
    for text in
        [&mut hello.datacenter, &mut hello.arch, &mut hello.os, &mut hello.version, &mut hello.boot_id]
    {
        *text = clean(text, MAX_NAME_CHARS);
    }
    let place = &mut hello.place;
    for text in [&mut place.machine, &mut place.hardware, &mut place.host, &mut place.directory] {
        *text = text.take().map(|text| clean(&text, MAX_NAME_CHARS));
    }
    for warning in &mut hello.warnings {
        *warning = clean(warning, MAX_TEXT_CHARS);
    }
    hello.drivers = cleaned_drivers(hello.drivers)?;
    // What this master does not know of it does not need.
    hello.features.retain(|feature| Feature::from_str(feature).is_ok());
    hello.features.sort_unstable();
    hello.features.dedup();
    Ok(hello)
}

pub(super) fn cleaned_drivers(mut drivers: Vec<DriverStatus>) -> Result<Vec<DriverStatus>, SessionEnd> {
    if drivers.len() > MAX_DRIVERS {
        return Err(SessionEnd::protocol("the worker reports too many drivers"));
    }
    for driver in &mut drivers {
        driver.detail = driver.detail.as_ref().map(|detail| clean(detail, MAX_TEXT_CHARS));
    }
    Ok(drivers)
}

/// None if they are beyond all measure: they are for people, and nothing depends on them.
pub(super) fn cleaned_facts(facts: ContainerFacts) -> Option<ContainerFacts> {
    let ContainerFacts { id, image, ports } = facts;
    (ports.len() <= MAX_PORTS).then(|| ContainerFacts {
        id: clean(&id, MAX_NAME_CHARS),
        image: clean(&image, MAX_TEXT_CHARS),
        ports,
    })
}

/// Named ports with texts fit to be stored and shown. None of them if there are more than a task may have.
pub(super) fn cleaned_ports(mut ports: Vec<NamedPort>) -> Vec<NamedPort> {
    if ports.len() > MAX_PORTS {
        return Vec::new();
    }
    for port in &mut ports {
        port.name = clean(&port.name, MAX_PORT_NAME_LEN);
        port.host = clean(&port.host, MAX_HOST_CHARS);
    }
    ports
}

/// Text from outside without control characters (which the database and terminals mind) and what hides or reorders the
/// rest of a line, and not too long.
pub(super) fn clean(text: &str, max_chars: usize) -> String {
    text.chars().map(|char| if spoils_a_line(char) { ' ' } else { char }).take(max_chars).collect()
}
