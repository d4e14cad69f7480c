//! One client's HTTP/1.1 connection: its requests run one after the other.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::sleep;

use super::Served;
use crate::body::ResponseBody;
use crate::head_tap::{CheckedIo, Notes};
use crate::hygiene;
use crate::io::Io;
use crate::serve::{HEAD_MAX_BYTES, Handler, Peer, ServeOptions, ThreadContext};
use crate::socket::SocketHandle;

/// Bytes of a connection kept in memory each way.
const CONNECTION_BUFFER_BYTES: usize = 128 * 1024;

/// Serves the connection until it ends or is upgraded.
pub(crate) async fn serve<H: Handler>(io: Io, served: Served<H>) {
    let peer = served.peer();
    let Served { handler, options, context, socket, counted, .. } = served;
    let (io, notes) = CheckedIo::new(io, options.farewell, counted);
    let limit = options.unread_ms.map(Duration::from_millis);
    let patience = Rc::new(Patience { socket: socket.clone(), limit, set: Cell::new(false) });
    let number = Cell::new(0);
    let is_last = Rc::new(Cell::new(false));
    let says_last = Rc::clone(&is_last);
    let faults = notes.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let malformed = faults.fault_of(number.replace(number.get() + 1));
        let asks_to_switch = hygiene::asks_to_switch(request.headers());
        says_last.set(hygiene::asks_to_close(request.headers()));
        let answer = Rc::clone(&handler).handle(request.map(Into::into), Peer { malformed, ..peer.clone() });
        let patience = Rc::clone(&patience);
        async move {
            let mut answer = answer.await;
            if asks_to_switch && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                // The bytes behind the request were not checked: they may have been a tunnel's.
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            patience.fit(&answer);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = builder(&options).serve_connection(TokioIo::new(io), service).with_upgrades();
    run(pin!(connection), &notes, &socket, &context, Duration::from_millis(options.age_ms)).await;
    // Who has said that nothing more comes is not waited for.
    if is_last.get() {
        return;
    }
    tokio::select! {
        () = socket.linger() => {}
        () = context.stop.cancelled() => {}
    }
}

fn builder(options: &ServeOptions) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(options.head_timeout_ms))
        .max_header_size(HEAD_MAX_BYTES)
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .half_close(true)
        .keep_alive(true);
    builder
}

async fn run<C>(
    mut connection: Pin<&mut C>,
    notes: &Notes,
    socket: &SocketHandle,
    context: &ThreadContext,
    age: Duration,
) where
    C: Future<Output = Result<(), hyper::Error>> + GracefulShutdown,
{
    let mut reset = pin!(socket.reset());
    tokio::select! {
        biased;
        result = connection.as_mut() => return log_end(result),
        () = reset.as_mut() => return,
        () = context.shutdown.cancelled() => {}
        () = sleep(age) => {}
    }
    notes.part();
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        result = connection.as_mut() => log_end(result),
        () = reset.as_mut() => {}
        () = context.stop.cancelled() => {}
    }
}

/// Bounds how long a client may leave an answer unread.
struct Patience {
    socket: SocketHandle,
    limit: Option<Duration>,
    set: Cell<bool>,
}

impl Patience {
    /// Asks the kernel only where one answer differs from the one before it.
    fn fit(&self, answer: &Response<ResponseBody>) {
        let lasting = answer.status() == StatusCode::SWITCHING_PROTOCOLS || hygiene::is_event_stream(answer.headers());
        let wanted = self.limit.filter(|_| !lasting);
        if self.set.replace(wanted.is_some()) != wanted.is_some() {
            self.socket.give_up_after(wanted);
        }
    }
}

fn log_end(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended with an error");
    }
}

/// The one thing about hyper's connection that [`run`] needs, without its type parameters.
trait GracefulShutdown {
    fn graceful_shutdown(self: Pin<&mut Self>);
}

impl<I, B, S> GracefulShutdown for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http1::UpgradeableConnection::graceful_shutdown(self);
    }
}
