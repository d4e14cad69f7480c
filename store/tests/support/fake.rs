//! The fake etcd, on a loopback port of this process.

use cellway_fake_etcd::FakeEtcd;
use cellway_store::EtcdStore;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;

use super::config_for;

/// Any number: what matters is that a member keeps it.
const CLUSTER: u64 = 0xce11;

/// It ends when this is dropped.
pub(crate) struct FakeMember {
    pub(crate) etcd: FakeEtcd,
    endpoint: String,
    serving: JoinHandle<()>,
}

impl FakeMember {
    /// Serves an empty one.
    pub(crate) fn start() -> Self {
        let etcd = FakeEtcd::new(CLUSTER);
        let connections = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_nodelay(Some(true));
        let endpoint = format!("http://{}", connections.local_addr().unwrap());
        let member = etcd.clone();
        let serving = tokio::spawn(async move { member.serve(connections).await.unwrap() });
        Self { etcd, endpoint, serving }
    }

    /// A store on it.
    pub(crate) async fn store(&self) -> EtcdStore {
        EtcdStore::connect(config_for(self.endpoint.clone())).await.unwrap()
    }
}

impl Drop for FakeMember {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
