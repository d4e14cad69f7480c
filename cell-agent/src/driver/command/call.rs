//! One call of the user's program: the step is its argument, one JSON object on its standard input, JSON lines from its
//! standard output, an exit code.

use super::super::{Fetch, Progress};
use crate::config::CommandConfig;
use cellway_core::ids::{CellName, Epoch, HomeId, MoveId, TenantId};
use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The shape of what the program is told: raised when a field changes its meaning.
const INPUT_VERSION: u32 = 1;

/// Calls that may take long at a time, and others; the rest wait.
const LONG_CALLS_MAX: usize = 8;
const SHORT_CALLS_MAX: usize = 16;

/// The longest line that the program may say.
const LINE_MAX_BYTES: u64 = 16 * 1024;

/// The longest position.
const POSITION_MAX_BYTES: usize = 1_024;

/// Lines of its standard error that are kept to say why it failed.
const WHY_LINES_MAX: usize = 8;

/// How long the rest of its standard error is waited for after it failed.
const LAST_WORDS_MS: u64 = 200;

/// The exit code that says that trying again cannot help.
const EXIT_GIVE_UP: i32 = 2;

/// The exit code that says that a later epoch was seen, so that the step is late and nothing was done.
const EXIT_LATE: i32 = 3;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// There is no such program, or it may not be run.
    #[error("{program} cannot be run")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended with a code that says so; what it said on its standard error.
    #[error("`{step}` failed ({status}): {why}")]
    Failed {
        /// The step.
        step: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        why: String,
    },
    /// It said nothing, or did not end, for too long, and was killed.
    #[error("`{step}` was killed: it took longer than {limit_ms} ms{}", if *.stalled { " without a word of progress" } else { "" })]
    TooLong {
        /// The step.
        step: &'static str,
        /// The limit.
        limit_ms: u64,
        /// Whether progress would have helped.
        stalled: bool,
    },
    /// What it said cannot be understood.
    #[error("`{step}` said what is no answer: {why}")]
    BadAnswer {
        /// The step.
        step: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A fence has to say where the data ends.
    #[error("`fence` ended well but named no position: say {{\"position\": \"…\"}} on standard output")]
    NoPosition,
    /// A line of it cannot be read.
    #[error("the program's output cannot be read")]
    Line(#[from] LineError),
    /// Its pipes broke.
    #[error("the program could not be spoken to")]
    Pipe(#[from] io::Error),
}

impl CallError {
    /// Whether the program says that trying again cannot help.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Failed { status, .. } if status.code() == Some(EXIT_GIVE_UP))
    }

    /// Whether the program says that the step is late.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self, Self::Failed { status, .. } if status.code() == Some(EXIT_LATE))
    }
}

/// What the program is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Prepare,
    Copy,
    Sync,
    Fence,
    Finish,
    Migrate,
    Verify,
    Open,
    Reverse,
    Drop,
}

impl Step {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Copy => "copy",
            Self::Sync => "sync",
            Self::Fence => "fence",
            Self::Finish => "finish",
            Self::Migrate => "migrate",
            Self::Verify => "verify",
            Self::Open => "open",
            Self::Reverse => "reverse",
            Self::Drop => "drop",
        }
    }

    /// It may take as long as it likes while it says how far it is.
    fn is_long(self) -> bool {
        matches!(self, Self::Copy | Self::Sync | Self::Reverse)
    }
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) step: Step,
    pub(crate) tenant: &'a TenantId,
    pub(crate) home: &'a HomeId,
    pub(crate) from: Option<&'a HomeId>,
    pub(crate) from_cell: Option<&'a str>,
    pub(crate) move_id: Option<&'a MoveId>,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) position: Option<&'a str>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(step: Step, tenant: &'a TenantId, home: &'a HomeId) -> Self {
        Self { step, tenant, home, from: None, from_cell: None, move_id: None, epoch: None, position: None }
    }

    pub(crate) fn of_fetch(step: Step, fetch: &'a Fetch) -> Self {
        let (from, move_id) = (Some(&fetch.from), Some(&fetch.move_id));
        Self { from, move_id, from_cell: fetch.from_cell.as_deref(), ..Self::new(step, &fetch.tenant, &fetch.home) }
    }
}

/// What the program reads on its standard input.
#[derive(Debug, Serialize)]
struct Input<'a> {
    version: u32,
    step: &'static str,
    cell: &'a str,
    tenant: &'a str,
    home: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_cell: Option<&'a str>,
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    move_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<&'a str>,
}

/// What it may say, a line at a time: a field that is said again replaces what was said before.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) copied_bytes: Option<u64>,
    pub(crate) total_bytes: Option<u64>,
    pub(crate) freeze_ms: Option<u64>,
    pub(crate) position: Option<String>,
}

impl Answer {
    /// Takes one more line.
    fn hear(&mut self, line: &str) -> Result<(), String> {
        let said: Self = serde_json::from_str(line).map_err(|error| format!("{error} in {:?}", clipped(line)))?;
        if let Some(position) = &said.position
            && (position.is_empty() || position.len() > POSITION_MAX_BYTES)
        {
            return Err(format!("a position has 1 to {POSITION_MAX_BYTES} bytes, not {}", position.len()));
        }
        self.copied_bytes = said.copied_bytes.or(self.copied_bytes);
        self.total_bytes = said.total_bytes.or(self.total_bytes);
        self.freeze_ms = said.freeze_ms.or(self.freeze_ms);
        self.position = said.position.or(self.position.take());
        Ok(())
    }
}

fn clipped(line: &str) -> String {
    line.chars().take(80).collect()
}

