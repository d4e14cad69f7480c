//! `make model`: searches every configuration and prints what it came to. Fails if a promise is broken, or if a search
//! did not see all states. With arguments: only the configurations whose names begin with one of them.

#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use cellway_model::{
    Broken, Config, Counterexample, Found, LONG, Model, QUICK, RouterWorld, STATES_MAX, World, search,
};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Prints a row; false if it is no proof.
fn row<A>(name: &str, found: &Found<A>, describe: impl Fn(&A) -> String) -> bool {
    let verdict = match (found.is_proof(), found.exhausted) {
        (true, _) => "kept".to_owned(),
        (false, false) if found.broken.is_none() => "NOT ALL STATES SEEN".to_owned(),
        _ => "BROKEN".to_owned(),
    };
    let (states, steps, depth, took) = (found.states, found.steps, found.depth, found.took.as_secs_f64());
    println!("{name:<34} {states:>9} {steps:>10} {depth:>5} {took:>6.1} s  {verdict}");
    let shown = |counterexample: &Counterexample<A>| {
        println!("  {}", counterexample.promise);
        counterexample.trace.iter().for_each(|action| println!("    {}", describe(action)));
    };
    found.broken.iter().for_each(shown);
    for (count, counterexample) in &found.stuck {
        println!("  {count} states are stuck, the nearest of them:");
        shown(counterexample);
    }
    found.is_proof()
}

/// The worlds of routers that are searched.
fn routers() -> Vec<(String, RouterWorld)> {
    let plain = RouterWorld { cells: 2, moves: 1, feed_dies: true, liar: None, broken: None, sought: None };
    let mut worlds = vec![
        ("router A.B m1".to_owned(), plain.clone()),
        ("router A.B m2".to_owned(), RouterWorld { moves: 2, ..plain.clone() }),
        ("router A.B.C m1".to_owned(), RouterWorld { cells: 3, ..plain.clone() }),
    ];
    for (liar, name) in ["A", "B", "C"].into_iter().enumerate() {
        let world = RouterWorld { cells: 2.max(liar + 1), liar: Some(liar), ..plain.clone() };
        worlds.push((format!("router m1, {name} lies"), world));
    }
    worlds
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|begin| name.starts_with(begin.as_str()));
    let configs = LONG.iter().chain(&QUICK).copied().filter(|config| is_wanted(&config.to_string()));
    let configs: Vec<Config> = configs.collect();
    let (next, failed, printing) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(()));
    println!("{:<34} {:>9} {:>10} {:>5} {:>8}  promises", "configuration (bounds)", "states", "steps", "depth", "time");
    let work = || {
        while let Some(config) = configs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let world = World::new(*config, Broken::NONE);
            let found = search(&world, STATES_MAX);
            let _one_at_a_time = printing.lock();
            if !row(&config.to_string(), &found, |action| world.describe(action)) {
                failed.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(4));
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    for (name, world) in routers().into_iter().filter(|(name, _)| is_wanted(name)) {
        let found: Found<<RouterWorld as Model>::Action> = search(&world, STATES_MAX);
        if !row(&name, &found, String::clone) {
            failed.store(true, Ordering::Relaxed);
        }
    }
    if failed.load(Ordering::Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
