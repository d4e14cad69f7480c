//! Passes bytes both ways without looking at them, on one thread: the floor of what forwarding costs.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

/// What is read at once.
const READ_BYTES: usize = 16 * 1024;

/// Relays until it is killed.
pub(crate) fn run(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        loop {
            let (mut client, _) = listener.accept().await?;
            client.set_nodelay(true)?;
            spawn_local(async move {
                let mut origin = TcpStream::connect(to).await?;
                origin.set_nodelay(true)?;
                copy_bidirectional_with_sizes(&mut client, &mut origin, READ_BYTES, READ_BYTES).await
            });
        }
    })
}
