//! scratch
use cellway_simulation::*;
#[test]
fn one() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|t| t.parse().ok()).unwrap_or(7);
    let plan = Plan::drawn(seed);
    let (o, log) = replay(seed, &plan, None);
    println!("{plan:?}\n{o:?}\n{}", log.join("\n"));
}
