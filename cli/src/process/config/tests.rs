//! Configuration files: the shipped examples load, and mistakes are shown where they are.

use super::*;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

fn complaint(text: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("bad.yaml");
    std::fs::write(&file, text).expect("written");
    format!("{:#}", check(&file).expect_err("must be refused"))
}

#[test]
fn every_shipped_example_loads() {
    let mut roles = Vec::new();
    for entry in std::fs::read_dir(shipped()).expect("config/ is there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            roles.push(check(&path).unwrap_or_else(|error| panic!("{error:#}")));
        }
    }
    for role in [Role::Router, Role::ControlPlane, Role::Agent, Role::App] {
        assert!(roles.contains(&role), "no example of {role:?}");
    }
}

#[test]
fn a_mistake_is_shown_with_its_line_and_what_was_expected() {
    let good =
        "role: app\nname: cell-a\nversion: '1'\nlisten: 127.0.0.1:8100\ndata_dir: /tmp/x\nlongest_request_ms: 5\n";
    let cases = [
        (good.replace("name:", "nmae:"), vec!["line 2", "nmae", "name"]),
        (format!("{good}name: again\n"), vec!["line 7", "duplicate", "name", "7 | name: again"]),
        (good.replace("longest_request_ms: 5", "longest_request_ms: soon"), vec!["line 6", "soon"]),
        (good.replace("127.0.0.1", "10.0.0.1"), vec!["line 4", "loopback"]),
        (good.replace("version: '1'\n", ""), vec!["version"]),
        (good.replace("role: app", "role: ap"), vec!["line 1", "router", "control-plane"]),
        ("role: [".to_owned(), vec!["line 1"]),
    ];
    for (text, wanted) in cases {
        let said = complaint(&text);
        for word in wanted {
            assert!(said.contains(word), "{word:?} is not in:\n{said}");
        }
    }
}

#[test]
fn a_mangled_file_is_refused_or_read_and_never_breaks_the_reader() {
    fn read_as<T: RoleFile>(text: &str) {
        let _ = parse::<T>(Path::new("mangled.yaml"), text).map(drop).map_err(|error| error.to_string());
    }
    let every_role = [read_as::<RouterFile>, read_as::<ControlPlaneFile>, read_as::<AgentFile>, read_as::<AppFile>];
    for (name, read_it) in ["router", "control-plane", "agent", "app"].into_iter().zip(every_role) {
        let text = std::fs::read_to_string(shipped().join(format!("{name}.yaml"))).expect("an example");
        // Comments that hold an example become keys, other ones go.
        let keys = text.lines().map(|line| line.strip_prefix("# ").filter(|line| line.contains(": [")).unwrap_or(line));
        let dense: String = keys.filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        for at in (0..dense.len()).filter(|at| dense.is_char_boundary(*at)) {
            let (before, behind) = dense.split_at(at);
            for piece in ["\"", ": ", "[", "{", "- ", "\n", "\t", "&a ", "*a", "!!int ", "\0", "é", "~"] {
                read_it(&format!("{before}{piece}{behind}"));
            }
            read_it(before);
            read_it(behind);
        }
    }
}

/// The router's example with these further keys.
fn router_with(keys: &str) -> anyhow::Result<RouterFile> {
    let text = std::fs::read_to_string(shipped().join("router.yaml")).expect("an example");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("router.yaml");
    std::fs::write(&file, format!("{text}{keys}\n")).expect("written");
    load::<RouterFile>(&file)
}

#[test]
fn what_a_router_believes_of_others_is_checked_in_its_lines() {
    let with = router_with;
    let naming = "tenant_from: {trusted: ['::1'], header: x-tenant, path_prefix: /t/, strip_path_prefix: true}";
    let file = with(&format!("trusted_proxies: [10.0.0.0/8]\ntrusted_field: forwarded\n{naming}")).expect("good");
    let forwarding = file.forwarding();
    assert!(forwarding.x_forwarded && forwarding.field == cellway_router::TrustedField::Forwarded);
    assert!(forwarding.trusted.contain("10.1.2.3".parse().expect("an address")));
    let naming = file.tenant_from.expect("given").naming();
    assert!(naming.header.is_some() && naming.path_prefix.is_some() && naming.strip_path_prefix);
    assert!(with("proxy_protocol: {trusted: [10.0.0.0/8]}").expect("good").proxy_protocol.is_some());
    for (keys, word) in [
        ("proxy_protocol: {}", "trusted"),
        ("trusted_proxies: [10.0.0.1/8]", "write 10.0.0.0/8"),
        ("trusted_proxies: [ten]", "ten"),
        ("trusted_field: x-real-ip", "x-forwarded-for"),
        ("tenant_from: {header: x-tenant}", "trusted"),
        ("tenant_from: {trusted: ['::1'], header: host}", "meaning of its own"),
        ("tenant_from: {trusted: ['::1'], path_prefix: t}", "path prefix"),
    ] {
        let said = format!("{:#}", with(keys).map(drop).expect_err(keys));
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

#[test]
fn where_a_router_hands_over_is_checked() {
    let with = router_with;
    assert!(with("").expect("good").handover().is_none());
    let handover = with("handover: /run/cellway/router.sock").expect("good").handover().expect("given");
    assert_eq!((handover.ready_ms, handover.delay_ms), (30_000, 30_000), "as long as connections may be idle");
    let impatient = with("handover: /run/r\nhandover_delay_ms: 0\nhandover_ready_ms: 5").expect("good").handover();
    assert_eq!(impatient.map(|handover| (handover.ready_ms, handover.delay_ms)), Some((5, 0)));
    for (keys, word) in [
        ("handover: router.sock".to_owned(), "absolute"),
        (format!("handover: /{}", "x".repeat(90)), "91 bytes"),
        ("handover_ready_ms: 5".to_owned(), "need `handover`"),
    ] {
        let said = format!("{:#}", with(&keys).map(drop).expect_err(&keys));
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}
