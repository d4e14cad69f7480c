//! A record of a tenant that the control plane cannot read is known, shown and left alone; everybody else is moved.

use crate::moving::{settles, start_move};
use crate::store_contents::placement_of;
use cellway_api::fleet::{CreateMove, CreateTenant, TenantView};
use cellway_api::problem::Problem;
use cellway_api::{ApiError, Client};
use cellway_end_to_end::fleet::{Fleet, Plan};
use cellway_end_to_end::writer::Writer;
use cellway_end_to_end::{binary, eventually};
use std::fmt::Debug;
use std::process::Command;

fn refused(answer: Result<impl Debug, ApiError>) -> Problem {
    match answer {
        Err(ApiError::Refused(problem)) => problem,
        other => panic!("not refused: {other:?}"),
    }
}

async fn is_unreadable(client: &Client, tenant: &str) -> TenantView {
    let shown = async || client.tenant(tenant).await.ok().filter(|shown| shown.unreadable.is_some());
    eventually("the record is known to be unreadable", shown).await
}

/// Whatever would be decided over the record is refused, and says which record it is.
async fn nothing_is_decided(fleet: &Fleet, key: &str) {
    let client = &fleet.client;
    let shown = is_unreadable(client, "acme").await.unreadable.unwrap_or_default();
    assert!(shown.contains(key) && shown.contains("until a good one is there again"), "{shown}");
    let create = CreateTenant { id: "acme".into(), cell: Some("cell-b".into()), ..CreateTenant::default() };
    let wanted = CreateMove { tenant: "acme".into(), to: "cell-b".into(), ..CreateMove::default() };
    for problem in [
        refused(client.create_tenant(&create).await),
        refused(client.create_move(&wanted).await),
        refused(client.plan_move(&wanted).await),
    ] {
        assert_eq!(problem.status, 409, "{problem}");
        assert!(problem.title.contains(key), "{problem}");
    }
    let listed = client.tenants().await.expect("listed").items;
    let unreadable: Vec<&str> =
        listed.iter().filter(|one| one.unreadable.is_some()).map(|one| one.id.as_str()).collect();
    assert_eq!((listed.len(), unreadable), (2, vec!["acme"]));
    let list = Command::new(binary()).args(["tenant", "list", "--api", client.base()]).output().expect("it runs");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.lines().any(|line| line.starts_with("acme") && line.contains("(unreadable)")), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_placement_cannot_be_read_is_shown_and_left_alone_and_others_move() {
    let mut fleet = Plan::of(&["acme", "globex"]).start().await;
    let served = Writer::start(&fleet.router_address(), "acme");
    let untouched = Writer::start(&fleet.router_address(), "globex");
    let (key, good) = placement_of(&fleet, "acme").await;
    let newer = String::from_utf8(good.clone()).expect("JSON").replacen("\"format\":1", "\"format\":2", 1).into_bytes();
    for (bad, to) in [(b"\x00\xff{{{".to_vec(), "cell-c"), (newer, "cell-b")] {
        fleet.etcd.put(&key, bad.clone()).await;
        // One that has read a good record knows the cell still, and decides nothing all the same.
        assert_eq!(is_unreadable(&fleet.client, "acme").await.cell, "cell-a");
        nothing_is_decided(&fleet, &key).await;
        fleet.control_plane.restart();
        fleet.ready(2).await;
        assert_eq!(is_unreadable(&fleet.client, "acme").await.cell, "");
        nothing_is_decided(&fleet, &key).await;
        let id = start_move(&fleet.client, "globex", to).await;
        assert!(settles(&fleet.client, &id).await, "others move");
        assert_eq!(placement_of(&fleet, "acme").await.1, bad, "the record is as it was");
        fleet.etcd.put(&key, good.clone()).await;
        let readable = async || fleet.client.tenant("acme").await.ok().filter(|shown| shown.unreadable.is_none());
        assert_eq!(eventually("the good record is read", readable).await.cell, "cell-a");
    }
    let before = served.acknowledged();
    eventually("it is served", async || (served.acknowledged() > before).then_some(())).await;
    let id = start_move(&fleet.client, "acme", "cell-c").await;
    assert!(settles(&fleet.client, &id).await, "it moves again");
    for writer in [served, untouched] {
        let books = writer.stop_and_check().await;
        assert!(books.failed.is_empty(), "{:?}", books.failed);
    }
}
