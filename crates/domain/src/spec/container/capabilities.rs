//! The capabilities that a container may ask for.

use super::super::node::Node;
use crate::quantity::shown;
use crate::spelling::did_you_mean;

/// capabilities(7), without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Reads `capabilities`.
pub(super) fn capabilities(node: &Node<'_>) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for node in node.list()? {
        let Some(text) = node.text("the name of a capability such as NET_ADMIN") else { continue };
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            node.wrong::<()>("capabilities are named one by one: there is no way to get them all");
        } else if !CAPABILITIES.contains(&name) {
            let suggestion = || did_you_mean(name, CAPABILITIES);
            node.wrong_with::<()>(format!("{} is not a capability", shown(text)), suggestion);
        } else if names.iter().any(|known| known == name) {
            node.wrong::<()>(format!("{name} is named twice"));
        } else {
            names.push(name.to_owned());
        }
    }
    Some(names)
}
