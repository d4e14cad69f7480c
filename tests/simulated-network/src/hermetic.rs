//! A process that reads neither clock nor chance of its machine: time is what the simulation says, chance follows from
//! the seed. libc's two functions for them are replaced in this binary, which nothing but the simulation runs in.
//!
//! What reads them are std's `Instant`, `SystemTime` and hash maps, and the `rand` of all libraries.

use std::sync::atomic::{AtomicU64, Ordering};

/// The day on which simulations begin: 2026-01-01.
const BEGIN_S: u64 = 1_767_225_600;

/// How long the machine has been up then.
const UPTIME_NS: u64 = 1_000_000_000_000;

static ELAPSED_NS: AtomicU64 = AtomicU64::new(0);
static CHANCE: AtomicU64 = AtomicU64::new(0);

/// Begins anew, from this seed.
pub(crate) fn seed(seed: u64) {
    CHANCE.store(seed, Ordering::Relaxed);
}

/// The time that has passed.
pub(crate) fn set_elapsed(elapsed: std::time::Duration) {
    ELAPSED_NS.store(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// SplitMix64: one number for each of its states.
pub(crate) fn mix(state: u64) -> u64 {
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What is added to the state for the next number.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[allow(unsafe_code, reason = "libc's functions are replaced")]
mod replaced {
    use super::{BEGIN_S, CHANCE, ELAPSED_NS, STEP, UPTIME_NS, mix};
    use std::sync::atomic::Ordering;

    // SAFETY: the signatures are libc's; `into` is written whole, and nothing else is.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, into: *mut libc::timespec) -> libc::c_int {
        let since = match clock {
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => BEGIN_S * 1_000_000_000,
            _ => UPTIME_NS,
        };
        let now = since + ELAPSED_NS.load(Ordering::Relaxed);
        let (seconds, nanos) = ((now / 1_000_000_000).cast_signed(), (now % 1_000_000_000).cast_signed());
        // SAFETY: the caller's.
        unsafe { into.write(libc::timespec { tv_sec: seconds, tv_nsec: nanos }) };
        0
    }

    // SAFETY: as above: `length` bytes from `into` are the caller's to be written.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getrandom(into: *mut libc::c_void, length: usize, _: libc::c_uint) -> isize {
        // SAFETY: the caller's.
        let bytes = unsafe { std::slice::from_raw_parts_mut(into.cast::<u8>(), length) };
        for part in bytes.chunks_mut(8) {
            let state = CHANCE.fetch_add(STEP, Ordering::Relaxed);
            part.copy_from_slice(&mix(state).to_le_bytes()[..part.len()]);
        }
        length.cast_signed()
    }
}
