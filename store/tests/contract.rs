//! The store contract, held to by every implementation: embedded in memory, embedded on disk, a real
//! etcd, and the fake one that simulations use.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod faults;
mod model;
mod support;

use std::sync::Arc;

use cellway_store::{EmbeddedStore, Store};

/// Makes one test per case for the stores that `$open` opens; what else it returns is kept
/// until the test has ended.
macro_rules! contract {
    ($store:ident, $open:expr; $($case:ident),* $(,)?) => {
        mod $store {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (store, _kept) = $open.await;
                    let store: Arc<dyn Store> = Arc::new(store);
                    cases::$case(store).await;
                }
            )*
        }
    };
}

macro_rules! every_store {
    ($($case:ident),* $(,)?) => {
        contract!(in_memory, async { (EmbeddedStore::in_memory().unwrap(), ()) }; $($case),*);
        contract!(on_disk, on_disk_store(); $($case),*);
        contract!(etcd, etcd_store(); $($case),*);
        contract!(fake_etcd, fake_etcd_store(); $($case),*);
    };
}

async fn on_disk_store() -> (EmbeddedStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (EmbeddedStore::open(dir.path()).unwrap(), dir)
}

async fn etcd_store() -> (cellway_store::EtcdStore, support::Etcd) {
    let etcd = support::Etcd::start().await;
    (etcd.store().await, etcd)
}

async fn fake_etcd_store() -> (cellway_store::EtcdStore, support::FakeMember) {
    let member = support::FakeMember::start();
    (member.store().await, member)
}

every_store!(
    a_store_keeps_its_id,
    a_read_tells_the_record_and_the_revision_it_was_read_at,
    a_commit_at_the_expected_revision_succeeds_and_a_stale_one_conflicts,
    an_absent_key_counts_as_written_at_revision_zero,
    a_transaction_writes_all_of_its_keys_or_none,
    presence_and_absence_can_be_required,
    a_transaction_that_changes_nothing_makes_no_revision,
    a_key_made_again_has_a_new_create_revision,
    of_fifty_tasks_that_create_one_key_one_wins,
    of_many_concurrent_swaps_none_is_lost,
    pages_show_one_revision_while_writes_go_on,
    a_listing_may_start_anywhere,
    pages_at_a_revision_never_reached_are_refused,
    a_watch_brings_every_change_in_order_one_batch_per_revision,
    a_watch_resumes_after_any_revision,
    a_watch_sees_its_prefix_and_nothing_beside_it,
    a_watch_after_a_revision_never_reached_ends_instead_of_staying_silent,
    a_watcher_that_is_dropped_and_polled_again_loses_nothing,
    a_lease_that_is_not_kept_alive_takes_its_keys_with_it,
    a_lease_that_is_kept_alive_lasts,
    a_revoked_lease_deletes_its_keys_at_one_revision,
    a_key_written_again_without_its_lease_outlives_it,
    a_lease_that_has_ended_can_neither_be_kept_nor_written_under,
    what_is_too_large_or_malformed_is_refused,
    a_follower_brings_a_snapshot_and_then_every_change,
    a_follower_in_parts_brings_everything_once,
);
