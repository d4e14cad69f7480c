//! One client's HTTP/1.1 connection: its requests run one after the other.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use http_body::Body;
use tokio::sync::oneshot;
use tokio::time::sleep_until;

use super::Served;
use crate::addresses::Counted;
use crate::clock;
use crate::http1::Input;
use crate::hygiene::{self, BadRequest};
use crate::io::Io;
use crate::serve::{Handler, Peer};
use crate::socket::SocketHandle;
use crate::upgrade::{Promise, Switched};

mod answer;
mod ends;
mod head_check;
mod read;
mod request;
mod wire;

use ends::Ends;
pub(crate) use head_check::{FIELD_MAX_BYTES, TARGET_MAX_BYTES};
pub use read::{NoRequest, ReadRequest, read_request};
use request::RequestHead;
pub(crate) use wire::ReceivedBody;
use wire::{Came, Wire};

/// Serves the connection, of which `input` has come, until it ends or becomes a tunnel.
pub(crate) async fn serve<H: Handler>(io: Io, input: Input, served: Served<H>) {
    let peer = served.peer();
    let Served { handler, options, context, socket, counted, .. } = served;
    let opened = clock::now();
    let head_timeout = Duration::from_millis(options.head_timeout_ms);
    let ends = Ends {
        alarm: context.nursery.alarm(),
        shutdown: pin!(context.shutdown.cancelled()),
        stop: pin!(context.stop.cancelled()),
        reset: pin!(socket.reset()),
        timer: pin!(sleep_until(opened + head_timeout)),
        head_timeout,
        old_at: opened + Duration::from_millis(options.age_ms),
        is_parting: false,
        is_reset: false,
    };
    let limit = options.unread_ms.map(Duration::from_millis);
    let patience = Patience { socket: socket.clone(), limit, set: Cell::new(false) };
    let counted = Some(counted);
    let mut connection =
        Connection { wire: Wire::new(io, input), handler, peer, farewell: options.farewell, ends, patience, counted };
    let wire = connection.wire.clone();
    let goodbye = connection.run().await;
    drop(connection);
    // Whoever still has a part of it.
    wire.close();
    if goodbye == Goodbye::Said {
        tokio::select! {
            () = socket.linger() => {}
            () = context.stop.cancelled() => {}
        }
    }
}

struct Connection<'a, H> {
    wire: Wire,
    handler: Rc<H>,
    peer: Peer,
    farewell: &'static [u8],
    ends: Ends<'a>,
    patience: Patience,
    counted: Option<Counted>,
}

/// What follows an exchange.
enum After {
    /// Another one.
    Next,
    /// The end, in good order.
    End,
    /// The same, and the client has said that nothing more comes.
    LastEnd,
    /// Nothing: the connection is broken, cut off, or a tunnel.
    Gone,
}

/// How a connection has ended.
#[derive(PartialEq, Eq)]
enum Goodbye {
    /// The client was told, and may still be sending.
    Said,
    /// There is nobody to be waited for.
    NotSaid,
}

