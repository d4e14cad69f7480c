//! Why a request got no answer.

use std::io;

use rustix::io::Errno;

use super::Broken;
use crate::body::{BodyError, RequestBody};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No byte of the request was written: it can be sent elsewhere, whatever its method.
    #[error("the request was not sent")]
    NotSent {
        /// Its body, untouched.
        body: Box<RequestBody>,
        /// What was in the way.
        #[source]
        cause: NotSent,
    },
    /// A connection that was kept from before was closed without an answer, as peers close what has been idle for long:
    /// most likely the request was not read. HTTP lets it be repeated if it is safe (RFC 9112, section 9.3.1).
    #[error("the connection was closed as the request was sent")]
    Lost(#[source] BodyError),
    /// The request may have been received, and acted on.
    #[error("the connection failed after the request was sent")]
    Failed(#[source] BodyError),
}

impl SendError {
    /// Whether the request's own body broke off: nothing is said of the endpoint.
    pub fn is_of_request_body(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        matches!(error.downcast_ref(), Some(Broken::Body(_)))
    }
}

impl From<io::Error> for NotSent {
    /// Of an error in connecting.
    fn from(error: io::Error) -> Self {
        let code = Errno::from_io_error(&error);
        let starved = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
        if code.is_some_and(|code| starved.contains(&code)) { Self::Starved(error) } else { Self::Connect(error) }
    }
}

/// What kept a request from being sent.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// The endpoint cannot be reached.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// This process has no more files or memory for a connection: nothing is said of the endpoint, and whoever waits
    /// may hold what is missing.
    #[error("there is nothing left to connect with")]
    Starved(#[source] io::Error),
    /// All connections that are allowed, altogether or to one tenant, were in use for too long.
    #[error("all {0} connections that are allowed are in use")]
    Exhausted(usize),
    /// The connection closed before the request was written.
    #[error("the connection closed before the request was written")]
    Closed(#[source] BodyError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_lacks_is_not_laid_to_its_peer() {
        for (code, starved) in [(Errno::MFILE, true), (Errno::NOBUFS, true), (Errno::CONNREFUSED, false)] {
            let cause = NotSent::from(io::Error::from(code));
            assert_eq!(matches!(cause, NotSent::Starved(_)), starved, "{code}");
        }
        assert!(matches!(NotSent::from(io::Error::from(io::ErrorKind::TimedOut)), NotSent::Connect(_)));
    }
}
