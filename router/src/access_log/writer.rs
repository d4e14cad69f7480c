//! The thread that writes the access log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::{LogCounters, LogTarget, QueueState, Record};

/// How long lines are gathered before they are written: a thread that hands over a record seldom has to wake another.
const GATHER_MS: u64 = 20;
/// Lines that are written at once.
const BATCH_MAX_BYTES: usize = 1024 * 1024;

/// What is handed to the writer.
pub(super) enum Message {
    /// To be written.
    Record(Box<Record>),
    /// Nothing; the writer is to look at its state.
    Look,
}

/// Where lines are written.
pub(super) trait Sink: Write + Send {
    /// Opens it again: the file may have been moved away.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Appended {
    path: PathBuf,
    file: File,
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Appended {
    fn reopen(&mut self) -> io::Result<()> {
        self.file = append_to(&self.path)?;
        Ok(())
    }
}

impl Sink for File {}

/// Opens a target.
pub(super) fn open(target: &LogTarget) -> io::Result<Box<dyn Sink>> {
    Ok(match target {
        // A descriptor of our own: the process's `Stdout` would keep in its buffer what could not be written.
        LogTarget::Stdout => Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        LogTarget::File(path) => Box::new(Appended { path: path.clone(), file: append_to(path)? }),
    })
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Writes lines, whole ones.
pub(super) struct Writer {
    sink: Box<dyn Sink>,
    counters: LogCounters,
    /// Lines to be written.
    lines: Vec<u8>,
    /// Whether they begin with the rest of a line that was cut.
    cut: bool,
    failing: bool,
}

impl Writer {
    pub(super) fn new(sink: Box<dyn Sink>, counters: LogCounters) -> Self {
        Self { sink, counters, lines: Vec::new(), cut: false, failing: false }
    }

    /// Writes what comes until nobody can send any more, or until asked to finish.
    pub(super) fn run(mut self, messages: &Receiver<Message>, state: &QueueState) {
        while let Ok(first) = messages.recv() {
            let finishing = || state.finish.load(Ordering::Acquire);
            if !finishing() {
                std::thread::sleep(Duration::from_millis(GATHER_MS));
            }
            if state.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            let mut next = Some(first);
            while let Some(message) = next {
                self.take(message);
                next = messages.try_recv().ok();
            }
            self.write();
            if finishing() {
                return;
            }
        }
    }

    pub(super) fn take(&mut self, message: Message) {
        if let Message::Record(record) = message {
            record.write(&mut self.lines);
            if self.lines.len() >= BATCH_MAX_BYTES {
                self.write();
            }
        }
    }

    fn reopen(&mut self) {
        // What is left of a cut line belongs to the file that has its beginning.
        self.write();
        if !self.lines.is_empty() {
            self.lines.clear();
            self.cut = false;
            self.counters.dropped_by_disk.inc();
        }
        if let Err(error) = self.sink.reopen() {
            tracing::error!(%error, "the access log cannot be opened again; it goes on in the file that is open");
        }
    }

    /// Writes the lines. If that fails, they are dropped but for the rest of one that was cut: it goes before the next
    /// ones, so that every line in the file is whole.
    pub(super) fn write(&mut self) {
        let mut written = 0;
        while written < self.lines.len() {
            match self.sink.write(&self.lines[written..]) {
                Ok(0) => return self.give_up(written, &io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.give_up(written, &error),
            }
        }
        if written > 0 && std::mem::take(&mut self.failing) {
            tracing::info!("the access log can be written again");
        }
        self.counters.written.inc_by(count_lines(&self.lines));
        self.lines.clear();
        self.cut = false;
    }

    fn give_up(&mut self, written: usize, error: &io::Error) {
        let (done, left) = self.lines.split_at(written);
        let cut = done.last().map_or(self.cut, |last| *last != b'\n');
        let rest = left.iter().position(|byte| *byte == b'\n').filter(|_| cut).map_or(0, |end| end + 1);
        let dropped = count_lines(&left[rest..]);
        self.counters.written.inc_by(count_lines(done));
        self.counters.dropped_by_disk.inc_by(dropped);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "the access log cannot be written; lines are dropped until it can");
        }
        self.lines.truncate(written + rest);
        self.lines.drain(..written);
        self.cut = cut;
    }
}

fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}
