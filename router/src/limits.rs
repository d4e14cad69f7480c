//! Limits of tenants, enforced. All threads of a router share them, and no request waits for a lock.
//!
//! A tenant that has limits costs at most [`STATE_MAX_BYTES`] beside its key and the texts of its pages; one without
//! costs nothing. What changes in the feed changes in place: buckets and counts go on.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::BufMut;
use cellway_core::ids::TenantId;
use cellway_core::limit::{self, Decision, Mode, RETRY_AFTER_S, Rate, TenantLimits};
use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::table::Map;

mod slot;

pub(crate) use slot::SlotBody;

/// What a tenant with limits costs at the most.
const STATE_MAX_BYTES: usize = 64;
/// The two counts that are kept beside what is shared.
const SHARED_COUNTS_BYTES: usize = 2 * size_of::<usize>();
/// A bit beside the limit of concurrency: the tenant is not open.
const NOT_OPEN: u32 = 1 << 31;
const _: () = assert!(limit::CONCURRENCY_MAX < NOT_OPEN);
const _: () = assert!(size_of::<Limited>() + SHARED_COUNTS_BYTES <= STATE_MAX_BYTES);

/// The standard fields that tell a client its quota (draft-ietf-httpapi-ratelimit-headers).
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What an item of their lists takes at most: two numbers of 20 digits are in it.
const OF_TENANT_BYTES: usize = 64;

/// The limits of all tenants that have any.
#[derive(Debug)]
pub(crate) struct Limits {
    tenants: Map<TenantId, Arc<Limited>>,
    /// Told whenever any tenant is opened or closed.
    switched: watch::Sender<()>,
    /// What times are counted from.
    since: Instant,
}

/// The limits of one tenant, and what is used of them.
#[derive(Debug, Default)]
pub(crate) struct Limited {
    requests_tat_ns: AtomicU64,
    bytes_tat_ns: AtomicU64,
    /// Per second in the upper half, the burst in the lower; 0: no limit.
    rate: AtomicU64,
    /// 0: no limit.
    bandwidth_bytes_per_second: AtomicU64,
    /// 0: no limit. The highest bit says that the tenant is not open: its words say how.
    concurrency: AtomicU32,
    in_flight: AtomicU32,
    words: ArcSwapOption<Words>,
}

/// What is seldom there: a mode that is not open, and texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) mode: Mode,
    pub(crate) message: Option<String>,
    retry_after_s: Option<u32>,
    pub(crate) error_text: Option<String>,
}

/// What is left of a rate, for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    rate: Rate,
    decision: Decision,
}

/// A request's place among those that its tenant may have at a time, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    limited: Arc<Limited>,
    quota: Option<Quota>,
    since: Instant,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tenants: Map::default(), switched: watch::Sender::default(), since: Instant::now() }
    }
}

impl Limits {
    /// The limits of a tenant, if it has any.
    pub(crate) fn of(&self, tenant: &TenantId) -> Option<Arc<Limited>> {
        if self.tenants.is_empty() {
            return None;
        }
        self.tenants.pin().get(tenant).cloned()
    }

    /// Sets a tenant's limits, or lifts them; says whether that changed anything.
    pub(crate) fn set(&self, tenant: TenantId, limits: TenantLimits) -> bool {
        let tenants = self.tenants.pin();
        let limited = tenants.get(&tenant);
        let before = limited.map(|limited| limited.limits()).unwrap_or_default();
        if limits == before {
            return false;
        }
        let switched = limits.mode != before.mode;
        if limits.is_nothing() {
            // Who has it still counts down there.
            tenants.remove(&tenant);
        } else {
            tenants.get_or_insert_with(tenant, Arc::default).set(limits);
        }
        if switched {
            self.switched.send_replace(());
        }
        true
    }

    /// Everything that was set.
    pub(crate) fn each(&self, mut each: impl FnMut(&TenantId, TenantLimits)) {
        self.tenants.pin().iter().for_each(|(tenant, limited)| each(tenant, limited.limits()));
    }

