//! The ports of this machine that attempts hold, and the address by which others reach them.
//!
//! A port is assigned from the worker's range if no attempt here holds it and nobody on the machine listens on it. The next
//! attempt gets the next port, so one that has just become free is not given to another task at once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaffer_domain::AttemptRef;
use gaffer_domain::spec::PortProtocol;
use serde::{Deserialize, Serialize};
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Time to find the address of the master's host.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// Outside of what Linux gives to outgoing connections (32768–60999), and of well-known ports.
const DEFAULT_RANGE: PortRange = PortRange { first: 20_000, last: 29_999 };

/// The ports from which a worker assigns: read from `20000-29999`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A text that is not a range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a range of ports: write first-last such as 20000-29999, from 1 to 65535")]
pub struct InvalidPortRange {
    text: String,
}

/// How ports are assigned and announced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortSettings {
    pub range: PortRange,
    /// The address that others are told; none: the one from which this machine reaches the master.
    pub advertise: Option<String>,
    /// Host and port on the way to the master.
    pub toward: Option<(String, u16)>,
}

/// Ports held by the attempts of this worker.
#[derive(Debug)]
pub(crate) struct Ports {
    settings: PortSettings,
    taken: Mutex<Taken>,
    /// The last address that was found: the look-up of a name may fail at any time.
    last_host: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Taken {
    by: BTreeMap<(u16, PortProtocol), AttemptRef>,
    /// Where to look for the next free port.
    next: u16,
}

/// A port that an attempt wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WantedPort {
    /// None: any that is free.
    pub number: Option<u16>,
    pub protocol: PortProtocol,
}

/// Why an attempt does not get its ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPort {
    #[error("port {0} is in use on this worker")]
    InUse(u16),
    #[error("no port from {0} is free on this worker (GAFFER_PORT_RANGE)")]
    NoneFree(PortRange),
    #[error("cannot determine the address of this worker ({0}): set GAFFER_ADVERTISE_ADDR")]
    NoAddress(String),
}

impl Default for PortRange {
    fn default() -> PortRange {
        DEFAULT_RANGE
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<PortRange, InvalidPortRange> {
        let invalid = || InvalidPortRange { text: text.chars().take(60).collect() };
        let (first, last) = text.split_once('-').ok_or_else(invalid)?;
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let (first, last) = port(first).zip(port(last)).ok_or_else(invalid)?;
        if first > last { Err(invalid()) } else { Ok(PortRange { first, last }) }
    }
}

impl PortRange {
    fn after(self, port: u16) -> u16 {
        if port >= self.last { self.first } else { port + 1 }
    }
}

impl Ports {
    /// `seed` differs between the workers of a machine, so that they begin at different places of one range.
    pub fn new(settings: PortSettings, seed: &str) -> Ports {
        let PortRange { first, last } = settings.range;
        let hash = seed.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let place = hash % (u32::from(last - first) + 1);
        let next = first + u16::try_from(place).unwrap_or(0);
        let taken = Mutex::new(Taken { by: BTreeMap::new(), next });
        Ports { settings, taken, last_host: Mutex::default() }
    }

    /// Ports for an attempt, in the order of `wanted`; all of them or none. It holds them until they are released.
    ///
    /// # Errors
    /// When one that it wants by number is in use, or none is free.
    pub fn take(&self, attempt: AttemptRef, wanted: &[WantedPort]) -> Result<Vec<u16>, NoPort> {
        let mut taken = self.lock();
        let mut got = Vec::with_capacity(wanted.len());
        // Ports by number first, so that none of them is assigned for another name.
        for WantedPort { number, protocol } in wanted {
            let Some(number) = *number else { continue };
            let port = (number, *protocol);
            let is_own = taken.by.get(&port) == Some(&attempt);
            if !is_own && (taken.by.contains_key(&port) || is_in_use(number, *protocol)) {
                taken.release(attempt);
                return Err(NoPort::InUse(number));
            }
            taken.by.insert(port, attempt);
        }
        for WantedPort { number, protocol } in wanted {
            let number = number.or_else(|| taken.assign(self.settings.range, attempt, *protocol));
            let Some(number) = number else {
                taken.release(attempt);
                return Err(NoPort::NoneFree(self.settings.range));
            };
            got.push(number);
        }
        Ok(got)
    }

    /// An attempt that was started by an earlier executor holds these.
    pub fn keep(&self, attempt: AttemptRef, ports: impl Iterator<Item = (u16, PortProtocol)>) {
        self.lock().by.extend(ports.map(|port| (port, attempt)));
    }