impl<H: Handler> Connection<'_, H> {
    async fn run(&mut self) -> Goodbye {
        loop {
            let after = match self.ends.next(&self.wire).await {
                Some(Came::Head(head, malformed)) => self.exchange(head, malformed).await,
                Some(Came::Refused(status)) => self.say(&answer::refusal(status)).await,
                Some(Came::Over) => self.say(self.farewell).await,
                Some(Came::End) | None => After::Gone,
            };
            match after {
                After::Next => {}
                After::Gone => return Goodbye::NotSaid,
                // Closing says it as well.
                After::LastEnd if self.peer.tls.is_none() => return Goodbye::NotSaid,
                After::End | After::LastEnd => {
                    let wire = &self.wire;
                    let poll = self.patience.with(self.patience.limit, |cx| wire.poll_shut_down(cx));
                    let said = self.ends.race(poll).await;
                    let waits = matches!((after, said), (After::End, Some(Ok(()))));
                    return if waits { Goodbye::Said } else { Goodbye::NotSaid };
                }
            }
        }
    }

    /// Says the last there is to say.
    async fn say(&mut self, mut bytes: &[u8]) -> After {
        let wire = &self.wire;
        match self.ends.race(|cx| wire.poll_write_all(&mut bytes, cx)).await {
            Some(Ok(())) => After::End,
            Some(Err(_)) | None => After::Gone,
        }
    }

    async fn exchange(&mut self, head: RequestHead, malformed: Option<BadRequest>) -> After {
        let RequestHead { mut request, length, facts } = head;
        *request.body_mut() = self.wire.body(length, facts.expects).into();
        let switch = facts.asks_to_switch.then(|| {
            let (switch, promise) = Promise::<Switched>::new();
            request.extensions_mut().insert(promise);
            switch
        });
        let peer = Peer { malformed, ..self.peer.clone() };
        let mut handling = pin!(Rc::clone(&self.handler).handle(request, peer));
        let Some(mut answer) = self.ends.race(|cx| handling.as_mut().poll(cx)).await else { return After::Gone };
        let switches = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        if facts.asks_to_switch && !switches {
            // What is behind the request may be meant for a tunnel.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let is_event_stream = hygiene::is_event_stream(answer.headers());
        let patience = self.patience.limit.filter(|_| !switches && !is_event_stream);
        let (head, mut body) = answer.into_parts();
        let wire = &self.wire;
        let mut invitation = wire.rest_of_invitation();
        if !invitation.is_empty()
            && !matches!(self.ends.race(|cx| wire.poll_write_all(&mut invitation, cx)).await, Some(Ok(())))
        {
            return After::Gone;
        }
        let body_ends = poll_fn(|cx| Poll::Ready(wire.ends_body(cx))).await;
        let keeps_alive = facts.keeps_alive && malformed.is_none() && body_ends && !self.ends.is_parting;
        let has_end = body.size_hint().exact().is_some();
        let (mut outgoing, keeps_alive) = answer::begin(&head, &body, facts, keeps_alive);
        if keeps_alive || patience.is_none() {
            self.patience.fit(patience);
        }
        let mut poll = self.patience.with(patience, |cx| outgoing.poll(&mut body, &mut wire.writer(), cx));
        // Who waits for the end of an answer may have ended its own side. Who listens to an event stream has left then.
        let may_be_left = is_event_stream && !has_end;
        let unless_left = move |cx: &mut Context<'_>| match poll(cx) {
            Poll::Pending if may_be_left => wire.poll_left(cx).map(|()| None),
            polled => polled.map(Some),
        };
        let sent = self.ends.race(unless_left).await.flatten();
        drop(body);
        match sent {
            Some(Ok(())) if switches => return self.switch(switch),
            Some(Ok(())) => {}
            Some(Err(stuck)) => {
                tracing::debug!(error = ?stuck, "an answer was not sent to its end");
                return After::Gone;
            }
            None => return After::Gone,
        }
        let poll = self.patience.with(patience, |cx| wire.poll_read_whole(cx));
        match self.ends.race(poll).await {
            Some(true) if keeps_alive => After::Next,
            Some(true) if facts.is_last && malformed.is_none() => After::LastEnd,
            Some(_) => After::End,
            None => After::Gone,
        }
    }

    /// Gives the connection to whoever has asked for the client's half of the tunnel.
    fn switch(&mut self, switch: Option<oneshot::Sender<Switched>>) -> After {
        if let (Some(switch), Some(io), Some(counted)) = (switch, self.wire.take(), self.counted.take()) {
            // Without a tunnel the connection closes.
            let _ = switch.send(Switched { io, counted });
        }
        After::Gone
    }
}

/// Bounds how long a client may leave an answer unread.
struct Patience {
    socket: SocketHandle,
    limit: Option<Duration>,
    set: Cell<bool>,
}

impl Patience {
    /// The same `poll`, with the client left so much time once it has to be waited for. Of a last answer that need not be
    /// waited for, the kernel is told nothing: what is left of a closed connection it bounds by itself.
    fn with<T>(
        &self,
        wanted: Option<Duration>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> impl FnMut(&mut Context<'_>) -> Poll<T> {
        move |cx| {
            let polled = poll(cx);
            if polled.is_pending() {
                self.fit(wanted);
            }
            polled
        }
    }

    /// Asks the kernel only where one answer differs from the one before it.
    fn fit(&self, wanted: Option<Duration>) {
        if self.set.replace(wanted.is_some()) != wanted.is_some() {
            self.socket.give_up_after(wanted);
        }
    }
}
