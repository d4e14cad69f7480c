//! Limits of tenants: only of those that exist, only by who has read what is in force, all of it audited.

use cellway_api::ApiError;
use cellway_api::limits::{LimitsView, ModeView, RateView, SetLimits};
use cellway_cluster_tests::*;
use cellway_store::keys;

fn status<T: std::fmt::Debug>(outcome: Result<T, ApiError>) -> u16 {
    match outcome {
        Err(ApiError::Refused(problem)) => problem.status,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_by_compare_and_swap_and_audited() {
    let cluster = Cluster::new();
    let replica = cluster.start().await;
    let client = &replica.client;
    create_cell(client, "cell-a").await;
    let _agent = Agent::start(client, "cell-a", "a1").await;
    create_tenant(client, "acme", "cell-a").await;

    assert_eq!(client.limits("acme").await.unwrap(), LimitsView::default());
    assert_eq!(status(client.limits("nobody").await), 404);
    assert_eq!(status(client.set_limits("nobody", &SetLimits::default()).await), 404);
    let zero = SetLimits { concurrency: Some(0), ..SetLimits::default() };
    assert_eq!(status(client.set_limits("acme", &zero).await), 400);

    let rate = RateView { per_second: 10, burst: 20 };
    let wanted = SetLimits { requests: Some(rate), if_revision: Some(0), ..SetLimits::default() };
    let set = client.set_limits("acme", &wanted).await.unwrap();
    assert!(set.revision > 0 && set.requests == Some(rate));
    assert_eq!(client.limits("acme").await.unwrap(), set);
    assert_eq!(client.tenant("acme").await.unwrap().limits, set);
    assert_eq!(status(client.set_limits("acme", &wanted).await), 409, "somebody has set them since");

    let paused = SetLimits { mode: ModeView::Paused, ..set.to_set() };
    let paused = client.set_limits("acme", &paused).await.unwrap();
    assert_eq!((paused.mode, paused.requests), (ModeView::Paused, Some(rate)));
    assert_eq!(client.clear_limits("acme").await.unwrap(), LimitsView::default());
    assert_eq!(client.limits("acme").await.unwrap(), LimitsView::default());

    let left = cluster.store.range(keys::LIMITS, None, 10, None).await.unwrap();
    assert!(left.entries.is_empty(), "limits that limit nothing leave no record");
    let audit = cluster.store.range(keys::AUDIT, None, 100, None).await.unwrap();
    let said = |text: &str| {
        let wanted = |entry: &&cellway_store::Entry| String::from_utf8_lossy(&entry.value).contains(text);
        audit.entries.iter().filter(wanted).count()
    };
    assert_eq!(said("set limits"), 3);
    assert_eq!(said("paused, 10 requests/s, burst 20"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_read_the_same_limits_one_sets_them() {
    let replica = Cluster::new().start().await;
    let client = &replica.client;
    create_cell(client, "cell-a").await;
    let _agent = Agent::start(client, "cell-a", "a1").await;
    create_tenant(client, "acme", "cell-a").await;
    let tasks: Vec<_> = (1..=10)
        .map(|count| {
            let client = client.clone();
            let wanted = SetLimits { concurrency: Some(count), if_revision: Some(0), ..SetLimits::default() };
            tokio::spawn(async move { client.set_limits("acme", &wanted).await })
        })
        .collect();
    let mut set = Vec::new();
    for task in tasks {
        set.extend(task.await.unwrap().ok());
    }
    assert_eq!(set.len(), 1);
    assert_eq!(client.limits("acme").await.unwrap(), set[0]);
}
