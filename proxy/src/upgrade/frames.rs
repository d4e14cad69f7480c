//! Where one WebSocket frame ends and the next begins (RFC 6455, section 5.2): between two frames, and only there, a
//! frame of our own may stand.

/// The longest head of a frame: two bytes, eight of length, four of mask.
const HEAD_MAX_BYTES: usize = 14;
/// The part of a head that tells how long the head is.
const HEAD_MIN_BYTES: usize = 2;
const OPCODE_BITS: u8 = 0x0f;
const OPCODE_CLOSE: u8 = 0x8;
const MASKED_BIT: u8 = 0x80;
const LENGTH_BITS: u8 = 0x7f;

/// Follows the bytes of one direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD_MAX_BYTES],
    head_bytes: usize,
    payload_left: u64,
    is_closed: bool,
}

impl Frames {
    /// Whether everything that was taken makes whole frames.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.head_bytes == 0 && self.payload_left == 0
    }

    /// Whether a Close frame has begun: nothing may follow it.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes bytes up to the end of the frame that they belong to. Gives how many: fewer than there are only at a
    /// boundary.
    pub(super) fn take_one(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.payload_left == 0 {
            self.head[self.head_bytes] = bytes[taken];
            self.head_bytes += 1;
            taken += 1;
            if self.head_bytes == self.head_length() {
                self.payload_left = self.payload_length();
                self.is_closed |= self.head[0] & OPCODE_BITS == OPCODE_CLOSE;
                self.head_bytes = 0;
                if self.payload_left == 0 {
                    return taken;
                }
            }
        }
        let left = u64::try_from(bytes.len() - taken).unwrap_or(u64::MAX).min(self.payload_left);
        self.payload_left -= left;
        // At most what there is in memory.
        taken + usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Takes all of these bytes.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.take_one(bytes);
            bytes = &bytes[taken..];
        }
    }

    fn head_length(&self) -> usize {
        if self.head_bytes < HEAD_MIN_BYTES {
            return HEAD_MIN_BYTES;
        }
        let length = match self.head[1] & LENGTH_BITS {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        HEAD_MIN_BYTES + length + if self.head[1] & MASKED_BIT == 0 { 0 } else { 4 }
    }

    fn payload_length(&self) -> u64 {
        let of = |bytes: &[u8]| bytes.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
        match self.head[1] & LENGTH_BITS {
            126 => of(&self.head[2..4]),
            127 => of(&self.head[2..10]),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn frame(opcode: u8, payload: usize, masked: bool) -> Vec<u8> {
        let mut bytes = vec![0x80 | opcode];
        let mask = if masked { MASKED_BIT } else { 0 };
        match payload {
            0..126 => bytes.push(mask | u8::try_from(payload).unwrap()),
            126..65_536 => {
                bytes.push(mask | 126);
                bytes.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend(std::iter::repeat_n(0xff, payload + if masked { 4 } else { 0 }));
        // The mask belongs to the head, whatever its bytes are.
        bytes
    }

    #[test]
    fn a_close_frame_is_seen_and_others_are_not_taken_for_one() {
        let mut frames = Frames::default();
        frames.take(&frame(1, 0x88, false));
        frames.take(&frame(9, 8, true));
        assert!(frames.is_at_boundary() && !frames.is_closed());
        frames.take(&frame(8, 2, false));
        assert!(frames.is_at_boundary() && frames.is_closed());
    }

    #[test]
    fn a_length_of_all_ones_is_followed_without_overflow() {
        let mut frames = Frames::default();
        frames.take(&[0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        frames.take(&[0; 4_096]);
        assert!(!frames.is_at_boundary());
    }

    proptest! {
        #[test]
        fn boundaries_are_where_frames_end_however_the_bytes_are_cut(
            sizes in vec((0_usize..70_000, any::<bool>()), 1..6),
            cuts in vec(1_usize..40_000, 1..20),
        ) {
            let mut ends = vec![0];
            let mut bytes = Vec::new();
            for (payload, masked) in sizes {
                bytes.extend(frame(2, payload, masked));
                ends.push(bytes.len());
            }
            let (mut frames, mut at, mut seen) = (Frames::default(), 0, vec![0]);
            let mut cuts = cuts.into_iter().cycle();
            while at < bytes.len() {
                let end = bytes.len().min(at + cuts.next().unwrap());
                while at < end {
                    at += frames.take_one(&bytes[at..end]);
                    prop_assert_eq!(frames.is_at_boundary(), ends.contains(&at));
                    if frames.is_at_boundary() {
                        seen.push(at);
                    }
                }
            }
            prop_assert_eq!(seen, ends);
        }
    }
}
