//! The operator's commands, one file per noun.

pub(crate) mod brake;
pub(crate) mod ca;
pub(crate) mod cell;
pub(crate) mod certificate;
pub(crate) mod finding;
pub(crate) mod host;
mod limits;
pub(crate) mod lookup;
mod move_many;
mod move_plan;
pub(crate) mod moves;
pub(crate) mod router;
pub(crate) mod tenant;
mod watch;
