//! Another proxy in the router's place, to compare with: nginx or HAProxy, as configured by who knows them.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::backend::Backend;

/// Names the proxy to run the battery against: `nginx` or `haproxy`.
pub const VARIABLE: &str = "BATTERY_PEER";

/// Which proxy is asked for, if one is.
pub fn wanted() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())
}

/// A running proxy.
pub struct Peer {
    process: Child,
    folder: std::path::PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Peer {
    /// Starts the proxy of this name between the two cells.
    pub fn start(name: &str, acme: &Backend, beta: &Backend) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let folder = std::env::temp_dir().join(format!("battery-peer-{}-{}", std::process::id(), address.port()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("config");
        let mut command = Command::new(name);
        let config = if name == "nginx" {
            command.arg("-p").arg(&folder).arg("-c").arg(&file);
            nginx(&folder, address, acme, beta)
        } else {
            command.arg("-db").arg("-q").arg("-f").arg(&file);
            haproxy(address, acme, beta)
        };
        std::fs::write(&file, config).unwrap();
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.unwrap_or_else(|error| panic!("cannot start {name}: {error}; is it installed?"));
        Self { process, folder, address }
    }
}

fn nginx(folder: &Path, address: SocketAddr, acme: &Backend, beta: &Backend) -> String {
    let folder = folder.display();
    let server = |tenant: &str, backend: &Backend| {
        format!(
            "upstream {tenant} {{ server {} max_fails=0; keepalive 16; }}\n\
             server {{ listen {address}; server_name {tenant}.cells.localhost; location / {{\n\
             proxy_pass http://{tenant}; proxy_http_version 1.1; proxy_set_header Host $http_host;\n\
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;\n\
             proxy_set_header X-Cellway-Tenant {tenant}; }} }}\n",
            backend.address
        )
    };
    let (acme, beta) = (server("acme", acme), server("beta", beta));
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors; events {{ worker_connections 512; }}\n\
         http {{ access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;\n\
         fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
         server {{ listen {address} default_server; server_name _; return 404; }}\n{acme}{beta}}}\n"
    )
}

fn haproxy(address: SocketAddr, acme: &Backend, beta: &Backend) -> String {
    let route =
        |tenant: &str| format!(" use_backend {tenant} if {{ req.hdr(host),host_only -i {tenant}.cells.localhost }}\n");
    let cell = |tenant: &str, backend: &Backend| {
        format!(
            "backend {tenant}\n http-request set-header x-cellway-tenant {tenant}\n server one {}\n",
            backend.address
        )
    };
    let (routes, cells) = (route("acme") + &route("beta"), cell("acme", acme) + &cell("beta", beta));
    format!(
        "global\n maxconn 500\ndefaults\n mode http\n timeout connect 2s\n timeout client 20s\n timeout server 20s\n\
         frontend front\n bind {address}\n{routes} default_backend none\nbackend none\n http-request return status 404\n{cells}"
    )
}
