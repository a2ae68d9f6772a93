//! Bodies larger than memory that a proxy may take.

use std::io::{Read, Write};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::rig::{Rig, post};

/// Bytes of a body. `LARGE_BODY_MB` makes it more.
fn body_bytes() -> usize {
    let megabytes = std::env::var("LARGE_BODY_MB").map(|text| text.parse().unwrap());
    megabytes.unwrap_or(64) * 1_000_000
}

/// What a body may cost, however large it is.
const GROWTH_BYTES_MAX: usize = 16_000_000;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Writes so many bytes.
fn write(mut to: impl Write, bytes: usize) {
    let block = vec![b'x'; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(block.len());
        to.write_all(&block[..part]).unwrap();
        left -= part;
    }
}

/// Reads so many bytes; the most that this process held meanwhile.
fn read(mut from: impl Read, bytes: usize) -> usize {
    let mut block = vec![0; 64 * 1024];
    let (mut left, mut most, mut looked) = (bytes, 0, 0);
    while left > 0 {
        let part = left.min(block.len());
        let n = from.read(&mut block[..part]).unwrap();
        assert_ne!(n, 0, "the body ended early");
        left -= n;
        if (bytes - left) - looked > 1_000_000 {
            looked = bytes - left;
            most = most.max(resident_bytes());
        }
    }
    most
}

#[test]
fn large_bodies_pass_both_ways_in_little_memory() {
    alone(
        "large::large_bodies_pass_both_ways_in_little_memory",
        pass_large_bodies,
    );
}

#[test]
fn uploads_that_wait_for_a_connection_take_little_memory() {
    alone(
        "large::uploads_that_wait_for_a_connection_take_little_memory",
        wait_with_uploads,
    );
}

/// Runs a test in a process of its own: the memory of tests beside it would count.
fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "LARGE_BODY_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let alone = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stdout);
    assert!(
        alone.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

fn wait_with_uploads() {
    const COUNT: usize = 400;
    let rig = Rig::with(|settings| settings.limits.service_connections_max = 1);
    let head = post("/v1/jobs/x", "Content-Length: 1000000", "");
    let mut before = 0;
    let clients: Vec<_> = (0..=COUNT)
        .map(|n| {
            let mut client = rig.connect(&head);
            if n == 0 {
                rig.wait_for_permits(1);
                before = resident_bytes();
            }
            client.stream.set_nonblocking(true).unwrap();
            // As much as the kernel takes.
            let _ = client.stream.write(&[b'x'; 200_000]);
            client
        })
        .collect();
    thread::sleep(Duration::from_secs(2));
    let each = resident_bytes().saturating_sub(before) / COUNT;
    assert!(each < 32_000, "{each} bytes each");
    drop(clients);
}

fn pass_large_bodies() {
    let rig = Rig::new();
    let bytes = body_bytes();
    let before = resident_bytes();

    let mut client = rig.connect(post("/v1/jobs/x", &format!("Content-Length: {bytes}"), ""));
    let mut service = rig.accept();
    service.head_text();
    let sender = client.stream.try_clone().unwrap();
    let sent = thread::spawn(move || write(sender, bytes));
    let most = read(&service.stream, bytes);
    sent.join().unwrap();
    assert!(
        most < before + GROWTH_BYTES_MAX,
        "upload: {} bytes",
        most - before
    );

    service.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n"
    ));
    let sender = service.stream.try_clone().unwrap();
    let sent = thread::spawn(move || write(sender, bytes));
    let head = client.head();
    assert_eq!(head.status, 200);
    let early = client.buffered.len();
    let most = read(&client.stream, bytes - early);
    sent.join().unwrap();
    assert!(
        most < before + GROWTH_BYTES_MAX,
        "download: {} bytes",
        most - before
    );
}
