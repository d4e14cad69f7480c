//! Leaving for good: the instance gives up its place on its cell's list, and its id.

use crate::config::AgentConfig;
use crate::control_plane::client;
use crate::disk::Disk;
use anyhow::{Context, bail};
use cellway_api::ApiError;
use cellway_core::ids::{CellName, InstanceId};
use std::time::Duration;

/// Takes the instance of a stopped agent off its cell's list and erases its id from the data directory, in this
/// order: the id first, so that nothing can start with it again. Can be repeated until the control plane has heard it.
pub async fn leave(config: &AgentConfig) -> anyhow::Result<()> {
    config.check()?;
    let dir = config.data_dir.clone();
    let disk = cellway_machine::off_thread(move || Disk::open(&dir)).await??;
    let identity = disk.identity()?;
    if identity.is_some_and(|identity| !identity.stopped_clean) {
        // Whoever is off the list is no longer fenced: nothing it admitted may run by then.
        tracing::warn!("the agent did not stop drained: waiting as long as its app's longest request");
        tokio::time::sleep(Duration::from_millis(config.longest_request_ms)).await;
    }
    for (cell, instance) in disk.leave()? {
        say(config, &cell, &instance).await?;
        disk.left(&instance)?;
        tracing::info!(%cell, %instance, "left");
    }
    Ok(())
}

async fn say(config: &AgentConfig, cell: &CellName, instance: &InstanceId) -> anyhow::Result<()> {
    let mut last = None;
    for base in &config.control_plane {
        match client(base, config.identity.as_ref())?.leave(cell.as_str(), instance.as_str()).await {
            Ok(()) => return Ok(()),
            Err(ApiError::Refused(problem)) if problem.status < 500 => {
                bail!("the control plane refuses that {instance} leaves: {problem}")
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.map_or_else(|| anyhow::anyhow!("no control plane is configured"), anyhow::Error::from);
    Err(error).context("the control plane did not hear it: run this again")
}
