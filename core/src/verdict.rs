//! Why a gate did not admit a request: the value of the `x-cellway-verdict` header.

use crate::ids::{CellName, Epoch};
use std::fmt;
use std::str::FromStr;

/// A gate's refusal. The app never saw the request, so it is safe to send it again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The tenant's traffic is held here for a move.
    Fenced,
    /// Another cell has the tenant, as far as this gate knows.
    Elsewhere {
        /// That cell.
        cell: CellName,
        /// The epoch at which it has it.
        epoch: Epoch,
    },
    /// This gate knows less than the request says.
    Behind,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced => f.write_str("fenced"),
            Self::Elsewhere { cell, epoch } => write!(f, "elsewhere; cell={cell} epoch={epoch}"),
            Self::Behind => f.write_str("behind"),
        }
    }
}

/// The header's value is none of the three verdicts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a verdict")]
pub struct NotAVerdict;

impl FromStr for Verdict {
    type Err = NotAVerdict;

    fn from_str(text: &str) -> Result<Self, NotAVerdict> {
        match text {
            "fenced" => return Ok(Self::Fenced),
            "behind" => return Ok(Self::Behind),
            _ => {}
        }
        let fields = text.strip_prefix("elsewhere; cell=").ok_or(NotAVerdict)?;
        let (cell, epoch) = fields.split_once(" epoch=").ok_or(NotAVerdict)?;
        let plain_digits = !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit());
        if !plain_digits {
            return Err(NotAVerdict);
        }
        Ok(Self::Elsewhere {
            cell: CellName::new(cell).map_err(|_| NotAVerdict)?,
            epoch: Epoch(epoch.parse().map_err(|_| NotAVerdict)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_verdict_reads_back_as_written() {
        let elsewhere = Verdict::Elsewhere { cell: CellName::new("cell-b").expect("legal"), epoch: Epoch(7) };
        assert_eq!(elsewhere.to_string(), "elsewhere; cell=cell-b epoch=7");
        for verdict in [Verdict::Fenced, elsewhere, Verdict::Behind] {
            assert_eq!(verdict.to_string().parse(), Ok(verdict));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_verdict_only_if_it_prints_the_same(text in "(elsewhere; cell=)?[ -~]{0,40}") {
            if let Ok(verdict) = text.parse::<Verdict>() {
                // Leading zeros of the epoch are the one accepted variation.
                prop_assert_eq!(verdict.to_string().replace('0', ""), text.replace('0', ""));
            }
        }
    }
}
