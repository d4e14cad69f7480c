//! How much of a body is left (RFC 9112, section 6.3).

use super::{Chunks, Input, Piece};

/// What in a message makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Its head.
    #[error("its head")]
    Head(httparse::Error),
    /// A length that is none, or two different ones.
    #[error("its length")]
    Length,
    /// A transfer coding in a version that has none.
    #[error("its transfer coding")]
    Coding,
    /// A chunk of its body.
    #[error("a chunk of its body")]
    Chunk,
    /// What follows its last chunk.
    #[error("its trailers")]
    Trailers,
}

/// What is left of a body.
pub(crate) enum Length {
    /// Nothing.
    Over,
    /// So many bytes.
    Known(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All until the connection ends.
    ToTheEnd,
    /// Nobody can tell: it made no sense.
    Lost(Malformed),
}

impl Length {
    /// Takes the next piece of the body out of `input`.
    pub(crate) fn next(&mut self, input: &mut Input) -> Result<Piece, Malformed> {
        let length = match self {
            Self::Over => return Ok(Piece::End),
            Self::Lost(why) => return Err(*why),
            Self::Chunked(chunks) => {
                let piece = chunks.next(input);
                match &piece {
                    Ok(Piece::Trailers(_) | Piece::End) => *self = Self::Over,
                    Ok(Piece::Data(_) | Piece::Missing) => {}
                    Err(why) => *self = Self::Lost(*why),
                }
                return piece;
            }
            Self::Known(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(input.len()),
            Self::ToTheEnd => input.len(),
        };
        if length == 0 {
            return Ok(Piece::Missing);
        }
        if let Self::Known(left) = self {
            *left -= length as u64;
            if *left == 0 {
                *self = Self::Over;
            }
        }
        Ok(Piece::Data(input.take(length)))
    }

    /// Whether nothing is left.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// How much is left, where that is known.
    pub(crate) fn hint(&self) -> http_body::SizeHint {
        match self {
            Self::Over => http_body::SizeHint::with_exact(0),
            Self::Known(length) => http_body::SizeHint::with_exact(*length),
            Self::Chunked(_) | Self::ToTheEnd | Self::Lost(_) => http_body::SizeHint::default(),
        }
    }
}
