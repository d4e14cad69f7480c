//! Processes on chosen cores, killed when they are dropped.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a process may take until it listens.
const START_MS: u64 = 120_000;
/// Between two looks at it.
const LOOK_MS: u64 = 20;

/// A process that runs until it is dropped.
pub(crate) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program` with `args` on one core; what it prints goes to `{dir}/{name}.log`.
    pub(crate) fn start(name: &str, core: usize, program: &Path, args: &[String], dir: &Path) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = out.try_clone()?;
        let child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("{name} cannot be started ({})", program.display()))?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it listens.
    pub(crate) fn listens_on(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            let over = begun.elapsed() >= Duration::from_millis(START_MS);
            if let Some(status) = self.child.try_wait()? {
                bail!("{} has ended ({status}): {}", self.name, self.printed());
            }
            if over {
                bail!("{} does not listen on {address} after {START_MS} ms: {}", self.name, self.printed());
            }
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
        Ok(())
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A quick end in good order, so that nginx takes its workers along.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