/// The program, and how much of it may run.
#[derive(Debug)]
pub(crate) struct Program {
    cell: CellName,
    config: CommandConfig,
    long: Semaphore,
    short: Semaphore,
}

impl Program {
    pub(crate) fn new(cell: &CellName, config: &CommandConfig) -> Self {
        let (long, short) = (Semaphore::new(LONG_CALLS_MAX), Semaphore::new(SHORT_CALLS_MAX));
        Self { cell: cell.clone(), config: config.clone(), long, short }
    }

    /// Runs one step to its end. Dropped before that, it kills the program with all that it has started.
    pub(crate) async fn run(&self, call: Call<'_>, progress: Option<&Progress>) -> Result<Answer, CallError> {
        let places = if call.step.is_long() { &self.long } else { &self.short };
        let _place = places.acquire().await;
        let step = call.step.as_str();
        let limit_ms = if call.step.is_long() { self.config.stall_ms } else { self.config.step_ms };
        let limit = Duration::from_millis(limit_ms);
        let too_long = |stalled| CallError::TooLong { step, limit_ms, stalled };
        let mut running = self.start(step)?;
        let mut stdin = running.child.stdin.take().ok_or_else(no_pipe)?;
        let mut lines = Lines::new(running.child.stdout.take().ok_or_else(no_pipe)?);
        let stderr = running.child.stderr.take().ok_or_else(no_pipe)?;
        let kept = Mutex::default();
        let mut listening = pin!(listen(step, stderr, &kept).fuse());
        let answering = async {
            // It fits into the pipe. A program that needs nothing of it may end without reading.
            let _ = stdin.write_all(&self.input(&call)?).await;
            drop(stdin);
            let mut answer = Answer::default();
            while let Some(line) = within(limit, lines.next()).await.ok_or_else(|| too_long(call.step.is_long()))?? {
                answer.hear(&line).map_err(|why| CallError::BadAnswer { step, why })?;
                if let (Some(progress), Some(copied)) = (progress, answer.copied_bytes) {
                    progress.set(copied, answer.total_bytes.unwrap_or(copied));
                }
            }
            let status = within(limit, running.child.wait()).await.ok_or_else(|| too_long(false))??;
            Ok::<_, CallError>((answer, status))
        };
        let answering = async {
            match call.step.is_long() {
                true => answering.await,
                false => within(limit, answering).await.ok_or_else(|| too_long(false))?,
            }
        };
        let (answer, status) = tokio::select! {
            biased;
            answered = answering => answered?,
            () = async { (&mut listening).await; pending().await } => return Err(no_pipe()),
        };
        running.ended = true;
        if status.success() {
            return Ok(answer);
        }
        if !listening.is_terminated() {
            // What it has started may keep the pipe open.
            let _ = within(Duration::from_millis(LAST_WORDS_MS), listening).await;
        }
        let kept = std::mem::take(&mut *kept.lock());
        let why = if kept.is_empty() { "it gave no reason".to_owned() } else { Vec::from(kept).join("; ") };
        Err(CallError::Failed { step, status, why })
    }

    fn start(&self, step: &'static str) -> Result<Running, CallError> {
        let mut command = Command::new(&self.config.program);
        command.arg(step).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.process_group(0).kill_on_drop(true).spawn();
        let failed = |source| CallError::Start { program: self.config.program.clone(), source };
        Ok(Running { child: started.map_err(failed)?, ended: false })
    }

    fn input(&self, call: &Call<'_>) -> Result<Vec<u8>, CallError> {
        let input = Input {
            version: INPUT_VERSION,
            step: call.step.as_str(),
            cell: self.cell.as_str(),
            tenant: call.tenant.as_str(),
            home: call.home.as_str(),
            from: call.from.map(HomeId::as_str),
            from_cell: call.from_cell,
            move_id: call.move_id.map(MoveId::as_str),
            epoch: call.epoch.map(|epoch| epoch.0),
            position: call.position,
        };
        let mut bytes = serde_json::to_vec(&input).map_err(io::Error::other)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

fn no_pipe() -> CallError {
    io::Error::other("a pipe is missing").into()
}

/// A program that runs. Its group dies with it.
struct Running {
    child: Child,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Until it was waited for, its id is nobody else's.
        let id = self.child.id().filter(|_| !self.ended).and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Why there is no next line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// It is too long.
    #[error("a line is over {LINE_MAX_BYTES} bytes long")]
    TooLong,
    /// The pipe broke.
    #[error(transparent)]
    Pipe(#[from] io::Error),
}

/// Lines of bounded length.
struct Lines<R> {
    reader: BufReader<R>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader) }
    }

    /// The next line that is not empty; `None` at the end.
    async fn next(&mut self) -> Result<Option<String>, LineError> {
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut self.reader).take(LINE_MAX_BYTES);
            let length = limited.read_until(b'\n', &mut line).await?;
            if length == 0 {
                return Ok(None);
            }
            if length as u64 == LINE_MAX_BYTES && line.last() != Some(&b'\n') {
                return Err(LineError::TooLong);
            }
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

/// What it says on its standard error goes to the log; the last of it says why it failed.
async fn listen(step: &'static str, stderr: impl AsyncRead + Unpin, kept: &Mutex<VecDeque<String>>) {
    let mut lines = Lines::new(stderr);
    loop {
        match lines.next().await {
            Ok(Some(line)) => {
                tracing::info!(step, line, "the mover's program");
                let mut kept = kept.lock();
                if kept.len() == WHY_LINES_MAX {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
            Ok(None) => return,
            // The rest of a line that is too long is a line.
            Err(LineError::TooLong) => {}
            Err(LineError::Pipe(_)) => return,
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    timeout(limit, work).await.ok()
}
