//! How many connections each client address has open at a listener.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::hashes::Hashes;

/// The counts of one listener, shared by its threads.
pub(crate) struct Addresses {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize, Hashes>>,
}

/// One counted connection, for as long as it lives.
pub(crate) struct Counted {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: Mutex::default() })
    }

    /// `None` if the address has as many as it may.
    pub(crate) fn count(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let address = address.to_canonical();
        let mut all = self.open.lock();
        let open = all.get(&address).copied().unwrap_or(0);
        if open >= self.max {
            return None;
        }
        all.insert(address, open + 1);
        Some(Counted { addresses: Arc::clone(self), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.addresses.open.lock();
        if let Some(open) = all.get_mut(&self.address) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.address);
            }
        }
    }
}
