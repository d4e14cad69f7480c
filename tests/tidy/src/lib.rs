//! Reads the tree as text, for the tests that keep the house in order.

use std::path::{Path, PathBuf};

/// One of our source files.
pub struct Source {
    /// Relative to the root of the tree, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// The root of the tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files with one of these endings, build output aside.
pub fn files(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root(), &mut String::new(), endings, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(dir: &Path, prefix: &mut String, endings: &[&str], found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type();
        if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) {
            collect(&entry.path(), &mut path.clone(), endings, found);
        } else if endings.iter().any(|ending| name.ends_with(ending))
            && let Ok(text) = std::fs::read_to_string(entry.path())
        {
            found.push(Source { path, text });
        }
    }
}

/// The functions of a formatted Rust file: name, first line (from 1) and count of lines.
pub fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let end =
            (start..lines.len()).find(|&at| lines[at] == closing || lines[at].trim_end().ends_with(';') && at == start);
        if let Some(end) = end {
            found.push((name, start + 1, end - start + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.trim_start();
    loop {
        let mut stripped = false;
        for prefix in ["pub(crate) ", "pub(super) ", "pub(in crate) ", "pub ", "async ", "const ", "unsafe "] {
            if let Some(rest) = words.strip_prefix(prefix) {
                words = rest;
                stripped = true;
            }
        }
        if !stripped {
            break;
        }
    }
    let rest = words.strip_prefix("fn ")?;
    Some(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

/// Paths (or `path::function`) that need not keep a limit, each with its reason.
pub fn exemptions() -> Vec<(String, String)> {
    let text = include_str!("../exemptions.txt");
    let rows = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    rows.map(|row| {
        let (what, why) = row.split_once(": ").unwrap_or((row, ""));
        (what.to_owned(), why.to_owned())
    })
    .collect()
}
