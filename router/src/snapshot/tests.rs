//! Snapshots that are good, torn, edited and missing.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn snapshot(revision: u64) -> Snapshot {
    let text = "{\"cell\":\"a\",\"endpoints\":[\"127.0.0.1:1\"],\"kind\":\"agent\"}\n\
                {\"tenant\":\"acme\",\"cell\":\"a\",\"epoch\":7,\"held\":true,\"revision\":9}\n\
                {\"tenant\":\"old\",\"epoch\":3,\"gone\":true}\n{\"host\":\"shop.example\",\"tenant\":\"acme\"}\n";
    Snapshot { revision: Revision(revision), contents: lines::parse(text).unwrap() }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_the_older_snapshot_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    save(&path, &snapshot(1)).unwrap();
    save(&path, &snapshot(2)).unwrap();
    assert_eq!(load(&path).0, Some(snapshot(2)));
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        let (used, refused) = load(&path);
        assert_eq!((used, refused.len()), (Some(snapshot(1)), 1), "byte {at}");
    }
}

#[test]
fn a_torn_snapshot_is_refused_at_every_length() {
    let good = encode(&snapshot(3));
    assert_eq!(decode(&good).unwrap(), snapshot(3));
    for length in 0..good.len() {
        assert!(decode(&good[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_crash_between_the_renames_leaves_the_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    save(&path, &snapshot(1)).unwrap();
    fs::rename(&path, aged(&path, 1)).unwrap();
    assert_eq!(load(&path).0, Some(snapshot(1)));
    assert!(load(&folder.path().join("none")).0.is_none());
}

#[test]
fn a_newer_format_is_not_guessed() {
    let text = String::from_utf8(encode(&snapshot(1))).unwrap();
    let newer = text.replacen("cellway-routes 1", "cellway-routes 2", 1);
    assert!(matches!(decode(newer.as_bytes()), Err(BadSnapshot::Format(format)) if format == "2"));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..40) {
        let _ = decode(&bytes);
        let mut mixed = encode(&snapshot(1));
        let at = at.min(mixed.len());
        mixed.splice(at..at, bytes);
        let _ = decode(&mixed);
        let body = mixed[at..].to_vec();
        let mut summed = format!("{MAGIC}{FORMAT} {:08x}\n", crc32fast::hash(&body)).into_bytes();
        summed.extend(body);
        let _ = decode(&summed);
    }
}
