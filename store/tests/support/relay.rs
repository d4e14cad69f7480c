//! A TCP relay that can cut its connections or let them fall silent.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Stands between a client and a server; ends when dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    fate: Arc<watch::Sender<Fate>>,
    task: JoinHandle<()>,
}

/// What befalls the connections that are older than the number.
#[derive(Clone, Copy, Default)]
struct Fate {
    generation: u64,
    silent: bool,
}

impl Relay {
    /// A relay to a port of this machine.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fate = Arc::new(watch::Sender::new(Fate::default()));
        let task = tokio::spawn(accept(listener, port, Arc::clone(&fate)));
        Self { address, fate, task }
    }

    /// Where clients reach it.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes every connection there is; new ones are served.
    pub(crate) fn cut(&self) {
        self.fate.send_modify(|fate| *fate = Fate { generation: fate.generation + 1, silent: false });
    }

    /// Carries nothing any more on the connections there are, and keeps them open; new ones are
    /// served.
    pub(crate) fn silence(&self) {
        self.fate.send_modify(|fate| *fate = Fate { generation: fate.generation + 1, silent: true });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, fate: Arc<watch::Sender<Fate>>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(carry(client, port, fate.subscribe()));
    }
}

async fn carry(mut client: TcpStream, port: u16, mut fate: watch::Receiver<Fate>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    fate.mark_unchanged();
    let fated = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        changed = fate.changed() => changed.is_ok(),
    };
    while fated && fate.borrow_and_update().silent {
        if fate.changed().await.is_err() {
            return;
        }
    }
}
