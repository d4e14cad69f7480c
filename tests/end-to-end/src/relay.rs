//! A TCP relay between two parts of a fleet, which breaks the way between them while it runs.
//!
//! A way that is cut loses nothing, as TCP itself loses nothing: what was said meanwhile arrives after it has healed.
//! Nobody is told of a cut, neither by a FIN nor by a reset; `refuse` tells everybody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What passes at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connects to who listens.
    Up,
    /// From who listens to who connects.
    Down,
}

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// One bit in the middle is turned over.
    Flip,
    /// They are said twice.
    Double,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    is_cut: [bool; 2],
    is_refusing: bool,
    delay_ms: u64,
}

struct Shared {
    to: SocketAddr,
    state: watch::Sender<State>,
    spoil: parking_lot::Mutex<[Option<Spoil>; 2]>,
    spoilt: AtomicUsize,
    open: AtomicUsize,
}

/// A relay; it ends when it is dropped, and its connections with it.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.state.send_modify(|state| state.is_refusing = true);
    }
}

impl Relay {
    /// Starts one in front of `to`, which need not be there yet.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            to,
            state: watch::Sender::default(),
            spoil: parking_lot::Mutex::default(),
            spoilt: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, address, Arc::clone(&shared)));
        Self { address, shared, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more, and nobody is told.
    pub fn cut(&self) {
        self.shared.state.send_modify(|state| state.is_cut = [true; 2]);
    }

    /// Nothing passes any more in this direction.
    pub fn cut_way(&self, way: Way) {
        self.shared.state.send_modify(|state| state.is_cut[way as usize] = true);
    }

    /// Connections are reset, and new ones refused.
    pub fn refuse(&self) {
        self.shared.state.send_modify(|state| state.is_refusing = true);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.shared.state.send_replace(State::default());
    }

    /// What passes is this late.
    pub fn delay(&self, delay_ms: u64) {
        self.shared.state.send_modify(|state| state.delay_ms = delay_ms);
    }

    /// Spoils what is said next in this direction.
    pub fn spoil_next(&self, way: Way, spoil: Spoil) {
        self.shared.spoil.lock()[way as usize] = Some(spoil);
    }

    /// How often something was spoilt.
    pub fn spoilt(&self) -> usize {
        self.shared.spoilt.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

/// Listens, but while it refuses.
async fn accept(mut listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut state = shared.state.subscribe();
    loop {
        let refused = async {
            let _ = state.wait_for(|state| state.is_refusing).await;
        };
        tokio::select! {
            biased;
            () = refused => {
                drop(listener);
                let _ = state.wait_for(|state| !state.is_refusing).await;
                listener = TcpListener::bind(address).await.expect("its own port");
            }
            accepted = listener.accept() => {
                let Ok((near, _)) = accepted else { continue };
                tokio::spawn(count(near, Arc::clone(&shared)));
            }
        }
    }
}

async fn count(near: TcpStream, shared: Arc<Shared>) {
    shared.open.fetch_add(1, Ordering::SeqCst);
    carry(near, &shared).await;
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

/// Carries one connection to its end.
async fn carry(mut near: TcpStream, shared: &Shared) {
    let mut state = shared.state.subscribe();
    let refused = async {
        let _ = state.wait_for(|state| state.is_refusing).await;
    };
    let mut far = None;
    let whole = tokio::select! {
        () = refused => false,
        carried = both_ways(&mut near, &mut far, shared) => carried.is_ok(),
    };
    if !whole {
        // A connection that is closed with this reaches the other side as a reset.
        for tcp in [Some(&near), far.as_ref()].into_iter().flatten() {
            let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

async fn both_ways(near: &mut TcpStream, far: &mut Option<TcpStream>, shared: &Shared) -> io::Result<()> {
    passes(shared, Way::Up).await;
    let far = far.insert(TcpStream::connect(shared.to).await?);
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_reads, near_writes) = near.split();
    let (far_reads, far_writes) = far.split();
    let up = pump(near_reads, far_writes, Way::Up, shared);
    let down = pump(far_reads, near_writes, Way::Down, shared);
    tokio::try_join!(up, down).map(drop)
}

/// Waits until this direction is whole.
async fn passes(shared: &Shared, way: Way) {
    let _ = shared.state.subscribe().wait_for(|state| !state.is_cut[way as usize]).await;
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, way: Way, shared: &Shared) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        passes(shared, way).await;
        let mut state = shared.state.subscribe();
        let cut = state.wait_for(|state| state.is_cut[way as usize]);
        let length = tokio::select! {
            _ = cut => continue,
            length = from.read(&mut chunk) => length?,
        };
        if length == 0 {
            return to.shutdown().await;
        }
        let delay_ms = shared.state.borrow().delay_ms;
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        let spoil = shared.spoil.lock()[way as usize].take();
        if let Some(spoil) = spoil {
            shared.spoilt.fetch_add(1, Ordering::SeqCst);
            match spoil {
                Spoil::Flip => chunk[length / 2] ^= 1,
                Spoil::Double => to.write_all(&chunk[..length]).await?,
            }
        }
        to.write_all(&chunk[..length]).await?;
    }
}
