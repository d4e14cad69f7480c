//! Keeps the house in order: sizes, names, arrows between packages, what the decisions may not have.

use cellway_tidy::{Source, exemptions, files, functions, root};
use std::collections::{BTreeMap, BTreeSet};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const INLINE_TESTS_LINES_MAX: usize = 100;

fn is_exempt(what: &str) -> bool {
    exemptions().iter().any(|(exempt, _)| exempt == what)
}

fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_person_reads() {
    let long = |source: &Source| {
        let lines = source.text.lines().count();
        (lines > FILE_LINES_MAX && !is_exempt(&source.path))
            .then(|| format!("{}: {lines} lines, at most {FILE_LINES_MAX}", source.path))
    };
    none(files(&[".rs"]).iter().filter_map(long).collect());
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut problems = Vec::new();
    for source in files(&[".rs"]) {
        for (name, line, lines) in functions(&source.text) {
            if lines > FUNCTION_LINES_MAX && !is_exempt(&format!("{}::{name}", source.path)) {
                problems
                    .push(format!("{}:{line}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}", source.path));
            }
        }
    }
    none(problems);
}

#[test]
fn long_tests_have_a_file_of_their_own() {
    let mut problems = Vec::new();
    for source in files(&[".rs"]) {
        if let Some((_, tests)) = source.text.split_once("\nmod tests {") {
            let lines = tests.lines().count();
            if lines > INLINE_TESTS_LINES_MAX && !is_exempt(&source.path) {
                problems
                    .push(format!("{}: {lines} lines of inline tests, at most {INLINE_TESTS_LINES_MAX}", source.path));
            }
        }
    }
    none(problems);
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = files(&[".rs"]).into_iter().filter(|source| !source.text.starts_with("//! "));
    none(silent.map(|source| format!("{}: begins without a `//!` line", source.path)).collect());
}

#[test]
fn no_file_is_called_by_an_empty_word() {
    let empty = ["util", "utils", "common", "helper", "helpers", "misc"];
    let named = files(&[".rs"])
        .into_iter()
        .filter(|source| source.path.split('/').any(|part| empty.contains(&part.trim_end_matches(".rs"))));
    none(named.map(|source| source.path).collect());
}

#[test]
fn every_exemption_has_a_reason_and_a_subject() {
    for (what, why) in exemptions() {
        assert!(why.len() > 10, "{what}: no reason");
        let path = what.split("::").next().unwrap_or(&what);
        assert!(root().join(path).exists(), "{what}: there is no such file");
    }
}

/// Which of our packages each may use (`[dependencies]`; tests may use more).
fn allowed_arrows() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let rows: [(&str, &[&str]); 15] = [
        ("core", &[]),
        ("demo", &[]),
        ("machine", &[]),
        ("api", &["core"]),
        ("store", &["core"]),
        ("proxy", &["core", "machine"]),
        ("router", &["proxy", "store", "api", "core", "machine"]),
        ("cell-agent", &["proxy", "api", "core", "machine"]),
        ("control-plane", &["store", "api", "core", "machine"]),
        ("cli", &["core", "api", "store", "proxy", "router", "control-plane", "cell-agent", "demo"]),
        ("tests/simulation", &["core"]),
        ("tests/model", &["core"]),
        ("tests/end-to-end", &["api", "battery"]),
        ("tests/battery", &["router", "core"]),
        ("bench", &[]),
    ];
    rows.into_iter().map(|(from, to)| (from, to.iter().copied().collect())).collect()
}

#[test]
fn packages_import_one_way() {
    let mut problems = Vec::new();
    for (from, allowed) in allowed_arrows() {
        let manifest = std::fs::read_to_string(root().join(from).join("Cargo.toml")).expect("a manifest");
        let dependencies = manifest.split("\n[dependencies]").nth(1).unwrap_or("");
        let dependencies = dependencies.split("\n[").next().unwrap_or("");
        for line in dependencies.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or("");
            let Some(to) = name.strip_prefix("cellway-") else { continue };
            if !allowed.contains(to) {
                problems.push(format!("{from} must not use {to}"));
            }
        }
    }
    none(problems);
}

#[test]
fn the_decisions_have_no_clock_no_chance_and_no_waiting() {
    let manifest = std::fs::read_to_string(root().join("core/Cargo.toml")).expect("a manifest");
    let dependencies = manifest.split("\n[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("");
    let used: Vec<&str> =
        dependencies.lines().filter_map(|line| line.split('.').next()).filter(|n| !n.is_empty()).collect();
    let pure = ["idna", "smol_str", "thiserror"];
    none(used.iter().filter(|name| !pure.contains(name)).map(|name| format!("core must not use {name}")).collect());
    let banned = [
        "async ",
        ".await",
        "Instant::now",
        "SystemTime",
        "HashMap",
        "HashSet",
        "rand::",
        "std::env",
        "std::fs",
        "std::net",
    ];
    let mut problems = Vec::new();
    for source in files(&[".rs"]).iter().filter(|source| source.path.starts_with("core/src/")) {
        for (number, line) in source.text.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for word in banned.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    none(problems);
}

#[test]
fn the_move_is_one_short_file() {
    let text = std::fs::read_to_string(root().join("core/src/tenant_move.rs")).expect("the move");
    assert!(text.lines().count() <= FILE_LINES_MAX);
    for (name, _, _) in functions(&text).iter().filter(|(name, _, _)| name.starts_with("from_")) {
        let body = text.split(&format!("fn {name}(")).nth(1).and_then(|rest| rest.split("\n}\n").next()).unwrap_or("");
        assert!(!body.contains("_ => "), "{name} has a wildcard arm");
    }
}

#[test]
fn documents_name_only_files_that_exist() {
    let mut problems = Vec::new();
    for source in files(&[".md"]) {
        let base = source.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for link in source.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or("");
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !root().join(base).join(target).exists() {
                problems.push(format!("{}: {link}", source.path));
            }
        }
    }
    none(problems);
}

/// Links in a document whose text is the name of a function: the name, and the file that should have it.
fn named_tests(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let links = text.split("[`").skip(1).filter_map(|rest| rest.split_once("`]("));
    let links = links.filter_map(|(name, rest)| Some((name, rest.split(')').next()?)));
    links.filter(|(name, path)| path.ends_with(".rs") && name.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let is_test = |line: usize| {
        let before = lines[..line - 1].iter().rev().take_while(|line| line.trim_start().starts_with("#["));
        before.into_iter().any(|line| line.contains("#[test]") || line.contains("#[tokio::test"))
    };
    functions(text).iter().any(|(found, line, _)| found == name && is_test(*line))
}

#[test]
fn documents_name_only_tests_that_exist() {
    let mut problems = Vec::new();
    for source in files(&[".md"]) {
        let base = source.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for (name, path) in named_tests(&source.text) {
            let text = std::fs::read_to_string(root().join(base).join(path)).unwrap_or_default();
            if !has_test(&text, name) {
                problems.push(format!("{}: {path} has no test {name}", source.path));
            }
        }
    }
    none(problems);
}

#[test]
fn every_known_failure_names_its_test() {
    let page = std::fs::read_to_string(root().join("docs/operate/known-failures.md")).expect("the page");
    let (tested, _) = page.split_once("\n## Not yet").expect("what is not yet kept");
    let rows: Vec<&str> = tested.lines().filter(|line| line.starts_with("| ") && line.contains(": ")).collect();
    assert!(rows.len() > 30, "{} rows", rows.len());
    none(rows.iter().filter(|row| named_tests(row).next().is_none()).map(|row| format!("no test: {row}")).collect());
}
