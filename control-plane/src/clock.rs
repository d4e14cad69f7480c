//! The two things that decisions may not have: the time of day and chance.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// 100 random bits as 20 characters of `a-z2-7`: an id that nobody can guess.
pub(crate) fn token() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bits: u128 = rand::random();
    (0..20).map(|i| char::from(ALPHABET[(bits >> (5 * i)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_token_is_an_id() {
        let token = super::token();
        assert_eq!(token.len(), 20);
        assert!(cellway_core::ids::MoveId::new(&token).is_ok());
        assert_ne!(token, super::token());
    }
}
