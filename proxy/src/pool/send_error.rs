//! Why a request got no answer.

use std::io;

use http::Request;

use crate::body::{BodyError, RequestBody};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No byte of the request was written: it can be sent elsewhere, whatever its method.
    #[error("the request was not sent")]
    NotSent {
        /// The request, its body untouched.
        request: Box<Request<RequestBody>>,
        /// What was in the way.
        #[source]
        cause: NotSent,
    },
    /// The request may have been received, and acted on.
    #[error("the connection failed after the request was sent")]
    Failed(#[source] BodyError),
}

impl SendError {
    /// Whether the request's own body broke off: nothing is said of the endpoint.
    pub fn is_of_request_body(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user)
    }
}

/// What kept a request from being sent.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// The endpoint cannot be reached.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// All connections that are allowed, altogether or to one tenant, were in use for too long.
    #[error("all {0} connections that are allowed are in use")]
    Exhausted(usize),
    /// The connection closed before the request was written.
    #[error("the connection closed before the request was written")]
    Closed(#[source] BodyError),
}
