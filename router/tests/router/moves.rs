//! What requests see while their tenant moves: nothing.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::http2;
use crate::support::{Client, Gate, TestRouter, ask, asking, cell, config, get, held, placed, post};

#[tokio::test]
async fn a_held_request_is_released_to_the_new_cell() {
    let (a, b) = (Gate::open().await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config(), &(cells + &placed("acme", "a", 5))).await;
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);

    a.say(Some("fenced"));
    router.change(&held("acme", "a", 5)).await;
    let waiting = asking(router.address, get("acme", "/during?x=1"));
    router.until("held_now", |held| held == 1.0).await;
    sleep(Duration::from_millis(20)).await;
    let freed = Instant::now();
    router.change(&placed("acme", "b", 6)).await;
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "ok".into()));
    assert!(freed.elapsed() < Duration::from_secs(2), "{:?}", freed.elapsed());

    let admitted = b.admitted();
    assert_eq!(admitted.len(), 1);
    assert_eq!(admitted[0].line, "GET /during?x=1");
    assert_eq!(admitted[0].headers["x-cellway-epoch"], "6");
    assert_eq!(admitted[0].headers["x-cellway-tenant"], "acme");
    assert_eq!(a.admitted().len(), 1);
    router.until("held_now", |held| held == 0.0).await;
}

#[tokio::test]
async fn a_post_refused_as_fenced_is_held_and_delivered_once_after_the_move() {
    let (a, b) = (Gate::saying("fenced").await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config(), &(cells + &placed("acme", "a", 5))).await;
    let waiting = asking(router.address, post("acme", "once"));
    router.until("held_now", |held| held == 1.0).await;
    router.change(&placed("acme", "b", 6)).await;
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(b.admitted().len(), 1);
    assert_eq!(b.admitted()[0].body, "once");
    assert!(a.refused() >= 1 && a.admitted().is_empty());
}

#[tokio::test]
async fn a_fence_that_is_lifted_is_noticed_without_the_feed() {
    let a = Gate::saying("fenced").await;
    let router = TestRouter::knowing(config(), &(cell("a", &[&a]) + &held("acme", "a", 5))).await;
    router.lose_feed().await;
    let waiting: Vec<_> = (0..40).map(|_| asking(router.address, get("acme", "/"))).collect();
    router.until("held_now", |held| held == 40.0).await;
    sleep(Duration::from_millis(300)).await;
    assert!(a.refused() <= 6, "one try at a time, not all of them: {}", a.refused());
    a.say(None);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(a.admitted().len(), 40);
}

#[tokio::test]
async fn a_router_that_missed_a_move_heals_by_the_gates_word() {
    let (a, b) = (Gate::saying("elsewhere; cell=b epoch=6").await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config(), &(cells + &placed("acme", "a", 5))).await;
    assert_eq!(ask(router.address, &post("acme", "x")).await.status, 200);
    assert_eq!(router.metric("held_total"), 0.0, "it goes on at once");
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
    assert_eq!(a.refused(), 1, "the hint is kept");
    assert_eq!(b.admitted()[0].headers["x-cellway-epoch"], "6");
    assert_eq!(router.metric("hints_followed_total"), 1.0);

    // The feed's next word on the tenant ends the hint.
    a.say(None);
    router.change(&placed("acme", "a", 7)).await;
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
    assert_eq!(a.admitted().len(), 1);
}

#[tokio::test]
async fn a_hint_that_leads_nowhere_or_round_in_circles_is_not_believed() {
    let mut config = config();
    config.hold.patience_ms = 300;
    let a = Gate::saying("elsewhere; cell=nowhere epoch=9").await;
    let router = TestRouter::knowing(config, &(cell("a", &[&a]) + &placed("acme", "a", 5))).await;
    let answer = ask(router.address, &get("acme", "/")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(router.metric("hints_ignored_total") >= 1.0);
    a.say(Some("elsewhere; cell=a epoch=5"));
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 503);
    assert_eq!(router.metric("hints_followed_total"), 0.0);
}

