//! The gates of all tenants, shared by the threads that serve requests and by those that open and fence.

use crate::config::Faults;
use crate::load::WorkCounters;
use crate::words::TenantPlacement;
use cellway_core::admission::{BEHIND_WAIT_MS, NotAdmitted, Opening, Registration, RequestKind, TenantGate};
use cellway_core::cell::CellRef;
use cellway_core::ids::{CellName, CellUid, Epoch, HomeId, Revision, TenantId};
use cellway_core::verdict::Verdict;
use cellway_proxy::clock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// All gates of this instance.
#[derive(Debug)]
pub(crate) struct GateTable {
    cell: CellName,
    own: OnceLock<CellRef>,
    registration: Mutex<Option<Registration>>,
    gates: papaya::HashMap<TenantId, Arc<Gate>>,
    added: Notify,
    /// The instance is not on the list, or is stopping: nothing opens any more.
    shut: AtomicBool,
    faults: Faults,
}

/// The gate of one tenant, with what it has admitted.
#[derive(Debug)]
pub(crate) struct Gate {
    tenant: TenantId,
    state: Mutex<State>,
    changed: Notify,
    pub(crate) work: WorkCounters,
    cut_requests: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    gate: TenantGate,
    read_at: Revision,
    /// Somebody is seeing to the opening.
    opening: bool,
    /// Streams admitted at this epoch or below end at once.
    ending_streams: Option<Epoch>,
    next_admission: u64,
    /// Admitted ordinary requests by admission, and so by age.
    ordinary: BTreeMap<u64, Instant>,
    /// Cuts those of them that were admitted up to now.
    cut: CancellationToken,
    streams: BTreeMap<u64, CancellationToken>,
}

/// What a gate has admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Running {
    pub(crate) oldest_request_ms: u64,
    pub(crate) requests: usize,
    pub(crate) streams: usize,
}

impl GateTable {
    /// All gates closed; those of `fences` only open above them.
    pub(crate) fn new(cell: CellName, fences: Vec<(TenantId, Epoch)>, faults: Faults) -> Self {
        let gates = papaya::HashMap::new();
        for (tenant, fence) in fences {
            let state = State { gate: TenantGate::restored(Some(fence)), ..State::default() };
            gates.pin().insert(tenant.clone(), Gate::new(tenant, state));
        }
        Self {
            cell,
            own: OnceLock::new(),
            registration: Mutex::default(),
            gates,
            added: Notify::new(),
            shut: AtomicBool::new(false),
            faults,
        }
    }

    /// From now on gates may open on placements read at or after `revision`.
    pub(crate) fn register(&self, uid: CellUid, revision: Revision) {
        let own = self.own.get_or_init(|| CellRef { name: self.cell.clone(), uid });
        *self.registration.lock() = Some(Registration { uid: own.uid.clone(), revision });
    }

    pub(crate) fn registration(&self) -> Option<Registration> {
        if self.shut.load(Ordering::Acquire) {
            return None;
        }
        self.registration.lock().clone()
    }

    /// The cell, once its uid is known.
    pub(crate) fn own(&self) -> Option<&CellRef> {
        self.own.get()
    }

    /// Closes everything for good.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Release);
        self.each(|gate| gate.close());
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// The tenant's gate, if it is known.
    pub(crate) fn find(&self, tenant: &TenantId) -> Option<Arc<Gate>> {
        self.gates.pin().get(tenant).map(Arc::clone)
    }

    /// The tenant's gate, made if need be.
    pub(crate) fn entry(&self, tenant: &TenantId) -> Arc<Gate> {
        if let Some(gate) = self.find(tenant) {
            return gate;
        }
        let made = Gate::new(tenant.clone(), State::default());
        let gate = Arc::clone(self.gates.pin().get_or_insert(tenant.clone(), made));
        self.added.notify_waiters();
        gate
    }

    /// Every gate, one after the other; who asks for one meanwhile waits for nothing.
    pub(crate) fn each(&self, each: impl FnMut(&Arc<Gate>)) {
        self.gates.pin().values().for_each(each);
    }

    /// Closes what no placement read since the registration speaks for: the control plane has said all there is.
    pub(crate) fn close_unsaid(&self, registration: &Registration) {
        self.each(|gate| {
            let unsaid = gate.state.lock().read_at < registration.revision;
            if unsaid {
                gate.close();
            }
        });
    }

    /// Admits a request that a router stamped, waiting a little where the router knows more than this gate does.
    pub(crate) async fn admit(
        &self,
        tenant: &TenantId,
        stamped: Epoch,
        kind: RequestKind,
    ) -> Result<Admission, Verdict> {
        let Some(own) = self.own.get() else {
            return Err(Verdict::Behind);
        };
        if let Some(gate) = self.find(tenant) {
            match self.admit_now(&gate, stamped, kind, own) {
                Ok(admission) => return Ok(admission),
                Err(NotAdmitted::Refused(verdict)) => return Err(verdict),
                Err(NotAdmitted::Wait) => {}
            }
        }
        self.admit_when_told(tenant, stamped, kind, own).await
    }

