//! The configurations that are searched: the first of them in every run of the tests, all of them by `make model`.

use crate::world::Config;
use std::fmt;

/// A search that goes beyond this is no proof.
pub const STATES_MAX: usize = 5_000_000;

const PLAIN: Config = Config::PLAIN;
const TWO: Config = Config { moves: 2, ..PLAIN };
const THREE: Config = Config { moves: 3, ..PLAIN };
const JOIN: Config = Config { cells: "Aa.B", ..PLAIN };
const PAIR: Config = Config { cells: "AA.B", ..PLAIN };
const BACK: Config = Config { back: true, retries: true, ..TWO };

/// Seconds each.
pub const QUICK: [Config; 15] = [
    Config { crashes: 1, ..PLAIN },
    Config { cells: "A.B.C", ..TWO },
    Config { streams: true, crashes: 1, ..PLAIN },
    Config { losses: 1, ..BACK },
    Config { fences: true, ..BACK },
    Config { fences: true, crashes: 1, ..PLAIN },
    Config { cells: "A.BB", losses: 1, ..PLAIN },
    Config { exits: 1, ..PAIR },
    Config { stale: true, back: true, ..TWO },
    JOIN,
    Config { lag: true, ..JOIN },
    Config { cells: "Aa.Bb", ..PLAIN },
    Config { cells: "AA.B", ..TWO },
    Config { again: true, ..TWO },
    Config { cells: "A.Bb", losses: 1, reused: true, ..PLAIN },
];

/// Up to minutes each.
pub const LONG: [Config; 16] = [
    Config { cells: "A.B.C", ..THREE },
    Config { cells: "A.B.C", crashes: 1, ..TWO },
    Config { cells: "A.B.C", back: true, ..THREE },
    Config { crashes: 2, ..TWO },
    Config { losses: 1, ..THREE },
    Config { moves: 3, ..BACK },
    Config { crashes: 1, losses: 1, ..BACK },
    Config { crashes: 1, fences: true, ..BACK },
    Config { cells: "A.Bb", losses: 1, failing: "b", back: true, ..TWO },
    Config { moves: 2, ..JOIN },
    Config { stale: true, ..JOIN },
    Config { crashes: 1, losses: 1, ..JOIN },
    Config { exits: 1, ..JOIN },
    // A target that restarts forgets the newest list: see the test of it.
    Config { lag: true, crashes: 1, failing: "a", ..JOIN },
    Config { crashes: 1, exits: 1, ..PAIR },
    Config { crashes: 1, stale: true, ..PAIR },
];

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = format!("{} m{}", self.cells, self.moves);
        for (count, letter) in [(self.crashes, "kc"), (self.losses, "kd"), (self.exits, "kx")] {
            if count > 0 {
                words.push_str(&format!(" {letter}{count}"));
            }
        }
        if self.failing != PLAIN.failing {
            words.push_str(&format!(" (in {})", self.failing));
        }
        let flags = [
            (self.stale, "stale"),
            (self.lag, "lag"),
            (self.fences, "fences"),
            (self.retries, "retry"),
            (self.back, "back"),
            (self.streams, "streams"),
            (self.again, "again"),
            (self.reused, "reused"),
            (!self.requests, "no requests"),
        ];
        flags.iter().filter(|(is_set, _)| *is_set).for_each(|(_, word)| words.push_str(&format!(" {word}")));
        f.pad(&words)
    }
}
