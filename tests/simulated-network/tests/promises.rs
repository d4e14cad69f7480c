//! What is promised on a network that breaks: each promise over seeds of its own, all promises checked in every run.
//!
//! `SEED=7 cargo test -p cellway-simulated-network -- --nocapture` replays one seed and shows its log;
//! `SEEDS=100` tries so many for each promise.

#![allow(clippy::print_stdout, clippy::expect_used, reason = "a panic here is a test that fails, with its reason")]

use std::process::Command;

/// How many seeds each promise is tried with, unless `SEEDS` says otherwise.
const SEEDS: u64 = 25;

/// How many seeds it may take until a rule that is broken on purpose is noticed.
const BROKEN_SEEDS_MAX: u64 = 40;

/// How it shows that two cells served a tenant: at once, or one after the other.
const TWO_SERVE: [&str; 2] = ["two cells serve", "after one at epoch"];

/// Lines of a log that are shown of a seed that failed.
const LINES_SHOWN: usize = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one seed: whether all promises were kept, and the log.
fn run(seed: u64, arguments: &[&str]) -> (bool, String) {
    let seed = seed.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_cellway-simulated-network"))
        .args(["--seed", &seed])
        .args(arguments)
        .output()
        .expect("the simulation starts");
    let log = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&log).into_owned())
}

fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}

fn kept(first: u64, arguments: &[&str]) {
    if let Some(seed) = number("SEED") {
        let (kept, log) = run(seed, arguments);
        println!("{log}");
        assert!(kept, "seed {seed} violates a promise");
        return;
    }
    for seed in first..first + number("SEEDS").unwrap_or(SEEDS) {
        let (kept, log) = run(seed, arguments);
        let violated: Vec<&str> = log.lines().filter(|line| line.contains("VIOLATED")).collect();
        assert!(kept, "SEED={seed}\n{}\n…\n{}", violated.join("\n"), end_of(&log));
        println!("seed {seed}: {}", log.lines().last().unwrap_or_default());
    }
}

/// Some seed has to notice that `rule` is not kept, and to say so by one of these words.
fn caught(rule: &str, words: &[&str]) {
    for seed in 0..BROKEN_SEEDS_MAX {
        let (kept, log) = run(seed, &["--break", rule]);
        if let Some(line) =
            log.lines().find(|line| line.contains("VIOLATED") && words.iter().any(|words| line.contains(words)))
        {
            println!("{rule}: seed {seed}: {line}");
            assert!(!kept);
            return;
        }
    }
    panic!("{rule} was not noticed by {BROKEN_SEEDS_MAX} seeds");
}

#[test]
fn no_two_cells_serve_one_tenant() {
    kept(10_000, &[]);
}

#[test]
fn no_request_is_lost_or_done_twice() {
    kept(20_000, &[]);
}

#[test]
fn every_move_ends() {
    kept(30_000, &[]);
}

#[test]
fn no_request_fails_because_of_a_move() {
    kept(40_000, &["--calm"]);
}

#[test]
fn the_same_seed_gives_the_same_log() {
    for seed in 50_000..50_000 + number("SEEDS").unwrap_or(3) {
        let (one, other) = (run(seed, &["--verbose"]), run(seed, &["--verbose"]));
        let differs = one.1.lines().zip(other.1.lines()).enumerate().find(|(_, (one, other))| one != other);
        assert!(differs.is_none(), "seed {seed}, from line {differs:?} on");
        assert!(one == other && one.1.lines().count() > 500);
    }
}

#[test]
fn gates_that_ignore_fences_are_noticed() {
    caught("ignore-fences", &TWO_SERVE);
}

#[test]
fn gates_that_open_at_once_are_noticed() {
    caught("open-at-once", &TWO_SERVE);
}

#[test]
fn apps_that_outlast_their_limit_are_noticed_when_an_agent_dies() {
    caught("outlast-limit", &TWO_SERVE);
}

#[test]
fn a_router_that_answers_for_cells_is_noticed() {
    caught("lose-replay", &["was answered by"]);
}