    async fn admit_when_told(
        &self,
        tenant: &TenantId,
        stamped: Epoch,
        kind: RequestKind,
        own: &CellRef,
    ) -> Result<Admission, Verdict> {
        let deadline = Instant::now() + Duration::from_millis(BEHIND_WAIT_MS);
        loop {
            let gate = self.find(tenant);
            let news = gate.as_ref().map_or(&self.added, |gate| &gate.changed).notified();
            tokio::pin!(news);
            // From here on no change is missed: it is asked about after the ear is open.
            news.as_mut().enable();
            match &gate {
                Some(gate) => match self.admit_now(gate, stamped, kind, own) {
                    Ok(admission) => return Ok(admission),
                    Err(NotAdmitted::Refused(verdict)) => return Err(verdict),
                    Err(NotAdmitted::Wait) => {}
                },
                None if self.find(tenant).is_some() => continue,
                None => {}
            }
            if timeout_at(deadline, news).await.is_err() {
                return Err(Verdict::Behind);
            }
        }
    }

    fn admit_now(
        &self,
        gate: &Arc<Gate>,
        stamped: Epoch,
        kind: RequestKind,
        own: &CellRef,
    ) -> Result<Admission, NotAdmitted> {
        let mut state = gate.state.lock();
        let named = state.gate.placement().is_some_and(|placement| placement.cell.uid == own.uid);
        let unfounded = self.faults.open_at_once && named;
        if !unfounded {
            state.gate.admit(stamped, kind, own)?;
        }
        // What the app is told is the epoch at which it was admitted, also where the router was behind.
        let epoch = state.gate.open_at().unwrap_or(stamped);
        let number = state.next_admission;
        state.next_admission += 1;
        let end = match kind {
            RequestKind::Ordinary => {
                state.ordinary.insert(number, clock::now());
                state.cut.clone()
            }
            RequestKind::Stream => state.add_stream(number),
        };
        drop(state);
        Ok(Admission { gate: Arc::clone(gate), epoch, number, kind, end, counted: !unfounded })
    }
}

impl State {
    fn add_stream(&mut self, number: u64) -> CancellationToken {
        let end = CancellationToken::new();
        let open = self.gate.open_at();
        if self.ending_streams.is_some_and(|last| open.is_none_or(|open| open <= last)) {
            end.cancel();
        }
        self.streams.insert(number, end.clone());
        end
    }
}

impl Gate {
    fn new(tenant: TenantId, state: State) -> Arc<Self> {
        let (changed, work, cut_requests) = (Notify::new(), WorkCounters::default(), AtomicU32::new(0));
        Arc::new(Self { tenant, state: Mutex::new(state), changed, work, cut_requests })
    }

