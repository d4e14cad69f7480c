//! How long a router takes to start with many certificates, and what they cost once they are asked for:
//! `cargo run -p cellway-router --example certificates -- 100000`.

use anyhow::Context;
use cellway_core::hostname::Hostname;
use cellway_router::tls::{FrontTls, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// As on nearly all machines.
const PAGE_BYTES: i64 = 4_096;

fn main() -> anyhow::Result<()> {
    let count: usize =
        std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse()).context("a number is needed")?;
    let dir = tempfile::tempdir()?;
    let began = Instant::now();
    make(dir.path(), count)?;
    say(&format!("{count} certificates made in {:.1?}", began.elapsed()))?;

    let before = resident_bytes()?;
    let began = Instant::now();
    let front = FrontTls::open(&TlsConfig { folder: Some(dir.path().to_owned()), ..TlsConfig::default() })?;
    say(&format!("start: {:.1?}, {} KiB more", began.elapsed(), (resident_bytes()? - before) / 1024))?;

    let covers = front.server().covers;
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    for index in 0..count {
        let name = name(index);
        let one = Instant::now();
        anyhow::ensure!(covers.covers(Some(&name), &Hostname::from_text(&name)?), "{name} is not covered");
        slowest = slowest.max(one.elapsed());
    }
    let mean = began.elapsed() / u32::try_from(count)?;
    say(&format!("first use of each: {mean:.1?} on average, {slowest:.1?} at most"))?;
    say(&format!("all of them used once: {} MiB more", (resident_bytes()? - before) / (1024 * 1024)))?;

    let name = name(count - 1);
    let host = Hostname::from_text(&name)?;
    let began = Instant::now();
    for _ in 0..100_000 {
        anyhow::ensure!(covers.covers(Some(&name), &host), "{name} is not covered");
    }
    say(&format!("one that is ready: {:.1?}", began.elapsed() / 100_000))
}

fn name(index: usize) -> String {
    format!("tenant-{index}.example")
}

/// One key for all of them: making keys is not what is measured.
fn make(dir: &Path, count: usize) -> anyhow::Result<()> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let key_pem = key.serialize_pem();
    for index in 0..count {
        let name = name(index);
        let certificate = CertificateParams::new([name.clone()])?.signed_by(&key, &ca)?;
        std::fs::write(dir.join(format!("{name}.crt")), certificate.pem())?;
        let key_file = dir.join(format!("{name}.key"));
        let mut key_file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(key_file)?;
        key_file.write_all(key_pem.as_bytes())?;
    }
    Ok(())
}

fn resident_bytes() -> anyhow::Result<i64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: i64 = text.split(' ').nth(1).context("no count of pages")?.parse()?;
    Ok(pages * PAGE_BYTES)
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
