//! tmp
use crate::output::Failure;
#[derive(Debug, clap::Args)]
pub(crate) struct SoakArgs {}
pub(crate) async fn run(_args: SoakArgs) -> Result<(), Failure> { Ok(()) }
