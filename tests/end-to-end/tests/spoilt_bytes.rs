//! Bytes between components are turned over or doubled: mutual TLS notices each, and nothing spoilt is taken.

use crate::moving::{settles, start_move};
use cellway_end_to_end::eventually;
use cellway_end_to_end::fleet::Plan;
use cellway_end_to_end::fleet::links::{Link, Links};
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::relay::{Spoil, Way};
use cellway_end_to_end::writer::Writer;

/// After something was spoilt, the tenant is served within this time.
const SERVED_MS: u64 = 5_000;

const CELLS: [&str; 2] = ["cell-a", "cell-b"];

/// The ways that are spoilt, of the cell that a tenant leaves (the data, too, comes from there).
fn ways(links: &Links, source: usize) -> [(&'static str, &Link); 3] {
    [
        ("router to gate", &links.to_gate[source]),
        ("agent to control plane", &links.agent_to_control_plane[source]),
        ("agent to agent", &links.to_transfer[source]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_spoilt_on_its_way_is_taken() {
    let fleet = Plan::of(&["acme", "globex", "initech"]).with_relays().with_identities().start().await;
    let untouched = Writer::start(&fleet.router_address(), "initech");
    let mut at = 0;
    for (spoil, name) in [(Spoil::Flip, "a bit turned over"), (Spoil::Double, "bytes doubled")] {
        let writer = Writer::start(&fleet.router_address(), "acme");
        eventually("the tenant is served", async || (writer.acknowledged() > 0).then_some(())).await;
        let spoilt = |source: usize| ways(fleet.links(), source).map(|(_, link)| link.spoilt());
        let before = spoilt(at);
        for (_, link) in ways(fleet.links(), at) {
            link.spoil_next(Way::Up, spoil);
            link.spoil_next(Way::Down, spoil);
        }
        let id = start_move(&fleet.client, "acme", CELLS[1 - at]).await;
        let source = at;
        if settles(&fleet.client, &id).await {
            at = 1 - at;
        }
        let (served, known) =
            (Recovery::begin(&format!("{name} between components"), SERVED_MS), writer.acknowledged());
        served.until("the tenant is served", async || (writer.acknowledged() > known).then_some(())).await;
        for (now, (before, (way, _))) in
            spoilt(source).into_iter().zip(before.into_iter().zip(ways(fleet.links(), source)))
        {
            assert!(now > before, "{name}: nothing was spoilt from {way}");
        }
        // One write each way at the most: what may have been taken is not sent again.
        let books = writer.stop_and_check().await;
        assert!(books.failed.len() <= 2, "{name}: {:?}", books.failed);
    }
    let books = untouched.stop_and_check().await;
    assert!(books.failed.is_empty(), "{:?}", books.failed);
}
