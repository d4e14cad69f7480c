//! A cell that records every byte it receives and answers as a case wants.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::wire;

/// How long bytes that were sent may take until the other side has looked at them.
const SETTLED: Duration = Duration::from_millis(10);

/// How long a cell may take to read what has arrived.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// How long an answer is waited for that may never be over.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// One act of an answer.
#[derive(Debug, Clone)]
pub enum Step {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Send these bytes so many times.
    Flood(Vec<u8>, usize),
    /// Wait.
    Pause(Duration),
    /// Read what comes and throw nothing away: the bytes are recorded.
    ReadOn(Duration),
    /// End the connection.
    Close,
    /// Break the connection.
    Reset,
}

impl Step {
    /// Send this text.
    pub fn say(text: &str) -> Self {
        Self::Send(text.as_bytes().to_vec())
    }
}

/// How a connection to a cell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It did not.
    Not,
    /// The peer closed it.
    ByPeer,
    /// This cell closed it.
    Here,
}

/// What came over one connection.
#[derive(Debug, Clone)]
pub struct Recording {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// Of these, the ones that an earlier case accounts for.
    pub seen: usize,
    /// How it ended.
    pub ended: Ended,
}

/// A part of a script: how requests of one target are answered.
struct Play {
    target: String,
    at_head: bool,
    steps: Vec<Step>,
}

/// A connection's recording, and the connection as long as this cell reads from it.
struct Tape {
    recording: Recording,
    reading: Option<Arc<TcpStream>>,
}

impl Tape {
    /// Whether bytes, or the end, have arrived that are not in the recording.
    fn is_behind(&self) -> bool {
        let unread = |tcp: &Arc<TcpStream>| {
            let arrived = socket2::SockRef::from(&**tcp).peek(&mut [MaybeUninit::uninit()]);
            !arrived.is_err_and(|why| why.kind() == io::ErrorKind::WouldBlock)
        };
        self.reading.as_ref().is_some_and(unread)
    }
}

#[derive(Default)]
struct State {
    playing: AtomicUsize,
    tapes: Mutex<Vec<Tape>>,
    plays: Mutex<Vec<Play>>,
    /// Connections that [`Backend::catch_up`] opens to see that all earlier ones are accepted.
    markers: Mutex<Vec<SocketAddr>>,
}

/// A cell's only endpoint.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it calls itself in its answers.
    pub name: &'static str,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    /// Opens it.
    pub async fn open(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, from) = listener.accept().await.unwrap();
                let mut markers = serving.markers.lock();
                if let Some(marker) = markers.iter().position(|marker| *marker == from) {
                    markers.swap_remove(marker);
                    continue;
                }
                drop(markers);
                let number = serving.tapes.lock().len();
                let tcp = Arc::new(tcp);
                let recording = Recording { bytes: Vec::new(), seen: 0, ended: Ended::Not };
                serving.tapes.lock().push(Tape { recording, reading: Some(Arc::clone(&tcp)) });
                connections.spawn(serve(name, tcp, number, Arc::clone(&serving)));
            }
        });
        Self { address, name, state, task }
    }

    /// Answers requests of this target with these steps, once they are complete; all others with an echo.
    pub fn answer(&self, target: &str, steps: Vec<Step>) {
        self.play(target, false, steps);
    }

    /// Answers requests of this target as soon as their head is there.
    pub fn answer_early(&self, target: &str, steps: Vec<Step>) {
        self.play(target, true, steps);
    }

    fn play(&self, target: &str, at_head: bool, steps: Vec<Step>) {
        self.state.plays.lock().push(Play { target: target.into(), at_head, steps });
    }

    /// What came since the last [`Backend::take`], connection by connection.
    pub fn look(&self) -> Vec<Recording> {
        let tapes = self.state.tapes.lock();
        let fresh = tapes.iter().map(|tape| &tape.recording).filter(|recording| recording.bytes.len() > recording.seen);
        fresh.map(|recording| Recording { bytes: recording.bytes[recording.seen..].to_vec(), ..*recording }).collect()
    }

    /// Takes what came since the last call, connection by connection.
    pub fn take(&self) -> Vec<Recording> {
        let fresh = self.look();
        for tape in self.state.tapes.lock().iter_mut() {
            tape.recording.seen = tape.recording.bytes.len();
        }
        fresh
    }

    /// Waits until all that has arrived from its peers is recorded, however busy the machine is.
    pub async fn catch_up(&self) {
        let marker = TcpSocket::new_v4().unwrap();
        marker.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let from = marker.local_addr().unwrap();
        self.state.markers.lock().push(from);
        let _marker = marker.connect(self.address).await.unwrap();
        let deadline = Instant::now() + CATCH_UP_MAX;
        let behind =
            || self.state.markers.lock().contains(&from) || self.state.tapes.lock().iter().any(Tape::is_behind);
        while behind() {
            assert!(Instant::now() < deadline, "cell {} does not read what came", self.name);
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until every answer that has begun is over, and what was sent has arrived.
    pub async fn settle(&self) {
        let deadline = Instant::now() + SETTLE_MAX;
        while self.state.playing.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(SETTLED).await;
    }
}

/// The connection of a cell, and the place of its recording.
struct Connection<'a> {
    tcp: Arc<TcpStream>,
    number: usize,
    pending: Vec<u8>,
    state: &'a State,
}

