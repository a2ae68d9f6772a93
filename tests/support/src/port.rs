//! Ports for the servers of tests.

use std::env;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};

use rustix::fs::{FlockOperation, flock};

/// Above the ports of the events cases (`hundred_ports` in `tests/rig/ports.py`), and below the ports that
/// the kernel gives to clients.
const FIRST: u16 = 24_000;
const COUNT: u16 = 8_000;

/// A port that is free on every address, not given to another test recently.
///
/// Test programs run side by side, and a server listens some time after the choice of the port. All
/// test programs therefore take the next number from a shared file (`tests/rig/ports.py` does the
/// same in Python), and a number comes again only after 8,000 others.
pub fn free_port() -> u16 {
    let user = rustix::process::getuid().as_raw();
    let path = env::temp_dir().join(format!("weirgate-test-ports-{user}"));
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .expect("the file of ports");
    flock(&file, FlockOperation::LockExclusive).expect("a lock");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("a number");
    let mut number = text.parse::<u16>().unwrap_or(0);
    loop {
        number = (number + 1) % COUNT;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, FIRST + number)).is_ok() {
            break;
        }
    }
    file.rewind().expect("the first byte");
    file.set_len(0).expect("an empty file");
    write!(file, "{number}").expect("a number");
    FIRST + number
}
