//! The gate: the admission point in front of the app. A request runs in this cell only if it was admitted here.
//!
//! Read [`serve`] for the life of a request, [`table`] for what is open and what runs, [`opening`] for how it opens.

mod answer;
mod cut;
mod lease;
pub(crate) mod opening;
pub(crate) mod serve;
mod stream_edge;
pub(crate) mod table;
