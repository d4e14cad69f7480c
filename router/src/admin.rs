//! The admin listener: `/healthz`, `/readyz`, `/metrics`.

use std::rc::Rc;
use std::sync::Arc;

use cellway_proxy::{Handler, IncomingBody, Peer, ResponseBody};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use prometheus::{Registry, TextEncoder};

use crate::shared::Shared;

pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Registry,
}

impl Handler for Admin {
    async fn handle(self: Rc<Self>, request: Request<IncomingBody>, _: Peer) -> Response<ResponseBody> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n");
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics\n"),
        }
    }
}

impl Admin {
    fn readiness(&self) -> Response<ResponseBody> {
        let (loaded, synced) = (self.shared.is_loaded(), self.shared.is_synced());
        let revision = self.shared.revision();
        match (loaded, synced) {
            (true, true) => text(StatusCode::OK, format!("ready at revision {revision}\n")),
            (true, false) => text(StatusCode::OK, format!("ready, stale at revision {revision}\n")),
            (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, "no routes yet\n"),
        }
    }

    fn metrics(&self) -> Response<ResponseBody> {
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(metrics) => text(StatusCode::OK, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
