//! Snapshots that are good, torn, edited and missing.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

fn snapshot(revision: u64) -> Snapshot {
    let text = "{\"cell\":\"a\",\"endpoints\":[\"127.0.0.1:1\"],\"kind\":\"agent\"}\n\
                {\"tenant\":\"acme\",\"cell\":\"a\",\"epoch\":7,\"held\":true,\"revision\":9}\n\
                {\"tenant\":\"old\",\"epoch\":3,\"gone\":true}\n{\"host\":\"shop.example\",\"tenant\":\"acme\"}\n";
    let cluster = Some("eu-1".parse().unwrap());
    Snapshot { revision: Revision(revision), cluster, contents: lines::parse(text).unwrap() }
}

fn save(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let table = Table::default();
    for change in &snapshot.contents {
        table.apply(change.clone());
    }
    super::save(path, snapshot.revision, snapshot.cluster.as_ref(), &table)
}

/// What a table is filled with, in the order of [`snapshot`].
fn load(path: &Path) -> (Option<Snapshot>, Vec<(PathBuf, BadSnapshot)>) {
    let table = Table::default();
    let (loaded, refused) = super::load(path, &table);
    let snapshot = loaded.map(|Loaded { revision, cluster, entries }| {
        let mut contents = table.contents();
        assert_eq!(contents.len(), entries);
        contents[1..3].sort_by_key(|change| format!("{change:?}"));
        Snapshot { revision, cluster, contents }
    });
    if snapshot.is_none() {
        assert!(table.contents().is_empty());
    }
    (snapshot, refused)
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
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(decode(&bad).is_err(), "bit {bit} of byte {at}");
            if bit == at % 8 {
                fs::write(&path, &bad).unwrap();
                let (used, refused) = load(&path);
                assert_eq!((used, refused.len()), (Some(snapshot(1)), 1), "byte {at}");
            }
        }
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
fn the_last_good_snapshots_are_kept_and_used_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    (1..=5).for_each(|revision| save(&path, &snapshot(revision)).unwrap());
    for age in 0..KEPT {
        let newest = 5 - age as u64;
        assert_eq!(load(&path).0, Some(snapshot(newest)));
        assert_eq!(load(&path).1.len(), age);
        fs::write(aged(&path, age), "edited").unwrap();
    }
    assert_eq!((load(&path).0, load(&path).1.len()), (None, KEPT));
}

#[test]
fn a_newer_format_is_not_guessed() {
    let text = String::from_utf8(encode(&snapshot(1))).unwrap();
    let newer = text.replacen("cellway-routes 2", "cellway-routes 3", 1);
    let refused = decode(newer.as_bytes()).unwrap_err();
    assert!(matches!(&refused, BadSnapshot::Format(format) if format == "3"));
    assert!(refused.to_string().contains("remove the file"), "{refused}");
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

#[test]
fn a_snapshot_larger_than_a_piece_fills_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    let tenant =
        |number: u32| format!("{{\"tenant\":\"t{number}\",\"cell\":\"a\",\"uid\":\"a-1\",\"epoch\":{number}}}\n");
    let text: String = (0..60_000).map(tenant).collect();
    let before = Snapshot { revision: Revision(7), cluster: None, contents: lines::parse(&text).unwrap() };
    save(&path, &before).unwrap();
    assert!(fs::metadata(&path).unwrap().len() > 3 * PIECE_BYTES as u64);
    let table = Table::default();
    assert_eq!(super::load(&path, &table).0.unwrap().entries, 60_000);
    let mut after = table.contents();
    let number = |change: &Change| match change {
        Change::Tenant { route, .. } => route.epoch(),
        _ => panic!("{change:?}"),
    };
    after.sort_by_key(number);
    assert!(after == before.contents);
}

#[test]
fn content_that_cannot_be_read_leaves_nothing_in_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    save(&path, &snapshot(1)).unwrap();
    let body = "2\n{\"tenant\":\"only-here\",\"cell\":\"a\",\"epoch\":7}\n{\"tenant\":1}\n";
    let bad = format!("{}{body}", first_line(crc32fast::hash(body.as_bytes())));
    fs::rename(&path, aged(&path, 1)).unwrap();
    fs::write(&path, bad).unwrap();
    let (used, refused) = load(&path);
    assert_eq!(used, Some(snapshot(1)));
    assert!(matches!(&refused[..], [(_, BadSnapshot::Content(why))] if why.starts_with("line 2:")), "{refused:?}");
}
