//! Files of certificates that are good, torn, edited and missing.

#![allow(clippy::unwrap_used)]

use super::*;
use cellway_core::certificate::SecretId;
use proptest::prelude::*;
use std::fs;

fn certificate(name: &str, version: u8) -> Named {
    let sealed = SealedCertificate {
        chain: [vec![version; 40].into_boxed_slice()].into(),
        sealed_with: SecretId([version; 8]),
        sealed_key: [7, 7, version].into(),
    };
    (CertificateName::from_text(name).unwrap(), Arc::new(sealed))
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("t{index}.example")).collect()
}

fn opened(path: &Path) -> SavedCertificates {
    let (saved, refused) = SavedCertificates::open(path);
    assert!(refused.is_empty(), "{refused:?}");
    saved
}

#[test]
fn every_certificate_is_found_and_nothing_else() {
    for count in [0, 1, 2, 3, 100] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("certificates");
        let all: Vec<Named> = names(count).iter().map(|name| certificate(name, 1)).collect();
        save(&path, all.clone()).unwrap();
        let saved = opened(&path);
        assert_eq!((saved.len(), saved.is_empty()), (count, count == 0));
        for named in &all {
            assert_eq!(saved.find(named.0.as_key()).as_ref(), Some(named));
        }
        for absent in ["", "a.example", "t.example", "t0", "t0.examplf", "zz.example", "\u{fc}.example"] {
            assert_eq!(saved.find(absent), None, "{absent} of {count}");
        }
        let mut sorted = all;
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        assert_eq!(saved.all(), sorted);
    }
    let none = opened(Path::new("/nonexistent/certificates"));
    assert_eq!((none.len(), none.find("a.example"), none.all()), (0, None, Vec::new()));
}

#[test]
fn a_torn_file_is_refused_at_every_length_and_the_one_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("certificates");
    save(&path, vec![certificate("a.example", 1)]).unwrap();
    save(&path, vec![certificate("a.example", 2), certificate("b.example", 2)]).unwrap();
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        let (saved, refused) = SavedCertificates::open(&path);
        assert_eq!(refused.len(), 1, "{length}");
        assert_eq!(saved.find("a.example"), Some(certificate("a.example", 1)), "{length}");
    }
    fs::write(&path, [&good[..], b"more"].concat()).unwrap();
    assert_eq!(SavedCertificates::open(&path).1.len(), 1);
}

#[test]
fn no_flipped_bit_brings_a_wrong_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("certificates");
    let names = names(5);
    let version = |version| names.iter().map(|name| certificate(name, version)).collect::<Vec<_>>();
    save(&path, version(1)).unwrap();
    save(&path, version(2)).unwrap();
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        let (saved, _) = SavedCertificates::open(&path);
        for name in &names {
            let found = saved.find(name);
            let (old, new) = (certificate(name, 1), certificate(name, 2));
            assert!(found.as_ref() == Some(&old) || found.as_ref() == Some(&new), "byte {at}: {name} {found:?}");
        }
        let all = saved.all();
        assert_eq!(all.len(), names.len(), "byte {at}");
        let is_right = |(name, sealed): &Named| {
            let is = |version| certificate(&name.to_string(), version).1 == *sealed;
            is(1) || is(2)
        };
        assert!(all.iter().all(is_right), "byte {at}");
    }
}

#[test]
fn the_last_good_files_are_kept_and_a_newer_format_is_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("certificates");
    for version in 1..=5 {
        save(&path, vec![certificate("a.example", version)]).unwrap();
    }
    for age in 0..KEPT {
        let newest = 5 - u8::try_from(age).unwrap();
        assert_eq!(SavedCertificates::open(&path).0.find("a.example"), Some(certificate("a.example", newest)));
        let text = fs::read(aged(&path, age)).unwrap();
        let newer = [b"cellway-certificates 2\n", &text[MAGIC.len() + 2..]].concat();
        fs::write(aged(&path, age), newer).unwrap();
    }
    let (saved, refused) = SavedCertificates::open(&path);
    assert!(saved.is_empty());
    assert!(refused.iter().all(|(_, reason)| matches!(reason, BadSnapshot::Format(format) if format == "2")));
    assert_eq!(refused.len(), KEPT);
}

proptest! {
    #[test]
    fn no_bytes_with_right_checksums_make_the_reader_panic(
        records in proptest::collection::vec("\\PC{0,40}|[0-9]{1,2} [a-z.]{1,9} .{0,40}", 0..4),
        more in proptest::collection::vec(any::<u8>(), 0..60),
        places in proptest::collection::vec(any::<u64>(), 0..4),
    ) {
        let mut file = format!("{MAGIC}{FORMAT}\n").into_bytes();
        let mut index = Vec::new();
        for record in &records {
            index.push(file.len() as u64);
            file.extend(format!("{:08x} {record}", crc32fast::hash(record.as_bytes())).into_bytes());
        }
        file.extend(more);
        index.extend(places);
        let (count, index_at) = (index.len() as u64, file.len() as u64);
        file.extend(index.into_iter().flat_map(u64::to_le_bytes));
        file.extend(end_line(count, index_at).into_bytes());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("certificates");
        fs::write(&path, &file).unwrap();
        let saved = opened(&path);
        prop_assert_eq!(saved.len() as u64, count);
        let _ = (saved.all(), saved.find("a.example"), saved.find("0"));
    }
}
