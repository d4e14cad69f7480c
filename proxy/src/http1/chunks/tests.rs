//! Chunks that arrive in parts, and chunks that are none.

use proptest::prelude::*;

use super::*;

/// The data, the trailers, and how many bytes follow them.
type Read = (Vec<u8>, Option<HeaderMap>, usize);

/// What comes out when the bytes arrive in parts of this length.
fn read(bytes: &[u8], part: usize) -> Result<Option<Read>, Malformed> {
    let (mut chunks, mut input) = (Chunks::new(), Input::default());
    let mut data = Vec::new();
    let mut rest = bytes;
    loop {
        match chunks.next(&mut input)? {
            Piece::Data(piece) => data.extend_from_slice(&piece),
            Piece::Trailers(trailers) => return Ok(Some((data, Some(trailers), input.len() + rest.len()))),
            Piece::End => return Ok(Some((data, None, input.len() + rest.len()))),
            Piece::Missing if rest.is_empty() => return Ok(None),
            Piece::Missing => {
                let (next, later) = rest.split_at(part.min(rest.len()));
                input.append(next);
                rest = later;
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_in_chunks_is_read_however_it_arrives(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..20),
        part in 1_usize..400,
        after in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        for piece in &pieces {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        let whole = bytes.len();
        bytes.extend_from_slice(&after);
        let (data, trailers, left) = read(&bytes, part).unwrap().unwrap();
        prop_assert_eq!((data, trailers, left), (pieces.concat(), None, after.len()));
        for cut in [0, whole / 2, whole - 1] {
            prop_assert!(read(&bytes[..cut], part).unwrap().is_none(), "a part is not the whole");
        }
    }

    #[test]
    fn any_bytes_end_in_a_body_or_in_a_refusal(bytes in prop::collection::vec(any::<u8>(), 0..600), part in 1_usize..50) {
        let _ = read(&bytes, part);
    }
}

#[test]
fn trailers_are_the_end() {
    for part in [1, 7, 100] {
        let (data, trailers, left) = read(b"2\r\nhi\r\n0\r\nx-sum: 1\r\nX-Sum: 2\r\n\r\nHTTP", part).unwrap().unwrap();
        let trailers = trailers.unwrap();
        let sums: Vec<_> = trailers.get_all("x-sum").iter().map(|sum| sum.to_str().unwrap()).collect();
        assert_eq!((data.as_slice(), sums, left), (b"hi".as_slice(), vec!["1", "2"], 4));
    }
}

#[test]
fn what_others_might_read_otherwise_is_refused() {
    for bad in [
        "2\nhi\r\n0\r\n\r\n",
        "2\r\nhi\n0\r\n\r\n",
        "2\r\nhiXX0\r\n\r\n",
        "3\r\nhi\r\n0\r\n\r\n",
        "0x2\r\nhi\r\n0\r\n\r\n",
        "-2\r\nhi\r\n",
        " 2\r\nhi\r\n",
        "g\r\n",
        ";a=b\r\n",
        "2;a\rb\r\nhi\r\n",
        "2;a\nhi\r\n",
        "ffffffffffffffff\r\nhi\r\n",
        "10000000000000002\r\nhi\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX\r\n\r\n",
        "0\r\nX: y\n\n",
    ] {
        for part in [1, 100] {
            assert!(read(bad.as_bytes(), part).is_err(), "{bad:?} in parts of {part}");
        }
    }
    assert!(read(format!("2;{}", "x".repeat(CHUNK_LINE_MAX_BYTES)).as_bytes(), 1000).is_err());
    assert!(read(format!("0\r\nx: {}", "y".repeat(TRAILERS_MAX_BYTES)).as_bytes(), 1000).is_err());
    let dear = format!("1;{}\r\nx\r\n", "y".repeat(100)).repeat(1000);
    assert!(read(dear.as_bytes(), 1000).is_err(), "little data with much said about it");
}
