//! Freeze windows and priorities: when the leader starts a move, and when a tenant may be frozen.

use cellway_api::ApiError;
use cellway_api::agent::FactHeard;
use cellway_api::fleet::{ChangeTenant, CreateMove, FreezeNow, MoveView, PriorityView, UndoMove};
use cellway_cluster_tests::*;
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];

/// A window that is shut for the next two days at least.
fn shut() -> String {
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    format!("{} 10:00-11:00", DAYS[usize::try_from(today + 3).unwrap() % 7])
}

async fn set_windows(replica: &Replica, tenant: &str, windows: &[String]) -> Result<(), ApiError> {
    let change = ChangeTenant { freeze_windows: Some(windows.to_vec()), ..ChangeTenant::default() };
    replica.client.change_tenant(tenant, &change).await.map(drop)
}

async fn ask(replica: &Replica, tenant: &str, priority: PriorityView) -> MoveView {
    let wanted = CreateMove { tenant: tenant.into(), to: "cell-b".into(), priority, ..CreateMove::default() };
    replica.client.create_move(&wanted).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_waits_for_its_window_says_so_and_goes_on_at_an_operators_word() {
    let (replica, source, target) = two_cells(&Cluster::new(), &["acme"]).await;
    set_windows(&replica, "acme", &[shut()]).await.unwrap();
    let wanted = CreateMove { tenant: "acme".into(), to: "cell-b".into(), ..CreateMove::default() };
    let plan = replica.client.plan_move(&wanted).await.unwrap();
    assert!(plan.waits_for.is_none() && plan.freeze_from_ms.is_some(), "it would start, and wait then");

    let planned = replica.client.create_move(&wanted).await.unwrap();
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_syncing().await;
    assert_eq!(pair.may_freeze().await, FactHeard::Recorded);
    let waits = replica.client.a_move(&pair.id).await.unwrap();
    assert_eq!((waits.state.as_str(), waits.freeze_from_ms), ("syncing", plan.freeze_from_ms));
    assert!(waits.waits_for.is_some_and(|what| what.contains("freeze window") && what.contains("10:00 UTC")));
    assert!(!replica.client.tenant("acme").await.unwrap().held);

    let freed = replica.client.freeze_now(&pair.id, &FreezeNow::default()).await.unwrap();
    assert_eq!((freed.freeze_now, freed.freeze_from_ms, freed.waits_for), (true, None, None));
    assert!(replica.client.freeze_now(&pair.id, &FreezeNow::default()).await.is_err(), "once is enough");
    pair.may_freeze().await;
    reaches(&replica.client, &pair.id, "holding").await;
    pair.to_switched().await;
    assert!(replica.client.a_move(&pair.id).await.unwrap().freeze_now, "it is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_an_undo_nor_a_move_with_the_operators_word_waits_for_a_window() {
    let mut cluster = Cluster::new();
    cluster.config.move_limits.freeze_windows = cellway_core::freeze_window::FreezeWindows::parse(&[shut()]).unwrap();
    let (replica, source, target) = two_cells(&cluster, &["acme", "beta"]).await;
    let waits = ask(&replica, "beta", PriorityView::Normal).await;
    assert!(waits.freeze_from_ms.is_some(), "the fleet's windows");
    reaches(&replica.client, &waits.id, "preparing").await;
    replica.client.undo_move(&waits.id, &UndoMove::default()).await.unwrap();
    reaches(&replica.client, &waits.id, "undoing").await;

    let now = CreateMove { tenant: "acme".into(), to: "cell-b".into(), now: true, ..CreateMove::default() };
    let planned = replica.client.create_move(&now).await.unwrap();
    let pair = Pair { id: planned.id.clone(), epoch: planned.epoch, source: &source, target: &target };
    pair.to_holding().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_wait_for_windows_leave_places_and_the_urgent_go_first() {
    let mut cluster = Cluster::new();
    cluster.config.move_budgets.per_source = 2;
    cluster.config.move_limits.drop_ms = 100;
    let (replica, _source, _target) =
        two_cells(&cluster, &["night-1", "night-2", "first", "low", "normal", "high"]).await;
    for tenant in ["night-1", "night-2"] {
        set_windows(&replica, tenant, &[shut()]).await.unwrap();
    }
    let early = ask(&replica, "night-1", PriorityView::Normal).await;
    reaches(&replica.client, &early.id, "preparing").await;
    let other = ask(&replica, "night-2", PriorityView::High).await;
    assert!(other.waits_for.as_ref().is_some_and(|what| what.contains("as many moves as may wait for theirs already")));
    let first = ask(&replica, "first", PriorityView::Normal).await;
    reaches(&replica.client, &first.id, "preparing").await;

    let undo = async |one: &MoveView| {
        replica.client.undo_move(&one.id, &UndoMove::default()).await.unwrap();
        reaches(&replica.client, &one.id, "undone").await;
    };
    undo(&other).await;
    let low = ask(&replica, "low", PriorityView::Low).await;
    let normal = ask(&replica, "normal", PriorityView::Normal).await;
    let high = ask(&replica, "high", PriorityView::High).await;
    let state = async |one: &MoveView| replica.client.a_move(&one.id).await.unwrap().state;
    undo(&first).await;
    reaches(&replica.client, &high.id, "preparing").await;
    assert_eq!(state(&normal).await, "planned");
    undo(&early).await;
    reaches(&replica.client, &normal.id, "preparing").await;
    assert_eq!(state(&low).await, "planned");
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_are_checked_shown_and_taken_back() {
    let (replica, _source, _target) = two_cells(&Cluster::new(), &["acme"]).await;
    for bad in ["22:00-04:00", "mon 25:00-26:00", "mon 04:00-04:00"] {
        let refused = set_windows(&replica, "acme", &[bad.to_owned()]).await;
        assert!(matches!(refused, Err(ApiError::Refused(problem)) if problem.status == 400), "{bad}");
    }
    set_windows(&replica, "acme", &["MON-fri 22:00-04:00".into(), "sun 00:00-24:00".into()]).await.unwrap();
    let windows = async || replica.client.tenant("acme").await.unwrap().freeze_windows;
    assert_eq!(windows().await, ["mon-fri 22:00-04:00", "sun 00:00-24:00"]);
    set_windows(&replica, "acme", &[]).await.unwrap();
    assert!(windows().await.is_empty());
}