#[tokio::test]
async fn a_gate_that_is_behind_is_passed_over_for_the_cells_others() {
    let (old, new) = (Gate::saying("behind").await, Gate::open().await);
    let router = TestRouter::knowing(config(), &(cell("a", &[&old, &new]) + &placed("acme", "a", 5))).await;
    for _ in 0..4 {
        assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
    }
    assert_eq!(new.admitted().len(), 4);
    assert!(old.refused() >= 1);
    assert_eq!(router.metric("held_total"), 0.0);
}

#[tokio::test]
async fn an_epoch_is_never_lowered() {
    let (a, b) = (Gate::open().await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config(), &(cells.clone() + &placed("acme", "a", 5))).await;
    router.change(&placed("acme", "b", 4)).await;
    router.list(&(cells.clone() + &placed("acme", "b", 3))).await;
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 200);
    assert_eq!(a.admitted()[0].headers["x-cellway-epoch"], "5");
    assert_eq!(router.metric("epochs_refused_total"), 2.0);
    router.list(&cells).await;
    router.change(&placed("acme", "b", 4)).await;
    assert_eq!(ask(router.address, &get("acme", "/")).await.status, 404);
}

#[tokio::test]
async fn a_connection_survives_a_hold_and_carries_other_tenants() {
    let (a, b) = (Gate::saying("fenced").await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let text = cells + &placed("acme", "a", 5) + &placed("beta", "b", 1);
    let router = TestRouter::knowing(config(), &text).await;
    let mut client = Client::connect(router.address).await;
    assert_eq!(client.ask(&get("beta", "/")).await.status, 200);
    client.send(&get("acme", "/")).await;
    router.until("held_now", |held| held == 1.0).await;
    assert_eq!(ask(router.address, &get("beta", "/")).await.status, 200, "others are served meanwhile");
    router.change(&placed("acme", "b", 6)).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert_eq!(client.ask(&get("beta", "/")).await.status, 200);
    assert_eq!(client.ask(&get("acme", "/")).await.status, 200);
}

#[tokio::test]
async fn patience_and_room_end_with_503_and_a_time_to_retry() {
    let mut config = config();
    config.hold.patience_ms = 1_000;
    config.hold.per_tenant = 2;
    let (a, b) = (Gate::saying("fenced").await, Gate::open().await);
    let text = cell("a", &[&a]) + &cell("b", &[&b]) + &held("acme", "a", 5) + &placed("beta", "b", 1);
    let router = TestRouter::knowing(config, &text).await;
    let waiting: Vec<_> = (0..2).map(|_| asking(router.address, get("acme", "/"))).collect();
    router.until("held_now", |held| held == 2.0).await;
    let overflow = ask(router.address, &get("acme", "/")).await;
    assert_eq!((overflow.status, overflow.header("retry-after")), (503, Some("1")));
    assert_eq!(router.metric("held_now"), 2.0, "it is not made to wait");
    assert!(overflow.text().contains(overflow.header("x-request-id").unwrap()));
    assert_eq!(ask(router.address, &get("beta", "/")).await.status, 200);
    for answer in waiting {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert!(answer.header("x-cellway-verdict").is_none());
    }
    assert_eq!(router.metric("hold_timeouts_total"), 2.0);
    assert_eq!(router.metric("hold_overflows_total"), 1.0);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_queue() {
    let a = Gate::saying("fenced").await;
    let router = TestRouter::knowing(config(), &(cell("a", &[&a]) + &held("acme", "a", 5))).await;
    let mut client = Client::connect(router.address).await;
    client.send(&get("acme", "/")).await;
    router.until("held_now", |held| held == 1.0).await;
    client.tcp.set_zero_linger().unwrap();
    drop(client);
    router.until("held_now", |held| held == 0.0).await;
    assert_eq!(router.metric("hold_timeouts_total"), 0.0);
}

#[tokio::test]
async fn a_cell_that_cannot_be_reached_is_waited_for() {
    let gone = Gate::open().await;
    let address = gone.address;
    let text = cell("a", &[&gone]) + &placed("acme", "a", 5);
    drop(gone);
    let router = TestRouter::knowing(config(), &text).await;
    sleep(Duration::from_millis(50)).await;
    let waiting = asking(router.address, post("acme", "kept"));
    router.until("held_now", |held| held == 1.0).await;
    let back = Gate::at(address).await;
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(back.admitted()[0].body, "kept");
}

#[tokio::test]
async fn many_held_requests_are_released_in_order_and_none_is_lost() {
    let (a, b) = (Gate::saying("fenced").await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config(), &(cells + &held("acme", "a", 5))).await;
    let mut waiting = Vec::new();
    for number in 0..60 {
        waiting.push(asking(router.address, post("acme", &format!("{number}"))));
        router.until("held_total", |held| held == f64::from(number + 1)).await;
    }
    router.change(&placed("acme", "b", 6)).await;
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    let order: Vec<u32> =
        b.admitted().iter().map(|admitted| String::from_utf8_lossy(&admitted.body).parse().unwrap()).collect();
    assert_eq!(order.len(), 60);
    // Those that go at once race each other; those that are paced come after them.
    let burst = usize::try_from(cellway_router::hold::RELEASE_BURST).unwrap();
    assert!(order[..burst].iter().all(|number| *number < 30), "{order:?}");
}

/// Posts bodies of all kinds until told to stop; gives what was acknowledged.
async fn post_on(router: std::net::SocketAddr, client: usize, stop: CancellationToken) -> Vec<String> {
    let mut connection = Client::connect(router).await;
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let id = format!("{client}-{number}-");
        let filler = if number % 5 == 0 { "x".repeat(100_000) } else { String::new() };
        let head = "POST / HTTP/1.1\r\nhost: acme.cells.localhost\r\n";
        let answer = if number % 3 == 0 {
            let (a, b) = (id.len(), filler.len());
            let rest = if b > 0 { format!("{b:x}\r\n{filler}\r\n") } else { String::new() };
            connection.ask(&format!("{head}transfer-encoding: chunked\r\n\r\n{a:x}\r\n{id}\r\n{rest}0\r\n\r\n")).await
        } else {
            connection.ask(&format!("{head}content-length: {}\r\n\r\n{id}{filler}", id.len() + filler.len())).await
        };
        assert_eq!(answer.status, 200, "{id}: {}", answer.text());
        acknowledged.push(id);
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_none_is_doubled_while_a_tenant_moves_to_and_fro() {
    let gates = [Gate::open().await, Gate::saying("behind").await];
    let names = ["a", "b"];
    let cells = cell("a", &[&gates[0]]) + &cell("b", &[&gates[1]]);
    let router = TestRouter::knowing(config(), &(cells + &placed("acme", "a", 1))).await;
    let stop = CancellationToken::new();
    let clients: Vec<_> = (0..24).map(|client| tokio::spawn(post_on(router.address, client, stop.clone()))).collect();
    for epoch in 1..=12 {
        let (from, to) = ((epoch + 1) % 2, epoch % 2);
        sleep(Duration::from_millis(60)).await;
        // Every third move goes unnoticed by the feed: the gates' word must do.
        let noticed = epoch % 3 != 0;
        if noticed {
            router.change(&held("acme", names[from], epoch as u64)).await;
        }
        gates[from].say(Some("fenced"));
        sleep(Duration::from_millis(40)).await;
        if noticed {
            router.change(&placed("acme", names[to], epoch as u64 + 1)).await;
        }
        sleep(Duration::from_millis(5)).await;
        gates[to].say(None);
        gates[from].say(Some(&format!("elsewhere; cell={} epoch={}", names[to], epoch + 1)));
    }
    sleep(Duration::from_millis(300)).await;
    stop.cancel();
    let mut acknowledged = Vec::new();
    for client in clients {
        acknowledged.extend(client.await.unwrap());
    }
    let admitted = gates.iter().flat_map(Gate::admitted);
    let mut delivered: Vec<String> =
        admitted.map(|admitted| String::from_utf8_lossy(&admitted.body).trim_end_matches('x').to_owned()).collect();
    acknowledged.sort();
    delivered.sort();
    assert!(acknowledged.len() > 200, "{}", acknowledged.len());
    assert!(acknowledged == delivered, "{} acknowledged, {} delivered", acknowledged.len(), delivered.len());
    assert!(router.metric("held_total") > 0.0 && router.metric("hints_followed_total") > 0.0);
    assert_eq!(router.metric("hold_timeouts_total"), 0.0);
    router.until("held_now", |held| held == 0.0).await;
    router.until("replay_bytes", |bytes| bytes == 0.0).await;
}

#[tokio::test]
async fn a_change_for_one_tenant_closes_no_connection_of_another() {
    let (a, b) = (Gate::open().await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config(), &(cells + &placed("acme", "a", 5) + &placed("beta", "a", 5))).await;
    let mut kept = Client::connect(router.address).await;
    assert_eq!(kept.ask(&get("acme", "/")).await.status, 200);
    let mut shared = http2::connect(&router).await;
    let mut open = async |tenant| {
        shared = shared.clone().ready().await.unwrap();
        let request = http2::request(http::Method::GET, tenant, "/slow").body(()).unwrap();
        shared.send_request(request, true).unwrap()
    };

    let message = r#"{"tenant":"beta","limits":{"mode":"paused","message":"Until noon."}}"#.to_owned() + "\n";
    let gone = r#"{"tenant":"beta","gone":true,"epoch":8}"#.to_owned() + "\n";
    for change in [held("beta", "a", 5), placed("beta", "b", 6), message, held("beta", "b", 7), gone] {
        let (running, others) = (open("acme").await.0, open("beta").await.0);
        router.change(&change).await;
        assert_eq!(kept.ask(&get("acme", "/")).await.status, 200, "after {change}");
        assert_eq!(http2::answer(running).await.status(), 200, "during {change}");
        drop(others);
    }
    assert_eq!(http2::answer(open("acme").await.0).await.status(), 200);
    assert_eq!(http2::answer(open("beta").await.0).await.status(), 404);
}

/// Half of the connections are asked for one tenant and then for the other, and every third request is broken off in its
/// body: what comes back is always the own cell's.
#[tokio::test]
async fn no_tenant_sees_another_tenants_data() {
    let (a, b) = (Gate::open().await, Gate::open().await);
    let cells = cell("a", &[&a]) + &cell("b", &[&b]);
    let router = TestRouter::knowing(config(), &(cells + &placed("acme", "a", 5) + &placed("beta", "b", 5))).await;
    let ask = async |client: &mut Client, tenant: &str, number: usize| {
        if number % 3 == 2 {
            let whole = post(tenant, &format!("cut-{tenant}-{number}"));
            client.send(&whole[..whole.len() - 2]).await;
            *client = Client::connect(router.address).await;
        } else {
            let answer = client.ask(&post(tenant, &format!("whole-{tenant}-{number}"))).await;
            assert_eq!(answer.status, 200);
        }
    };
    for round in 0..20 {
        let mut client = Client::connect(router.address).await;
        for number in 0..6 {
            let tenant = if (round + number) % 2 == 0 { "acme" } else { "beta" };
            ask(&mut client, tenant, round * 6 + number).await;
        }
    }
    for (gate, own) in [(&a, "acme"), (&b, "beta")] {
        let admitted = gate.admitted();
        assert_eq!(admitted.len(), 40, "{own}");
        for admitted in admitted {
            assert_eq!(admitted.headers["x-cellway-tenant"], own);
            assert!(admitted.body.starts_with(format!("whole-{own}-").as_bytes()), "{:?}", admitted.body);
        }
    }
}
