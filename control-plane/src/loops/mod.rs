//! The loops of a replica. Each is safe to run twice and safe to stop anywhere: what it does follows from the store.

pub(crate) mod follow;
pub(crate) mod janitor;
pub(crate) mod leader;
pub(crate) mod mover;
