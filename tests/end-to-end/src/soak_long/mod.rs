//! A soak of hours in rounds: each a fleet of its own under traffic and moves, to which harm is done at random. What the
//! rounds gave is kept in a file, from which the next run goes on.

mod faults;
pub mod judge;
mod round;

pub use faults::Faults;
pub use round::{Round, RoundPlan, run};

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

/// What the rounds so far add up to.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    /// Rounds.
    pub rounds: u64,
    /// Requests, slow uploads aside.
    pub requests: u64,
    /// Moves that were asked for.
    pub moves: u64,
    /// Harms that were done.
    pub harms: u64,
    /// Failed requests that were under way during a harm that may cost them.
    pub excused: u64,
    /// All other failed requests.
    pub failed: u64,
    /// Promises about data and owners that were broken.
    pub broken: u64,
}

impl Total {
    /// Adds a round.
    pub fn add(&mut self, round: &Round) {
        self.rounds += 1;
        self.requests += round.requests;
        self.moves += round.moves;
        self.harms += round.harms.values().sum::<u64>();
        self.excused += round.excused;
        self.failed += round.failed.len() as u64;
        self.broken += round.broken.len() as u64;
    }

    /// What the file's rounds add up to. A line that was cut off by the end of a run is no round.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut total = Self::default();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(total),
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).lines() {
            if let Ok(round) = serde_json::from_str(&line?) {
                total.add(&round);
            }
        }
        Ok(total)
    }
}

/// Adds a round to the file.
pub fn keep(path: &Path, round: &Round) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = File::options().create(true).append(true).open(path)?;
    // Begins with the end of a line, too: what was cut off before it stands on a line of its own.
    file.write_all(format!("\n{}\n", serde_json::to_string(round)?).as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soak_goes_on_from_what_was_kept_and_passes_over_a_torn_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("below").join("soak.jsonl");
        assert_eq!(Total::read(&path).expect("none yet"), Total::default());
        let round = Round { requests: 10, moves: 2, excused: 1, ..Round::default() };
        keep(&path, &round).expect("kept");
        let mut file = File::options().append(true).open(&path).expect("there");
        file.write_all(b"{\"requests\": 5").expect("torn");
        keep(&path, &round).expect("kept");
        let total = Total { rounds: 2, requests: 20, moves: 4, excused: 2, ..Total::default() };
        assert_eq!(Total::read(&path).expect("two"), total);
    }
}
