//! Taking over another configuration while the router runs.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::RouterConfig;
use crate::settings::{Fixed, ReloadError, Settings};
use crate::shared::Shared;

/// A configuration that a running router is to take over. Sending one also has the access log opened again.
#[derive(Debug)]
pub struct Reload {
    /// The configuration, or why it cannot be used.
    pub config: Result<RouterConfig, String>,
    /// Is told whether it was taken over. If not, the one before stays as it was.
    pub answer: oneshot::Sender<Result<(), ReloadError>>,
}

/// Takes over what comes, until nobody can send any more.
pub(crate) async fn follow(mut reloads: mpsc::Receiver<Reload>, shared: Arc<Shared>, fixed: Fixed) {
    while let Some(Reload { config, answer }) = reloads.recv().await {
        let taking = Arc::clone(&shared);
        let taken = config.map_err(ReloadError::Unusable).and_then(|config| taking.take_over(config, &fixed));
        let metrics = &shared.metrics;
        metrics.last_reload_success.set(i64::from(taken.is_ok()));
        match &taken {
            Ok(()) => {
                tracing::info!("the new configuration is in force");
                metrics.reloads_done.inc();
            }
            Err(error) => {
                let cause = std::error::Error::source(error).map(tracing::field::display);
                tracing::error!(%error, cause, "the new configuration is refused; the one before stays in force");
                metrics.reloads_refused.inc();
            }
        }
        // Whoever asked may have gone.
        let _ = answer.send(taken);
    }
}

impl Shared {
    fn take_over(&self, config: RouterConfig, fixed: &Fixed) -> Result<(), ReloadError> {
        fixed.check(&Fixed::of(&config))?;
        let before = self.settings.load_full();
        let settings = Settings::of(config, Some(&before), &self.metrics.access_log)?;
        self.settings.store(Arc::new(settings));
        Ok(())
    }
}
