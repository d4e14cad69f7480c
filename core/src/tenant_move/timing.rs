//! When a move starts, and when its tenant may begin to be frozen.

use super::message::Refused;
use super::record::{MoveRecord, MoveState};
use crate::ids::MoveId;

impl MoveRecord {
    /// What decides who starts first among those that wait: the least. Whoever waits is passed by those that come later
    /// for a bounded time only.
    pub fn turn(&self) -> (u64, u64, &MoveId) {
        (self.priority.counts_from_ms(self.created_ms), self.created_ms, &self.id)
    }

    /// The earliest time, from `now_ms` on, when its tenant may begin to be frozen: in a window that lasts for the end of
    /// streams and the whole freeze budget.
    pub fn freeze_from_ms(&self, now_ms: u64) -> u64 {
        let needs_ms = self.limits.closing_ms.saturating_add(self.limits.freeze_budget_ms);
        match self.freeze_now_ms {
            Some(_) => now_ms,
            None => self.limits.freeze_windows.next_fit(now_ms, needs_ms),
        }
    }

    /// When the state has lasted for `ms` of time in which the tenant might have been frozen. To wait for a window is no
    /// fault of the move.
    pub(super) fn after_open(&self, ms: u64) -> u64 {
        match self.freeze_now_ms {
            Some(now_ms) => self.entered_ms.max(now_ms).saturating_add(ms),
            None => self.limits.freeze_windows.after_open(self.entered_ms, ms),
        }
    }

    /// The record with an operator's word that its tenant may be frozen at any time from now on.
    pub fn freeing_the_freeze(&self, now_ms: u64) -> Result<Self, Refused> {
        match &self.state {
            MoveState::Planned | MoveState::Preparing | MoveState::Copying(_) | MoveState::Syncing(_) => {}
            MoveState::Done(_) | MoveState::Undone(_) => return Err(Refused::Ended),
            _ => return Err(Refused::NotNow),
        }
        match self.freeze_now_ms {
            Some(_) => Err(Refused::NothingNew),
            None => Ok(Self { freeze_now_ms: Some(now_ms), ..self.clone() }),
        }
    }
}
