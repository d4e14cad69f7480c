//! Who may write, as the database itself has it.

use super::stage::{Hop, Stage, id};
use crate::driver::DriverError;
use cellway_core::ids::Epoch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_writes_after_the_fence_whoever_they_logged_in_as() {
    let stage = Stage::new_with_acme().await;
    let server = &stage.a.server;
    server.run("CREATE ROLE pool LOGIN; GRANT acme TO pool").await;
    let app = server.connect("acme").await;
    let idle = server.connect("pool").await;
    let writing = server.connect("pool").await;
    let insert = "INSERT INTO acme.orders (n) VALUES (1)";
    idle.batch_execute("SET ROLE acme").await.unwrap();
    let prepared = idle.prepare(insert).await.unwrap();
    idle.execute(&prepared, &[]).await.unwrap();
    writing.batch_execute(&format!("SET ROLE acme; BEGIN; {insert}")).await.unwrap();
    stage.a.fence("new-1", 5).await.unwrap();
    assert!(app.batch_execute(insert).await.is_err(), "the role's own sessions are gone");
    assert!(writing.batch_execute("COMMIT").await.is_err(), "what was being written never was");
    assert!(idle.execute(&prepared, &[]).await.is_err(), "and a pool's session may not use the schema");
    assert!(server.try_connect("acme").await.is_err());
    assert_eq!(server.count("SELECT count(*) FROM acme.orders").await, 5_001);
    stage.a.release("new-1", 6).await.unwrap();
    server.connect("acme").await.batch_execute(insert).await.unwrap();
    idle.execute(&prepared, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_fence_or_release_of_another_agent_is_refused_by_the_database() {
    let stage = Stage::new_with_acme().await;
    let (_dir, other) = stage.a.another_agent(&stage.config);
    let (acme, home) = (super::stage::acme(), id("new-1"));
    stage.a.fence("new-1", 5).await.unwrap();
    assert!(matches!(other.release(&acme, &home, Epoch(5)).await, Err(DriverError::Superseded)));
    other.release(&acme, &home, Epoch(6)).await.unwrap();
    assert!(matches!(stage.a.fence("new-1", 5).await, Err(DriverError::Superseded)));
    assert!(matches!(stage.a.release("new-1", 5).await, Err(DriverError::Superseded)));
    stage.a.server.connect("acme").await.batch_execute("INSERT INTO acme.orders (n) VALUES (1)").await.unwrap();
    assert!(matches!(other.drop_home(&id("m-1"), &acme, &home).await, Err(DriverError::Served(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_that_this_database_never_had_is_lost_and_not_empty() {
    let stage = Stage::new_with_acme().await;
    assert!(matches!(stage.b.release("m-9", 9).await, Err(DriverError::Lost { .. })));
    let hop = Hop { id: "m-1", from: &stage.a, from_home: "new-1", to: &stage.b, home: "m-1", epoch: 5 };
    stage.approach(&hop).await.unwrap();
    assert!(matches!(stage.b.release("m-1", 6).await, Err(DriverError::Lost { .. })), "it was never completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_never_goes_over_a_home_in_service() {
    let stage = Stage::new_with_acme().await;
    stage.b.server.run("CREATE SCHEMA acme AUTHORIZATION acme").await;
    let hop = Hop { id: "m-1", from: &stage.a, from_home: "new-1", to: &stage.b, home: "m-1", epoch: 5 };
    let error = stage.approach(&hop).await.unwrap_err();
    assert!(error.is_final() && error.to_string().contains("belongs to no home"), "{error}");
    stage.b.release("new-3", 3).await.unwrap();
    let error = stage.approach(&hop).await.unwrap_err();
    assert!(error.is_final() && error.to_string().contains("new-3 is served"), "{error}");
}
