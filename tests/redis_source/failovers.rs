//! A reader of a stream that follows the sentinels to servers that lack entries, and back.

use super::stream::{add, read};
use super::*;

const MASTER: &str = "the-master";

/// Lets the sentinel name another server, as after a failover.
fn name_master(sentinel: &mut redis::Connection, port: u16) {
    let mut remove = redis::cmd("SENTINEL");
    // The sentinel may not know the name yet.
    let _ = remove.arg("REMOVE").arg(MASTER).query::<()>(sentinel);
    let mut monitor = redis::cmd("SENTINEL");
    monitor.arg("MONITOR").arg(MASTER).arg("127.0.0.1");
    monitor
        .arg(port)
        .arg(1)
        .query::<()>(sentinel)
        .expect("a master");
}

fn command<T: redis::FromRedisValue>(server: &RedisServer, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query(&mut server.client()).expect("an answer")
}

/// The names of the events up to the message with this text.
fn until_text(events: &Receiver<BusEvent>, text: &str) -> Vec<String> {
    let last = format!("a: {text}");
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        match soon(events) {
            Some(BusEvent::Up | BusEvent::CaughtUp | BusEvent::Down(_)) => {}
            Some(event) => seen.push(short(&event)),
            None => panic!("no {last} after {seen:?}"),
        }
    }
    seen
}

/// The replica takes over; then the former master, while the other one has entries that nobody has read. The reader reports
/// them as lost. When the server that has them takes over again, they are older than what clients have.
#[test]
fn entries_of_a_reported_loss_do_not_come_after_a_further_failover() {
    let first = RedisServer::start();
    let second = RedisServer::start_with(&format!("replicaof 127.0.0.1 {}", first.port()));
    let sentinel = RedisServer::start_sentinel("sentinel resolve-hostnames yes");
    let mut sentinel_client = sentinel.client();
    name_master(&mut sentinel_client, first.port());
    let mut settings = settings("redis://nowhere.invalid");
    settings.sentinels = vec![RedisEndpoint::new("127.0.0.1", sentinel.port())];
    settings.master_name = MASTER.into();
    let (events, _) = read(settings);
    add(&mut first.client(), &[], "1");
    until_text(&events, "1");
    eventually("the replica has the entry", || {
        command::<usize>(&second, &["XLEN", super::stream::KEY]) == 1
    });
    let () = command(&second, &["REPLICAOF", "NO", "ONE"]);
    // The sentinel names a server that is away, until the next one has entries: otherwise it is behind for some time.
    let mut go_to = |from: &RedisServer, to: &RedisServer, text: &str, unread: &str| {
        name_master(&mut sentinel_client, free_port());
        let ended: usize = command(from, &["CLIENT", "KILL", "TYPE", "normal"]);
        assert_ne!(ended, 0);
        add(&mut from.client(), &[], unread);
        thread::sleep(Duration::from_millis(5));
        add(&mut to.client(), &[], text);
        name_master(&mut sentinel_client, to.port());
        until_text(&events, text)
    };
    assert_eq!(go_to(&first, &second, "3", "2"), ["a: 3"]);
    assert_eq!(go_to(&second, &first, "5", "4"), ["Gap", "a: 2", "a: 5"]);
    assert_eq!(go_to(&first, &second, "7", "6"), ["Gap", "a: 7"]);
}
