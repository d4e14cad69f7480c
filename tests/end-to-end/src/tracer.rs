//! Makes system calls of a running process fail, by strace.

use crate::tool;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

/// A strace that is attached; it lets go when it is stopped or dropped, and the process goes on.
pub struct Tracer {
    strace: Child,
    said: Option<BufReader<ChildStderr>>,
}

impl Tracer {
    /// Has calls of process `id` fail, as in `fdatasync,fsync:error=EIO:when=1..3`; returns when it is in force.
    pub fn inject(id: u32, what: &str) -> Self {
        let calls = what.split(':').next().unwrap_or(what);
        let mut strace = Command::new(tool("strace", "strace"))
            .args(["-f", "-e", &format!("trace={calls}"), "-e", &format!("inject={what}"), "-p", &id.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace runs");
        let mut said = BufReader::new(strace.stderr.take().expect("its output"));
        let mut line = String::new();
        while !line.contains(" attached") {
            line.clear();
            let length = said.read_line(&mut line).expect("strace speaks");
            assert!(length > 0, "strace cannot attach: it takes root, or the right to trace");
        }
        Self { strace, said: Some(said) }
    }

    /// Lets go; how many calls failed.
    pub fn stop(mut self) -> usize {
        self.let_go();
        let said = self.said.take().expect("stopped once");
        said.lines().map_while(Result::ok).filter(|line| line.contains("(INJECTED)")).count()
    }

    fn let_go(&mut self) {
        let _ = kill_process(Pid::from_child(&self.strace), Signal::INT);
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.let_go();
        drop(self.said.take());
        let _ = self.strace.wait();
    }
}
