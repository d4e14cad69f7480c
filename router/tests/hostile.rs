//! The short run of the fuzz targets: their seeds, and many mutations of them, the same ones every time.

#![allow(
    clippy::print_stderr,
    clippy::type_complexity,
    unreachable_pub,
    missing_docs,
    reason = "the targets are shared with the fuzzers by path, and a failure names its input"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../../fuzz/src/targets.rs"]
mod targets;

/// Mutations per target: a few seconds of a test build.
const MUTATIONS: usize = 20_000;
/// Inputs grow up to this; no parser's bound lies above it.
const INPUT_MAX_BYTES: usize = 2_048;
/// What mutations insert, beside single bytes.
const WORDS: [&[u8]; 24] = [
    b"\n",
    b"\r\n",
    b":",
    b";",
    b",",
    b"=",
    b"\"",
    b"\\",
    b"%2e",
    b"%2F",
    b"..",
    b"/",
    b"//",
    b"@",
    b"[::1]",
    b"10.0.0.2",
    b"for=",
    b"proto=https",
    b"host: a.example",
    b"domain=",
    b".cells.example",
    b"connection: ",
    b"xn--",
    b"{\"tenant\":",
];

/// Numbers that depend on nothing but the seed (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap() % bound.max(1)
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len() + 1);
        match self.below(6) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = u8::try_from(self.below(256)).unwrap(),
            2 => drop(input.drain(at..(at + self.below(8)).min(input.len()))),
            3 => {
                let from = self.below(other.len());
                let piece = &other[from..(from + self.below(24)).min(other.len())];
                drop(input.splice(at..at, piece.iter().copied()));
            }
            4 => {
                let from = self.below(input.len());
                let piece = input[from..(from + self.below(24)).min(input.len())].to_vec();
                drop(input.splice(at..at, piece));
            }
            _ => drop(input.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
        }
        input.truncate(INPUT_MAX_BYTES);
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn run(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("{name} breaks on b\"{}\": keep it in fuzz/seeds/{name}", input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn no_parser_breaks_on_hostile_input() {
    for (name, target) in targets::TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name}: no seeds");
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
        run(name, target, b"");
        seeds.iter().for_each(|seed| run(name, target, seed));
        for _ in 0..MUTATIONS {
            let mut input = seeds[numbers.below(seeds.len())].clone();
            for _ in 0..=numbers.below(6) {
                let other = numbers.below(seeds.len());
                numbers.mutate(&mut input, &seeds[other]);
            }
            run(name, target, &input);
        }
    }
}
