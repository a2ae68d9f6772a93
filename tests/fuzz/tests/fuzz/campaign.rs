//! One target: corpus, mutations, and what is said of an input that fails.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use super::mutation::{Mutator, words};

/// No input may keep a target busy for so long, on a machine that has other work too.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);

/// Attempts to make a failing input smaller.
const SMALLER_TRIES: usize = 400;

/// Inputs that are mutated.
const POOL_MAX: usize = 5_000;

/// Feeds a target.
pub(crate) fn fuzz(name: &str) {
    let target = Campaign::new(name);
    if let Some(file) = env::var_os("FUZZ_INPUT") {
        let input = fs::read(&file).expect("the input is a file");
        let outcome = weirgate_fuzz_targets::run(name, &input);
        return println!(
            "{name}: nothing wrong with {} ({outcome:016x})",
            file.display()
        );
    }
    target.run();
}

struct Campaign<'a> {
    name: &'a str,
    corpus: PathBuf,
    /// Where failing inputs are kept.
    failures: PathBuf,
    seconds: f64,
    seed: u64,
    keeps: bool,
}

impl<'a> Campaign<'a> {
    fn new(name: &'a str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let failures = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("../fuzz")
            .join(name);
        fs::create_dir_all(&failures).expect("the target directory is writable");
        Self {
            name,
            corpus: root.join("fuzz/corpus").join(name),
            failures: failures.canonicalize().expect("it was made"),
            seconds: number("FUZZ_SECONDS", 2.0),
            seed: number("FUZZ_SEED", 1.0) as u64,
            keeps: env::var_os("FUZZ_KEEP").is_some(),
        }
    }

    fn run(&self) {
        let mut pool = self.inputs();
        assert!(!pool.is_empty(), "no corpus in {}", self.corpus.display());
        let mut outcomes: BTreeSet<u64> = pool.iter().map(|input| self.feed(input)).collect();
        let (files, known) = (pool.len(), outcomes.len());
        let mut mutator = Mutator::new(self.seed, self.words());
        let begun = Instant::now();
        let mut fed = 0_u64;
        while begun.elapsed().as_secs_f64() < self.seconds {
            let input = mutator.next(&pool);
            fed += 1;
            if !outcomes.insert(self.feed(&input)) {
                continue;
            }
            if self.keeps {
                fs::write(self.corpus.join(file_name(&input)), &input)
                    .expect("the corpus is writable");
            }
            match pool.len() {
                POOL_MAX.. => {
                    let at = mutator.below(pool.len());
                    pool[at] = input;
                }
                _ => pool.push(input),
            }
        }
        println!(
            "{}: {files} inputs of the corpus, {known} outcomes; {fed} mutations, {} outcomes",
            self.name,
            outcomes.len()
        );
    }

    /// The corpus, in the order of the file names.
    fn inputs(&self) -> Vec<Vec<u8>> {
        let Ok(files) = fs::read_dir(&self.corpus) else {
            return Vec::new();
        };
        let mut files: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
        files.sort();
        files
            .iter()
            .map(|file| fs::read(file).expect("the corpus is readable"))
            .collect()
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let file = format!("../../fuzz/dictionaries/{}.dict", self.name);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        fs::read_to_string(file).map_or_else(|_| Vec::new(), |text| words(&text))
    }

    /// Runs the target; an input that fails ends the test.
    fn feed(&self, input: &[u8]) -> u64 {
        // What ends the whole process, such as a stack that is full, leaves its input here.
        let last = self.failures.join("last");
        fs::write(&last, input).expect("the target directory is writable");
        let begun = Instant::now();
        match self.attempt(input) {
            Ok(outcome) if begun.elapsed() < INPUT_TIME_MAX => outcome,
            Ok(_) => self.fail(input, &format!("took {:?}", begun.elapsed())),
            Err(why) => {
                let smaller = self.smaller(input.to_vec());
                let why = self.attempt(&smaller).err().unwrap_or(why);
                self.fail(&smaller, &why)
            }
        }
    }

    fn attempt(&self, input: &[u8]) -> Result<u64, String> {
        let run = || weirgate_fuzz_targets::run(self.name, input);
        panic::catch_unwind(AssertUnwindSafe(run)).map_err(|why| {
            let text = why.downcast_ref::<String>().cloned();
            text.or_else(|| why.downcast_ref::<&str>().map(|&text| text.to_owned()))
                .unwrap_or_default()
        })
    }

    /// The input without what is not needed to fail.
    fn smaller(&self, mut input: Vec<u8>) -> Vec<u8> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let (mut size, mut at) = (input.len().div_ceil(2), 0);
        for _ in 0..SMALLER_TRIES {
            let mut shorter = input.clone();
            shorter.drain(at.min(input.len())..(at + size).min(input.len()));
            if shorter.len() < input.len() && self.attempt(&shorter).is_err() {
                input = shorter;
            } else if at + size < input.len() {
                at += size;
            } else if size > 1 {
                (size, at) = (size / 2, 0);
            } else {
                break;
            }
        }
        panic::set_hook(before);
        input
    }

    fn fail(&self, input: &[u8], why: &str) -> ! {
        let file = self.failures.join(file_name(input));
        fs::write(&file, input).expect("the target directory is writable");
        panic!(
            "{}: {why}\nthe input: {}\nagain: FUZZ_INPUT={} cargo test -p weirgate-fuzz-targets --test fuzz {}\n",
            self.name,
            input.escape_ascii(),
            file.display(),
            self.name
        );
    }
}

fn number(name: &str, default: f64) -> f64 {
    let text = env::var(name).ok();
    text.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number"))
    })
}

/// By what is in it, as libFuzzer names inputs.
fn file_name(input: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(input);
    format!("{:016x}", hasher.finish())
}
