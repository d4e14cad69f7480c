//! A request and one endpoint: sent, and waited for until the head of its answer is there.

use std::cell::Cell as Counter;
use std::pin::{Pin, pin};
use std::time::Duration;

use cellway_core::cell::CellKind;
use cellway_core::ids::TenantId;
use cellway_proxy::pool::NotSent;
use cellway_proxy::{Destination, HeldHandle, PooledBody, SendError, clock};
use http::Response;
use tokio::time::Instant;

use crate::TimeLimits;
use crate::errand::Errand;
use crate::failure::Failure;
use crate::forward::Forwarder;
use crate::table::Target;
use crate::upload::Lent;

/// How often a request is sent again because the connection that was kept for it had just been closed.
const LOSSES_MAX: u32 = 3;

/// How long an exchange must have stood still before it is given up for an endpoint of which nothing is heard.
const SILENT_MS: u64 = 2_000;

/// What came of sending a request to an endpoint.
enum Exchanged {
    Answered(Box<Response<PooledBody>>),
    /// No byte of it was sent.
    NotSent,
    /// See [`SendError::Lost`].
    Lost,
}

/// What is watched while the head of an answer is waited for.
struct Underway<'a> {
    lent: &'a Lent,
    sent: &'a Counter<u64>,
    began: Instant,
}

impl Underway<'_> {
    /// Whether to go on after this long without a byte of the request having been sent.
    fn check(&self, still_ms: u64, age: Duration, limits: TimeLimits) -> Result<(), Failure> {
        let starved = self.lent.as_ref().is_some_and(HeldHandle::is_starved);
        let over = age >= Duration::from_millis(limits.total_ms);
        match starved {
            true if over || still_ms >= limits.stall_ms => Err(Failure::BodyTimeout),
            false if over || still_ms >= limits.answer_ms => Err(Failure::CellTimeout),
            _ => Ok(()),
        }
    }
}

/// How often within a time limit an exchange is looked at: a limit is overrun by one part of this many at most.
const LOOKS: u64 = 20;
/// The longest time between two looks.
const LOOK_MAX_MS: u64 = 2_000;

impl Forwarder {
    /// Sends the request to one endpoint: `None` if that was not possible. To a plain origin a safe request is sent again
    /// where a kept connection was closed under it; a gate may have admitted it.
    pub(crate) async fn ask(
        &self,
        endpoint: Destination,
        kind: CellKind,
        target: Option<(&TenantId, &Target)>,
        errand: &mut Errand<'_>,
    ) -> (Result<Option<Box<Response<PooledBody>>>, Failure>, Lent) {
        let mut losses_left = if kind == CellKind::Origin && errand.method.is_safe() { LOSSES_MAX } else { 0 };
        loop {
            let (body, lent) = errand.attempt(kind, target.map(|(tenant, target)| (tenant, target.epoch)));
            errand.journey.attempt(target.map(|(_, target)| target), &errand.sent);
            errand.began = clock::now();
            let underway = Underway { lent: &lent, sent: &errand.sent, began: errand.began };
            let tenant = target.map(|(tenant, _)| tenant.as_str());
            let answer = self.pool.send_for(tenant, endpoint.clone(), errand.head(), body, errand.began);
            match self.exchange(pin!(answer), &endpoint, underway).await {
                Ok(Exchanged::Answered(response)) => return (Ok(Some(response)), lent),
                Ok(Exchanged::NotSent) => return (Ok(None), lent),
                Ok(Exchanged::Lost) if losses_left > 0 && lent.is_none() => {
                    losses_left -= 1;
                    self.shared.metrics.sent_again.inc();
                }
                Ok(Exchanged::Lost) => return (Err(Failure::CellFailed), lent),
                Err(failure) => return (Err(failure), lent),
            }
        }
    }

    /// Waits for the head of the answer. What sends the request and reads the head is large: it stays where it is.
    async fn exchange(
        &self,
        mut answer: Pin<&mut impl Future<Output = Result<Box<Response<PooledBody>>, SendError>>>,
        endpoint: &Destination,
        underway: Underway<'_>,
    ) -> Result<Exchanged, Failure> {
        let shown = endpoint.address;
        let limits = self.shared.limits;
        let look_ms = (limits.stall_ms.min(limits.answer_ms).min(limits.total_ms) / LOOKS).clamp(1, LOOK_MAX_MS);
        let (mut sent_before, mut still_ms) = (0, 0);
        let mut look = self.timers.take(underway.began + Duration::from_millis(look_ms));
        loop {
            let answer = tokio::select! {
                biased;
                answer = answer.as_mut() => answer,
                () = &mut look => {
                    look.reset(Instant::now() + Duration::from_millis(look_ms));
                    still_ms = if underway.sent.get() == sent_before { still_ms + look_ms } else { 0 };
                    sent_before = underway.sent.get();
                    if let Err(failure) = underway.check(still_ms, underway.began.elapsed(), limits) {
                        if failure == Failure::CellTimeout {
                            self.pool.fell_silent(endpoint);
                        }
                        return Err(failure);
                    }
                    if still_ms >= SILENT_MS && self.shared.health.is_silent(shown) {
                        tracing::debug!(endpoint = %shown, "a request waits at an endpoint that is gone");
                        return Err(Failure::CellFailed);
                    }
                    continue;
                }
            };
            self.timers.give_back(look);
            return match answer {
                Ok(response) => Ok(Exchanged::Answered(response)),
                Err(SendError::NotSent { cause: NotSent::Exhausted(_) | NotSent::Starved(_), .. }) => {
                    Err(Failure::Busy)
                }
                Err(SendError::NotSent { cause, .. }) => {
                    self.shared.metrics.not_sent.inc();
                    tracing::debug!(endpoint = %shown, %cause, "an endpoint was not reached");
                    Ok(Exchanged::NotSent)
                }
                Err(error) if error.is_of_request_body() => Err(Failure::BodyBroken),
                Err(SendError::Lost(error)) => {
                    tracing::debug!(endpoint = %shown, %error, "a cell closed a kept connection");
                    Ok(Exchanged::Lost)
                }
                Err(SendError::Failed(error)) => {
                    tracing::debug!(endpoint = %shown, %error, "a cell failed after the request was sent");
                    Err(Failure::CellFailed)
                }
            };
        }
    }
}
