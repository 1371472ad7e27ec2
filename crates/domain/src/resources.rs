//! Amounts of what every worker has some of.

use serde::{Deserialize, Serialize};

use crate::quantity::{Bytes, Cpu};

/// What a task reserves, or a worker offers. Reserved is what counts for placement; what is really used is measured apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu: Cpu,
    /// Memory in bytes; 0 reserves none.
    pub memory: Bytes,
    /// Disk in bytes; 0 reserves none.
    pub disk: Bytes,
}
