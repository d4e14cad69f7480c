//! scratch
use cellway_simulation::*;
#[test]
fn survey() {
    let n: u64 = std::env::var("SEEDS").ok().and_then(|t| t.parse().ok()).unwrap_or(50);
    let mut viol = std::collections::BTreeMap::new();
    let mut all = Vec::new();
    let t = std::time::Instant::now();
    for seed in 0..n {
        let mut plan = Plan::drawn(seed); if std::env::var("PRESS").is_ok() { press(&mut plan); }
        match run(seed, &plan, None) {
            Ok(s) => all.push(s),
            Err(v) => { let e = viol.entry(v.promise).or_insert((0, seed, v.what.clone())); e.0 += 1; }
        }
    }
    println!("{:?} {:#?}", t.elapsed(), viol);
    macro_rules! sum { ($($f:ident)*) => { $( println!("{} {} (runs with {})", stringify!($f), all.iter().map(|s| s.$f).sum::<u64>(), all.iter().filter(|s| s.$f>0).count()); )* } }
    sum!(events acknowledged admitted writes_refused moves_done moves_undone_before_the_hold moves_undone_after_the_hold moves_reversed lists_read_again positions_thrown_away retries conflicts refused late_orders drops orphans waits_for_orphans early_data_fences opened opened_from_disk hints held left_switched);
    if let Some((_, (_, seed, _))) = viol.iter().next() { let mut plan = Plan::drawn(*seed); if std::env::var("PRESS").is_ok() { press(&mut plan); } println!("{}", report(*seed, &plan, None)); }
}

fn press(plan: &mut Plan) {
    plan.loss_percent = 0;
    plan.instances = 1; plan.lagging_lists = true; plan.both_lead = true; plan.joins += 3; plan.clients = 3;
        plan.late_percent = 25;
        plan.late_ms = 200;
        plan.crashes = 0;
        plan.losses = 0;
        plan.undos = 0;
        plan.moves = 12;
}
