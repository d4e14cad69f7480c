//! The key of a WebSocket's handshake, and the answer that proves that it was read (RFC 6455, section 4).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use sha1::{Digest, Sha1};

const KEY_BYTES: usize = 16;
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A key that nobody can guess.
pub(crate) fn new_key() -> HeaderValue {
    in_base64(&rand::random::<[u8; KEY_BYTES]>())
}

/// What `Sec-WebSocket-Accept` has to be for a request with this `Sec-WebSocket-Key`.
pub fn accept_of(key: &[u8]) -> HeaderValue {
    let digest = Sha1::new_with_prefix(key).chain_update(GUID).finalize();
    in_base64(&digest)
}

#[expect(clippy::expect_used, reason = "base64 is plain ASCII")]
fn in_base64(bytes: &[u8]) -> HeaderValue {
    HeaderValue::try_from(STANDARD.encode(bytes)).expect("base64 is plain ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_that_of_the_standards_example() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_are_sixteen_bytes_and_differ() {
        let keys = [new_key(), new_key()];
        assert!(keys.iter().all(|key| STANDARD.decode(key.as_bytes()).unwrap().len() == KEY_BYTES));
        assert_ne!(keys[0], keys[1]);
    }
}
