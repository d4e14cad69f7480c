//! Writers that take little at a time.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Frame, SizeHint};
use proptest::prelude::*;

use super::*;
use crate::body::BodyError;
use crate::connection::http1::read_request;
use crate::incoming::IncomingBody;

/// Takes as many bytes at once as `takes` says, in turns; none means that it is not ready.
struct Slow {
    written: Vec<u8>,
    takes: Vec<usize>,
    turn: usize,
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let take = self.takes[self.turn % self.takes.len()].min(buf.len());
        self.turn += 1;
        if take == 0 {
            return Poll::Pending;
        }
        self.written.extend_from_slice(&buf[..take]);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A body of these frames, with pauses between them; its length is known if `length` says so.
struct Frames {
    frames: Vec<Option<Frame<Bytes>>>,
    length: Option<u64>,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.frames.pop() {
            None => Poll::Ready(None),
            Some(None) => Poll::Pending,
            Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn sent(body: Frames, takes: Vec<usize>, gathered_max_bytes: usize) -> Result<Vec<u8>, Stuck> {
    let (head, ()) = Request::post("/p?q=1").header("x-a", "b").body(()).unwrap().into_parts();
    let mut upload = Upload::new(Head::of(&head), Box::new(RequestBody::streamed(IncomingBody::made_of(body))));
    upload.outgoing.gather(gathered_max_bytes);
    let mut io = Slow { written: Vec::new(), takes, turn: 0 };
    let mut cx = Context::from_waker(std::task::Waker::noop());
    loop {
        if let Poll::Ready(result) = upload.poll(&mut io, &mut cx) {
            return result.map(|()| io.written);
        }
    }
}

proptest! {
    #[test]
    fn a_request_is_written_as_it_is_however_slowly(
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), any::<bool>()), 0..8),
        trailers in any::<bool>(),
        stated in any::<bool>(),
        mut takes in prop::collection::vec(0_usize..30, 1..6),
        gathered_max_bytes in 0_usize..200,
    ) {
        takes.push(1);
        let length = pieces.iter().map(|(piece, _)| piece.len()).sum::<usize>();
        let body = || {
            let mut frames = Vec::new();
            for (piece, pause) in &pieces {
                frames.push(Some(Frame::data(Bytes::from(piece.clone()))));
                frames.extend(pause.then_some(None));
            }
            if trailers {
                frames.push(Some(Frame::trailers(HeaderMap::from_iter([(header::ETAG, "x".parse().unwrap())]))));
            }
            frames.reverse();
            Frames { frames, length: stated.then_some(length as u64) }
        };
        let gathered = sent(body(), takes.clone(), gathered_max_bytes).unwrap();
        let read = read_request(&gathered, 100).unwrap().unwrap();
        prop_assert_eq!(read.body, pieces.iter().flat_map(|(piece, _)| piece.clone()).collect::<Vec<_>>());
        prop_assert_eq!((read.trailers.is_some(), read.left_bytes), (trailers && !stated, 0));
        let written = sent(body(), takes, 0).unwrap();
        let mut wanted = b"POST /p?q=1 HTTP/1.1\r\nx-a: b\r\n".to_vec();
        if stated {
            wanted.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
            pieces.iter().for_each(|(piece, _)| wanted.extend_from_slice(piece));
        } else {
            wanted.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            for (piece, _) in &pieces {
                wanted.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                wanted.extend_from_slice(piece);
                wanted.extend_from_slice(b"\r\n");
            }
            wanted.extend_from_slice(if trailers { b"0\r\netag: x\r\n\r\n" } else { b"0\r\n\r\n" });
        }
        prop_assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&wanted));
    }
}

#[test]
fn what_is_there_of_an_answer_goes_out_at_once_up_to_what_is_gathered() {
    let piece = || Some(Frame::data(Bytes::from(vec![b'x'; 4_000])));
    for (gathered_max_bytes, chunks) in [(0, 4), (8_000, 3), (100_000, 1)] {
        let frames = Frames { frames: vec![piece(), piece(), piece(), piece()], length: None };
        let written = sent(frames, vec![usize::MAX], gathered_max_bytes).unwrap();
        let sizes = String::from_utf8(written).unwrap().split("\r\n").filter(|line| line.starts_with('x')).count() - 1;
        assert_eq!(sizes, chunks, "of {gathered_max_bytes}");
    }
}

/// A part, which another follows at once, then the end of the connection it came on.
struct Broken(Vec<Bytes>);

impl Body for Broken {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(self.0.pop().map(Frame::data).ok_or_else(|| "broken off".into())))
    }
}

#[test]
fn a_body_that_breaks_off_while_it_is_gathered_is_sent_up_to_there() {
    let mut outgoing = Outgoing::new(b"head ".as_slice().into(), Framing::Length(1_000_000));
    outgoing.gather(1_000_000);
    let mut io = Slow { written: Vec::new(), takes: vec![3], turn: 0 };
    let mut body = Broken(vec![Bytes::from(vec![b'b'; 5_000]), Bytes::from(vec![b'a'; 5_000])]);
    let sent = outgoing.poll(&mut body, &mut io, &mut Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(sent, Poll::Ready(Err(Stuck::Body(_)))));
    assert_eq!(io.written, [b"head ".to_vec(), vec![b'a'; 5_000], vec![b'b'; 5_000]].concat());
}

#[test]
fn a_body_of_another_length_than_stated_is_not_sent_for_whole() {
    for (length, gathered_max_bytes) in [(3, 0), (3, 100), (5, 0), (5, 100)] {
        let frames = ["ur", "fo"].map(|data| Some(Frame::data(Bytes::from(data))));
        let frames = Frames { frames: frames.into(), length: Some(length) };
        assert!(matches!(sent(frames, vec![100], gathered_max_bytes), Err(Stuck::Body(_))), "{length}");
    }
}

#[test]
fn a_request_is_over_with_the_last_byte_of_its_stated_length() {
    for data in ["", "four"] {
        let never_ends = [None, None].into_iter().chain((!data.is_empty()).then(|| Some(Frame::data(data.into()))));
        let frames = Frames { frames: never_ends.collect(), length: Some(data.len() as u64) };
        let (head, ()) = Request::post("/").body(()).unwrap().into_parts();
        let mut upload = Upload::new(Head::of(&head), Box::new(RequestBody::streamed(IncomingBody::made_of(frames))));
        let mut io = Slow { written: Vec::new(), takes: vec![100], turn: 0 };
        assert!(upload.poll(&mut io, &mut Context::from_waker(std::task::Waker::noop())).is_ready());
        assert!(io.written.ends_with(format!("content-length: {}\r\n\r\n{data}", data.len()).as_bytes()));
    }
}
