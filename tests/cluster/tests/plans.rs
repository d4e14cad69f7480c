//! What a move would be: asked by the rules of the real thing, with nothing changed.

use cellway_api::agent::FactUp;
use cellway_api::fleet::{CreateMove, SetBrake};
use cellway_api::plan::{MovePlanView, Surveyed};
use cellway_api::{ApiError, Client};
use cellway_cluster_tests::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn wanted(tenant: &str, to: &str) -> CreateMove {
    CreateMove { tenant: tenant.into(), to: to.into(), ..CreateMove::default() }
}

async fn plan(client: &Client, tenant: &str, to: &str) -> MovePlanView {
    client.plan_move(&wanted(tenant, to)).await.unwrap()
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ApiError>) -> String {
    match answer {
        Err(ApiError::Refused(problem)) => problem.title,
        other => panic!("not refused: {other:?}"),
    }
}

/// A transfer endpoint where every survey is answered with `answer`, once per connection.
async fn answering(answer: Surveyed) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4_096];
            let _ = stream.read(&mut head).await;
            let body = serde_json::to_string(&answer).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    address
}

const BUSY: Surveyed =
    Surveyed { running_requests: 3, oldest_request_ms: 40, open_streams: 7, data_bytes: Some(2_000) };

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_changes_nothing_and_refuses_in_the_words_of_a_real_start() {
    let replica = Cluster::new().start().await;
    for cell in ["cell-a", "cell-b", "cell-c"] {
        create_cell(&replica.client, cell).await;
    }
    let _source = Agent::start(&replica.client, "cell-a", "a1").await;
    let _target = Agent::start(&replica.client, "cell-b", "b1").await;
    create_tenant(&replica.client, "acme", "cell-a").await;
    let before = replica.client.tenants().await.unwrap();

    let fits = plan(&replica.client, "acme", "cell-b").await;
    assert_eq!((fits.refused, fits.waits_for), (None, None));
    assert_eq!((fits.gates, fits.gates_heard, fits.now), (1, 0, None), "nobody answers there, and that is said");
    assert_eq!((fits.past_moves, fits.copy_ms, fits.freeze_ms), (0, None, None));
    for to in ["cell-a", "cell-c"] {
        let planned = plan(&replica.client, "acme", to).await.refused;
        assert_eq!(planned.unwrap(), refusal(replica.client.create_move(&wanted("acme", to)).await), "{to}");
    }
    for (tenant, to) in [("nobody", "cell-b"), ("acme", "cell-x")] {
        let planned = refusal(replica.client.plan_move(&wanted(tenant, to)).await);
        assert_eq!(planned, refusal(replica.client.create_move(&wanted(tenant, to)).await), "{tenant} to {to}");
    }
    assert!(replica.client.moves().await.unwrap().items.is_empty());
    assert_eq!(replica.client.tenants().await.unwrap().items, before.items);

    replica.client.set_brake(&SetBrake { on: true, cause: None }).await.unwrap();
    let braked = plan(&replica.client, "acme", "cell-b").await;
    assert_eq!(braked.waits_for.as_deref(), Some("the emergency brake is on"));
    replica.client.set_brake(&SetBrake { on: false, cause: None }).await.unwrap();

    create_move(&replica.client, "acme", "cell-b").await;
    let running = plan(&replica.client, "acme", "cell-b").await.refused;
    assert!(running.is_some_and(|reason| reason.contains("is in move")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_what_every_gate_says_and_predicts_by_the_moves_before() {
    let replica = Cluster::new().start().await;
    for cell in ["cell-a", "cell-b"] {
        create_cell(&replica.client, cell).await;
    }
    let source = Agent::start_at(&replica.client, "cell-a", "a1", &answering(BUSY).await).await;
    let second = Agent::start_at(&replica.client, "cell-a", "a2", &answering(BUSY).await).await;
    let target = Agent::start(&replica.client, "cell-b", "b1").await;
    for tenant in ["acme", "beta"] {
        create_tenant(&replica.client, tenant, "cell-a").await;
    }
    let first = plan(&replica.client, "acme", "cell-b").await;
    assert_eq!((first.gates, first.gates_heard), (2, 2));
    assert_eq!(first.now, Some(Surveyed { running_requests: 6, open_streams: 14, ..BUSY }));
    assert_eq!((first.past_moves, first.copy_ms, first.freeze_ms), (0, None, None), "no move was made yet");

    let planned = create_move(&replica.client, "beta", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_syncing().await;
    let idle =
        || FactUp::Watched { move_id: planned.id.clone(), oldest_request_ms: 0, running_requests: 0, open_streams: 0 };
    second.state(idle()).await;
    pair.may_freeze().await;
    second.order("fence", |order| matches!(order.task, cellway_api::agent::TaskDown::Fence { .. }).then_some(())).await;
    second.state(FactUp::Fenced { move_id: planned.id.clone(), epoch: planned.epoch, cut_requests: 0 }).await;
    pair.to_switched().await;
    target.state(FactUp::Opened { move_id: planned.id.clone(), epoch: planned.epoch + 1 }).await;
    let done = reaches(&replica.client, &planned.id, "cleaning").await;

    let known = plan(&replica.client, "acme", "cell-b").await;
    assert_eq!(known.past_moves, 1);
    assert!(known.copy_ms.is_some());
    assert_eq!(known.freeze_ms, Some(done.freeze_ms.unwrap() + BUSY.oldest_request_ms));
    assert_eq!(known.within_budget, Some(known.freeze_ms.unwrap() <= known.freeze_budget_ms));
}
