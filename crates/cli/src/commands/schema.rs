//! `gaffer schema`: the JSON Schema of a job's specification.

use gaffer_domain::spec::schema;

use crate::failure::Failure;
use crate::out::Out;

/// What the help ends with.
pub const EXAMPLES: &str = "\
Examples:
  gaffer schema > job.schema.json
  # yaml-language-server: $schema=job.schema.json      as the first line of a job in YAML

The server has the same schema at /api/v1/schema/job.json, for which no key is needed.";

/// Carries it out.
///
/// # Errors
/// [`Failure::Output`].
pub fn run(out: &Out) -> Result<u8, Failure> {
    out.line(&format!("{:#}", schema::of_job()))?;
    Ok(0)
}
