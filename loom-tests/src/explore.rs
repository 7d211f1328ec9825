//! How models that are too large for a search are run.

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Executions by each way of choosing.
const EXECUTIONS: usize = 1500;
/// Steps of one execution: far more than any needs that ends.
const STEPS: usize = 50_000;
/// The same executions in each run.
const SEED: u64 = 20;
/// Changes of priority in an execution that is otherwise in order.
const CHANGES: usize = 3;

/// Runs `body` in many interleavings: threads changed at random, and in order but for a few places.
pub fn explore(body: impl Fn() + Sync + Send + Clone + 'static) {
    run(RandomScheduler::new_from_seed(SEED, EXECUTIONS), body.clone());
    run(PctScheduler::new_from_seed(SEED, CHANGES, EXECUTIONS), body);
}

fn run(scheduler: impl Scheduler + 'static, body: impl Fn() + Sync + Send + 'static) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(STEPS);
    Runner::new(scheduler, config).run(body);
}

/// Requires that some interleaving fails when step `name` is broken.
pub fn step_mutant_fails(name: &str, body: impl Fn() + Sync + Send + Clone + 'static) {
    crate::mutant::fails(name, || explore(body));
}
