//! How models are run.

/// Switches away from a thread that can go on, per execution. Two find almost everything (three are feasible for the
/// small models); `LOOM_MAX_PREEMPTIONS` overrides.
const PREEMPTIONS: usize = 2;

/// Explores every interleaving of `body` within the preemption bound.
pub fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.max_branches = 20_000;
    builder.check(body);
}

/// Requires that the model fails when step `name` is broken.
pub fn mutant_fails(name: &str, body: impl Fn() + Sync + Send + 'static) {
    crate::mutant::fails(name, || model(body));
}
