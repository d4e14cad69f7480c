//! The scenarios.

pub mod everything;
pub mod floods;
pub mod hostile_cell;
pub mod idle;
pub mod reconnect;
pub mod silent;
pub mod slow_cell;
pub mod slow_readers;
pub mod slow_requests;
pub mod stalled_cells;
pub mod starved;

use super::{Row, Scale};
use floods::Flood;
use idle::Kind;
use slow_readers::Window;
use std::pin::Pin;

/// A scenario.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Runs it.
    pub run: Run,
}

/// What runs a scenario.
pub type Run = Box<dyn FnOnce(Scale) -> Pin<Box<dyn Future<Output = Row>>>>;

fn scenario<F: Future<Output = Row> + 'static>(name: &'static str, run: impl FnOnce(Scale) -> F + 'static) -> Scenario {
    Scenario { name, run: Box::new(move |scale| Box::pin(run(scale))) }
}

/// All of them, in the order in which they are run.
pub fn all() -> Vec<Scenario> {
    let mut all = vec![
        scenario("slow-heads", slow_requests::heads),
        scenario("slow-bodies", slow_requests::bodies),
        scenario("slow-readers-h1", slow_readers::over_http1),
        scenario("slow-readers-h2-closed", |scale| slow_readers::over_http2(scale, Window::Closed)),
        scenario("slow-readers-h2-kept", |scale| slow_readers::over_http2(scale, Window::Kept)),
        scenario("slow-readers-h2-open", |scale| slow_readers::over_http2(scale, Window::Open)),
        scenario("slow-readers-h2-stops", |scale| slow_readers::over_http2(scale, Window::Stops)),
        scenario("slow-readers-h2-calls", |scale| slow_readers::over_http2(scale, Window::Calls)),
        scenario("waiting-h2", |scale| slow_readers::over_http2(scale, Window::Waits)),
    ];
    let floods = [
        ("flood-reset", Flood::RapidReset),
        ("flood-ping", Flood::Ping),
        ("flood-settings", Flood::Settings),
        ("flood-data", Flood::EmptyData),
        ("flood-continuation", Flood::Continuation),
        ("flood-hpack", Flood::HpackBomb),
        ("flood-window", Flood::WindowUpdate),
        ("flood-priority", Flood::Priority),
    ];
    all.extend(floods.map(|(name, kind)| scenario(name, move |scale| floods::flood(scale, kind))));
    all.extend([
        scenario("idle-clear", |scale| idle::idle(scale, Kind::Clear)),
        scenario("idle-h2", |scale| idle::idle(scale, Kind::Http2)),
        scenario("idle-tls", |scale| idle::idle(scale, Kind::Tls)),
        scenario("idle-websocket", |scale| idle::idle(scale, Kind::WebSocket)),
        scenario("silent-clients", silent::silent),
        scenario("stalled-cells", stalled_cells::stalled),
        scenario("slow-cell", slow_cell::slow),
        scenario("reconnect", reconnect::reconnect),
        scenario("starved", starved::starved),
        scenario("hostile-cell", hostile_cell::hostile),
        scenario("everything", everything::everything),
    ]);
    all
}