    /// Who has any.
    pub(crate) fn each_tenant(&self, each: impl FnMut(&TenantId)) {
        self.tenants.pin().keys().for_each(each);
    }

    /// Lifts all.
    pub(crate) fn clear(&self) {
        self.tenants.pin().clear();
    }

    /// How many tenants have limits.
    pub(crate) fn len(&self) -> usize {
        self.tenants.len()
    }

    /// Takes a slot for a request of a tenant that has limits: its mode first, then its rate, then its concurrency.
    pub(crate) fn enter(
        &self,
        limited: &Arc<Limited>,
        method: &http::Method,
        opens_websocket: bool,
        now: Instant,
        metrics: &Metrics,
    ) -> Result<Slot, Failure> {
        if !limited.is_open()
            && let Some(words) = &*limited.words.load()
            && !words.mode.admits(method.as_str(), opens_websocket)
        {
            let retry_after_s = words.retry_after_s.unwrap_or(RETRY_AFTER_S);
            let (failure, counter) = match words.mode {
                Mode::ReadOnly => (Failure::ReadOnly { retry_after_s }, &metrics.limited_read_only),
                Mode::Open | Mode::Paused => (Failure::Paused { retry_after_s }, &metrics.limited_paused),
            };
            counter.inc();
            return Err(failure);
        }
        let quota = limited.take_request(nanos(now.saturating_duration_since(self.since)));
        if let Some(quota) = quota.filter(|quota| !quota.decision.allowed) {
            metrics.limited_rate.inc();
            return Err(Failure::OverRate(quota));
        }
        if !limited.take_slot() {
            metrics.limited_concurrency.inc();
            return Err(Failure::OverConcurrency(quota));
        }
        Ok(Slot { limited: Arc::clone(limited), quota, since: self.since })
    }

