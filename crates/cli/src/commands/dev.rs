//! stub
use clap::Args;
use crate::failure::Failure;
use crate::out::Out;
/// Where.
#[derive(Debug, Args)]
pub struct DevArgs {}
/// Does.
pub fn run(_args: DevArgs, _out: &Out) -> Result<u8, Failure> { Ok(0) }
