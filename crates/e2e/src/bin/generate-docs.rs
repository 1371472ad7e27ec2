//! Writes the parts of the documentation that come from the program itself: the tables of fields and of metrics, and the
//! description of the API.

use std::fs;
use std::path::Path;

use gaffer_e2e::metrics;
use gaffer_e2e::openapi;
use gaffer_e2e::spec_reference::{PAGES, with_tables};

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for page in PAGES {
        let path = root.join(page);
        fs::write(&path, with_tables(&fs::read_to_string(&path)?))?;
    }
    let path = root.join(metrics::PAGE);
    let alerts = metrics::alerts(&fs::read_to_string(root.join(metrics::ALERTS))?);
    fs::write(&path, metrics::with_tables(&fs::read_to_string(&path)?, &alerts))?;
    openapi::generate(&root)
}
