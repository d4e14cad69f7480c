//! A request's body over all attempts to deliver it (DESIGN, rule 7).
//!
//! Small bodies of known length are read into memory before the first attempt and sent as often as it takes. Others
//! stay with the client until a gate has admitted the request: the router asks for `100 Continue`, and a refusal
//! leaves the body untouched. Nothing is read while a request is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cellway_proxy::{HeldBody, HeldHandle, IncomingBody, RequestBody, Room, RoomShare};
use http_body::Body;
use http_body_util::BodyExt;
use prometheus::IntGauge;
use tokio::time::timeout;

use crate::TimeLimits;
use crate::failure::Failure;

/// The largest body that is kept to be sent again.
pub const KEPT_MAX_BYTES: u64 = 64 * 1024;
/// How much a router keeps of such bodies; beyond it all bodies count as large.
pub const REPLAY_MAX_BYTES: usize = 64 * 1024 * 1024;

/// What is left of [`REPLAY_MAX_BYTES`].
pub(crate) struct ReplayBudget {
    used_bytes: AtomicUsize,
    max_bytes: usize,
    gauge: IntGauge,
}

/// A share of the budget, given back when dropped.
pub(crate) struct Share {
    budget: Arc<ReplayBudget>,
    bytes: usize,
    /// Of what the client's connection may keep.
    _of_room: Option<RoomShare>,
}

impl ReplayBudget {
    pub(crate) fn new(max_bytes: usize, gauge: IntGauge) -> Self {
        Self { used_bytes: AtomicUsize::new(0), max_bytes, gauge }
    }

    fn take(self: &Arc<Self>, bytes: usize, room: Option<&Room>) -> Option<Share> {
        let of_room = match room {
            Some(room) => Some(room.keep_to_replay(bytes)?),
            None => None,
        };
        let taken = self.used_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|total| *total <= self.max_bytes)
        });
        taken.ok()?;
        self.gauge.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Some(Share { budget: Arc::clone(self), bytes, _of_room: of_room })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.gauge.sub(i64::try_from(self.bytes).unwrap_or(i64::MAX));
    }
}

/// The body and where it is.
pub(crate) enum Upload {
    /// There is none.
    None,
    /// Small, and still with the client.
    Small(IncomingBody),
    /// Small, and here.
    Kept(Bytes, Share),
    /// Large or of unknown length, and still with the client.
    Large(IncomingBody),
    /// Given to an attempt that has not given it back.
    Given,
}

/// Reads a body of this length, which may stand still for so long.
async fn read_small(mut body: IncomingBody, length: usize, stall: Duration) -> Result<Bytes, Failure> {
    let mut read = BytesMut::new();
    while let Some(frame) = timeout(stall, body.frame()).await.map_err(|_| Failure::BodyTimeout)? {
        let Ok(data) = frame.map_err(|_| Failure::BodyBroken)?.into_data() else { continue };
        if data.len() == length {
            // Most come whole.
            return Ok(data);
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

/// What an attempt holds of a body that is still with the client.
pub(crate) type Lent = Option<HeldHandle>;

impl Upload {
    /// A client that `expects` to be told to go on is told so when its request is admitted, not before.
    pub(crate) fn of(body: IncomingBody, expects: bool) -> Self {
        match body.size_hint().exact() {
            _ if body.is_end_stream() => Self::None,
            Some(length) if length <= KEPT_MAX_BYTES && !expects => Self::Small(body),
            _ => Self::Large(body),
        }
    }

    /// Reads a small body, if there is room to keep it.
    pub(crate) async fn settle(
        &mut self,
        budget: &Arc<ReplayBudget>,
        room: Option<&Room>,
        limits: TimeLimits,
    ) -> Result<(), Failure> {
        let Self::Small(body) = self else { return Ok(()) };
        let length = body.size_hint().exact().and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        match (budget.take(length, room), std::mem::replace(self, Self::Given)) {
            (Some(share), Self::Small(body)) => {
                let reading = read_small(body, length, Duration::from_millis(limits.stall_ms));
                let read = timeout(Duration::from_millis(limits.total_ms), reading).await;
                *self = Self::Kept(read.map_err(|_| Failure::BodyTimeout)??, share);
            }
            (None, Self::Small(body)) => *self = Self::Large(body),
            (_, other) => *self = other,
        }
        Ok(())
    }

    /// Gives the body to a request. What is still with the client is held until it is released.
    pub(crate) fn lend(&mut self) -> (RequestBody, Lent) {
        match std::mem::replace(self, Self::Given) {
            Self::Kept(bytes, share) => {
                let body = RequestBody::kept(bytes.clone());
                *self = Self::Kept(bytes, share);
                (body, None)
            }
            Self::Small(body) | Self::Large(body) => {
                let (held, handle) = HeldBody::new(body);
                (RequestBody::held(held), Some(handle))
            }
            Self::None => {
                *self = Self::None;
                (RequestBody::empty(), None)
            }
            Self::Given => (RequestBody::empty(), None),
        }
    }

    /// Takes the body back from an attempt that did not deliver the request; says whether it is whole.
    pub(crate) fn take_back(&mut self, lent: Lent) -> bool {
        if let Some(body) = lent.and_then(|handle| handle.take_back()) {
            *self = Self::Large(body);
        }
        !matches!(self, Self::Given)
    }
}
