//! Long uploads and downloads: what a tenant has become of them, from the API to the order that the source gets.

use cellway_api::ApiError;
use cellway_api::agent::{FactUp, TaskDown};
use cellway_api::fleet::{ChangeTenant, LongRequestsView};
use cellway_cluster_tests::*;

fn cut_at_once() -> ChangeTenant {
    ChangeTenant {
        long_requests: Some(LongRequestsView::Cut),
        long_requests_wait_ms: Some(0),
        ..ChangeTenant::default()
    }
}

fn running(id: &str, running_requests: u32) -> FactUp {
    FactUp::Watched { move_id: id.to_owned(), oldest_request_ms: 90_000, running_requests, open_streams: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_word_for_long_requests_is_kept_checked_and_shown() {
    let (replica, _source, _target) = two_cells(&Cluster::new(), &["acme"]).await;
    let created = replica.client.tenant("acme").await.unwrap();
    assert_eq!((created.long_requests, created.long_requests_wait_ms), (LongRequestsView::Undo, 600_000));
    let changed = replica.client.change_tenant("acme", &cut_at_once()).await.unwrap();
    assert_eq!((changed.long_requests, changed.long_requests_wait_ms), (LongRequestsView::Cut, 0));
    assert_eq!(changed.freeze_budget_ms, created.freeze_budget_ms, "what is not named stays");
    let wrong = ChangeTenant { freeze_budget_ms: Some(1), ..ChangeTenant::default() };
    let refused = replica.client.change_tenant("acme", &wrong).await;
    assert!(matches!(refused, Err(ApiError::Refused(problem)) if problem.status == 400));
    let unknown = replica.client.change_tenant("nobody", &cut_at_once()).await;
    assert!(matches!(unknown, Err(ApiError::Refused(problem)) if problem.status == 404));
    assert_eq!(replica.client.tenant("acme").await.unwrap(), changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_cuts_what_runs_too_long_and_says_how_much_it_was() {
    let (replica, source, target) = two_cells(&Cluster::new(), &["acme"]).await;
    // Long enough for the reports to come before the deadlines.
    let change = ChangeTenant { freeze_budget_ms: Some(1_000), ..cut_at_once() };
    replica.client.change_tenant("acme", &change).await.unwrap();
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_syncing().await;
    target.state(FactUp::Followed { move_id: pair.id.clone(), transfer_ms: 1, longest: None }).await;
    source.state(running(&pair.id, 2)).await;
    let held = reaches(&replica.client, &pair.id, "holding").await;
    assert!(held.predicted_freeze_ms <= 1_000, "{}", held.predicted_freeze_ms);
    source.state(running(&pair.id, 1)).await;
    source.order("cut", |order| matches!(order.task, TaskDown::Fence { cut: true, .. }).then_some(())).await;
    assert!(replica.client.tenant("acme").await.unwrap().held);
    source.state(FactUp::Fenced { move_id: pair.id.clone(), epoch: pair.epoch, cut_requests: 2 }).await;
    let list = pair.data_ordered().await;
    pair.position(list).await;
    pair.reach(list).await;
    let moved = reaches(&replica.client, &pair.id, "switched").await;
    assert_eq!(moved.cut_requests, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_for_long_requests_says_how_many_and_what_can_be_done() {
    let mut cluster = Cluster::new();
    // Long enough for the report to come before the deadline.
    cluster.config.move_limits.drain_ms = 2_000;
    let (replica, source, target) = two_cells(&cluster, &["acme"]).await;
    let change = ChangeTenant { freeze_budget_ms: Some(2_500), ..ChangeTenant::default() };
    replica.client.change_tenant("acme", &change).await.unwrap();
    let planned = create_move(&replica.client, "acme", "cell-b").await;
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
    source.state(running(&pair.id, 3)).await;
    assert_eq!(replica.client.a_move(&pair.id).await.unwrap().running_requests, Some(3));
    let reason = reaches(&replica.client, &pair.id, "undoing").await.undo_reason.unwrap();
    assert!(reason.starts_with("3 requests were still running"), "{reason}");
    assert!(reason.contains("cellway tenant change acme --long-requests cut"), "{reason}");
}