    /// Nothing of the attempt is left.
    pub fn release(&self, attempt: AttemptRef) {
        self.lock().release(attempt);
    }

    /// The address by which others reach this machine.
    ///
    /// # Errors
    /// When the master's host has no address, or there is no route to it, and never was.
    pub async fn host(&self) -> Result<String, NoPort> {
        if let Some(advertise) = &self.settings.advertise {
            return Ok(advertise.clone());
        }
        let found = self.host_now().await;
        let mut last = self.last_host.lock().unwrap_or_else(PoisonError::into_inner);
        match (found, &*last) {
            (Ok(host), _) => Ok(last.insert(host).clone()),
            (Err(_), Some(known)) => Ok(known.clone()),
            (Err(why), None) => Err(why),
        }
    }

    async fn host_now(&self) -> Result<String, NoPort> {
        let Some((host, port)) = &self.settings.toward else { return Ok(Ipv4Addr::LOCALHOST.to_string()) };
        let failed = |why: String| NoPort::NoAddress(format!("the way to {host}: {why}"));
        let found = timeout(LOOKUP_LIMIT, lookup_host((host.as_str(), *port))).await;
        let found = found.map_err(|_| failed("no answer to the look-up of its name".to_owned()))?;
        let mut addresses = found.map_err(|error| failed(error.to_string()))?;
        let address = addresses.next().ok_or_else(|| failed("its name has no address".to_owned()))?;
        local_address(address).map_err(|error| failed(error.to_string()))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn assign(&mut self, range: PortRange, attempt: AttemptRef, protocol: PortProtocol) -> Option<u16> {
        let first = self.next;
        loop {
            let port = self.next;
            self.next = range.after(port);
            if !self.by.contains_key(&(port, protocol)) && is_free(port, protocol) {
                self.by.insert((port, protocol), attempt);
                return Some(port);
            }
            if self.next == first {
                return None;
            }
        }
    }

    fn release(&mut self, attempt: AttemptRef) {
        self.by.retain(|_, holder| *holder != attempt);
    }
}

/// The address of this machine from which packets to that one are sent. Sends nothing.
fn local_address(to: SocketAddr) -> std::io::Result<String> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip().to_string())
}

/// Whether somebody on this machine listens on a port, on any of its addresses.
fn is_in_use(port: u16, protocol: PortProtocol) -> bool {
    let is_taken = |address: SocketAddr| {
        // Other errors say nothing of that: no IPv6 here, or a port that only root may bind.
        bind(address, protocol).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    };
    is_taken((Ipv6Addr::UNSPECIFIED, port).into()) || is_taken((Ipv4Addr::UNSPECIFIED, port).into())
}

/// Whether nobody listens on a port, and this worker may.
fn is_free(port: u16, protocol: PortProtocol) -> bool {
    !is_in_use(port, protocol) && bind((Ipv4Addr::UNSPECIFIED, port).into(), protocol).is_ok()
}

