//! Writes the parts of the documentation that come from the program itself.

use std::path::Path;

fn main() -> anyhow::Result<()> {
    gaffer_e2e::openapi::generate(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
}
