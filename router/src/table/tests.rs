//! The table's promises.

#![allow(clippy::unwrap_used)]

use cellway_core::cell::{CellCondition, CellKind};

use super::*;

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn placed(cell: &str, epoch: u64, held: bool) -> Change {
    let route = TenantRoute::Placed { cell: CellName::new(cell).unwrap(), uid: None, epoch: Epoch(epoch), held };
    Change::Tenant { tenant: tenant("acme"), route, revision: Revision(epoch) }
}

fn cell(name: &str, uid: Option<&str>) -> Change {
    Change::Cell(CellRoute {
        name: CellName::new(name).unwrap(),
        uid: uid.map(|uid| CellUid::new(uid).unwrap()),
        endpoints: vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()],
        condition: CellCondition::Open,
        kind: CellKind::Agent,
    })
}

fn hint(cell: &str, epoch: u64) -> Owner {
    Owner { cell: CellName::new(cell).unwrap(), epoch: Epoch(epoch) }
}

fn table(changes: impl IntoIterator<Item = Change>) -> Table {
    let table = Table::default();
    for change in changes {
        table.apply(change);
    }
    table
}

fn unnamed(table: &Table, named: &[Subject]) -> Vec<Change> {
    let mut listing = table.begin_listing();
    named.iter().for_each(|subject| table.name(&mut listing, subject));
    assert!(listing.close().is_empty());
    let mut changes = Vec::new();
    table.unnamed(&listing, |change| changes.push(change));
    let is_tenant = |change: &&Change| matches!(change, Change::TenantRemoved(_));
    assert_eq!(changes.iter().filter(is_tenant).count(), table.unnamed_tenants());
    changes
}

#[test]
fn a_router_never_lowers_an_epoch() {
    let table = table([placed("a", 5, false)]);
    assert_eq!(table.apply(placed("b", 4, false)), Applied::LowerEpoch);
    assert_eq!(table.target(&tenant("acme")).unwrap().owner(), hint("a", 5));
    assert_eq!(table.apply(Change::TenantRemoved(tenant("acme"))), Applied::Changed);
    assert!(table.target(&tenant("acme")).is_none());
    assert_eq!(table.apply(placed("b", 4, false)), Applied::LowerEpoch);
    assert_eq!(table.apply(placed("b", 6, false)), Applied::Changed);
    assert_eq!(table.target(&tenant("acme")).unwrap().owner(), hint("b", 6));
}

#[test]
fn a_hint_is_kept_until_the_tenants_next_change() {
    let table = table([cell("a", None), cell("b", None), placed("a", 5, true)]);
    let held = table.target(&tenant("acme")).unwrap();
    assert!(held.held);
    assert!(table.take_hint(&tenant("acme"), &held, hint("b", 6), 0));
    let hinted = table.target(&tenant("acme")).unwrap();
    assert_eq!((hinted.owner(), hinted.held), (hint("b", 6), false));
    assert_eq!(table.apply(placed("a", 5, true)), Applied::Same);
    assert_eq!(table.target(&tenant("acme")).unwrap().owner(), hint("b", 6));
    assert_eq!(table.apply(placed("a", 5, false)), Applied::Changed);
    assert_eq!(table.target(&tenant("acme")).unwrap().owner(), hint("a", 5));
    // A hint that arrives late, against what was known before, changes nothing now.
    assert!(table.take_hint(&tenant("acme"), &hinted, hint("a", 9), 0));
    assert_eq!(table.target(&tenant("acme")).unwrap().owner(), hint("a", 5));
}

#[test]
fn a_hint_to_an_unknown_cell_or_a_lower_epoch_is_ignored() {
    let table = table([cell("a", None), placed("a", 5, false)]);
    let target = table.target(&tenant("acme")).unwrap();
    assert!(!table.take_hint(&tenant("acme"), &target, hint("nowhere", 6), 0));
    assert!(!table.take_hint(&tenant("acme"), &target, hint("a", 5), 0));
    assert!(!table.take_hint(&tenant("acme"), &target, hint("a", 6), 2));
}

#[test]
fn a_new_cell_of_an_old_name_is_not_where_the_tenant_is() {
    let route = TenantRoute::Placed {
        cell: CellName::new("a").unwrap(),
        uid: Some(CellUid::new("old").unwrap()),
        epoch: Epoch(1),
        held: false,
    };
    let change = Change::Tenant { tenant: tenant("acme"), route, revision: Revision(1) };
    let table = table([cell("a", Some("new")), change]);
    assert!(table.target(&tenant("acme")).unwrap().cell().is_none());
    table.apply(cell("a", Some("old")));
    assert!(table.target(&tenant("acme")).unwrap().cell().is_some());
}

