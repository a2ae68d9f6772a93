//! Where the master is, and where it goes.

use super::*;

const MASTER: &str = "the-master";

/// A master, its replica and three sentinels that agree on which is which.
struct Group {
    master: RedisServer,
    replica: RedisServer,
    sentinels: Vec<RedisServer>,
}

impl Group {
    fn start() -> Self {
        Self::start_at("127.0.0.1", "")
    }

    /// Starts a group that knows its servers by `host`; `more` are further lines for the first two sentinels.
    fn start_at(host: &str, more: &str) -> Self {
        let master = RedisServer::start();
        let replica = RedisServer::start_with(&format!(
            "replicaof {host} {}\nreplica-announce-ip {host}",
            master.port()
        ));
        let mut replica_client = replica.client();
        eventually("the replica follows", || {
            info(&mut replica_client, "replication").contains("master_link_status:up")
        });
        let config = format!(
            "sentinel resolve-hostnames yes\n\
             sentinel monitor {MASTER} {host} {} 2\n\
             sentinel down-after-milliseconds {MASTER} 1000\n\
             sentinel failover-timeout {MASTER} 2000\n\
             requirepass watch\n",
            master.port()
        );
        let sentinels: Vec<_> = [more, more, ""]
            .map(|more| RedisServer::start_sentinel(&format!("{config}{more}")))
            .into();
        for sentinel in &sentinels {
            let mut client = sentinel.client_as(":watch@");
            eventually("the sentinels know one another and the replica", || {
                let text = info(&mut client, "sentinel");
                text.contains("slaves=1") && text.contains("sentinels=3")
            });
        }
        Self {
            master,
            replica,
            sentinels,
        }
    }

    fn settings(&self) -> RedisSettings {
        // The server's host and port are not used, its user and password are.
        let mut settings = settings("redis://nowhere.invalid:1/0");
        // One that does not answer is passed over.
        let dead = free_port();
        let alive = self
            .sentinels
            .iter()
            .map(|s| format!("redis://:watch@127.0.0.1:{}", s.port()));
        let addresses = std::iter::once(format!("127.0.0.1:{dead}")).chain(alive);
        settings.sentinels = addresses
            .map(|address| RedisEndpoint::parse_sentinel(&address).expect("an address"))
            .collect();
        settings.master_name = MASTER.into();
        settings
    }
}

fn info(client: &mut redis::Connection, section: &str) -> String {
    let mut command = redis::cmd("INFO");
    command.arg(section).query(client).expect("an answer")
}

/// A source on the master of a new group, with one channel.
fn run_on(group: &Group) -> Running {
    let source = run(group.settings());
    source.until("CaughtUp");
    source.interest.subscribe(Subscription::channel("a"));
    assert_eq!(source.next_short(), "+a");
    assert_eq!(publish(&mut group.master.client(), "a", "1"), 1);
    assert_eq!(source.next_short(), "a: 1");
    source
}

fn request_failover(group: &Group) {
    let mut sentinel = group.sentinels[0].client_as(":watch@");
    let mut command = redis::cmd("SENTINEL");
    command.arg("FAILOVER").arg(MASTER);
    command.query::<()>(&mut sentinel).expect("a failover");
}

fn comes_from_the_new_master(group: &Group, source: &Running) {
    assert_eq!(source.until("CaughtUp"), ["+a", "Up", "CaughtUp"]);
    let mut client = group.replica.client();
    assert!(info(&mut client, "replication").contains("role:master"));
    assert_eq!(publish(&mut client, "a", "2"), 1);
    assert_eq!(source.next_short(), "a: 2");
    assert_eq!(source.status.reconnects(), 1);
}

#[test]
fn the_failover_of_a_dead_master_is_followed() {
    let mut group = Group::start();
    let source = run_on(&group);
    group.master.kill();
    assert_eq!(source.until("Down"), ["Gap", "Down"]);
    comes_from_the_new_master(&group, &source);
}

/// The old master lives on; its subscribers would be sent away ten seconds later.
#[test]
fn a_failover_that_somebody_asked_for_is_followed() {
    let group = Group::start();
    let source = run_on(&group);
    request_failover(&group);
    let fault = source.fault();
    assert!(fault.contains("another server is the master"), "{fault}");
    comes_from_the_new_master(&group, &source);
}

/// Two sentinels say `localhost`, and one says `127.0.0.1`.
#[test]
fn a_master_with_a_host_name_is_kept_until_a_failover() {
    let group = Group::start_at("localhost", "sentinel announce-hostnames yes");
    let source = run_on(&group);
    source.nothing_comes_for(Duration::from_secs(5));
    request_failover(&group);
    let fault = source.fault();
    assert!(fault.contains("another server is the master"), "{fault}");
    comes_from_the_new_master(&group, &source);
    source.nothing_comes_for(Duration::from_secs(5));
}

#[test]
fn a_replica_is_not_taken_for_the_master() {
    let master = RedisServer::start();
    let replica = RedisServer::start_with(&format!("replicaof 127.0.0.1 {}", master.port()));
    let mut client = replica.client();
    eventually("the replica follows", || {
        info(&mut client, "replication").contains("master_link_status:up")
    });
    // A sentinel that was told the wrong server.
    let config = format!(
        "sentinel monitor {MASTER} 127.0.0.1 {} 1\nsentinel down-after-milliseconds {MASTER} 60000",
        replica.port()
    );
    let sentinel = RedisServer::start_sentinel(&config);
    let mut settings = settings("redis://nowhere.invalid");
    let address = format!("127.0.0.1:{}", sentinel.port());
    settings.sentinels = vec![RedisEndpoint::parse_sentinel(&address).expect("an address")];
    settings.master_name = MASTER.into();
    let source = run(settings.clone());
    let fault = source.fault();
    assert!(fault.contains("is a slave and not the master"), "{fault}");

    settings.master_name = "somebody-else".into();
    let source = run(settings);
    let fault = source.fault();
    assert!(
        fault.contains("somebody-else") && fault.contains("knows no master of this name"),
        "{fault}"
    );
}
