//! The independent readers that are programs, in `oracles`: a process for each, which responds as long as the
//! thread lives.

use std::cell::RefCell;
use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

thread_local! {
    static PYTHON: RefCell<Option<Program>> = const { RefCell::new(None) };
    static NODE: RefCell<Option<Program>> = const { RefCell::new(None) };
}

impl Program {
    fn start(program: &str, script: &str) -> Self {
        let script = format!("{}/oracles/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(program)
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}, which make test installs: {error}"));
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("it is a pipe")),
            child,
        }
    }

    /// A request is a count and then the parts, each behind its length; so is the response.
    fn ask(&mut self, parts: &[&[u8]]) -> std::io::Result<Vec<Vec<u8>>> {
        let mut question = (parts.len() as u32).to_be_bytes().to_vec();
        for part in parts {
            question.extend((part.len() as u32).to_be_bytes());
            question.extend_from_slice(part);
        }
        let input = self.input.as_mut().expect("it is open");
        input.write_all(&question)?;
        input.flush()?;
        let count = self.number()?;
        (0..count).map(|_| self.part()).collect()
    }

    fn part(&mut self) -> std::io::Result<Vec<u8>> {
        let mut part = vec![0; self.number()?];
        self.output.read_exact(&mut part)?;
        Ok(part)
    }

    fn number(&mut self) -> std::io::Result<usize> {
        let mut number = [0; 4];
        self.output.read_exact(&mut number)?;
        Ok(u32::from_be_bytes(number) as usize)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

fn ask(
    slot: &RefCell<Option<Program>>,
    start: impl FnOnce() -> Program,
    parts: &[&[u8]],
) -> Vec<Vec<u8>> {
    let mut slot = slot.borrow_mut();
    let answer = slot.get_or_insert_with(start).ask(parts);
    answer.unwrap_or_else(|error| {
        *slot = None;
        panic!("the oracle ended: {error}")
    })
}

/// Returns the response of Python.
pub(crate) fn python(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    PYTHON.with(|slot| ask(slot, || Program::start("python3", "oracle.py"), parts))
}

/// Returns the response of Node.
pub(crate) fn node(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    NODE.with(|slot| ask(slot, || Program::start("node", "oracle.mjs"), parts))
}

/// Lets Python compare weirgate's result for an input with its own.
///
/// # Panics
/// Python sees a difference.
pub(crate) fn python_agrees(parts: &[&[u8]]) {
    let answer = python(parts);
    let [difference] = answer.as_slice() else {
        panic!("the oracle gave {} parts", answer.len());
    };
    assert!(
        difference.is_empty(),
        "{}: {}",
        String::from_utf8_lossy(parts[0]),
        String::from_utf8_lossy(difference)
    );
}
