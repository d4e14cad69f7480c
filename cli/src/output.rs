//! What commands print: data on stdout as a table or as JSON, talk and errors on stderr.

use cellway_api::ApiError;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// Between two columns.
const COLUMN_GAP: &str = "  ";

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Stdout takes no more.
#[derive(Debug, thiserror::Error)]
enum PrintError {
    /// The reader has gone: not worth a word.
    #[error("the reader of the output has gone")]
    Closed,
    /// Anything else.
    #[error("the answer cannot be written")]
    Broken(#[source] io::Error),
}

/// Why a command ends with another exit code than 0.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Refused or failed.
    Command(anyhow::Error),
    /// Nothing could be started.
    StartUp(anyhow::Error),
    /// The answer, which was printed, says it.
    Said,
}

impl Failure {
    /// Nothing could be started.
    pub(crate) fn start_up(error: impl Into<anyhow::Error>) -> Self {
        Self::StartUp(error.into())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Command(error.into())
    }
}

/// Tells what went wrong, and makes the exit code of it.
pub(crate) fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    let (error, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Said) => return ExitCode::from(1),
        Err(Failure::Command(error)) => (error, 1),
        Err(Failure::StartUp(error)) => (error, 2),
    };
    if let Some(PrintError::Closed) = error.downcast_ref() {
        return ExitCode::SUCCESS;
    }
    talk(&explained(&error));
    ExitCode::from(code)
}

/// One line with the error, and where something can be done about it a second one that says what.
fn explained(error: &anyhow::Error) -> String {
    match error.downcast_ref::<ApiError>() {
        Some(ApiError::Refused(problem)) => match &problem.detail {
            Some(detail) => format!("error: {}\n  {}", shown(&problem.title), shown(detail)),
            None => format!("error: {}", shown(&problem.title)),
        },
        Some(ApiError::Unreachable { .. } | ApiError::Foreign { .. }) => format!(
            "error: {}\n  start a system with `cellway dev`, or say where the API is with --api or CELLWAY_API",
            shown(&format!("{error:#}"))
        ),
        Some(ApiError::BrokenStream(_)) => format!("error: {}", shown(&format!("{error:#}"))),
        // Of our own making: a mistake in a configuration is shown in its lines.
        None => format!("error: {}", format!("{error:#}").lines().map(shown).collect::<Vec<_>>().join("\n")),
    }
}

/// Says something to whoever watches. That nobody does is no error.
pub(crate) fn talk(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether a live line on stderr makes sense.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Prints `value` as JSON, or what `table` makes of it.
pub(crate) fn print<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), anyhow::Error> {
    let mut text = match format {
        Format::Json => serde_json::to_string_pretty(value)?,
        Format::Table => table(value),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    Ok(written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => PrintError::Closed,
        _ => PrintError::Broken(error),
    })?)
}

/// `text` without characters that would steer the terminal.
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Rows under headings, each column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    to_the_right: Vec<bool>,
}

impl Table {
    /// A table with these headings; those that begin with `>` stand over numbers.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let to_the_right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let heads = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![heads], to_the_right }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.to_the_right.len());
        self.rows.push(cells.iter().map(|cell| shown(cell)).collect());
    }

    /// The table as text, or `nothing` if it has no rows.
    pub(crate) fn or(self, nothing: &str) -> String {
        if self.rows.len() == 1 {
            return nothing.to_owned();
        }
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.to_the_right.len()).map(width).collect();
        let lines = self.rows.iter().map(|row| {
            let cells = row.iter().zip(&widths).zip(&self.to_the_right).map(|((cell, &width), &right)| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            let line = cells.collect::<Vec<_>>().join(COLUMN_GAP);
            format!("{}\n", line.trim_end())
        });
        lines.collect()
    }
}

/// Lines of a name and its value, the values below each other.
pub(crate) fn facts(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:<width$}  {}\n", shown(value))).collect()
}

/// A value, or a dash where there is none.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// How long ago `at_ms` (since 1970) was, roughly.
pub(crate) fn ago(at_ms: u64) -> String {
    roughly(now_ms().saturating_sub(at_ms))
}

/// How long it is until `at_ms` (since 1970), roughly.
pub(crate) fn until(at_ms: u64) -> String {
    roughly(at_ms.saturating_sub(now_ms()))
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn roughly(ms: u64) -> String {
    match ms / 1_000 {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} min", s / 60),
        s @ 7_200..=172_799 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// Bytes as people read them.
pub(crate) fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let of = |unit: u64| count as f64 / unit as f64;
    match count {
        0..=1_023 => format!("{count} B"),
        1_024..=1_048_575 => format!("{:.1} KiB", of(1 << 10)),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", of(1 << 20)),
        _ => format!("{:.1} GiB", of(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellway_api::problem::Problem;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&["NAME", ">TENANTS", "VERSION"]);
        table.row(["a".into(), "12".into(), "v1".into()]);
        table.row(["cell-b".into(), "3".into(), String::new()]);
        assert_eq!(table.or("-"), "NAME    TENANTS  VERSION\na            12  v1\ncell-b        3\n");
        assert_eq!(Table::new(&["NAME"]).or("no cells"), "no cells");
    }

    #[test]
    fn no_value_can_steer_the_terminal() {
        assert_eq!(shown("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let problem = Problem {
            kind: "conflict".into(),
            status: 409,
            title: "acme cannot be moved".into(),
            detail: Some("its cell is a plain origin".into()),
        };
        let error = anyhow::Error::from(ApiError::Refused(problem));
        assert_eq!(explained(&error), "error: acme cannot be moved\n  its cell is a plain origin");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!([bytes(12), bytes(2_048), bytes(5 << 20)], ["12 B", "2.0 KiB", "5.0 MiB"]);
    }
}
