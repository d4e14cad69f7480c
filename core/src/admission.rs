//! The gate's rules: when it is open for a tenant, whom it admits, and when a fence counts.
//!
//! Single ownership is enforced here. On disk, per tenant: the highest epoch fenced. In memory: whether the gate is
//! open, at which epoch, and what runs. Two cells never serve one tenant because a gate opens only above its highest
//! fence, and a fence is acknowledged only when it is on disk and nothing admitted runs any more.

use crate::cell::CellRef;
use crate::ids::{CellName, CellUid, Epoch, HomeId, Revision};
use crate::tenant::{Placement, PlacementRecord};
use crate::verdict::Verdict;

/// What a gate is: set when its registration is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// The gate's cell.
    pub uid: CellUid,
    /// The revision at which the instance was registered.
    pub revision: Revision,
}

/// A placement with the revision of the read that showed it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seen {
    record: PlacementRecord,
    read_at: Revision,
}

/// The gate of one tenant in one instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct TenantGate {
    seen: Option<Seen>,
    highest_fence: Option<Epoch>,
    released: Option<(HomeId, Epoch)>,
    open: Option<Epoch>,
    streams_refused: bool,
    running: u32,
    streams: u32,
}

/// What a request is, as far as admission cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// It ends by itself.
    Ordinary,
    /// A WebSocket, an event stream: it lasts until someone ends it.
    Stream,
}

/// Why a request was not admitted at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdmitted {
    /// Say this to the router.
    Refused(Verdict),
    /// The request knows more than this gate: ask again when the gate's feed has spoken, at most
    /// [`BEHIND_WAIT_MS`] long, then refuse with [`Verdict::Behind`].
    Wait,
}

/// How long a request that knows more than the gate waits for the gate's own feed.
pub const BEHIND_WAIT_MS: u64 = 100;

/// What opening still needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// The gate is open at this epoch.
    Open(Epoch),
    /// The driver has to release this home's data at this epoch first.
    NeedsRelease(HomeId, Epoch),
    /// It may not open.
    Closed,
}

impl TenantGate {
    /// The gate as it comes back from disk.
    pub fn restored(highest_fence: Option<Epoch>) -> Self {
        Self { highest_fence, ..Self::default() }
    }

    /// Takes a placement read at `read_at`. An older read, or a lower epoch, changes nothing.
    pub fn observe(&mut self, record: PlacementRecord, read_at: Revision) {
        if let Some(seen) = &self.seen
            && (read_at < seen.read_at || record.epoch() < seen.record.epoch())
        {
            return;
        }
        self.seen = Some(Seen { record, read_at });
        // An open gate stays open at its epoch until it is fenced or until another owner is seen: a hold alone is
        // announced by the fence, so that requests already on their way are not refused early.
        if let (Some(open), Some(seen)) = (self.open, &self.seen)
            && seen.record.epoch() > open
        {
            self.open = None;
        }
    }

    /// The placement last seen, if the tenant is placed.
    pub fn placement(&self) -> Option<&Placement> {
        match &self.seen.as_ref()?.record {
            PlacementRecord::Placed(placement) => Some(placement),
            PlacementRecord::Gone { .. } => None,
        }
    }

    /// Opens if everything allows it; says what is missing otherwise.
    ///
    /// Needed: a placement read at or after the registration, naming this cell by uid, without a hold, at an epoch
    /// above the highest fence; and the driver's word that the data is released at that epoch.
    pub fn try_open(&mut self, registration: &Registration) -> Opening {
        let Some((placement, read_at)) = self.placement().zip(self.seen.as_ref().map(|seen| seen.read_at)) else {
            return Opening::Closed;
        };
        let epoch = placement.epoch;
        let ours = placement.cell.uid == registration.uid && placement.hold.is_none();
        let unfenced = self.highest_fence.is_none_or(|fence| epoch > fence);
        if !ours || !unfenced || read_at < registration.revision {
            return Opening::Closed;
        }
        let released = self.released.as_ref().is_some_and(|(home, at)| *home == placement.home && *at == epoch);
        if !released {
            return Opening::NeedsRelease(placement.home.clone(), epoch);
        }
        if self.open != Some(epoch) {
            self.open = Some(epoch);
            self.streams_refused = false;
        }
        Opening::Open(epoch)
    }

