//! What the agent promises across restarts, and about its place on the list.

use crate::stage::Stage;
use cellway_api::agent::TaskDown;
use cellway_cell_agent::{Agent, DriverConfig, leave};
use std::time::Duration;

#[tokio::test]
async fn without_the_control_plane_the_gates_open_on_what_the_disk_knows() {
    let mut stage = Stage::with_acme_open().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.plane.stop().await;
    stage.stop().await;
    stage.start();
    stage.until_open(5).await;
}

#[tokio::test]
async fn gates_that_opened_on_the_disk_close_when_the_control_plane_speaks_of_another_owner() {
    let mut stage = Stage::with_acme_open().await;
    stage.plane.place("acme", "cell-b", 6, "h2", None);
    stage.until(5, 421, Some("elsewhere; cell=cell-b epoch=6")).await;
    stage.kill().await;
    stage.start();
    stage.until(5, 421, Some("elsewhere; cell=cell-b epoch=6")).await;
}

#[tokio::test]
async fn an_instance_that_is_off_the_list_closes_everything_for_good() {
    let mut stage = Stage::with_acme_open().await;
    stage.plane.said.send_modify(|said| {
        said.revision += 1;
        said.gates = Some((said.revision, vec!["somebody-else".into()]));
    });
    for _ in 0..300 {
        if stage.verdict(5).await.0 == 421 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.plane.place("acme", "cell-a", 6, "new-5", None);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stage.verdict(6).await.0, 421);
    stage.plane.stop().await;
    stage.stop().await;
    stage.start();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for epoch in [5, 6] {
        assert_eq!(stage.verdict(epoch).await.0, 421, "nor after a restart without the control plane");
    }
}

#[tokio::test]
async fn a_refused_registration_ends_the_agent_with_the_reason() {
    let mut stage = Stage::with_acme_open().await;
    stage.stop().await;
    stage.plane.said.send_modify(|said| said.refuses = true);
    stage.start();
    let error = stage.agent.take().unwrap().task.await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("run 1 is not above run 7"), "{error:#}");
}

#[tokio::test]
async fn each_start_registers_a_higher_run_of_the_same_instance() {
    let mut stage = Stage::with_acme_open().await;
    stage.stop().await;
    stage.start();
    stage.until_open(5).await;
    stage.kill().await;
    stage.start();
    stage.until_open(5).await;
    let heard = stage.plane.heard.lock().instances.clone();
    let (first, runs): (_, Vec<u64>) = (heard[0].0.clone(), heard.iter().map(|(_, run)| *run).collect());
    assert_eq!(runs, [1, 2, 3]);
    assert!(heard.iter().all(|(instance, _)| *instance == first));
}

#[tokio::test]
async fn a_second_agent_on_one_directory_is_refused() {
    let stage = Stage::with_acme_open().await;
    let error = Agent::bind(stage.config()).err().unwrap();
    assert!(format!("{error:#}").contains("in use by another agent process"), "{error:#}");
}

#[tokio::test]
async fn an_agent_that_leaves_gives_up_its_id() {
    let mut stage = Stage::with_acme_open().await;
    assert!(leave(&stage.config()).await.is_err(), "not while it runs");
    stage.stop().await;
    leave(&stage.config()).await.unwrap();
    let before = stage.plane.heard.lock().instances[0].0.clone();
    assert_eq!(stage.plane.heard.lock().left, vec![before.clone()]);
    stage.start();
    stage.until_open(5).await;
    let after = stage.plane.heard.lock().instances.last().unwrap().clone();
    assert_ne!(after.0, before);
    assert_eq!(after.1, 1);
}

#[tokio::test]
async fn a_lost_disk_keeps_its_gate_closed() {
    let stage = Stage::new(|dir| DriverConfig::Sqlite { live_dir: dir.join("live") }).await;
    // Created at revision 3, long before this disk was registered.
    stage.plane.place("acme", "cell-a", 30, "new-3", None);
    stage.plane.place("globex", "cell-a", 31, "new-31", None);
    let stage = stage.started().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.verdict(30).await, (421, Some("behind".into())));
    assert!(!stage.dir.path().join("live/acme.db").is_symlink());
    assert!(stage.dir.path().join("live/globex.db").is_symlink());
}

#[tokio::test]
async fn without_tls_nothing_but_this_machine_is_bound_or_asked() {
    let stage = Stage::new(|_| DriverConfig::None).await;
    let mut config = stage.config();
    config.gate_listen = "0.0.0.0:0".parse().unwrap();
    assert!(Agent::bind(config).is_err());
    let mut config = stage.config();
    config.control_plane = vec!["http://192.0.2.1:8082".into()];
    assert!(Agent::bind(config).is_err());
}

#[tokio::test]
async fn after_a_restart_a_stale_router_is_still_led_to_where_a_tenant_went() {
    let mut stage = Stage::with_acme_open().await;
    stage.plane.order(vec![crate::stage::order(TaskDown::Fence { epoch: 5, cut: false })]);
    stage.plane.place("acme", "cell-b", 6, "h2", None);
    stage.until(5, 421, Some("elsewhere; cell=cell-b epoch=6")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.stop().await;
    // The control plane speaks of the tenants of this cell only.
    stage.plane.said.send_modify(|said| said.placements.clear());
    stage.start();
    stage.until(5, 421, Some("elsewhere; cell=cell-b epoch=6")).await;
}

#[tokio::test]
async fn what_the_disk_knows_opens_nothing_once_registered_anew() {
    let mut stage = Stage::with_acme_open().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.stop().await;
    stage.plane.said.send_modify(|said| said.placements.clear());
    stage.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.verdict(5).await.0, 421);
}

#[tokio::test]
async fn a_control_plane_that_is_only_busy_shuts_no_gate_and_is_asked_again() {
    let mut stage = Stage::with_acme_open().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.stop().await;
    stage.plane.said.send_modify(|said| said.busy = true);
    stage.start();
    stage.until_open(5).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stage.verdict(5).await.0, 200);
    stage.plane.said.send_modify(|said| said.busy = false);
    stage.plane.place("acme", "cell-a", 6, "new-5", None);
    stage.until_open(6).await;
}

#[tokio::test]
async fn a_starting_agent_raises_its_limit_of_open_files_to_what_is_allowed() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let low = maximum.map_or(1_024, |maximum| maximum / 2);
    setrlimit(Resource::Nofile, Rlimit { current: Some(low), maximum }).unwrap();
    let stage = Stage::new(|_| DriverConfig::None).await;
    let _agent = Agent::bind(stage.config()).unwrap();
    assert_eq!(getrlimit(Resource::Nofile).current, maximum);
}