impl Connection<'_> {
    /// Whether more bytes came.
    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if self.tcp.readable().await.is_err() {
                return false;
            }
            // Read and recorded at once: in between, nobody could tell that something has come.
            let mut tapes = self.state.tapes.lock();
            let length = match self.tcp.try_read(&mut buffer) {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => continue,
                read => read.unwrap_or(0),
            };
            self.pending.extend_from_slice(&buffer[..length]);
            let recording = &mut tapes[self.number].recording;
            recording.bytes.extend_from_slice(&buffer[..length]);
            if length == 0 {
                recording.ended = Ended::ByPeer;
            }
            return length > 0;
        }
    }

    /// Whether all of it went out.
    async fn write(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.tcp.writable().await.is_err() {
                return false;
            }
            match self.tcp.try_write(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether this cell reads on: while it plays it does as the script says.
    fn set_reading(&self, reading: bool) {
        self.state.tapes.lock()[self.number].reading = reading.then(|| Arc::clone(&self.tcp));
    }

    /// The steps for the request that is first, if it is time for them.
    fn play(&self, target: &str, whole: bool) -> Option<Vec<Step>> {
        let plays = self.state.plays.lock();
        let play = plays.iter().find(|play| play.target == target)?;
        (whole || play.at_head).then(|| play.steps.clone())
    }

    /// Whether the connection is still open afterwards.
    async fn perform(&mut self, steps: Vec<Step>) -> bool {
        for step in steps {
            let sent = match step {
                Step::Send(bytes) => self.write(&bytes).await,
                Step::Flood(bytes, times) => self.flood(&bytes, times).await,
                Step::Pause(time) => {
                    sleep(time).await;
                    true
                }
                Step::ReadOn(time) => {
                    let until = Instant::now() + time;
                    while let Ok(true) = timeout_at(until, self.more()).await {}
                    true
                }
                Step::Close => false,
                Step::Reset => {
                    let _ = socket2::SockRef::from(&*self.tcp).set_linger(Some(Duration::ZERO));
                    false
                }
            };
            if !sent {
                return false;
            }
        }
        true
    }

    /// Passes over the request that was answered, to its end.
    async fn skip_request(&mut self, mut whole: Option<(wire::Request, usize)>) -> bool {
        loop {
            if let Some((_, used)) = whole {
                self.pending.drain(..used);
                return true;
            }
            if !self.more().await {
                return false;
            }
            whole = wire::first(&self.pending).unwrap_or(None);
        }
    }

    async fn flood(&mut self, bytes: &[u8], times: usize) -> bool {
        for _ in 0..times {
            if !self.write(bytes).await {
                return false;
            }
        }
        true
    }
}

async fn serve(name: &str, tcp: Arc<TcpStream>, number: usize, state: Arc<State>) {
    // Otherwise what is sent second waits for the other side, and arrives at another time than the script says.
    tcp.set_nodelay(true).unwrap();
    let mut connection = Connection { tcp, number, pending: Vec::new(), state: &state };
    let mut open = true;
    while open {
        // What makes no sense ends the connection, and stays in the recording for the case to find.
        let (Ok(target), Ok(whole)) = (wire::first_target(&connection.pending), wire::first(&connection.pending))
        else {
            break;
        };
        let steps = target.as_deref().and_then(|target| connection.play(target, whole.is_some()));
        open = match (steps, whole) {
            (Some(steps), whole) => {
                state.playing.fetch_add(1, Ordering::SeqCst);
                connection.set_reading(false);
                let open = connection.perform(steps).await;
                connection.set_reading(true);
                state.playing.fetch_sub(1, Ordering::SeqCst);
                open && connection.skip_request(whole).await
            }
            (None, Some((request, used))) => {
                connection.pending.drain(..used);
                connection.write(&echo(name, &request)).await
            }
            (None, None) => connection.more().await,
        };
    }
    let tape = &mut state.tapes.lock()[number];
    tape.reading = None;
    if tape.recording.ended == Ended::Not {
        tape.recording.ended = Ended::Here;
    }
}

fn echo(name: &str, request: &wire::Request) -> Vec<u8> {
    let length = request.body.len();
    let tenant = request.values("x-cellway-tenant").join(",");
    let body = format!("{name}|{tenant}|{}|{length}", request.line);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-cell: {name}\r\n\r\n", body.len());
    let body = if request.line.starts_with("HEAD ") { String::new() } else { body };
    (head + &body).into_bytes()
}