    /// The driver has released `home` at `epoch`.
    pub fn released(&mut self, home: HomeId, epoch: Epoch) {
        if self.released.as_ref().is_none_or(|(_, at)| *at < epoch) {
            self.released = Some((home, epoch));
        }
    }

    /// Admits a request that a router stamped with `stamped`, or says why not. An admitted request must be followed
    /// by one [`TenantGate::finish`].
    pub fn admit(&mut self, stamped: Epoch, kind: RequestKind, own: &CellRef) -> Result<(), NotAdmitted> {
        let Some(open) = self.open else {
            return Err(self.why_closed(stamped, own));
        };
        if stamped > open {
            return Err(NotAdmitted::Wait);
        }
        if kind == RequestKind::Stream && self.streams_refused {
            return Err(NotAdmitted::Refused(Verdict::Fenced));
        }
        match kind {
            RequestKind::Ordinary => self.running += 1,
            RequestKind::Stream => self.streams += 1,
        }
        Ok(())
    }

    fn why_closed(&self, stamped: Epoch, own: &CellRef) -> NotAdmitted {
        let Some(placement) = self.placement() else {
            return NotAdmitted::Wait;
        };
        if stamped > placement.epoch {
            return NotAdmitted::Wait;
        }
        if placement.cell.uid != own.uid {
            let cell: CellName = placement.cell.name.clone();
            return NotAdmitted::Refused(Verdict::Elsewhere { cell, epoch: placement.epoch });
        }
        let fenced = placement.hold.is_some() || self.highest_fence.is_some_and(|fence| fence >= placement.epoch);
        if fenced { NotAdmitted::Refused(Verdict::Fenced) } else { NotAdmitted::Wait }
    }

    /// An ordinary request that was admitted turns out to be a stream (an event-stream answer).
    pub fn became_stream(&mut self) {
        self.running = self.running.saturating_sub(1);
        self.streams += 1;
    }

    /// The app has ended an admitted request.
    pub fn finish(&mut self, kind: RequestKind) {
        let count = match kind {
            RequestKind::Ordinary => &mut self.running,
            RequestKind::Stream => &mut self.streams,
        };
        *count = count.saturating_sub(1);
    }

    /// From now on no new stream is admitted.
    pub fn refuse_streams(&mut self, epoch: Epoch) {
        if self.open.is_some_and(|open| open <= epoch) {
            self.streams_refused = true;
        }
    }

    /// The word to refuse streams was taken back while the tenant is still served at the same epoch.
    pub fn allow_streams(&mut self) {
        self.streams_refused = false;
    }

    /// Whether `fence(epoch)` has to be written to disk before [`TenantGate::fence`] is called.
    pub fn fence_is_new(&self, epoch: Epoch) -> bool {
        self.highest_fence.is_none_or(|fence| fence < epoch)
    }

    /// Whether a later fence than this was taken.
    pub fn is_fenced_above(&self, epoch: Epoch) -> bool {
        self.highest_fence.is_some_and(|fence| fence > epoch)
    }

    /// Takes a fence that is on disk: closes if open at or below it. A fence below the open epoch changes nothing.
    pub fn fence(&mut self, epoch: Epoch) {
        self.highest_fence = Some(self.highest_fence.map_or(epoch, |fence| fence.max(epoch)));
        if self.open.is_some_and(|open| open <= epoch) {
            self.open = None;
        }
    }

    /// Whether `fence(epoch)` may be acknowledged: it is in force and nothing admitted runs.
    pub fn is_drained(&self, epoch: Epoch) -> bool {
        let in_force = self.highest_fence.is_some_and(|fence| fence >= epoch);
        in_force && self.open.is_none_or(|open| open > epoch) && self.running == 0 && self.streams == 0
    }

    /// Closes whatever is open: the instance found itself unlisted, or is leaving.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// The epoch at which the gate is open.
    pub fn open_at(&self) -> Option<Epoch> {
        self.open
    }

    /// The highest epoch fenced.
    pub fn highest_fence(&self) -> Option<Epoch> {
        self.highest_fence
    }

    /// Requests admitted and not ended: ordinary ones and streams.
    pub fn admitted(&self) -> (u32, u32) {
        (self.running, self.streams)
    }
}

#[cfg(test)]
mod tests;
