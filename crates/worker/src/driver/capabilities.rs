//! The capabilities of a driver. Callers ask these, never which driver it is.

use gaffer_protocol::definitions::Definition;

/// Declared by each driver, the same for all its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Capabilities {
    /// Processes outlive the executor: the journal records starts, and the next executor adopts them.
    pub outlives_executor: bool,
    /// Its attempts see this machine's files: each gets a private directory, and its script as a file there.
    pub uses_host_files: bool,
    /// An attempt may name the directory of this machine that it works in.
    pub workdir: bool,
    /// An attempt's standard input can be written to.
    pub stdin: bool,
}

impl Capabilities {
    /// What a definition asks for that the driver does not have; none if there is nothing.
    pub fn missing(self, definition: &Definition) -> Option<&'static str> {
        let asked = [
            (definition.workdir.is_some(), self.workdir, "a working directory"),
            (definition.stdin, self.stdin, "a standard input"),
        ];
        asked.into_iter().find(|(is_asked, is_there, _)| *is_asked && !is_there).map(|(.., what)| what)
    }
}
