//! Figures, and a bound on them: `scripts/postgres-move`. A schema of 1 GB under 200 writes a second, and another tenant's
//! 1,500 beside it, goes to and fro between two servers that sync to disk as in service.

use super::server::bin_dir;
use super::stage::{Cell, Hop, Stage, Writers, acme, id};
use crate::config::PostgresVerify;
use std::process::Command;
use std::time::{Duration, Instant};

/// What a tenant may feel of a move, at the 99th percentile.
const BLACKOUT_MAX_MS: u128 = 100;

/// What the copy may take, compared with a parallel dump and restore under the same load.
const COPY_SHARE_MAX: f64 = 1.3;

/// The freeze budget within which a prediction has to be.
const BUDGET_MS: u64 = 250;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Three tables of about a third each, with the indexes that one has.
async fn fill(cell: &Cell, megabytes: u64) {
    let rows = megabytes * 1_000_000 / 3 / 330;
    for table in ["items", "events", "notes"] {
        let sql = format!(
            "SET ROLE acme; CREATE TABLE acme.{table} (id bigserial PRIMARY KEY, parent bigint NOT NULL, \
                 at timestamptz NOT NULL, state text NOT NULL, body text NOT NULL);
             INSERT INTO acme.{table} (parent, at, state, body)
                 SELECT n % 1000, now() - n * interval '1 s', 'state ' || n % 7, repeat(md5(n::text), 7)
                 FROM generate_series(1, {rows}) n;
             CREATE INDEX ON acme.{table} (parent, at)"
        );
        cell.server.run(&sql).await;
    }
    cell.server.run("ANALYZE").await;
}

