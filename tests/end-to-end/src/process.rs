//! A process that can be killed, stopped, continued and started again.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How to start a process.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What it is called in messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, beside ours.
    pub env: Vec<(String, String)>,
    /// Where its output goes; appended to.
    pub log: PathBuf,
}

/// A running (or ended) process; killed when dropped.
pub struct Process {
    /// How it was started.
    pub recipe: Recipe,
    child: Child,
}

impl Process {
    /// Starts it.
    pub fn start(recipe: Recipe) -> Self {
        let child = spawn(&recipe);
        Self { recipe, child }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).expect("it runs");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("it runs");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// SIGINT or SIGTERM, and how it ended.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        let _ = kill_process(self.pid(), signal);
        self.wait(Duration::from_secs(15))
    }

    /// How it ended.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(begun.elapsed() < limit, "{} does not end; its log: {}", self.recipe.name, self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again, after it has ended.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.recipe);
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.recipe.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4_000);
            let tail = log.get(from..).unwrap_or(&log);
            eprintln!("── the end of what {} printed\n{tail}", self.recipe.name);
        }
    }
}

fn spawn(recipe: &Recipe) -> Child {
    let log = File::options().create(true).append(true).open(&recipe.log).expect("the log can be written");
    let errors = log.try_clone().expect("a second handle");
    Command::new(&recipe.program)
        .args(&recipe.args)
        .envs(recipe.env.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .unwrap_or_else(|error| panic!("{} cannot be started ({}): {error}", recipe.name, recipe.program.display()))
}
