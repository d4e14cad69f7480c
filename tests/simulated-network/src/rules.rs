//! Rules that can be broken on purpose, to prove that it would be found.

/// A rule that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Gates acknowledge fences and go on serving.
    IgnoreFences,
    /// Gates serve whoever is placed in their cell, whatever was fenced or held.
    OpenAtOnce,
    /// Apps take longer for a request than their agents were told.
    OutlastLimit,
    /// Routers answer for cells that refused.
    LoseReplay,
}

impl Broken {
    /// The rule of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ignore-fences" => Self::IgnoreFences,
            "open-at-once" => Self::OpenAtOnce,
            "outlast-limit" => Self::OutlastLimit,
            "lose-replay" => Self::LoseReplay,
            _ => return None,
        })
    }
}
