//! Namespaces of a test's own: its loopback, its packet filter, its mounts, its processes. All of it is gone when the
//! test ends, however it ends. It takes root.

use crate::tool;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Set within.
const VARIABLE: &str = "CELLWAY_TEST_SANDBOX";

/// Runs the test of this name within namespaces of its own, if this is not them yet; true if that was done.
pub fn was_run_inside(test: &str) -> bool {
    if std::env::var_os(VARIABLE).is_some() {
        // After the runner's own words, so that what a test prints begins a line.
        println!();
        run(&tool("ip", "iproute2"), &["link", "set", "lo", "up"]);
        return false;
    }
    let own = std::env::current_exe().expect("this program");
    let done = Command::new(tool("unshare", "util-linux"))
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(own)
        .args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, "1")
        .output()
        .expect("unshare runs");
    let (said, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    println!("{said}");
    assert!(done.status.success(), "{test}, in namespaces of its own (it takes root): {errors}");
    assert!(said.contains(" 1 passed"), "there is no test {test}");
    true
}

/// A small disk, mounted at `dir`.
pub fn mount_small_disk(dir: &Path, size_bytes: u64) {
    std::fs::create_dir_all(dir).expect("a directory");
    let (size, dir) = (format!("size={size_bytes}"), dir.display().to_string());
    run(&tool("mount", "mount"), &["-t", "tmpfs", "-o", &size, "tmpfs", &dir]);
}

/// From now on every packet to or from these processes is lost, as if the host that they are on were gone.
pub fn lose_packets_of(ids: &[u32]) {
    let nft = tool("nft", "nftables");
    run(&nft, &["add table inet lost"]);
    run(&nft, &["add chain inet lost out { type filter hook output priority 0; }"]);
    let lose = |what: &str| run(&nft, &[&format!("add rule inet lost out {what} drop")]);
    let sockets: Vec<Socket> = ids.iter().flat_map(|id| sockets_of(*id)).collect();
    let listening: BTreeSet<u16> = sockets.iter().filter(|one| one.listens).map(|one| one.local).collect();
    assert!(!listening.is_empty(), "processes that listen nowhere");
    for port in &listening {
        lose(&format!("tcp dport {port}"));
        lose(&format!("tcp sport {port}"));
    }
    // A port of the kernel's choice may be chosen again, for somebody who has not gone: so each with its other end.
    for Socket { local, remote, .. } in sockets.iter().filter(|one| !listening.contains(&one.local)) {
        lose(&format!("tcp sport {local} tcp dport {remote}"));
        lose(&format!("tcp sport {remote} tcp dport {local}"));
    }
}

/// The ports of one TCP socket.
struct Socket {
    local: u16,
    remote: u16,
    listens: bool,
}

/// The state of a listening socket in the kernel's table.
const LISTENS: &str = "0A";

fn sockets_of(id: u32) -> Vec<Socket> {
    let links = std::fs::read_dir(format!("/proc/{id}/fd")).expect("its files").flatten();
    let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    let inodes: BTreeSet<String> = targets
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, remote) = (port(fields.get(1)?)?, port(fields.get(2)?)?);
        inodes.contains(*fields.get(9)?).then_some(Socket { local, remote, listens: fields[3] == LISTENS })
    };
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    table.lines().skip(1).filter_map(socket).collect()
}

fn run(program: &Path, args: &[&str]) {
    let done = Command::new(program).args(args).output().expect("it runs");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{} {args:?}: {errors}", program.display());
}
