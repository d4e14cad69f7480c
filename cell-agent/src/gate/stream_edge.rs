//! Where a stream may be ended so that its reader is left with nothing half: between two events, between two messages.

use cellway_proxy::hygiene;
use http::HeaderMap;

/// The bytes before each message of gRPC: a flag, and its length.
const MESSAGE_HEAD_BYTES: usize = 5;

/// Follows what goes by in one answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamEdge {
    /// Server-sent events: an empty line ends one.
    Events(Events),
    /// Messages of gRPC: each says its length first.
    Messages(Messages),
}

/// See [`StreamEdge::Events`]. A line ends with CR, LF, or both.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Events {
    /// Something stands in this event.
    within_event: bool,
    within_line: bool,
    after_cr: bool,
}

/// See [`StreamEdge::Messages`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Messages {
    head: [u8; MESSAGE_HEAD_BYTES],
    head_bytes: usize,
    /// Of the message whose head is whole.
    left_bytes: u64,
    /// How many have begun.
    pub(crate) begun: u64,
}

impl StreamEdge {
    /// The edges of an answer with these fields, if it may be a stream of parts.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        if hygiene::is_event_stream(headers) {
            Some(Self::Events(Events::default()))
        } else if hygiene::is_grpc(headers) {
            Some(Self::Messages(Messages::default()))
        } else {
            None
        }
    }

    /// Whether nothing half has gone by.
    pub(crate) fn is_at_edge(&self) -> bool {
        match self {
            Self::Events(events) => !events.within_event,
            Self::Messages(messages) => messages.head_bytes == 0 && messages.left_bytes == 0,
        }
    }

    /// Lets bytes go by.
    pub(crate) fn pass(&mut self, bytes: &[u8]) {
        match self {
            Self::Events(events) => bytes.iter().for_each(|byte| events.pass(*byte)),
            Self::Messages(messages) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    rest = &rest[messages.pass(rest)..];
                }
            }
        }
    }

    /// Lets bytes go by up to the first edge in them, and says how many those are.
    pub(crate) fn pass_to_edge(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() {
            passed += match self {
                Self::Events(events) => {
                    events.pass(bytes[passed]);
                    1
                }
                Self::Messages(messages) => messages.pass(&bytes[passed..]),
            };
            if self.is_at_edge() {
                break;
            }
        }
        passed
    }
}

impl Events {
    fn pass(&mut self, byte: u8) {
        match byte {
            // The second half of a line's end.
            b'\n' if self.after_cr => {}
            b'\n' | b'\r' => {
                self.within_event &= self.within_line;
                self.within_line = false;
            }
            _ => (self.within_event, self.within_line) = (true, true),
        }
        self.after_cr = byte == b'\r';
    }
}

impl Messages {
    /// Takes of `bytes`, which are some, what belongs to the same part, and says how many those are.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        if self.left_bytes > 0 {
            let taken = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(bytes.len());
            self.left_bytes -= taken as u64;
            return taken;
        }
        self.begun += u64::from(self.head_bytes == 0);
        let taken = (MESSAGE_HEAD_BYTES - self.head_bytes).min(bytes.len());
        self.head[self.head_bytes..self.head_bytes + taken].copy_from_slice(&bytes[..taken]);
        self.head_bytes += taken;
        if let ([_, length @ ..], MESSAGE_HEAD_BYTES) = (self.head, self.head_bytes) {
            self.left_bytes = u64::from(u32::from_be_bytes(length));
            self.head_bytes = 0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events() -> StreamEdge {
        StreamEdge::Events(Events::default())
    }

    fn messages() -> StreamEdge {
        StreamEdge::Messages(Messages::default())
    }

    #[test]
    fn an_event_ends_with_an_empty_line_however_lines_end() {
        for (text, at_edge) in [
            ("", true),
            ("data: a", false),
            ("data: a\n", false),
            ("data: a\n\n", true),
            ("data: a\r\n", false),
            ("data: a\r\n\r", true),
            ("data: a\r\n\r\n", true),
            ("data: a\r\r", true),
            ("data: a\n\nid: 7\n", false),
            (": only a comment\n\n\n", true),
        ] {
            let mut edge = events();
            edge.pass(text.as_bytes());
            assert_eq!(edge.is_at_edge(), at_edge, "{text:?}");
        }
        assert_eq!(events().pass_to_edge(b"data: a\n\ndata: b\n\n"), 9);
    }

    #[test]
    fn a_message_ends_where_its_length_says() {
        let two = [&[0, 0, 0, 0, 2][..], b"ab", &[0, 0, 0, 0, 0], &[1, 0, 0, 1, 0]].concat();
        let mut edge = messages();
        assert_eq!(edge.pass_to_edge(&two), 7);
        assert_eq!(edge.pass_to_edge(&two[7..]), 5);
        assert_eq!(edge.pass_to_edge(&two[12..]), 5);
        assert!(!edge.is_at_edge());
        edge.pass(&[0; 255]);
        assert!(!edge.is_at_edge());
        edge.pass(&[0]);
        assert!(edge.is_at_edge());
        let StreamEdge::Messages(messages) = edge else { panic!("messages") };
        assert_eq!(messages.begun, 3);
    }

    proptest! {
        #[test]
        fn how_the_bytes_come_in_pieces_does_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(0), 0..6u8], 0..80),
            cut in 0..80usize,
            of_events in any::<bool>(),
        ) {
            let new = || if of_events { events() } else { messages() };
            let cut = cut.min(bytes.len());
            let (mut whole, mut pieces) = (new(), new());
            whole.pass(&bytes);
            pieces.pass(&bytes[..cut]);
            pieces.pass(&bytes[cut..]);
            prop_assert_eq!(&whole, &pieces);
            let mut to_edge = new();
            let passed = to_edge.pass_to_edge(&bytes);
            prop_assert!(passed <= bytes.len());
            let mut same = new();
            same.pass(&bytes[..passed]);
            prop_assert_eq!(&same, &to_edge);
            prop_assert!(to_edge.is_at_edge() || passed == bytes.len());
        }
    }
}
