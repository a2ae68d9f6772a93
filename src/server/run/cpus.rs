//! The CPUs of the loop and of the bus thread (`--cpus`).

use std::io;

use super::RunError;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Checks that the process may use these CPUs. This thread moves to each of them for a moment, because an isolated CPU
/// is not among the CPUs on which a process runs by default.
///
/// # Errors
/// A CPU does not exist, or is not for this process.
pub(super) fn check_cpus(cpus: &[usize]) -> Result<(), RunError> {
    // `None` is this thread, as below.
    let Ok(before) = sched_getaffinity(None) else {
        // Without the present CPUs, the check could not move this thread back.
        return Ok(());
    };
    let may_use = |cpu: &&usize| move_to(**cpu).is_ok();
    let wrong = cpus.iter().find(|cpu| !may_use(cpu));
    // Fails only if the CPUs were taken away meanwhile.
    let _ = sched_setaffinity(None, &before);
    let Some(wrong) = wrong else {
        return Ok(());
    };
    let all = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
    let all: Vec<String> = all.map(|cpu| cpu.to_string()).collect();
    Err(RunError::Settings(format!(
        "--cpus: there is no CPU {wrong} for this process; it runs on {}",
        all.join(", ")
    )))
}

/// Moves this thread to a CPU.
fn move_to(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Keeps this thread, and the threads that it starts from now on, on this CPU; does nothing without one.
pub(super) fn pin(cpu: Option<usize>) {
    if let Some(Err(error)) = cpu.map(move_to) {
        tracing::warn!(cpu, %error, "a thread could not be kept on its CPU");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_is_not_there_is_named_with_those_that_are() {
        assert!(check_cpus(&[]).is_ok());
        let allowed = sched_getaffinity(None).expect("the CPUs of this process");
        let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
        let first = first.expect("a CPU");
        assert!(check_cpus(&[first, first]).is_ok());
        let after = sched_getaffinity(None).expect("the CPUs of this thread");
        assert_eq!(after.count(), allowed.count());
        for wrong in [CpuSet::MAX_CPU - 1, CpuSet::MAX_CPU, usize::MAX] {
            let error = check_cpus(&[first, wrong])
                .expect_err("no such CPU")
                .to_string();
            assert!(
                error.contains(&format!(
                    "no CPU {wrong} for this process; it runs on {first}"
                )),
                "{error}"
            );
        }
        std::thread::spawn(move || {
            pin(Some(first));
            let own = sched_getaffinity(None).expect("the CPUs of this thread");
            assert_eq!((own.count(), own.is_set(first)), (1, true));
        })
        .join()
        .expect("a thread");
    }
}