/// What anyone would do by hand: `pg_dump -j2`, then `pg_restore -j2`.
fn dump_and_restore(from: &Cell, to: &Cell) -> Duration {
    let dir = tempfile::TempDir::new().unwrap();
    let dump = dir.path().join("dump");
    let run = |tool: &str, cell: &Cell, arguments: &[&str]| {
        let mut command = Command::new(bin_dir().join(tool));
        command.args(arguments).args(["-U", "cellway", "-h"]).arg(cell.server.dir.path());
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    run("createdb", to, &["scratch"]);
    let begun = Instant::now();
    run("pg_dump", from, &["-Fd", "-j2", "-n", "acme", "-f", dump.to_str().unwrap(), "-d", "postgres"]);
    run("pg_restore", to, &["-j2", "-d", "scratch", dump.to_str().unwrap()]);
    let took = begun.elapsed();
    run("dropdb", to, &["scratch"]);
    took
}

/// Passes until the freeze is predicted to fit, as the control plane waits for it.
async fn follow(hop: &Hop<'_>) -> u64 {
    for _ in 0..200 {
        let freeze_ms = hop.pull().await.unwrap().freeze_ms.unwrap();
        if freeze_ms <= BUDGET_MS {
            return freeze_ms;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the predicted freeze stays over {BUDGET_MS} ms: the tenant is not frozen");
}

struct Blackout {
    switch: Duration,
    steps: [Duration; 4],
    between_writes: Duration,
}

/// From the hold to the moment that writers may go on, and between the two writes around it.
async fn switch(hop: &Hop<'_>, writers: &Writers) -> Blackout {
    // As the order that stands from the copy on.
    hop.from.driver.offer(&acme());
    tokio::time::sleep(Duration::from_millis(200)).await;
    writers.hold();
    let steps = hop.switch().await.unwrap();
    let switch = steps.iter().sum();
    let released = Instant::now();
    writers.lead_to(&hop.to.server);
    hop.keep_way_back().await;
    writers.until_written(20).await;
    let written = writers.acknowledged.lock();
    let last = written.iter().map(|(_, at)| *at).filter(|at| *at < released).max().unwrap();
    let first = written.iter().map(|(_, at)| *at).filter(|at| *at >= released).min().unwrap();
    Blackout { switch, steps, between_writes: first - last }
}

fn percentile(mut values: Vec<u128>, share: f64) -> u128 {
    values.sort_unstable();
    let last = values.len() - 1;
    values[((last as f64) * share).ceil() as usize]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes, which `make postgres-move` runs"]
async fn a_gigabyte_moves_within_its_budget_and_nothing_is_lost() {
    let (megabytes, moves) = (setting("MEGABYTES", 1_000), setting("MOVES", 20));
    let verify = match std::env::var("VERIFY").as_deref() {
        Ok("none") => PostgresVerify::None,
        Ok("checksums") => PostgresVerify::Checksums,
        _ => PostgresVerify::Counts,
    };
    let memory = ["shared_buffers=1GB", "maintenance_work_mem=256MB"];
    let stage = Stage::with(&memory, |config| (config.verify, config.slot_wait_ms) = (verify, 30_000)).await;
    stage.begin_acme().await;
    let (a, b) = (&stage.a, &stage.b);
    fill(a, megabytes).await;
    a.server.run(&super::stage::SCHEMA.replace("acme", "noisy")).await;
    let size = a.server.count("SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relkind = 'r' AND relnamespace = 'acme'::regnamespace").await;
    let beside = usize::try_from(setting("BESIDE", 15)).unwrap();
    let noisy = Writers::of("noisy", (beside, Duration::from_millis(10)), &a.server);
    let writers = Writers::of("acme", (4, Duration::from_millis(20)), &a.server);
    let by_hand = dump_and_restore(a, b);
    println!("schema {} MB, verify {verify:?}; dump and restore by hand {by_hand:.1?}", size / 1_000_000);

    let mut blackouts = Vec::new();
    let begun = Instant::now();
    let (noisy_before, acme_before) = (noisy.written(), writers.written());
    let mut copy = Duration::ZERO;
    let (mut here, mut there) = ((a, "new-1".to_owned()), (b, "m-1".to_owned()));
    for n in 1..=moves {
        let name = format!("m-{n}");
        let hop = Hop { id: &name, from: here.0, from_home: &here.1, to: there.0, home: &there.1, epoch: 4 + n };
        if n == 1 {
            hop.to.driver.prepare(&hop.move_id(), &acme(), &id(hop.home), Some("cell-a")).await.unwrap();
            let copying = Instant::now();
            hop.pull().await.unwrap();
            copy = copying.elapsed();
            println!("copy {copy:.1?}, {:.2} of that by hand", copy.as_secs_f64() / by_hand.as_secs_f64());
        }
        let predicted_ms = follow(&hop).await;
        let blackout = switch(&hop, &writers).await;
        println!(
            "{name}: predicted {predicted_ms} ms, fence to release {:.0?} {:.0?}, between two writes {:.0?}",
            blackout.switch, blackout.steps, blackout.between_writes
        );
        blackouts.push(blackout);
        writers.until_written(100).await;
        (here, there) = (there, here);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rate = |before: usize, writers: &Writers| (writers.written() - before) as f64 / seconds;
    println!(
        "writes a second: {:.0} of the tenant, {:.0} beside it",
        rate(acme_before, &writers),
        rate(noisy_before, &noisy)
    );
    let written = writers.written();
    let lost = writers.stop_and_count_lost(&here.0.server).await;
    let of = |pick: fn(&Blackout) -> Duration| blackouts.iter().map(|it| pick(it).as_millis()).collect::<Vec<_>>();
    let (switches, gaps) = (of(|it| it.switch), of(|it| it.between_writes));
    println!(
        "fence to release: p50 {} ms, p99 {} ms; between two writes: p50 {} ms, p99 {} ms; lost {lost} of {written}",
        percentile(switches.clone(), 0.5),
        percentile(switches.clone(), 0.99),
        percentile(gaps.clone(), 0.5),
        percentile(gaps.clone(), 0.99)
    );
    assert_eq!(lost, 0);
    assert!(percentile(gaps, 0.99) <= BLACKOUT_MAX_MS);
    assert!(copy.as_secs_f64() <= by_hand.as_secs_f64() * COPY_SHARE_MAX);
}
