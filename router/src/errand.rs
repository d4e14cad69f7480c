//! A request on its way: what of it stays the same over all attempts.

use std::borrow::Borrow;
use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use cellway_core::cell::CellKind;
use cellway_core::hostname::Hostname;
use cellway_core::ids::{Epoch, TenantId};
use cellway_core::route::Owner;
use cellway_proxy::{ClientHalf, FieldLines, Head, Pace, PooledBody, Protocol, RequestBody, Room, hygiene};
use http::{HeaderMap, HeaderValue, Method, Response, Uri, header};
use http_body::Body;
use prometheus::IntGauge;
use tokio::time::Instant;

use crate::journey::Journey;
use crate::limits::Slot;
use crate::table::Target;
use crate::upload::{Lent, Upload};

/// The longest request id that is kept.
pub const REQUEST_ID_MAX_BYTES: usize = 128;

/// The request, cleaned.
pub(crate) struct Errand<'j> {
    /// The host that the client asked for.
    pub(crate) host: Hostname,
    /// Where its tenant was when it came: for the first attempt.
    pub(crate) found: Option<Target>,
    pub(crate) method: Method,
    pub(crate) target: Uri,
    /// Stripped of what the client may not say, and of what the lines say.
    pub(crate) headers: HeaderMap,
    /// What the router says.
    pub(crate) lines: OwnLines,
    pub(crate) upload: Upload,
    /// The client's half of the tunnel, if it asks for a WebSocket.
    pub(crate) websocket: Option<ClientHalf>,
    /// Its place among those that its tenant may have at a time, if its tenant has limits.
    pub(crate) slot: Option<Slot>,
    /// What its client's connection may keep.
    pub(crate) room: Option<Room>,
    /// Bytes of the body that the last attempt has sent.
    pub(crate) sent: Rc<Cell<u64>>,
    /// When the last attempt began.
    pub(crate) began: Instant,
    /// What is told of it.
    pub(crate) journey: &'j mut Journey,
}

/// What came of an attempt.
pub(crate) enum Outcome {
    /// The app answered.
    Answered(Box<Response<PooledBody>>),
    /// The cell says who has the tenant.
    Elsewhere(Owner),
    /// Nobody admitted the request.
    Refused,
}

impl Errand<'_> {
    /// What is spoken to the cell. Gates speak both; HTTP/1.1 costs less, and gRPC cannot be carried by it.
    pub(crate) fn protocol(&self) -> Protocol {
        if hygiene::is_grpc(&self.headers) { Protocol::Http2 } else { Protocol::Http1 }
    }

    /// The head of the attempt that [`Errand::attempt`] has begun.
    pub(crate) fn head(&self) -> Head<'_> {
        let Self { method, target, headers, lines, .. } = self;
        Head { method, target, headers, lines: Some(&lines.all), expects: lines.expects }
    }

    /// Begins an attempt: gives its body, and what it holds of that.
    pub(crate) fn attempt(&mut self, kind: CellKind, stamp: Option<(&TenantId, Epoch)>) -> (Box<RequestBody>, Lent) {
        let (body, lent) = self.upload.lend();
        // A gate asks for the body with `100 Continue` once it has admitted the request.
        let expects = lent.is_some() && kind == CellKind::Agent;
        self.lines.of_attempt(stamp, expects);
        if let Some(held) = lent.as_ref().filter(|_| !expects) {
            held.release();
        }
        let mut body = body.within(self.room.clone());
        if !body.is_end_stream() {
            self.sent = Rc::default();
            let pace = self.slot.as_ref().map(|slot| Box::new(slot.pace()) as Box<dyn Pace>);
            body = body.counted_by(Rc::clone(&self.sent)).paced_by(pace);
        }
        // It lies in the futures of all who work on it.
        (Box::new(body), lent)
    }
}

/// What the router says to a cell: the same to all attempts, then what is of one.
pub(crate) struct OwnLines {
    all: FieldLines,
    of_all_bytes: usize,
    /// Whether the attempt's ask for `100 Continue`.
    expects: bool,
}

impl OwnLines {
    /// What is said to all attempts.
    pub(crate) fn new(of_all: FieldLines) -> Self {
        Self { of_all_bytes: of_all.len(), all: of_all, expects: false }
    }

    fn of_attempt(&mut self, stamp: Option<(&TenantId, Epoch)>, expects: bool) {
        self.all.truncate(self.of_all_bytes);
        if let Some((tenant, epoch)) = stamp {
            self.all.put(&hygiene::TENANT, |to| to.tenant(tenant));
            self.all.put(&hygiene::EPOCH, |to| to.number(epoch.0));
        }
        self.expects = expects;
        if expects {
            self.all.put(&header::EXPECT, |to| to.words("100-continue"));
        }
    }
}

/// The id of a request: the client's, if it is sane and alone, or a new one. HTTP/2 is to keep it in no table: there, each value of
/// a name is compared with the next, and all of them differ.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut id = given_id(headers).unwrap_or_else(new_id);
    id.set_sensitive(true);
    id
}

fn given_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut given = headers.get_all(hygiene::REQUEST_ID).iter();
    if let (Some(id), None) = (given.next(), given.next())
        && (1..=REQUEST_ID_MAX_BYTES).contains(&id.len())
        && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    {
        return Some(id.clone());
    }
    None
}

#[expect(clippy::expect_used, reason = "hexadecimal digits are plain ASCII")]
fn new_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut id = [0; 32];
    for (pair, byte) in id.chunks_exact_mut(2).zip(rand::random::<u128>().to_ne_bytes()) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    // As it will be cloned: the count of its users lies with it, where other bytes get one of their own.
    let id = Bytes::from_owner(id);
    HeaderValue::from_maybe_shared(id).expect("hexadecimal digits are plain ASCII")
}

/// Counts as one in a gauge for as long as it lives.
pub(crate) struct Counted<G: Borrow<IntGauge>>(G);

impl<G: Borrow<IntGauge>> Counted<G> {
    pub(crate) fn new(gauge: G) -> Self {
        gauge.borrow().inc();
        Self(gauge)
    }
}

impl<G: Borrow<IntGauge>> Drop for Counted<G> {
    fn drop(&mut self) {
        self.0.borrow().dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_clients_if_it_is_sane_and_alone_and_never_in_a_table_of_http2() {
        let of = |ids: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for id in ids {
                headers.append(hygiene::REQUEST_ID, HeaderValue::from_static(id));
            }
            request_id(&headers)
        };
        assert_eq!(of(&["a-1_b.c"]), "a-1_b.c");
        for other in [&[][..], &["a b"], &["a", "a"]] {
            assert_eq!(of(other).len(), 32, "{other:?}");
        }
        assert!(of(&["a"]).is_sensitive() && of(&[]).is_sensitive());
    }
}
