//! The fuzzers on a stable compiler: every target over its corpus, then over mutations of the corpus
//! until its time is over.
//!
//! `FUZZ_SECONDS`: seconds for the mutations of each target, 2 by default. `FUZZ_SEED`: of the
//! mutations, 1 by default. `FUZZ_INPUT=FILE`: this input alone. `FUZZ_KEEP=1`: inputs that went a
//! new way are added to the corpus.

mod campaign;
mod mutation;

use campaign::fuzz;

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_test() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(weirgate_fuzz_targets::TARGETS.map(|target| target.name), tested);
        }
    };
}

targets! {
    heads gate frames senders deflate windows channels_requests trades_requests events_requests broadcasts levels trades
    channels redis_replies globs proxy_paths tokens settings tls
}