#[test]
fn what_a_listing_does_not_name_vanishes() {
    let host = Hostname::from_text("shop.example").unwrap();
    let claim = Change::Host { host: host.clone(), tenant: tenant("acme") };
    let table = table([cell("a", None), cell("b", None), placed("a", 5, false), claim]);
    let named = [Subject::Cell(CellName::new("a").unwrap())];
    for change in unnamed(&table, &named) {
        assert_eq!(table.apply(change), Applied::Changed);
    }
    assert!(table.target(&tenant("acme")).is_none() && table.tenant_of_host(&host).is_none());
    assert_eq!(table.sizes(), (1, 0, 1));
    assert!(unnamed(&table, &named).is_empty());
}

#[test]
fn a_record_that_cannot_be_read_says_that_there_is_a_tenant_and_changes_none() {
    let unreadable =
        |of: &str| Change::Tenant { tenant: tenant(of), route: TenantRoute::Unreadable, revision: Revision(0) };
    let table = table([cell("a", None), placed("a", 5, false)]);
    assert_eq!(table.apply(unreadable("acme")), Applied::Same);
    assert_eq!(table.target(&tenant("acme")).unwrap().owner(), hint("a", 5));
    assert_eq!(table.apply(unreadable("globex")), Applied::Changed);
    assert!(table.tenant("globex").is_some() && table.target(&tenant("globex")).is_none());
    assert_eq!(
        unnamed(&table, &[Subject::Tenant(tenant("acme")), Subject::Cell(CellName::new("a").unwrap())]),
        [Change::TenantRemoved(tenant("globex"))]
    );
    table.apply(Change::TenantRemoved(tenant("globex")));
    assert!(table.tenant("globex").is_none());
}

#[test]
fn endpoints_take_turns() {
    let table = table([cell("a", None), placed("a", 1, false)]);
    let target = table.target(&tenant("acme")).unwrap();
    let cell = target.cell().unwrap();
    let first: Vec<u16> = (0..4).map(|_| cell.endpoints_in_turn().next().unwrap().port()).collect();
    assert_eq!(first, [1, 2, 1, 2]);
    assert_eq!(cell.endpoints_in_turn().count(), 2);
}

#[test]
fn limits_hold_whether_they_or_their_tenant_are_told_first() {
    let limits = TenantLimits { concurrency: Some(1), ..TenantLimits::default() };
    let change = Change::Limits { tenant: tenant("acme"), limits };
    let limited_by = |table: &Table| table.find("acme").unwrap().limited;
    for order in [[change.clone(), placed("a", 1, false)], [placed("a", 1, false), change]] {
        let table = table(order);
        let limited = limited_by(&table).unwrap();
        assert_eq!(table.apply(placed("b", 2, false)), Applied::Changed);
        assert!(Arc::ptr_eq(&limited, &limited_by(&table).unwrap()), "what is used of them goes on");
        let target = table.target(&tenant("acme")).unwrap();
        assert_eq!(table.apply(Change::LimitsRemoved(tenant("acme"))), Applied::Changed);
        assert!(limited_by(&table).is_none());
        assert!(!table.has_changed(&tenant("acme"), &target), "the placement is as it was");
    }
}

#[test]
fn a_listing_tells_what_it_names_twice_whether_that_is_known_or_not() {
    let table = table([placed("a", 5, false)]);
    let globex = Subject::Tenant(tenant("globex"));
    for subject in [Subject::Tenant(tenant("acme")), globex, Subject::Limits(tenant("acme"))] {
        let mut listing = table.begin_listing();
        table.name(&mut listing, &Subject::Cell(CellName::new("acme").unwrap()));
        table.name(&mut listing, &subject);
        table.name(&mut listing, &subject);
        let hash = listing.hash(&subject);
        assert_eq!(listing.close(), [hash]);
    }
}

#[test]
fn a_place_lasts_as_long_as_somebody_is_there() {
    let table = table([cell("a", None), cell("b", None), placed("a", 1, false)]);
    for epoch in 2..200 {
        let cell = if epoch % 2 == 0 { "b" } else { "a" };
        assert_eq!(table.apply(placed(cell, epoch, false)), Applied::Changed);
        assert_eq!(table.target(&tenant("acme")).unwrap().owner(), hint(cell, epoch));
        assert_eq!(table.apply(placed("b", 1, false)), Applied::LowerEpoch);
    }
    assert_eq!(table.places.len(), 1);
}

#[test]
fn what_the_table_says_is_no_news() {
    let limits = TenantLimits { concurrency: Some(1), ..TenantLimits::default() };
    let host = Change::Host { host: Hostname::from_text("shop.example").unwrap(), tenant: tenant("acme") };
    let all = [cell("a", None), placed("a", 1, true), host, Change::Limits { tenant: tenant("acme"), limits }];
    let empty = Table::default();
    let table = table(all.clone());
    for change in &all {
        assert!(table.says(change) && !empty.says(change), "{change:?}");
    }
    assert!(!table.says(&placed("a", 1, false)) && !table.says(&placed("a", 2, true)));
}
