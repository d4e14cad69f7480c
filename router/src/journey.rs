//! What becomes known of a request on its way, and the line of the access log that is made of it.
//!
//! A [`Journey`] goes with its request: through the attempts, then with the answer's body, or with the tunnel. The line
//! is written when it is dropped, so that a client that leaves at any point leaves one too. Without a line to write it ends
//! where an answer has come whole.

use std::cell::Cell as Counter;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cellway_core::ids::TenantId;
use cellway_proxy::upgrade::TunnelBytes;
use cellway_proxy::{BodyError, Peer, ResponseBody, clock};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::access_log::{AccessLog, Ending, Record, Texts};
use crate::settings::Settings;
use crate::table::Target;
use crate::under_way::Tally;

pub(crate) struct Journey {
    /// Those in force when the request began.
    pub(crate) settings: Arc<Settings>,
    began: Instant,
    /// Where it is counted as under way, once it is known whose it is.
    tally: Option<Tally>,
    draft: Option<Box<Draft>>,
}

struct Draft {
    record: Record,
    log: AccessLog,
    /// Whether the line is written even if nothing went wrong.
    drawn: bool,
    /// Bytes of the body that the last attempt has sent.
    sent: Rc<Counter<u64>>,
    tunnel: Option<Rc<TunnelBytes>>,
    head_only: bool,
}

impl Journey {
    pub(crate) fn begin<B>(settings: Arc<Settings>, request: &Request<B>, peer: &Peer, id: &HeaderValue) -> Self {
        let began = clock::now();
        let draft = settings.access_log.as_ref().and_then(|log| {
            let drawn = log.draw()?;
            let record = record_of(request, peer, id, log.shows_query());
            let head_only = request.method() == Method::HEAD;
            Some(Box::new(Draft { record, log: log.clone(), drawn, sent: Rc::default(), tunnel: None, head_only }))
        });
        Self { settings, began, tally: None, draft }
    }

    /// Whose request it is, and where that is counted.
    pub(crate) fn belongs_to(&mut self, tenant: &TenantId, tally: Tally) {
        self.tally.get_or_insert_with(|| {
            self.settings.under_way.begin(tally);
            tally
        });
        if let Some(draft) = &mut self.draft {
            draft.record.tenant = Some(tenant.clone());
        }
    }

    /// It is sent; `target` is where to, unless that is the origin, and `sent` counts the bytes of its body.
    pub(crate) fn attempt(&mut self, target: Option<&Target>, sent: &Rc<Counter<u64>>) {
        if let Some(draft) = &mut self.draft {
            draft.record.attempts += 1;
            draft.sent = Rc::clone(sent);
            if let Some(target) = target {
                draft.record.epoch = Some(target.epoch.0);
                if draft.record.cell.as_ref() != Some(target.cell_name()) {
                    draft.record.cell = Some(target.cell_name().clone());
                }
            }
        }
    }

    /// It was held for so long, once more.
    pub(crate) fn held(&mut self, time: Duration) {
        if let Some(draft) = &mut self.draft {
            draft.record.held_us += micros(time);
        }
    }

    /// The router answers by itself.
    pub(crate) fn failed(&mut self, failure: &'static str) {
        if let Some(draft) = &mut self.draft {
            draft.record.failure = Some(failure);
        }
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        clock::now().duration_since(self.began)
    }

    /// When the request came.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// The answer, which takes the journey with it; `elapsed` until here.
    pub(crate) fn answer(mut self, response: Response<ResponseBody>, elapsed: Duration) -> Response<ResponseBody> {
        let is_here = matches!(response.body(), ResponseBody::Full(_)) && self.draft.is_none();
        let mut is_whole = is_here || response.body().is_end_stream() || (self.tally.is_none() && self.draft.is_none());
        if let Some(draft) = &mut self.draft {
            draft.record.status = Some(response.status().as_u16());
            draft.record.head_us = Some(micros(elapsed));
            is_whole |= draft.head_only;
            if is_whole {
                draft.record.ending = Ending::Whole;
            }
        }
        if is_whole {
            return response;
        }
        response.map(|body| ResponseBody::boxed(Logged { body, journey: self }))
    }

    /// The journey, to go with the tunnel that answers its request; what is left here tells nothing.
    pub(crate) fn through(&mut self, response: &Response<ResponseBody>, bytes: &Rc<TunnelBytes>) -> Self {
        let elapsed = self.elapsed();
        let mut draft = self.draft.take();
        if let Some(draft) = &mut draft {
            draft.record.status = Some(response.status().as_u16());
            draft.record.head_us = Some(micros(elapsed));
            draft.record.ending = Ending::Whole;
            draft.tunnel = Some(Rc::clone(bytes));
        }
        Self { settings: Arc::clone(&self.settings), began: self.began, tally: self.tally.take(), draft }
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if let Some(tally) = self.tally.take() {
            self.settings.under_way.end(tally);
        }
        let Some(draft) = self.draft.take() else { return };
        let Draft { mut record, log, drawn, sent, tunnel, .. } = *draft;
        let wrong = record.ending == Ending::Broken || record.status.is_some_and(|status| status >= 500);
        if !drawn && !wrong {
            return;
        }
        record.up_bytes = sent.get();
        if let Some(bytes) = tunnel {
            (record.up_bytes, record.down_bytes) = (bytes.up.get(), bytes.down.get());
        }
        record.total_us = micros(self.began.elapsed());
        log.write(record);
    }
}

/// An answer's body, with its journey.
struct Logged {
    body: ResponseBody,
    journey: Journey,
}

impl Body for Logged {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let at_end = self.body.is_end_stream();
        if let Some(draft) = &mut self.journey.draft {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    draft.record.down_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                    if at_end {
                        draft.record.ending = Ending::Whole;
                    }
                }
                Poll::Ready(Some(Err(_))) => draft.record.ending = Ending::Broken,
                Poll::Ready(None) => draft.record.ending = Ending::Whole,
                Poll::Pending => {}
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn record_of<B>(request: &Request<B>, peer: &Peer, id: &HeaderValue, with_query: bool) -> Record {
    let (uri, headers) = (request.uri(), request.headers());
    let host = uri.authority().map_or_else(|| value(headers, header::HOST), |authority| authority.as_str().as_bytes());
    let referer = value(headers, header::REFERER);
    let before_query = || referer.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let texts = Texts::new([
        id.as_bytes(),
        request.method().as_str().as_bytes(),
        host,
        uri.path().as_bytes(),
        uri.query().filter(|_| with_query).unwrap_or_default().as_bytes(),
        value(headers, header::USER_AGENT),
        if with_query { referer } else { before_query() },
    ]);
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Record {
        time_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        texts,
        version: request.version(),
        tls: peer.tls.as_ref().and_then(|tls| tls.version).and_then(|version| version.as_str()),
        client: peer.address,
        tenant: None,
        cell: None,
        epoch: None,
        status: None,
        attempts: 0,
        held_us: 0,
        up_bytes: 0,
        down_bytes: 0,
        head_us: None,
        total_us: 0,
        failure: None,
        ending: Ending::Left,
    }
}

fn value(headers: &HeaderMap, name: header::HeaderName) -> &[u8] {
    headers.get(name).map_or(&[], HeaderValue::as_bytes)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
