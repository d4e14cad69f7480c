//! Configuration files: the shipped examples load, and mistakes are shown where they are.

use super::*;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn complaint(text: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("bad.yaml");
    std::fs::write(&file, text).expect("written");
    format!("{:#}", check(&file).expect_err("must be refused"))
}

#[test]
fn every_shipped_example_loads() {
    let mut roles = Vec::new();
    for entry in std::fs::read_dir(shipped()).expect("config/ is there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            roles.push(check(&path).unwrap_or_else(|error| panic!("{error:#}")));
        }
    }
    for role in [Role::Router, Role::ControlPlane, Role::Agent, Role::App] {
        assert!(roles.contains(&role), "no example of {role:?}");
    }
}

#[test]
fn a_mistake_is_shown_with_its_line_and_what_was_expected() {
    let good =
        "role: app\nname: cell-a\nversion: '1'\nlisten: 127.0.0.1:8100\ndata_dir: /tmp/x\nlongest_request_ms: 5\n";
    let cases = [
        (good.replace("name:", "nmae:"), vec!["line 2", "nmae", "name"]),
        (format!("{good}name: again\n"), vec!["line 7", "duplicate", "name", "7 | name: again"]),
        (good.replace("longest_request_ms: 5", "longest_request_ms: soon"), vec!["line 6", "soon"]),
        (good.replace("127.0.0.1", "10.0.0.1"), vec!["line 4", "loopback"]),
        (good.replace("version: '1'\n", ""), vec!["version"]),
        (good.replace("role: app", "role: ap"), vec!["line 1", "router", "control-plane"]),
        ("role: [".to_owned(), vec!["line 1"]),
    ];
    for (text, wanted) in cases {
        let said = complaint(&text);
        for word in wanted {
            assert!(said.contains(word), "{word:?} is not in:\n{said}");
        }
    }
}
