//! The etcd of a fleet: one member or several, and what tests do to it directly.

use crate::eventually;
use crate::process::Process;
use etcd_client::{Client, CompactionOptions, ConnectOptions, GetOptions};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// What every key of a fleet begins with.
pub const PREFIX: &str = "/cellway/v1/";

/// The longest request of a test's own.
const REQUEST_MS: u64 = 2_000;

/// The members; they are killed when dropped.
pub struct Etcd {
    /// One process each.
    pub members: Vec<Process>,
    pub(super) clients: Vec<SocketAddr>,
}

impl Etcd {
    /// kill -9 of all members.
    pub fn kill(&mut self) {
        self.members.iter_mut().for_each(Process::kill);
    }

    /// Starts all members again, on their data.
    pub fn restart(&mut self) {
        self.members.iter_mut().for_each(Process::restart);
    }

    /// A client of one member.
    pub async fn client(&self, member: usize) -> Option<Client> {
        let limit = Duration::from_millis(REQUEST_MS);
        let options = ConnectOptions::new().with_connect_timeout(limit).with_timeout(limit);
        Client::connect([format!("http://{}", self.clients[member])], Some(options)).await.ok()
    }

    /// A client of a member that answers.
    async fn any(&self) -> Client {
        eventually("a member of etcd answers", async || {
            for member in 0..self.clients.len() {
                if let Some(mut client) = self.client(member).await
                    && client.get("-", None).await.is_ok()
                {
                    return Some(client);
                }
            }
            None
        })
        .await
    }

    /// The member that leads.
    pub async fn leader(&self) -> Option<usize> {
        for member in 0..self.clients.len() {
            let Some(mut client) = self.client(member).await else { continue };
            if let Ok(status) = client.status().await
                && status.leader() != 0
                && status.header().is_some_and(|header| header.member_id() == status.leader())
            {
                return Some(member);
            }
        }
        None
    }

    /// Writes a record as no part of cellway would.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) {
        self.any().await.put(format!("{PREFIX}{key}"), value, None).await.expect("written");
    }

    /// Deletes a record.
    pub async fn delete(&self, key: &str) {
        self.any().await.delete(format!("{PREFIX}{key}"), None).await.expect("deleted");
    }

    /// All records below a prefix, with the revision of their last change.
    pub async fn records(&self, prefix: &str) -> BTreeMap<String, (i64, Vec<u8>)> {
        let options = GetOptions::new().with_prefix();
        let answer = self.any().await.get(format!("{PREFIX}{prefix}"), Some(options)).await.expect("read");
        let record = |kv: &etcd_client::KeyValue| {
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            (key[PREFIX.len()..].to_owned(), (kv.mod_revision(), kv.value().to_vec()))
        };
        answer.kvs().iter().map(record).collect()
    }

    /// Forgets the whole history before now.
    pub async fn compact(&self) {
        let mut client = self.any().await;
        let now = client.get("-", None).await.expect("read").header().expect("a header").revision();
        client.compact(now, Some(CompactionOptions::new().with_physical())).await.expect("compacted");
    }
}
