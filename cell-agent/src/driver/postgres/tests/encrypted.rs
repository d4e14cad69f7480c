//! TLS to a server: by name, and vouched for, or not at all.

use super::server::Server;
use crate::config::{POSTGRES_TENANT, PostgresConfig, PostgresServer, PostgresVerify};
use crate::driver::postgres::servers::Servers;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// A server that speaks TLS as `localhost`, and the certificate that vouches for it.
async fn encrypted() -> (Server, u16, PathBuf) {
    let server = Server::start(&["fsync=off"]).await;
    let (certificate, key) = (server.dir.path().join("tls.crt"), server.dir.path().join("tls.key"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-out"]).arg(&certificate).arg("-keyout").arg(&key);
    assert!(openssl.output().unwrap().status.success());
    server.give(&certificate);
    server.give(&key);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for setting in [
        format!("ssl_cert_file = '{}'", certificate.display()),
        format!("ssl_key_file = '{}'", key.display()),
        "ssl = on".to_owned(),
        "listen_addresses = '127.0.0.1'".to_owned(),
        format!("port = {port}"),
    ] {
        server.run(&format!("ALTER SYSTEM SET {setting}")).await;
    }
    server.run("CREATE ROLE mover LOGIN SUPERUSER PASSWORD 'it''s \\ secret'").await;
    let server = server.again(port, "hostssl all mover 127.0.0.1/32 scram-sha-256\nlocal all all trust\n").await;
    (server, port, certificate)
}

fn servers(host: &str, port: u16, password_file: PathBuf, ca_file: Option<PathBuf>) -> Servers {
    let server = PostgresServer {
        host: host.to_owned(),
        port,
        database: "postgres".to_owned(),
        user: "mover".to_owned(),
        password_file: Some(password_file),
        ca_file,
        replication_file: None,
    };
    Servers::new(&PostgresConfig {
        schema: POSTGRES_TENANT.to_owned(),
        role: POSTGRES_TENANT.to_owned(),
        bin_dir: None,
        verify: PostgresVerify::None,
        copy_jobs: 1,
        slot_wait_ms: 1_000,
        dead_after_ms: 1_000,
        servers: BTreeMap::from([("cell-a".parse().unwrap(), server)]),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_spoken_to_only_by_the_name_that_its_certificate_has() {
    let (server, port, certificate) = encrypted().await;
    let password = server.dir.path().join("password");
    std::fs::write(&password, "it's \\ secret\n").unwrap();
    let reach = async |host: &str, ca_file: Option<PathBuf>| {
        servers(host, port, password.clone(), ca_file).lease("cell-a").await.map(drop)
    };
    reach("localhost", Some(certificate.clone())).await.unwrap();
    let wrong_name = reach("127.0.0.1", Some(certificate)).await.unwrap_err();
    assert!(format!("{:#}", anyhow::Error::from(wrong_name)).contains("certificate"));
    let in_clear = reach("localhost", None).await.unwrap_err();
    assert!(format!("{:#}", anyhow::Error::from(in_clear)).contains("no encryption"));
    let other = server.dir.path().join("tls.key");
    assert!(reach("localhost", Some(other)).await.is_err(), "what is no certificate vouches for nobody");
}
