//! A `cellway dev` of a test's own.

use crate::ports::Ports;
use crate::process::{Process, Recipe};
use crate::{STALL_VARIABLE, binary, eventually, is_ok};
use cellway_api::Client;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

/// A running `cellway dev`.
pub struct Dev {
    /// The process.
    pub process: Process,
    /// Its ports.
    pub ports: Ports,
    /// A client of its API.
    pub client: Client,
    dir: TempDir,
}

impl Dev {
    /// Starts one with these further arguments, and waits until it is ready.
    pub async fn start(args: &[&str]) -> Self {
        let dev = Self::spawn(args);
        dev.ready().await;
        dev
    }

    /// Starts one, without waiting.
    pub fn spawn(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ports = Ports::take();
        let state = dir.path().join("state").display().to_string();
        let base = ports.base.to_string();
        let mut all = vec!["dev".to_owned(), "--dir".into(), state, "--port-base".into(), base];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        let recipe = Recipe {
            name: "cellway dev".to_owned(),
            program: binary(),
            args: all,
            env: vec![(STALL_VARIABLE.to_owned(), dir.path().join("stall").display().to_string())],
            log: dir.path().join("dev.log"),
        };
        let client = Client::new(&format!("http://127.0.0.1:{}", ports.at(2))).expect("a client");
        Self { process: Process::start(recipe), ports, client, dir }
    }

    /// Waits until everything is ready.
    pub async fn ready(&self) {
        let router = format!("http://127.0.0.1:{}/readyz", self.ports.at(3));
        eventually("dev is ready", async || is_ok(&router).await.then_some(())).await;
    }

    /// Keeps every move in `state`, or lets all go on.
    pub fn stall(&self, state: Option<&str>) {
        let file = self.stall_file();
        match state {
            Some(state) => std::fs::write(file, state).expect("written"),
            None => drop(std::fs::remove_file(file)),
        }
    }

    fn stall_file(&self) -> PathBuf {
        self.dir.path().join("stall")
    }

    /// Where it keeps its state.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Where the router answers.
    pub fn router(&self) -> String {
        format!("127.0.0.1:{}", self.ports.at(0))
    }

    /// Runs a command of the CLI against it.
    pub fn cli(&self, args: &[&str]) -> Output {
        cli(self.ports.base, args)
    }
}

/// Runs a command of the CLI against the system at these ports.
pub fn cli(port_base: u16, args: &[&str]) -> Output {
    let base = port_base.to_string();
    let mut command = Command::new(binary());
    command.args(args).args(["--port-base", &base]);
    command.output().expect("the binary runs")
}
