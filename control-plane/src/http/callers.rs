//! Who calls the API, and what each may ask for. Over TLS a caller is who its certificate names; a listener in clear
//! is on loopback, and takes whoever can reach it for an operator.

use super::problem_response;
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use cellway_api::identity::Identity;
use cellway_api::problem::Problem;
use std::net::SocketAddr;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(super) address: SocketAddr,
    pub(super) proof: Proof,
}

/// How a caller is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// Not at all, on a listener that only this machine reaches.
    Loopback,
    /// It has no certificate.
    None,
    /// By its certificate.
    Certificate(Identity),
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Allowed,
    Unknown,
    Forbidden,
}

/// Lets a request through if its caller may make it. It stands before every handler.
pub(super) async fn check(ConnectInfo(caller): ConnectInfo<Caller>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    match decide(&caller.proof, path) {
        Decision::Allowed => next.run(request).await,
        Decision::Unknown => {
            tracing::warn!(address = %caller.address, path, "a caller without an identity is refused");
            let title = "this needs a client certificate of the fleet's CA";
            refused(StatusCode::UNAUTHORIZED, "unauthorized", title.to_owned())
        }
        Decision::Forbidden => {
            let who = match &caller.proof {
                Proof::Certificate(identity) => identity.name(),
                Proof::Loopback | Proof::None => "nobody".to_owned(),
            };
            tracing::warn!(address = %caller.address, who, path, "a caller is refused: this is not its to ask for");
            refused(StatusCode::FORBIDDEN, "forbidden", format!("{who} may not ask for {path}"))
        }
    }
}

fn refused(status: StatusCode, kind: &str, title: String) -> Response {
    let detail = "certificates are issued with `cellway ca issue`; give the command --ca, --certificate and --key";
    let problem = Problem { kind: kind.to_owned(), status: status.as_u16(), title, detail: Some(detail.to_owned()) };
    problem_response(status, &problem)
}

/// What is not named here is the operators' alone.
fn decide(proof: &Proof, path: &str) -> Decision {
    let identity = match (proof, path) {
        (Proof::Loopback, _) | (_, "/healthz" | "/readyz") => return Decision::Allowed,
        (Proof::None, _) => return Decision::Unknown,
        (Proof::Certificate(identity), _) => identity,
    };
    let right = match (cell_of(path), identity) {
        (Some(cell), Identity::Cell(own)) => own.as_str() == cell,
        (Some(_), _) => false,
        (None, Identity::Operator | Identity::ControlPlane) => true,
        (None, Identity::Router) => matches!(path, "/v1/routes/feed" | "/metrics"),
        (None, Identity::Cell(_)) => path == "/metrics",
    };
    if right { Decision::Allowed } else { Decision::Forbidden }
}

/// The cell that a path of an agent speaks for, as it is written: a name that is encoded in another way is no cell's.
fn cell_of(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/cells/")?.split_once('/').map(|(cell, _)| cell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellway_core::ids::CellName;

    fn cell(name: &str) -> Proof {
        Proof::Certificate(Identity::Cell(CellName::new(name).expect("legal")))
    }

    #[test]
    fn a_cell_can_state_facts_about_itself_and_nothing_else() {
        for what in ["instances", "instances/i-1/leave", "stream", "facts", "load"] {
            let path = format!("/v1/cells/cell-a/{what}");
            assert_eq!(decide(&cell("cell-a"), &path), Decision::Allowed, "{path}");
            assert_eq!(decide(&cell("cell-b"), &path), Decision::Forbidden, "{path}");
            assert_eq!(decide(&Proof::Certificate(Identity::Router), &path), Decision::Forbidden, "{path}");
            assert_eq!(decide(&Proof::Certificate(Identity::Operator), &path), Decision::Forbidden, "{path}");
        }
        for path in
            ["/v1/cells/cell%2Da/facts", "/v1/cells/cell-a", "/v1/cells", "/v1/moves", "/", "//v1/cells/cell-a/facts"]
        {
            assert_eq!(decide(&cell("cell-a"), path), Decision::Forbidden, "{path}");
        }
    }

    #[test]
    fn operators_do_the_rest_and_nobody_does_nothing() {
        for path in ["/v1/tenants", "/v1/cells/cell-a", "/v1/moves/m-1/undo", "/v1/anything", "/metrics"] {
            assert_eq!(decide(&Proof::Certificate(Identity::Operator), path), Decision::Allowed, "{path}");
            assert_eq!(decide(&Proof::None, path), Decision::Unknown, "{path}");
            assert_eq!(decide(&Proof::Loopback, path), Decision::Allowed, "{path}");
        }
        assert_eq!(decide(&Proof::Certificate(Identity::Router), "/v1/tenants"), Decision::Forbidden);
        assert_eq!(decide(&Proof::Certificate(Identity::Router), "/v1/routes/feed"), Decision::Allowed);
        for path in ["/healthz", "/readyz"] {
            assert_eq!(decide(&Proof::None, path), Decision::Allowed);
        }
    }
}
