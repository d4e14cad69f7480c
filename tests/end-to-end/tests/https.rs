//! HTTPS towards browsers, and TLS on every hop.

use cellway_api::certificate;
use cellway_api::fleet::CreateMove;
use cellway_api::identity::{IdentityFiles, LiveIdentity, Servers};
use cellway_api::{ApiError, Client};
use cellway_end_to_end::dev::Dev;
use cellway_end_to_end::eventually;
use std::net::SocketAddr;
use std::path::PathBuf;

fn tls_dir(dev: &Dev) -> PathBuf {
    dev.state_dir().join("tls")
}

fn identity_files(dev: &Dev, name: &str) -> IdentityFiles {
    let dir = tls_dir(dev);
    let file = |ending: &str| dir.join(format!("{name}.{ending}"));
    IdentityFiles { certificate: file("crt"), key: file("key"), ca: dir.join("ca.crt") }
}

/// A browser that trusts the CA of this `dev`.
fn browser(dev: &Dev, host: &str) -> reqwest::Client {
    let pem = certificate::read(&tls_dir(dev).join("ca.crt")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate::chain_in(&pem).unwrap().remove(0)).unwrap();
    let tls = rustls::ClientConfig::builder_with_provider(certificate::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let router = SocketAddr::from(([127, 0, 0, 1], dev.ports.at(1)));
    cellway_api::http::client_builder(Some(tls)).resolve(host, router).build().unwrap()
}

fn api(dev: &Dev, name: &str) -> Client {
    let identity = LiveIdentity::load(identity_files(dev, name), "anybody", |_| true).unwrap();
    let base = format!("https://127.0.0.1:{}", dev.ports.at(2));
    Client::with_tls(&base, identity.client_config(Servers::ControlPlane)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_served_over_https_with_the_certificate_of_their_domain() {
    let dev = Dev::start(&["--cells", "1", "--tenants", "1"]).await;
    let host = "acme.cells.localhost";
    let url = format!("https://{host}:{}/", dev.ports.at(1));
    let answer = browser(&dev, host).get(&url).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    // The connection is for the wildcard's names; another's name on it is misdirected.
    let other = browser(&dev, host).get(&url).header("host", "shop.example").send().await.unwrap();
    assert_eq!(other.status().as_u16(), 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_on_every_hop_a_tenant_moves_and_nobody_acts_as_another() {
    let dev = Dev::spawn(&["--cells", "2", "--tenants", "1", "--mutual-tls"]);
    dev.ready().await;
    let operator = api(&dev, "operator");
    let host = "acme.cells.localhost";
    let (browser, url) = (browser(&dev, host), format!("https://{host}:{}/", dev.ports.at(1)));
    assert!(browser.get(&url).send().await.unwrap().status().is_success());

    let wanted = CreateMove { tenant: "acme".into(), to: "cell-b".into(), ..CreateMove::default() };
    let started = operator.create_move(&wanted).await.unwrap();
    eventually("the tenant has moved", async || {
        let view = operator.a_move(&started.id).await.ok()?;
        ["settling", "cleaning", "done"].contains(&view.state.as_str()).then_some(())
    })
    .await;
    assert!(browser.get(&url).send().await.unwrap().status().is_success());

    let status = |outcome: Result<(), ApiError>| match outcome {
        Err(ApiError::Refused(problem)) => problem.status,
        other => panic!("not refused by the API: {other:?}"),
    };
    let cell = api(&dev, "cell-a");
    assert_eq!(status(cell.tenants().await.map(drop)), 403, "a cell operates nothing");
    assert_eq!(status(cell.leave("cell-b", "i-1").await), 403, "a cell speaks for no other");
    assert_eq!(status(operator.leave("cell-a", "i-1").await), 403, "an operator is no cell");
    let nobody = cellway_api::identity::trusting(&tls_dir(&dev).join("ca.crt"), Servers::ControlPlane).unwrap();
    let nobody = Client::with_tls(operator.base(), nobody).unwrap();
    assert_eq!(status(nobody.tenants().await.map(drop)), 401);
    // In clear nothing answers that speaks TLS.
    assert!(Client::new(&format!("http://127.0.0.1:{}", dev.ports.at(2))).unwrap().tenants().await.is_err());
    let gate = format!("http://127.0.0.1:{}/", dev.ports.at(10));
    assert!(cellway_end_to_end::writer::http().get(&gate).send().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_asks_the_source_what_runs_and_nobody_else_may_ask() {
    let dev = Dev::spawn(&["--cells", "2", "--tenants", "1", "--mutual-tls"]);
    dev.ready().await;
    let operator = api(&dev, "operator");
    let tenant = operator.tenants().await.unwrap().items.remove(0);
    let to = if tenant.cell == "cell-a" { "cell-b" } else { "cell-a" };
    let wanted = CreateMove { tenant: "acme".into(), to: to.into(), ..CreateMove::default() };
    let plan = operator.plan_move(&wanted).await.unwrap();
    assert_eq!((plan.gates, plan.gates_heard, plan.refused), (1, 1, None));
    assert!(plan.now.and_then(|now| now.data_bytes).is_some(), "{:?}", plan.now);
    assert_eq!(operator.tenant("acme").await.unwrap(), tenant, "nothing was changed");
    let refused = api(&dev, "cell-a").plan_move(&wanted).await;
    assert!(matches!(refused, Err(ApiError::Refused(problem)) if problem.status == 403), "a cell plans nothing");

    let source = dev.ports.at(30 + u16::from(tenant.cell.as_bytes()[5] - b'a'));
    let url = format!("https://127.0.0.1:{source}{}", cellway_api::plan::SURVEY_PATH);
    let ask = async |name: &str| {
        let identity = LiveIdentity::load(identity_files(&dev, name), "anybody", |_| true).unwrap();
        let client = cellway_api::http::client_builder(Some(identity.client_config(Servers::Cells))).build().unwrap();
        let survey = r#"{"tenant": "acme", "home": "any"}"#;
        client.post(&url).body(survey).send().await.map(|answer| answer.status().as_u16()).ok()
    };
    assert_eq!(ask("control-plane").await, Some(200));
    assert_eq!(ask(to).await, Some(403), "the other cell");
    assert_eq!(ask("router").await, None, "no handshake");
    assert_eq!(ask("operator").await, None, "no handshake");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_handed_to_the_target_of_its_move_and_to_no_other_cell() {
    let dev = Dev::spawn(&["--cells", "3", "--tenants", "1", "--mutual-tls"]);
    dev.ready().await;
    dev.stall(Some("copying"));
    let operator = api(&dev, "operator");
    let from = operator.tenants().await.unwrap().items.remove(0).cell;
    let others: Vec<&str> = ["cell-a", "cell-b", "cell-c"].into_iter().filter(|name| *name != from).collect();
    let wanted = CreateMove { tenant: "acme".into(), to: others[0].into(), ..CreateMove::default() };
    let id = operator.create_move(&wanted).await.unwrap().id;
    let homes = dev.state_dir().join(&from).join("agent/homes/acme");
    let home = std::fs::read_dir(homes).unwrap().find_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".db").map(str::to_owned)
    });
    let source = dev.ports.at(30 + u16::from(from.as_bytes()[5] - b'a'));
    let url = format!("https://127.0.0.1:{source}/v1/transfer/{id}/{}/pass", home.unwrap());
    let ask = async |name: &str| {
        let identity = LiveIdentity::load(identity_files(&dev, name), "anybody", |_| true).unwrap();
        let client = cellway_api::http::client_builder(Some(identity.client_config(Servers::Cells))).build().unwrap();
        client.post(&url).body("{}").send().await.ok().map(|answer| answer.status().as_u16())
    };
    eventually("the target is served", async || (ask(others[0]).await? == 200).then_some(())).await;
    assert_eq!(ask(others[1]).await, Some(403));
    assert!(dev.process.log().contains("offered to another one"), "{}", dev.process.log());
    dev.stall(None);
}
