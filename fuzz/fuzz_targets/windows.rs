#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    weirgate_fuzz_targets::run("windows", data);
});
