//! etcd's numbers, keys and errors in the contract's words, and back.

use cellway_core::ids::Revision;
use etcd_client::{CompareOp, PutOptions, TxnOp};

use crate::contract::{Compare, Entry, Key, LeaseId, Txn, Write};
use crate::error::StoreError;

/// gRPC status codes after which asking again does not help.
const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const FAILED_PRECONDITION: i32 = 9;
const UNIMPLEMENTED: i32 = 12;
const UNAUTHENTICATED: i32 = 16;

/// The text with which the gRPC client gives up on an answer above its limit.
const ANSWER_TOO_LARGE: &str = "message length too large";

pub(crate) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

pub(crate) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// The place of our keys in etcd's key space.
#[derive(Debug, Clone)]
pub(crate) struct KeySpace {
    prefix: String,
}

impl KeySpace {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{}/", prefix.trim_end_matches('/')) }
    }

    pub(crate) fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The end of the range of keys that begin with `prefix`.
    pub(crate) fn end_of(&self, prefix: &str) -> Vec<u8> {
        let mut end = self.full(prefix).into_bytes();
        if let Some(last) = end.last_mut() {
            // No byte of UTF-8 is 0xff.
            *last += 1;
        }
        end
    }

    pub(crate) fn own(&self, full: &[u8]) -> Result<Key, StoreError> {
        let text = std::str::from_utf8(full).ok();
        let own = text.and_then(|text| text.strip_prefix(&self.prefix));
        own.map(str::to_owned).ok_or_else(|| StoreError::Corrupt {
            place: String::from_utf8_lossy(full).into_owned(),
            detail: "not a key of ours".to_owned(),
        })
    }

    pub(crate) fn entry(&self, kv: &etcd_client::KeyValue) -> Result<Entry, StoreError> {
        Ok(Entry {
            key: self.own(kv.key())?,
            value: kv.value().into(),
            mod_revision: revision(kv.mod_revision()),
            create_revision: revision(kv.create_revision()),
        })
    }

    pub(crate) fn txn(&self, txn: &Txn) -> etcd_client::Txn {
        let compares: Vec<_> = txn.compares.iter().map(|compare| self.compare(compare)).collect();
        let writes: Vec<_> = txn.writes.iter().map(|write| self.write(write)).collect();
        etcd_client::Txn::new().when(compares).and_then(writes)
    }

    fn compare(&self, compare: &Compare) -> etcd_client::Compare {
        let key = self.full(compare.key());
        match compare {
            Compare::ModRevision { is, .. } => etcd_client::Compare::mod_revision(key, CompareOp::Equal, number(*is)),
            Compare::Absent { .. } => etcd_client::Compare::create_revision(key, CompareOp::Equal, 0),
            Compare::Present { .. } => etcd_client::Compare::create_revision(key, CompareOp::Greater, 0),
        }
    }

    fn write(&self, write: &Write) -> TxnOp {
        let key = self.full(write.key());
        match write {
            Write::Put { value, lease, .. } => {
                let options = lease.map(|id| PutOptions::new().with_lease(lease_number(id)));
                TxnOp::put(key, value.to_vec(), options)
            }
            Write::Delete { .. } => TxnOp::delete(key, None),
        }
    }
}

pub(crate) fn lease_number(lease: LeaseId) -> i64 {
    lease.0.cast_signed()
}

/// What became of a request. Whatever is not known to be final is `Unavailable`.
pub(crate) fn from_etcd(doing: &'static str, error: etcd_client::Error) -> StoreError {
    use etcd_client::Error as E;
    match &error {
        E::GRpcStatus(status) => {
            let message = status.message();
            let refused = [INVALID_ARGUMENT, PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED, UNAUTHENTICATED];
            if message.contains("lease not found") {
                StoreError::LeaseGone
            } else if message.contains("revision has been compacted") || message.contains("is a future revision") {
                StoreError::Compacted { at: Revision(0) }
            } else if refused.contains(&(status.code() as i32)) {
                StoreError::Refused { reason: message.to_owned() }
            } else {
                StoreError::unavailable(doing, error)
            }
        }
        E::LeaseKeepAliveError(reason) if reason.contains("not found") => StoreError::LeaseGone,
        E::InvalidArgs(_) | E::InvalidUri(_) | E::InvalidMetadataValue(_) | E::EndpointError(_) => {
            StoreError::Refused { reason: error.to_string() }
        }
        _ => StoreError::unavailable(doing, error),
    }
}

/// Whether an answer was given up on because of its size; a smaller one may be asked for.
pub(crate) fn is_too_large(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => status.message().contains(ANSWER_TOO_LARGE),
        _ => false,
    }
}
