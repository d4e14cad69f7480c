//! scratch
use cellway_simulation::*;
#[test]
fn one() {
    let mut n = 0;
    for seed in 70000..78000 {
        let mut plan = Plan::drawn(seed);
        plan.fenced_data = true;
        plan.lagging_lists = false;
        plan.late_percent += 5;
        if let Err(v) = run(seed, &plan, None) {
            n += 1;
            println!("{seed} {v:?}");
            if n == 1 {
                println!("{}", report(seed, &plan, None));
            }
            if n > 3 {
                break;
            }
        }
    }
}
