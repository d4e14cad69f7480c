//! A router with few files and little memory sheds, and never dies (scenario 20).

use super::super::asker::{ask, ask_at_rate, statuses};
use super::super::cells::{Cell, Manner};
use super::super::crowd::Crowd;
use super::super::ground::{Ground, Needs, Scale, Shown, hostile_host};
use super::super::report::{Bound, Row};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Open files of the router.
const FILES: usize = 256;
/// Its memory.
const MEMORY_BYTES: u64 = 256 * 1024 * 1024;
/// Clients that connect and stay.
const CLIENTS: usize = 2_000;
/// Requests per second meanwhile.
const PER_SECOND: u32 = 50;
/// How soon all is as before once they have left.
const NORMAL_MS: u64 = 5_000;
/// Requests in a row that say so.
const IN_A_ROW: usize = 20;

/// Both limits at once.
pub async fn starved(scale: Scale) -> Row {
    let cell = Cell::start(Manner::Whole).await;
    let group = MemoryGroup::make();
    let within = format!("ulimit -n {FILES}\n{}", group.as_ref().map_or_else(String::new, MemoryGroup::join));
    let needs = Needs { hostile: vec![cell.address], within: Some(within), ..Needs::default() };
    let ground = Ground::prepare(scale, needs).await;
    ground
        .under("few files, little memory", async |ground| {
            let crowd = Crowd::gather(ground.address(), scale.of(CLIENTS)).await;
            let count = crowd.members.len();
            let words = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", hostile_host(0));
            crowd.say(words.as_bytes());
            let request = words.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
            let meanwhile = ask_at_rate(ground.address(), request.clone(), PER_SECOND, scale.attack / 3).await;
            drop(crowd);
            let (begun, mut in_a_row) = (Instant::now(), 0);
            while in_a_row < IN_A_ROW && begun.elapsed() < Duration::from_millis(NORMAL_MS * 2) {
                let came = ask(ground.address(), in_a_row, request.as_bytes()).await;
                in_a_row = if came.status == Some(200) { in_a_row + 1 } else { 0 };
            }
            let took = begun.elapsed();
            let memory =
                group.as_ref().map_or("no cgroup to limit memory by: files only", |_| "memory 256 MiB (cgroup)");
            let done = format!("{FILES} files, {memory}; {count} clients stayed; meanwhile {}", statuses(&meanwhile));
            let shed = meanwhile.iter().all(|came| matches!(came.status, None | Some(200 | 503)));
            let bounds = vec![
                Bound::new("requests meanwhile: 200, 503 or a closed connection", shed),
                Bound::new(
                    format!("as before {:.2} s after they left (within {} s)", took.as_secs_f64(), NORMAL_MS / 1_000),
                    in_a_row == IN_A_ROW && took <= Duration::from_millis(NORMAL_MS),
                ),
            ];
            (Shown { done, bounds, others_fail: true, ..Shown::default() }, cell)
        })
        .await
}

/// A control group with a limit of memory, where this machine lets us make one.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn make() -> Option<Self> {
        let name = format!("cellway-stress-{}", std::process::id());
        let kinds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        kinds.into_iter().find_map(|(root, limit)| {
            let dir = Path::new(root).join(&name);
            std::fs::create_dir(&dir).ok()?;
            let group = Self(dir);
            std::fs::write(group.0.join(limit), MEMORY_BYTES.to_string()).ok()?;
            Some(group)
        })
    }

    /// A shell's words that bring it in.
    fn join(&self) -> String {
        format!("echo $$ > {}/cgroup.procs\n", self.0.display())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
