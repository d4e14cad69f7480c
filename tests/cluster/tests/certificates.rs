//! Certificates of the store: sealed anew after a change of the secret, so that the one before can be taken away.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cellway_api::certificates::SetCertificate;
use cellway_api::sealing::SecretFiles;
use cellway_cluster_tests::*;

const HOSTS: [&str; 2] = ["a.example", "b.example"];

fn issue(host: &str) -> SetCertificate {
    let issued = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    SetCertificate { certificate: issued.cert.pem(), key: issued.signing_key.serialize_pem() }
}

fn write(path: &Path, secret: &str) {
    std::fs::write(path, format!("{secret}: a secret of the tests with more than 32 bytes")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_sealed_anew_after_a_change_of_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (current, previous) = (dir.path().join("current"), dir.path().join("previous"));
    let secrets = |first: &str, second: &str| {
        write(&current, first);
        write(&previous, second);
    };
    let mut cluster = Cluster::new();
    cluster.config.certificate_secrets =
        Some(SecretFiles { secret: current.clone(), previous: Some(previous.clone()) });
    secrets("one", "none");
    let replica = cluster.start().await;
    let client = &replica.client;
    for host in HOSTS {
        client.set_certificate(host, &issue(host)).await.unwrap();
    }
    let sealed_with = async || -> Vec<String> {
        client.certificates().await.unwrap().items.into_iter().map(|view| view.sealed_with).collect()
    };
    let first = sealed_with().await;
    assert_eq!(first[0], first[1]);

    secrets("two", "one");
    let again = client.seal_certificates_again().await.unwrap();
    assert_eq!((again.sealed, again.left, again.refused.len()), (2, 0, 0));
    assert_ne!(again.sealed_with, first[0]);
    let seen = eventually("both are seen", async || Some(sealed_with().await).filter(|seen| !seen.contains(&first[0])));
    assert_eq!(seen.await, [again.sealed_with.clone(), again.sealed_with.clone()]);

    // Without the secret that sealed them nothing is lost: they are told of, and stay as they are.
    secrets("four", "three");
    let refused = client.seal_certificates_again().await.unwrap();
    let names: Vec<_> = refused.refused.iter().map(|one| one.name.as_str()).collect();
    assert_eq!((refused.sealed, names), (0, HOSTS.to_vec()));
    secrets("two", "none");
    let nothing = client.seal_certificates_again().await.unwrap();
    assert_eq!((nothing.sealed, nothing.refused.len()), (0, 0), "the previous secret is not needed any more");
    assert_eq!(sealed_with().await, [again.sealed_with.clone(), again.sealed_with]);
}
