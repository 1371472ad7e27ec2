//! Network namespaces, one per worker, joined by a bridge on which the master listens, and cut by the kernel's
//! firewall.
//!
//! Everything has the number of this process in its name and goes with it. What a killed run left is removed by the next.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::network::Break;

/// All that this module makes is called so, with a process id and a number after it.
const BRIDGE: &str = "gtb";
const SPACE: &str = "gtn";

static GROUNDS: AtomicU32 = AtomicU32::new(0);

/// Why there can be no namespaces here, if that is so.
pub fn obstacle() -> Option<String> {
    Ground::make(1).err()
}

/// The bridge and the namespaces at it.
pub struct Ground {
    bridge: String,
    address: String,
    spaces: Vec<Namespace>,
}

/// The network of one worker.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    veth: String,
}

impl Ground {
    /// Makes so many namespaces, or says why that cannot be done here.
    pub fn make(count: usize) -> Result<Ground, String> {
        remove_leftovers();
        let (process, number) = (std::process::id(), GROUNDS.fetch_add(1, Ordering::Relaxed));
        // Interfaces have at most 15 letters.
        let tag = format!("{process}x{number}");
        let net = process.wrapping_mul(4).wrapping_add(number);
        let prefix = format!("10.{}.{}", 64 + net / 256 % 64, net % 256);
        let mut ground =
            Ground { bridge: format!("{BRIDGE}{tag}"), address: format!("{prefix}.1"), spaces: Vec::new() };
        let bridge = ground.bridge.clone();
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["address", "add", &format!("{prefix}.1/24"), "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for number in 0..count {
            let space =
                Namespace { name: format!("{SPACE}{tag}-{number}"), veth: format!("v{tag}-{number}") };
            run("ip", &["netns", "add", &space.name])?;
            ground.spaces.push(space.clone());
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &space.name];
            run("ip", &[&["link", "add", &space.veth][..], &peer].concat())?;
            run("ip", &["link", "set", &space.veth, "master", &bridge, "up"])?;
            let address = format!("{prefix}.{}/24", number + 2);
            run("ip", &["-n", &space.name, "address", "add", &address, "dev", "eth0"])?;
            run("ip", &["-n", &space.name, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &space.name, "link", "set", "lo", "up"])?;
            // What a fault will need is tried now, when there is somebody to tell.
            space.firewall(&["-S"])?;
        }
        Ok(ground)
    }

    /// Where the master is to listen.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The network of each worker.
    pub fn spaces(&self) -> &[Namespace] {
        &self.spaces
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for space in &self.spaces {
            let _ = run("ip", &["link", "delete", &space.veth]);
            let _ = run("ip", &["netns", "delete", &space.name]);
        }
        let _ = run("ip", &["link", "delete", &self.bridge]);
    }
}

impl Namespace {
    /// What a program is started with so that it is inside. (`ip netns exec` would hide the cgroups from it.)
    pub fn entrance(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net=/run/netns/{}", self.name)]
    }

    /// Breaks the network until it is healed.
    pub fn break_off(&self, kind: Break) {
        // Not what goes through the loopback device: there a rejected packet's answer arrives.
        const IN: [&str; 3] = ["INPUT", "-i", "eth0"];
        const OUT: [&str; 3] = ["OUTPUT", "-o", "eth0"];
        let add = |chain: [&str; 3], what: &[&str]| {
            self.firewall(&[&["-A"], &chain[..], &["-p", "tcp", "-j"], what].concat()).unwrap();
        };
        let drop = |chain| add(chain, &["DROP"]);
        let reset = |chain| add(chain, &["REJECT", "--reject-with", "tcp-reset"]);
        match kind {
            Break::ToMaster => drop(OUT),
            Break::ToWorker => drop(IN),
            Break::Both => {
                drop(OUT);
                drop(IN);
            }
            Break::Reset => {
                reset(OUT);
                reset(IN);
            }
        }
    }

    /// Whole again.
    pub fn heal(&self) {
        self.firewall(&["-F"]).unwrap();
    }

    /// Lets no more than so many bits per second out.
    pub fn limit(&self, rate: &str) -> Result<(), String> {
        let shape = ["tbf", "rate", rate, "burst", "16kb", "latency", "400ms"];
        let [nsenter, net] = self.entrance();
        run(&nsenter, &[&[&net, "tc", "qdisc", "replace", "dev", "eth0", "root"][..], &shape].concat())
    }

    fn firewall(&self, arguments: &[&str]) -> Result<(), String> {
        let [nsenter, net] = self.entrance();
        run(&nsenter, &[&[&net, "iptables", "-w"][..], arguments].concat())
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program} {}: {}", arguments.join(" "), said.trim()))
        }
    }
}

/// Removes what belongs to a process that is not there any more.
fn remove_leftovers() {
    let is_left = |name: &str, kind: &str| {
        let process = name.strip_prefix(kind).and_then(|tag| tag.split('x').next()?.parse::<u32>().ok());
        process.is_some_and(|process| !std::path::Path::new(&format!("/proc/{process}")).exists())
    };
    for (place, kind, what) in [("/run/netns", SPACE, "netns"), ("/sys/class/net", BRIDGE, "link")] {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_left(&name, kind) {
                // The pair of a deleted namespace's interface goes with it.
                let _ = run("ip", &[what, "delete", &name]);
            }
        }
    }
}
