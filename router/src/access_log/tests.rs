//! Lines that are whole, disks that are full, queues that overflow.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use http::Version;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::Value;

use super::writer::Sink;
use super::*;

fn counters() -> LogCounters {
    let counter = || IntCounter::new("c", "c").unwrap();
    LogCounters { written: counter(), dropped_by_queue: counter(), dropped_by_disk: counter() }
}

fn record(path: &[u8], agent: &[u8]) -> Record {
    Record {
        time_ms: 1_798_761_599_123,
        texts: Texts::new([b"id-1", b"GET", b"acme.cells.localhost", path, b"", agent, b""]),
        version: Version::HTTP_11,
        tls: None,
        client: "127.0.0.1:5000".parse().unwrap(),
        tenant: Some("acme".parse().unwrap()),
        cell: Some("cell-a".parse().unwrap()),
        epoch: Some(7),
        status: Some(200),
        attempts: 2,
        held_us: 1_500,
        up_bytes: 3,
        down_bytes: 4,
        head_us: Some(2_250),
        total_us: 3_000,
        failure: None,
        ending: Ending::Whole,
    }
}

fn line(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    bytes
}

#[test]
fn a_line_says_it_all() {
    let text = String::from_utf8(line(&record(b"/a", b"curl"))).unwrap();
    assert_eq!(
        text,
        "{\"time\":\"2026-12-31T23:59:59.123Z\",\"id\":\"id-1\",\"tenant\":\"acme\",\"cell\":\"cell-a\",\"epoch\":7,\
         \"method\":\"GET\",\"host\":\"acme.cells.localhost\",\"path\":\"/a\",\"protocol\":\"HTTP/1.1\",\
         \"client\":\"127.0.0.1:5000\",\"status\":200,\"attempts\":2,\"held_ms\":1.5,\"up_bytes\":3,\"down_bytes\":4,\
         \"head_ms\":2.25,\"total_ms\":3.0,\"ended\":\"whole\",\"user_agent\":\"curl\"}\n"
    );
}

proptest! {
    #[test]
    fn whatever_a_client_says_is_one_bounded_line_of_json(
        path in proptest::collection::vec(any::<u8>(), 0..3_000),
        agent in proptest::collection::vec(any::<u8>(), 0..3_000),
    ) {
        let bytes = line(&record(&path, &agent));
        prop_assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert!(bytes.iter().all(|byte| *byte >= b' ' || *byte == b'\n'));
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let cut = &path[..path.len().min(line::PATH_MAX_BYTES)];
        prop_assert_eq!(value["path"].as_str().unwrap(), String::from_utf8_lossy(cut));
    }
}

/// Takes so many bytes, then nothing until there is room again.
#[derive(Clone, Default)]
struct Disk {
    content: Arc<Mutex<Vec<u8>>>,
    room: Arc<AtomicUsize>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room.load(Ordering::SeqCst).min(bytes.len());
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room.fetch_sub(room, Ordering::SeqCst);
        self.content.lock().extend_from_slice(&bytes[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Disk {}

#[test]
fn a_full_disk_costs_lines_but_never_leaves_a_torn_one() {
    let one = line(&record(b"/a", b"")).len();
    for room in 0..3 * one {
        let (disk, counted) = (Disk::default(), counters());
        let mut writer = Writer::new(Box::new(disk.clone()), counted.clone());
        disk.room.store(room, Ordering::SeqCst);
        for _ in 0..3 {
            writer.take(Message::Record(Box::new(record(b"/a", b""))));
        }
        writer.write();
        // Still full: nothing changes.
        writer.write();
        disk.room.store(1_000_000, Ordering::SeqCst);
        writer.take(Message::Record(Box::new(record(b"/b", b""))));
        writer.write();
        let content = String::from_utf8(disk.content.lock().clone()).unwrap();
        let lines: Vec<Value> = content.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.last().unwrap()["path"], "/b");
        assert_eq!(counted.written.get(), lines.len() as u64, "with room for {room}");
        assert_eq!(counted.dropped_by_disk.get(), 4 - lines.len() as u64, "with room for {room}");
    }
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_survived() {
    let counted = counters();
    let config = AccessLogConfig::new(LogTarget::File("/dev/full".into()));
    let log = AccessLog::open(config, counted.clone()).unwrap();
    for _ in 0..10 {
        log.write(record(b"/a", b""));
    }
    log.finish().await;
    assert_eq!((counted.written.get(), counted.dropped_by_disk.get()), (0, 10));
}

#[test]
fn a_full_queue_drops_and_never_waits() {
    let (messages, _kept) = sync_channel(2);
    let (_ending, ended) = watch::channel(());
    let counted = counters();
    let queue = Queue { messages, state: Arc::default(), counters: counted.clone(), ended };
    let config = AccessLogConfig::new(LogTarget::Stdout);
    let log = AccessLog { config, queue: Arc::new(queue) };
    for _ in 0..5 {
        log.write(record(b"/a", b""));
    }
    assert_eq!(counted.dropped_by_queue.get(), 3);
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let config = AccessLogConfig::new(LogTarget::File(path.clone()));
    let log = AccessLog::open(config.clone(), counters()).unwrap();
    log.write(record(b"/a", b""));
    std::fs::rename(&path, folder.path().join("access.log.1")).unwrap();
    let log = log.configured(config).unwrap();
    log.write(record(b"/b", b""));
    log.finish().await;
    let new = std::fs::read_to_string(&path).unwrap();
    assert!(new.contains("/b"), "{new}");
    let both = std::fs::read_to_string(folder.path().join("access.log.1")).unwrap() + &new;
    assert_eq!(both.lines().count(), 2);
}

#[test]
fn sampling_keeps_its_share_and_errors_can_be_kept_beside_it() {
    let (messages, _kept) = sync_channel(1);
    let (_ending, ended) = watch::channel(());
    let queue = Arc::new(Queue { messages, state: Arc::default(), counters: counters(), ended });
    let config =
        |sample, always_errors| AccessLogConfig { sample, always_errors, ..AccessLogConfig::new(LogTarget::Stdout) };
    let log = |sample, always_errors| AccessLog { config: config(sample, always_errors), queue: Arc::clone(&queue) };
    let drawn = |log: &AccessLog| (0..10_000).filter(|_| log.draw() == Some(true)).count();
    assert_eq!(drawn(&log(1.0, false)), 10_000);
    assert_eq!(drawn(&log(0.0, false)), 0);
    assert!((500..1_500).contains(&drawn(&log(0.1, false))));
    assert_eq!(log(0.0, true).draw(), Some(false));
    assert_eq!(log(0.0, false).draw(), None);
}

/// What a request's thread pays, for each of the two places where a line can be made.
#[test]
#[ignore = "a measurement, which `make measure` runs"]
#[allow(clippy::print_stdout)]
fn what_a_record_costs() {
    const ROUNDS: u32 = 200_000;
    let agent = b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36";
    let began = Instant::now();
    for _ in 0..ROUNDS {
        std::hint::black_box(Box::new(record(b"/some/path/of/usual/length", agent)));
    }
    let made = began.elapsed();
    let began = Instant::now();
    for _ in 0..ROUNDS {
        std::hint::black_box(line(&record(b"/some/path/of/usual/length", agent)));
    }
    println!("record: {:?}; record and line: {:?}", made / ROUNDS, began.elapsed() / ROUNDS);
}