    pub(crate) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Wakes whoever looks at this gate.
    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }

    pub(crate) fn observe(&self, placement: TenantPlacement) {
        {
            let mut state = self.state.lock();
            state.read_at = state.read_at.max(placement.read_at);
            state.gate.observe(placement.record, placement.read_at);
        }
        self.changed.notify_waiters();
    }

    /// Opens if everything allows it. `Some` means: nobody sees to this release yet, so the caller has to.
    pub(crate) fn begin_opening(&self, registration: &Registration) -> Option<(HomeId, Epoch)> {
        let mut state = self.state.lock();
        let needed = match state.gate.try_open(registration) {
            Opening::NeedsRelease(home, epoch) if !state.opening => {
                state.opening = true;
                Some((home, epoch))
            }
            Opening::NeedsRelease(..) | Opening::Open(_) | Opening::Closed => None,
        };
        drop(state);
        self.changed.notify_waiters();
        needed
    }

    /// What the opener that [`Gate::begin_opening`] has called for is to release next; `None` ends its work.
    pub(crate) fn go_on_opening(&self, registration: Option<&Registration>) -> Option<(HomeId, Epoch)> {
        let mut state = self.state.lock();
        let needed = match registration.map(|registration| state.gate.try_open(registration)) {
            Some(Opening::NeedsRelease(home, epoch)) => Some((home, epoch)),
            Some(Opening::Open(_) | Opening::Closed) | None => {
                state.opening = false;
                None
            }
        };
        drop(state);
        self.changed.notify_waiters();
        needed
    }

    /// Like [`Gate::go_on_opening`], after a later epoch than `tried` was seen where the data is: the same again would
    /// not help, and a placement that is newer will ask anew.
    pub(crate) fn go_on_above(
        &self,
        registration: Option<&Registration>,
        tried: &(HomeId, Epoch),
    ) -> Option<(HomeId, Epoch)> {
        let mut state = self.state.lock();
        let needed = match registration.map(|registration| state.gate.try_open(registration)) {
            Some(Opening::NeedsRelease(home, epoch)) if (&home, epoch) != (&tried.0, tried.1) => Some((home, epoch)),
            Some(_) | None => {
                state.opening = false;
                None
            }
        };
        drop(state);
        self.changed.notify_waiters();
        needed
    }

    pub(crate) fn released(&self, home: HomeId, epoch: Epoch) {
        self.state.lock().gate.released(home, epoch);
    }

    /// The home in this cell that a placement read since the registration names.
    pub(crate) fn home_since(&self, registration: &Registration) -> Option<HomeId> {
        let state = self.state.lock();
        let named = state.gate.placement().filter(|placement| placement.cell.uid == registration.uid);
        named.filter(|_| state.read_at >= registration.revision).map(|placement| placement.home.clone())
    }

    pub(crate) fn open_at(&self) -> Option<Epoch> {
        self.state.lock().gate.open_at()
    }

    pub(crate) fn fence_is_new(&self, epoch: Epoch) -> bool {
        self.state.lock().gate.fence_is_new(epoch)
    }

    /// Takes a fence that is on disk, and ends every stream it closes upon.
    pub(crate) fn fence(&self, epoch: Epoch) {
        {
            let mut state = self.state.lock();
            state.gate.fence(epoch);
            if state.gate.open_at().is_none() {
                state.streams.values().for_each(CancellationToken::cancel);
            }
        }
        self.changed.notify_waiters();
    }

    /// Cuts the uploads and downloads that were admitted at this epoch or below and still run. Each of them counts as
    /// running until the app has ended it. A late order, which a later fence has passed, changes nothing.
    pub(crate) fn cut(&self, epoch: Epoch) {
        let mut state = self.state.lock();
        if !state.gate.is_fenced_above(epoch) && state.gate.open_at().is_none_or(|open| open <= epoch) {
            std::mem::take(&mut state.cut).cancel();
        }
    }

    /// A request was cut.
    pub(crate) fn count_cut(&self) {
        self.cut_requests.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests were cut since the process started.
    pub(crate) fn cut_requests(&self) -> u32 {
        self.cut_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn is_drained(&self, epoch: Epoch) -> bool {
        self.state.lock().gate.is_drained(epoch)
    }

    /// No new stream; of the open ones those that `chosen` says end now.
    pub(crate) fn end_streams(&self, epoch: Epoch, mut chosen: impl FnMut() -> bool) {
        let mut state = self.state.lock();
        state.gate.refuse_streams(epoch);
        state.ending_streams = Some(epoch);
        state.streams.values().filter(|_| chosen()).for_each(CancellationToken::cancel);
    }

    /// Takes back [`Gate::end_streams`].
    pub(crate) fn allow_streams(&self) {
        let mut state = self.state.lock();
        state.gate.allow_streams();
        state.ending_streams = None;
    }

    /// Ends every stream: the process stops.
    pub(crate) fn end_all_streams(&self) {
        let mut state = self.state.lock();
        state.ending_streams = Some(Epoch(u64::MAX));
        state.streams.values().for_each(CancellationToken::cancel);
    }

    /// Closes, whatever it was open for; streams end, requests finish.
    pub(crate) fn close(&self) {
        {
            let mut state = self.state.lock();
            state.gate.close();
            state.streams.values().for_each(CancellationToken::cancel);
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn running(&self) -> Running {
        let state = self.state.lock();
        let oldest = state.ordinary.first_key_value().map(|(_, since)| since.elapsed());
        Running {
            oldest_request_ms: oldest.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            requests: state.ordinary.len(),
            streams: state.streams.len(),
        }
    }
}

/// The right of one request to run in the app. It ends when this is dropped: not before the app has ended it.
#[derive(Debug)]
pub(crate) struct Admission {
    gate: Arc<Gate>,
    epoch: Epoch,
    number: u64,
    kind: RequestKind,
    /// Of a stream: ends it. Of an ordinary request: cuts it.
    end: CancellationToken,
    /// False only for what a test fault let in.
    counted: bool,
}

impl Admission {
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The epoch at which it was admitted.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Ends a stream; `None` for an ordinary request.
    pub(crate) fn end(&self) -> Option<&CancellationToken> {
        Some(&self.end).filter(|_| self.kind == RequestKind::Stream)
    }

    /// Cuts an ordinary request; `None` for a stream.
    pub(crate) fn cut(&self) -> Option<&CancellationToken> {
        Some(&self.end).filter(|_| self.kind == RequestKind::Ordinary)
    }

    /// The answer is an event stream: it lasts until someone ends it.
    pub(crate) fn became_stream(&mut self) -> CancellationToken {
        if let Some(end) = self.end() {
            return end.clone();
        }
        let mut state = self.gate.state.lock();
        if self.counted {
            state.gate.became_stream();
        }
        state.ordinary.remove(&self.number);
        let end = state.add_stream(self.number);
        if self.counted && state.gate.open_at().is_none() {
            // Fenced between its admission and its answer.
            end.cancel();
        }
        drop(state);
        self.kind = RequestKind::Stream;
        self.end = end.clone();
        end
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        {
            let mut state = self.gate.state.lock();
            if self.counted {
                state.gate.finish(self.kind);
            }
            match self.kind {
                RequestKind::Ordinary => drop(state.ordinary.remove(&self.number)),
                RequestKind::Stream => drop(state.streams.remove(&self.number)),
            }
        }
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
