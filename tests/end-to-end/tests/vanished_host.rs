//! The host of a cell vanishes without a word, and for good: no packet comes from there any more, and none arrives.

use crate::moving::{reaches, settles, start_move};
use cellway_end_to_end::dev::cli;
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::recovery::Recovery;
use cellway_end_to_end::writer::{Writer, http};
use cellway_end_to_end::{eventually, sandbox};

/// A tenant that was on its way there is served by its source within this time.
const SERVED_MS: u64 = 10_000;

/// The operator can read within this time what is wrong, and what to do.
const TOLD_MS: u64 = 20_000;

/// Half-open connections are noticed within this time.
const NOTICED_MS: u64 = 15_000;

/// How long a cell may take to drop a home, here; the default is half a minute.
const DROP_MS: u64 = 2_000;

/// Every packet of a cell is lost from now on; and its processes are killed, which nobody hears.
fn vanish(fleet: &mut Fleet, cell: usize) {
    sandbox::lose_packets_of(&[fleet.agents[cell].id(), fleet.apps[cell].id()]);
    fleet.agents[cell].kill();
    fleet.apps[cell].kill();
}

/// Runs a test in namespaces of its own.
fn alone(name: &str, test: impl Future<Output = ()>) {
    if !sandbox::was_run_inside(&format!("vanished_host::{name}")) {
        tokio::runtime::Runtime::new().unwrap().block_on(test);
    }
}

fn cellway(fleet: &Fleet, args: &[&str]) -> String {
    let output = cli(fleet.ports.base, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_target_that_vanishes_before_the_commit_leaves_the_tenant_with_its_source() {
    alone("a_target_that_vanishes_before_the_commit_leaves_the_tenant_with_its_source", async {
        let mut fleet = Plan::of(&["acme", "globex"]).with_drop_ms(DROP_MS).start().await;
        let writers = ["acme", "globex"].map(|tenant| Writer::start(&fleet.router_address(), tenant));
        fleet.stall(Some("holding last"));
        let id = start_move(&fleet.client, "acme", "cell-c").await;
        reaches(&fleet.client, &id, "holding last").await;
        let before = writers[0].acknowledged();
        vanish(&mut fleet, 2);
        fleet.stall(None);
        let served = Recovery::begin("target host vanished in a hold: source serves", SERVED_MS);
        let noticed = Recovery::begin("host of an agent vanished: shown as not reachable", NOTICED_MS);
        served.until("the source serves", async || (writers[0].acknowledged() > before + 10).then_some(())).await;
        noticed
            .until("its cell's agent is not reachable", async || {
                let cells = fleet.client.cells().await.ok()?;
                let cell = cells.items.iter().find(|cell| cell.name == "cell-c")?;
                cell.instances.iter().all(|instance| !instance.reachable).then_some(())
            })
            .await;
        assert_eq!(fleet.client.tenant("acme").await.unwrap().cell, "cell-a");
        // It would be tried again for as long as its target may come back; the operator knows that it will not.
        let again = eventually("there is a next attempt", async || {
            let next = fleet.client.a_move(&id).await.ok()?.retried_by?;
            fleet.client.a_move(&next).await.ok()
        })
        .await;
        cellway(&fleet, &["move", "undo", &again.id, "--cause", "its host is gone"]);
        assert!(!settles(&fleet.client, &again.id).await);
        let id = start_move(&fleet.client, "acme", "cell-b").await;
        assert!(settles(&fleet.client, &id).await, "the tenant can be moved elsewhere");
        for writer in writers {
            let books = writer.stop_and_check().await;
            assert!(books.failed.is_empty(), "{:?}", books.failed);
        }
    });
}

#[test]
fn a_target_that_vanishes_after_the_commit_is_told_with_what_to_do() {
    alone("a_target_that_vanishes_after_the_commit_is_told_with_what_to_do", async {
        let mut fleet = Fleet::start(&["acme", "globex"]).await;
        let untouched = Writer::start(&fleet.router_address(), "globex");
        fleet.stall(Some("switched"));
        let id = start_move(&fleet.client, "acme", "cell-c").await;
        reaches(&fleet.client, &id, "switched").await;
        vanish(&mut fleet, 2);
        fleet.stall(None);
        let told = Recovery::begin("target host vanished after the commit: operator told", TOLD_MS);
        let finding = told
            .until("a finding names the tenant", async || {
                let said = cellway(&fleet, &["finding", "list"]);
                said.contains("acme").then_some(said)
            })
            .await;
        assert!(finding.contains("move undo") && finding.contains(&id), "what to do is not said: {finding}");
        let status = fleet.client.tenant("acme").await.unwrap();
        assert_eq!(status.cell, "cell-c", "the tenant is not given to two cells");
        let books = untouched.stop_and_check().await;
        assert!(books.failed.is_empty(), "a tenant of another cell suffered: {:?}", books.failed);
    });
}

#[test]
fn a_router_notices_connections_whose_other_end_is_gone() {
    alone("a_router_notices_connections_whose_other_end_is_gone", async {
        let mut fleet = Fleet::start(&["acme", "globex"]).await;
        let there = Writer::start(&fleet.router_address(), "acme");
        let untouched = Writer::start(&fleet.router_address(), "globex");
        eventually("the tenant is served", async || (there.acknowledged() > 0).then_some(())).await;
        vanish(&mut fleet, 0);
        let noticed = Recovery::begin("host of a gate vanished: requests answered 503", NOTICED_MS);
        let url = format!("http://{}/count", fleet.router_address());
        noticed
            .until("a new request is answered", async || {
                let request = http().get(&url).header("host", "acme.cells.localhost");
                let answer = request.send().await.ok()?;
                (answer.status().as_u16() == 503 && answer.headers().contains_key("retry-after")).then_some(())
            })
            .await;
        // What was under way has an answer, too: the writer would wait no longer than the bound.
        let books = there.stop().await;
        assert!(books.failed.first().is_some_and(|failed| failed.contains(": 502 ")), "{:?}", books.failed);
        let books = untouched.stop_and_check().await;
        assert!(books.failed.is_empty(), "a tenant of another cell suffered: {:?}", books.failed);
    });
}
