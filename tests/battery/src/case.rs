//! A case: bytes of a client, and what must become of them.

use crate::client::{Client, End, Transcript};
use crate::wire::Request;
use crate::world::World;

/// A request as `acme`'s cell must see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Method and target.
    pub line: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Seen {
    /// A request without a body.
    pub fn line(line: &str) -> Self {
        Self::with(line, "")
    }

    /// A request with a body.
    pub fn with(line: &str, body: &str) -> Self {
        Self { line: line.into(), body: body.as_bytes().to_vec() }
    }

    fn of(request: &Request) -> Self {
        Self { line: request.line.clone(), body: request.body.clone() }
    }
}

/// What must become of a client's bytes. Whatever it is, no cell may see a byte that is not part of exactly one
/// well-formed request, and no other tenant or connection may notice.
#[derive(Debug, Clone)]
pub enum Expect {
    /// These requests are served with 200, then the connection is refused with one of these statuses and closed.
    /// Without statuses it stays open.
    Exactly(Vec<Seen>, &'static [u16]),
    /// Refused with one of these statuses, and closed if that is 400, or served with 200 as exactly one request.
    Either(&'static [u16]),
    /// Refused or closed without an answer, and at most a cut-off request has reached the cell.
    Cut(&'static [u16]),
}

impl Expect {
    /// One answer with one of these statuses, a closed connection, and nothing at a cell.
    pub fn refused(statuses: &'static [u16]) -> Self {
        Self::Exactly(Vec::new(), statuses)
    }

    /// One request without a body.
    pub fn served(line: &str) -> Self {
        Self::Exactly(vec![Seen::line(line)], &[])
    }

    /// One request with a body.
    pub fn served_with(line: &str, body: &str) -> Self {
        Self::Exactly(vec![Seen::with(line, body)], &[])
    }

    fn answers(&self) -> usize {
        match self {
            Self::Exactly(seen, statuses) => seen.len() + usize::from(!statuses.is_empty()),
            Self::Either(_) | Self::Cut(_) => 1,
        }
    }
}

/// Cases that belong together, over one router.
pub struct Family {
    name: &'static str,
    /// The router and the cells.
    pub world: World,
    cases: usize,
    failed: Vec<String>,
}

/// In how many ways the bytes of a case are cut into segments: at once, and in parts so small that every field is cut.
const STEPS: [usize; 2] = [usize::MAX, 7];
/// Longer requests are not cut into so small parts.
const STEPPED_MAX_BYTES: usize = 2_000;

impl Family {
    /// Starts the router of this family.
    pub async fn start(name: &'static str) -> Self {
        Self::over(name, World::start().await)
    }

    /// A family over a router that is there already.
    pub fn over(name: &'static str, world: World) -> Self {
        Self { name, world, cases: 0, failed: Vec::new() }
    }

    /// Sends `bytes` over a connection of their own.
    pub async fn case(&mut self, name: &str, bytes: impl AsRef<[u8]>, expect: Expect) {
        let bytes = bytes.as_ref();
        let mut result = Ok(());
        for step in STEPS {
            if result.is_ok() && (step > bytes.len() || bytes.len() <= STEPPED_MAX_BYTES) {
                let mut client = Client::connect(self.world.address).await;
                client.send_by(bytes, step).await;
                let heads = [bytes.starts_with(b"HEAD ")];
                let transcript = client.read(expect.answers(), &heads).await;
                result = self.judge(&transcript, &expect).await;
                if let Err(why) = &mut result {
                    why.push_str(&format!(" (in steps of {step})"));
                }
            }
        }
        self.record(name, result);
    }

    /// Counts a case that was run by hand, after it has checked that nobody else was touched.
    pub async fn by_hand(&mut self, name: &str, result: Result<(), String>) {
        self.conclude(name, result, false).await;
    }

    /// The same for a case whose request may have been cut off on its way to the cell.
    pub async fn by_hand_of_cut(&mut self, name: &str, result: Result<(), String>) {
        self.conclude(name, result, true).await;
    }

    async fn conclude(&mut self, name: &str, result: Result<(), String>, cut_off: bool) {
        let result = match result {
            Ok(()) => {
                self.world.acme.settle().await;
                self.world.check_bystanders(cut_off).await
            }
            failed => {
                let _ = self.world.received().await;
                failed
            }
        };
        self.record(name, result);
    }

    fn record(&mut self, name: &str, result: Result<(), String>) {
        self.cases += 1;
        if let Err(why) = result {
            self.failed.push(format!("{}: {name}: {why}", self.name));
        }
    }

    async fn judge(&self, transcript: &Transcript, expect: &Expect) -> Result<(), String> {
        // What is still on its way to a cell is found by the bystanders.
        let (acme, beta) = self.world.received().await?;
        if !beta.is_empty() {
            return Err(format!("the cell of beta received {beta:?}"));
        }
        let mut seen: Vec<Seen> = acme.iter().flat_map(|one| one.requests.iter().map(Seen::of)).collect();
        if let (Some(_), Expect::Exactly(wanted, _)) = (crate::peer::wanted(), expect) {
            // Others spread a client's requests over several connections; answers tell their order all the same.
            seen.sort_by_key(|seen| wanted.iter().position(|wanted| wanted == seen));
        }
        let unfinished: usize = acme.iter().map(|one| one.unfinished).sum();
        judge_answers(transcript, expect, &seen)?;
        if unfinished > 0 && !matches!(expect, Expect::Cut(_)) {
            return Err(format!("the cell received {unfinished} bytes of an unfinished request"));
        }
        self.world.check_bystanders(matches!(expect, Expect::Cut(_))).await
    }

    /// Prints the counts; fails if a case has. Of another proxy it prints the deviations.
    pub fn finish(self) {
        if let Some(peer) = crate::peer::wanted() {
            for why in &self.failed {
                println!("{peer}: {}", why.escape_debug().to_string().chars().take(300).collect::<String>());
            }
            println!(
                "peer {peer:<8} {:<28} cases {:>4}  passed {:>4}",
                self.name,
                self.cases,
                self.cases - self.failed.len()
            );
            return;
        }
        println!("battery {:<28} cases {:>4}  passed {:>4}", self.name, self.cases, self.cases - self.failed.len());
        assert!(self.failed.is_empty(), "\n{}\n", self.failed.join("\n"));
    }
}

fn judge_answers(transcript: &Transcript, expect: &Expect, seen: &[Seen]) -> Result<(), String> {
    let statuses = transcript.statuses();
    let broken = || Err(format!("answers {statuses:?}, {:?}, the cell saw {seen:?}", transcript.end));
    let clean = transcript.rest.is_empty() && transcript.answers.iter().all(|answer| answer.whole);
    match expect {
        Expect::Exactly(wanted, refusal) => {
            let served = statuses.get(..wanted.len()).is_some_and(|first| first.iter().all(|status| *status == 200));
            let refused = match (refusal.is_empty(), &statuses[wanted.len().min(statuses.len())..]) {
                (true, []) => true,
                (false, [status]) => refusal.contains(status) && transcript.end == End::Closed,
                _ => false,
            };
            if served && refused && clean && seen == wanted { Ok(()) } else { broken() }
        }
        Expect::Either(refusal) => match statuses[..] {
            [200] if seen.len() == 1 && clean => Ok(()),
            // What is understood, and not served, need not end the connection.
            [status] if refusal.contains(&status) && seen.is_empty() && clean => match (status, transcript.end) {
                (400, End::Open) => broken(),
                _ => Ok(()),
            },
            _ => broken(),
        },
        Expect::Cut(refusal) => match statuses[..] {
            [] if seen.is_empty() && transcript.end != End::Open => Ok(()),
            [status] if refusal.contains(&status) && seen.is_empty() && transcript.end == End::Closed => Ok(()),
            _ => broken(),
        },
    }
}
