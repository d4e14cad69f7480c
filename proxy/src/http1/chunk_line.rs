//! The line before each chunk of a body, which states its size.

/// The longest such line.
pub(crate) const CHUNK_LINE_MAX_BYTES: usize = 4 * 1024;
/// The bytes of all such lines of one body, beyond one for each byte of it.
const CHUNK_LINES_MAX_BYTES: u64 = 16 * 1024;
/// The largest body that is believed: far above any, and far below where sums overflow.
pub(crate) const BODY_MAX_BYTES: u64 = 1 << 60;

/// What may still come in the lines of one body: chunks of few bytes with much said about each cost work and carry
/// nothing.
pub(crate) struct ChunkLines {
    left_bytes: u64,
}

impl ChunkLines {
    pub(crate) fn new() -> Self {
        Self { left_bytes: CHUNK_LINES_MAX_BYTES }
    }

    /// Takes the line of a chunk of this size; says whether it was not too much.
    pub(crate) fn take(&mut self, size: u64, line_bytes: usize) -> bool {
        let left = self.left_bytes.saturating_add(size).min(CHUNK_LINES_MAX_BYTES * 2);
        // A size, its line end and that of its chunk: what the smallest chunk of an honest peer needs.
        let cost = (line_bytes as u64).saturating_sub(4);
        let taken = left.checked_sub(cost);
        self.left_bytes = taken.unwrap_or(0);
        taken.is_some()
    }
}

/// The size that a line states, without its LF. More digits than are kept are too many.
pub(crate) fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let after = line.get(digits..)?;
    let blanks = after.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let ended = matches!(after.get(blanks), Some(b';' | b'\r'));
    let extension = after.get(blanks..)?.strip_suffix(b"\r").unwrap_or(after);
    let plain = extension.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    let size = u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
    (ended && plain && size <= BODY_MAX_BYTES).then_some(size)
}