    /// Waits until the tenant is no longer open.
    pub(crate) async fn until_not_open(&self, tenant: &TenantId) {
        let mut switched = self.switched.subscribe();
        while self.of(tenant).is_none_or(|limited| limited.is_open()) {
            // The sender lives as long as `self`.
            let _ = switched.changed().await;
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Limited {
    /// What its pages say, if anything was set.
    pub(crate) fn words(&self) -> Option<Arc<Words>> {
        self.words.load_full()
    }

    /// Asked for each request: words cost more to look at.
    fn is_open(&self) -> bool {
        self.concurrency.load(Ordering::Acquire) & NOT_OPEN == 0
    }

    fn concurrency(&self) -> u32 {
        self.concurrency.load(Ordering::Relaxed) & !NOT_OPEN
    }

    /// Only one at a time may set.
    fn set(&self, limits: TenantLimits) {
        let TenantLimits { requests, concurrency, bandwidth_bytes_per_second, .. } = limits;
        let rate = requests.map_or(0, |rate| u64::from(rate.per_second) << 32 | u64::from(rate.burst));
        self.rate.store(rate, Ordering::Relaxed);
        self.bandwidth_bytes_per_second.store(bandwidth_bytes_per_second.unwrap_or(0), Ordering::Relaxed);
        let TenantLimits { mode, message, retry_after_s, error_text, .. } = limits;
        let words = Words { mode, message, retry_after_s, error_text };
        let not_open = if words.mode == Mode::Open { 0 } else { NOT_OPEN };
        self.words.store((words != Words::default()).then(|| Arc::new(words)));
        self.concurrency.store(concurrency.unwrap_or(0).min(NOT_OPEN - 1) | not_open, Ordering::Release);
    }

    /// What was set.
    pub(crate) fn limits(&self) -> TenantLimits {
        let Words { mode, message, retry_after_s, error_text } =
            self.words().map(|words| (*words).clone()).unwrap_or_default();
        TenantLimits {
            requests: self.rate(),
            concurrency: Some(self.concurrency()).filter(|limit| *limit > 0),
            bandwidth_bytes_per_second: self.bandwidth(),
            mode,
            message,
            retry_after_s,
            error_text,
        }
    }

    fn rate(&self) -> Option<Rate> {
        let rate = self.rate.load(Ordering::Relaxed);
        let lower = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        (rate > 0).then(|| Rate { per_second: lower(rate >> 32), burst: lower(rate) })
    }

    fn bandwidth(&self) -> Option<u64> {
        Some(self.bandwidth_bytes_per_second.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    fn take_request(&self, now_ns: u64) -> Option<Quota> {
        let rate = self.rate()?;
        let mut tat_ns = self.requests_tat_ns.load(Ordering::Relaxed);
        loop {
            let (new_tat_ns, decision) = limit::gcra(tat_ns, now_ns, rate);
            let order = Ordering::Relaxed;
            match self.requests_tat_ns.compare_exchange_weak(tat_ns, new_tat_ns, order, order) {
                Ok(_) => return Some(Quota { rate, decision }),
                Err(other) => tat_ns = other,
            }
        }
    }

    fn take_slot(&self) -> bool {
        let limit = match self.concurrency() {
            0 => u32::MAX,
            limit => limit,
        };
        let take = |in_flight| (in_flight < limit).then(|| in_flight + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Charges bytes that have passed, and says how long to wait before more may, in ns. Times count from `since`.
    fn pass(&self, bytes: u64, since: Instant) -> u64 {
        let Some(bandwidth) = self.bandwidth() else { return 0 };
        let now_ns = nanos(since.elapsed());
        let mut tat_ns = self.bytes_tat_ns.load(Ordering::Relaxed);
        loop {
            let (new_tat_ns, wait_ns) = limit::pace(tat_ns, now_ns, bytes, bandwidth);
            let order = Ordering::Relaxed;
            match self.bytes_tat_ns.compare_exchange_weak(tat_ns, new_tat_ns, order, order) {
                Ok(_) => return wait_ns,
                Err(other) => tat_ns = other,
            }
        }
    }
}

impl Slot {
    /// Tells the client what is left of its rate.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(quota) = self.quota {
            quota.tell(headers);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.limited.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Quota {
    /// When to come again.
    pub(crate) fn retry_after_s(self) -> u64 {
        self.decision.reset_ms.div_ceil(1_000).max(1)
    }

    /// Writes the standard fields: the burst as the quota of the time in which it is regained; how many more pass now,
    /// and for how long that is true. They are lists: those of the app stay beside them.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let Decision { remaining, reset_ms, .. } = self.decision;
        if let Some(policy) = policy(self.rate) {
            headers.append(RATELIMIT_POLICY, policy);
        }
        if let Ok(mut left) = of_tenant([("r", u64::from(remaining)), ("t", reset_ms.div_ceil(1_000))]) {
            // HTTP/2 is to keep it in no table: it is another one soon.
            left.set_sensitive(true);
            headers.append(RATELIMIT, left);
        }
    }
}

/// A rate as `RateLimit-Policy` says it. Many tenants have the same, so the last one is kept.
fn policy(rate: Rate) -> Option<HeaderValue> {
    thread_local! {
        static LAST: RefCell<Option<(Rate, HeaderValue)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|(of, _)| *of != rate) {
            *last = of_tenant([("q", u64::from(rate.burst)), ("w", rate.window_s())]).ok().map(|policy| (rate, policy));
        }
        last.as_ref().map(|(_, policy)| policy.clone())
    })
}

/// An item of such a list.
fn of_tenant(numbers: [(&str, u64); 2]) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut text = [0; OF_TENANT_BYTES];
    let mut left = &mut text[..];
    left.put_slice(b"\"tenant\"");
    for (name, number) in numbers {
        [";", name, "=", itoa::Buffer::new().format(number)]
            .into_iter()
            .for_each(|part| left.put_slice(part.as_bytes()));
    }
    let length = OF_TENANT_BYTES - left.len();
    HeaderValue::from_bytes(&text[..length])
}

#[cfg(test)]
mod tests;