fn bind(address: SocketAddr, protocol: PortProtocol) -> std::io::Result<()> {
    match protocol {
        PortProtocol::Tcp => TcpListener::bind(address).map(drop),
        PortProtocol::Udp => UdpSocket::bind(address).map(drop),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use gaffer_domain::TaskId;

    use super::*;

    const ANY: WantedPort = WantedPort { number: None, protocol: PortProtocol::Tcp };

    fn attempt(task: i64) -> AttemptRef {
        AttemptRef { task: TaskId(task), attempt: 1 }
    }

    /// Ports that nobody listens on, as far as this machine knew a moment ago: as many in a row.
    fn free_range(count: u16) -> PortRange {
        let is_free_range =
            |first: &u16| (*first..*first + count).all(|port| is_free(port, PortProtocol::Tcp));
        let first = (12_000..19_000).step_by(usize::from(count)).find(is_free_range).unwrap();
        PortRange { first, last: first + count - 1 }
    }

    fn ports(range: PortRange) -> Ports {
        Ports::new(PortSettings { range, ..PortSettings::default() }, "a")
    }

    #[test]
    fn a_range_is_two_ports_in_order() {
        assert_eq!("20000-29999".parse::<PortRange>().unwrap(), DEFAULT_RANGE);
        assert_eq!(" 80 - 80 ".parse::<PortRange>().unwrap(), PortRange { first: 80, last: 80 });
        for text in ["", "80", "0-80", "90-80", "1-65536", "a-b", "1-2-3"] {
            let error = text.parse::<PortRange>().unwrap_err().to_string();
            assert!(error.contains("write first-last"), "{text}: {error}");
        }
    }

    #[test]
    fn no_port_is_assigned_twice_until_it_is_released() {
        let range = free_range(4);
        let ports = ports(range);
        let mut all = ports.take(attempt(1), &[ANY, ANY]).unwrap();
        all.extend(ports.take(attempt(2), &[ANY, ANY]).unwrap());
        all.sort_unstable();
        assert_eq!(all, (range.first..=range.last).collect::<Vec<_>>());
        assert_eq!(ports.take(attempt(3), &[ANY]), Err(NoPort::NoneFree(range)));
        ports.release(attempt(1));
        assert_eq!(ports.take(attempt(3), &[ANY, ANY, ANY]), Err(NoPort::NoneFree(range)));
        assert_eq!(ports.take(attempt(4), &[ANY, ANY]).unwrap().len(), 2, "of a refusal nothing is kept");
    }

    #[test]
    fn a_port_on_which_somebody_listens_is_not_assigned() {
        let range = free_range(2);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, range.first)).unwrap();
        let ports = ports(range);
        assert_eq!(ports.take(attempt(1), &[ANY]).unwrap(), [range.last]);
        let wanted = WantedPort { number: Some(range.first), ..ANY };
        let refused = ports.take(attempt(2), &[wanted]);
        assert_eq!(refused, Err(NoPort::InUse(range.first)));
        drop(listener);
        assert_eq!(ports.take(attempt(2), &[wanted]).unwrap(), [range.first]);
    }

    #[test]
    fn what_an_attempt_kept_over_a_restart_is_not_assigned_and_a_fixed_port_is_no_other_ones() {
        let range = free_range(3);
        let ports = ports(range);
        ports.keep(attempt(1), [(range.first, PortProtocol::Tcp)].into_iter());
        let fixed = WantedPort { number: Some(range.last), ..ANY };
        assert_eq!(ports.take(attempt(2), &[ANY, fixed]).unwrap(), [range.first + 1, range.last]);
    }

    #[test]
    fn who_wants_a_port_by_its_number_takes_none_that_was_assigned() {
        let range = free_range(2);
        let ports = ports(range);
        let assigned = ports.take(attempt(1), &[ANY]).unwrap()[0];
        let wanted = WantedPort { number: Some(assigned), ..ANY };
        assert_eq!(ports.take(attempt(2), &[wanted]), Err(NoPort::InUse(assigned)));
        ports.release(attempt(2));
        assert_eq!(ports.take(attempt(3), &[wanted]), Err(NoPort::InUse(assigned)), "it is still held");
    }

    #[test]
    fn a_number_is_a_port_of_each_protocol() {
        let range = free_range(1);
        let ports = ports(range);
        let wanted = |protocol| WantedPort { number: Some(range.first), protocol };
        assert_eq!(ports.take(attempt(1), &[wanted(PortProtocol::Tcp)]).unwrap(), [range.first]);
        assert_eq!(ports.take(attempt(2), &[wanted(PortProtocol::Udp)]).unwrap(), [range.first]);
        let both = [wanted(PortProtocol::Udp), wanted(PortProtocol::Tcp)];
        assert_eq!(ports.take(attempt(3), &both), Err(NoPort::InUse(range.first)));
        ports.release(attempt(3));
        assert_eq!(ports.take(attempt(4), &both[1..]), Err(NoPort::InUse(range.first)), "of the first");
    }

    #[tokio::test]
    async fn the_address_is_kept_while_the_name_of_the_master_cannot_be_looked_up() {
        let toward = Some(("no-such-host.invalid".to_owned(), 9));
        let ports = Ports::new(PortSettings { toward, ..PortSettings::default() }, "a");
        let never = ports.host().await.unwrap_err().to_string();
        assert!(never.contains("GAFFER_ADVERTISE_ADDR"), "{never}");
        *ports.last_host.lock().unwrap() = Some("10.0.0.7".to_owned());
        assert_eq!(ports.host().await.unwrap(), "10.0.0.7");
    }

    #[tokio::test]
    async fn the_address_is_the_one_on_the_way_to_the_master_unless_the_operator_says_another() {
        let toward = Some(("127.0.0.1".to_owned(), 9));
        let settings = PortSettings { toward, ..PortSettings::default() };
        assert_eq!(Ports::new(settings.clone(), "a").host().await.unwrap(), "127.0.0.1");
        let advertise = Some("pi4.lab".to_owned());
        assert_eq!(Ports::new(PortSettings { advertise, ..settings }, "a").host().await.unwrap(), "pi4.lab");
    }
}
