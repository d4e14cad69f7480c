//! Files that are good, bad on any line, and changed while they are read.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;

use super::*;
use pieces::PIECE_BYTES;

/// Three pieces.
const TENANTS: usize = 70_000;

fn line(number: usize) -> String {
    format!("{{\"tenant\":\"t{number}\",\"cell\":\"a\",\"epoch\":{}}}\n", number + 1)
}

fn text() -> String {
    let text: String = (0..TENANTS).map(line).collect();
    assert!(text.len() > 2 * PIECE_BYTES);
    text
}

struct Case {
    path: tempfile::TempPath,
    table: Table,
    stop: CancellationToken,
}

impl Case {
    fn new(text: &str) -> Self {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Self { path: file.into_temp_path(), table: Table::default(), stop: CancellationToken::new() }
    }

    fn open(&self) -> FileListing {
        FileListing::open(File::open(&self.path).unwrap(), Hashes::default()).unwrap()
    }

    fn check(&self) -> Result<Checked, Unusable> {
        self.open().check(&self.table, &self.stop)
    }

    fn apply(&self) {
        let file = self.open();
        let checked = file.check(&self.table, &self.stop).unwrap();
        let apply = |change| {
            self.table.apply(change);
        };
        file.apply(&checked, &self.stop, apply).unwrap();
        self.table.unnamed(&checked.listing, apply);
    }

    fn refusal(&self) -> String {
        self.check().err().unwrap().to_string()
    }
}

#[test]
fn a_file_of_any_length_is_what_the_table_says_then() {
    let case = Case::new(&text());
    case.apply();
    assert_eq!((case.table.placed(), case.table.sizes()), (TENANTS, (TENANTS, 0, 0)));
    fs::write(&case.path, text().replace(&line(7), "") + &line(TENANTS)).unwrap();
    let checked = case.check().unwrap();
    assert_eq!((checked.listing.unknown_tenants(), case.table.unnamed_tenants()), (1, 1));
    case.apply();
    assert_eq!((case.table.placed(), case.table.sizes().0), (TENANTS, TENANTS + 1));
    assert!(case.table.tenant("t7").is_none() && case.table.tenant("t70000").is_some());
}

#[test]
fn the_first_bad_line_is_named_wherever_it_is_and_nothing_is_applied() {
    for known in [false, true] {
        let case = Case::new(&text());
        if known {
            case.apply();
        }
        let before = case.table.version();
        for (bad, said) in [
            ("{\"tenant\":\"Acme\"}".to_owned(), "line 70001: a tenant needs an epoch".to_owned()),
            (line(3), "line 70001: about the same as line 4".to_owned()),
            (format!("{}{}{{", line(69_999), line(3)), "line 70001: about the same as line 70000".to_owned()),
        ] {
            fs::write(&case.path, text() + &bad).unwrap();
            assert_eq!(case.refusal(), said);
        }
        fs::write(&case.path, line(0) + "{\n" + &line(0)).unwrap();
        assert!(case.refusal().starts_with("line 2: "), "{}", case.refusal());
        assert_eq!(case.table.version(), before);
    }
}

#[test]
fn nothing_is_applied_that_was_not_checked() {
    let case = Case::new(&text());
    let file = case.open();
    fs::write(&case.path, text().replacen("t0\"", "x0\"", 1)).unwrap();
    assert!(matches!(file.check(&case.table, &case.stop), Err(Unusable::Changed)), "since it was opened");

    fs::write(&case.path, text()).unwrap();
    let file = case.open();
    let checked = file.check(&case.table, &case.stop).unwrap();
    fs::write(&case.path, text().replace("\"t69999\"", "\"y69999\"")).unwrap();
    let mut applied = Vec::new();
    let outcome = file.apply(&checked, &case.stop, |change| applied.push(change));
    assert!(matches!(outcome, Err(Unusable::Changed)), "{outcome:?}");
    assert!(!applied.is_empty() && applied.len() < TENANTS, "up to the piece that is another one");
    assert!(!applied.iter().any(|change| format!("{change:?}").contains("y69999")));

    applied.clear();
    fs::write(&case.path, &text()[..PIECE_BYTES / 2]).unwrap();
    let outcome = file.apply(&checked, &case.stop, |change| applied.push(change));
    assert!(matches!(outcome, Err(Unusable::Changed)) && applied.is_empty(), "it is shorter now");
    case.stop.cancel();
    assert!(matches!(file.check(&case.table, &case.stop), Err(Unusable::Stopped)));
}
