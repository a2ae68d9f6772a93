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

/// A master, its replica, and two sentinels: one may make the replica the master alone, the other is cut off from it and
/// never learns of a failover.
struct Split {
    master: RedisServer,
    replica: RedisServer,
    stale: RedisServer,
    good: RedisServer,
}

impl Split {
    fn start() -> Self {
        // This user may not use the channel over which sentinels find one another, nor demote a master.
        let user = "user alone on >x resetchannels +@all -slaveof ~*";
        let master = RedisServer::start_with(user);
        let replica =
            RedisServer::start_with(&format!("replicaof 127.0.0.1 {}\n{user}", master.port()));
        let config = |more: &str| {
            format!(
                "sentinel monitor {MASTER} 127.0.0.1 {} 1\n\
                 sentinel down-after-milliseconds {MASTER} 1000\n\
                 sentinel failover-timeout {MASTER} 2000\n{more}",
                master.port()
            )
        };
        let good = RedisServer::start_sentinel(&config(""));
        let mut client = good.client();
        eventually("the sentinel knows the replica", || {
            info(&mut client, "sentinel").contains("slaves=1")
        });
        // With a quorum of two, it starts no failover itself.
        let stale = RedisServer::start_sentinel(&config(&format!(
            "sentinel auth-user {MASTER} alone\nsentinel auth-pass {MASTER} x\n"
        )));
        let mut client = stale.client();
        let mut quorum = redis::cmd("SENTINEL");
        quorum.arg("SET").arg(MASTER).arg("quorum").arg(2);
        quorum.query::<()>(&mut client).expect("a quorum");
        Self {
            master,
            replica,
            stale,
            good,
        }
    }

    /// A source that asks the sentinels in this order, with one channel, on this server.
    fn run(sentinels: [&RedisServer; 2], server: &RedisServer) -> Running {
        let mut settings = settings("redis://nowhere.invalid");
        settings.sentinels = sentinels
            .map(|one| RedisEndpoint::new("127.0.0.1", one.port()))
            .into();
        settings.master_name = MASTER.into();
        let source = run(settings);
        source.until("CaughtUp");
        source.interest.subscribe(Subscription::channel("a"));
        assert_eq!(source.next_short(), "+a");
        assert_ne!(publish(&mut server.client(), "a", "1"), 0);
        assert_eq!(source.next_short(), "a: 1");
        source
    }

    /// Kills the master and waits for the failover.
    fn fail_over(&mut self) {
        self.master.kill();
        let mut client = self.good.client();
        let port = self.replica.port();
        eventually("the sentinel names the replica", || {
            named(&mut client) == port
        });
        assert_eq!(named(&mut self.stale.client()), self.master.port());
    }
}

/// Whether a server is a replica. The sentinels disconnect the clients of a server that they make a replica.
fn is_replica(server: &RedisServer) -> bool {
    let client = server.try_client_as("");
    let role =
        client.and_then(|mut client| redis::cmd("ROLE").query::<Vec<redis::Value>>(&mut client));
    role.is_ok_and(|role| role.first() == Some(&redis::Value::BulkString(b"slave".to_vec())))
}

/// The port of the master that a sentinel names.
fn named(sentinel: &mut redis::Connection) -> u16 {
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(MASTER);
    let (_, port): (String, u16) = question.query(sentinel).expect("a master");
    port
}

#[test]
fn after_a_stale_sentinel_the_next_is_asked() {
    let mut split = Split::start();
    let source = Split::run([&split.stale, &split.good], &split.master);
    split.fail_over();
    assert_eq!(source.until("Down"), ["Gap", "Down"]);
    assert_eq!(source.until("CaughtUp"), ["+a", "Up", "CaughtUp"]);
    assert_eq!(publish(&mut split.replica.client(), "a", "2"), 1);
    assert_eq!(source.next_short(), "a: 2");
    // If the old master comes back as a replica, or says nothing, a first connection finds the new one too.
    split.master.restart();
    eventually("the old master is a replica", || is_replica(&split.master));
    source.nothing_comes_for(Duration::from_secs(3));
    Split::run([&split.stale, &split.good], &split.replica);
    split.master.freeze();
    Split::run([&split.stale, &split.good], &split.replica);
}

#[test]
fn a_stale_sentinel_alone_moves_no_connection_away() {
    let mut split = Split::start();
    split.fail_over();
    let source = Split::run([&split.good, &split.stale], &split.replica);
    source.nothing_comes_for(Duration::from_secs(2));
    split.good.freeze();
    source.nothing_comes_for(Duration::from_secs(3));
    // Nobody tells the old master that it is a replica now.
    split.master.restart();
    assert!(info(&mut split.master.client(), "replication").contains("role:master"));
    source.nothing_comes_for(Duration::from_secs(4));
    split.good.thaw();
    source.nothing_comes_for(Duration::from_secs(4));
    assert_eq!(publish(&mut split.replica.client(), "a", "2"), 1);
    assert_eq!(source.next_short(), "a: 2");
}

/// The stale sentinel is asked first, and its server also says that it is the master.
#[test]
fn a_sentinel_that_knows_a_later_failover_is_believed() {
    let mut split = Split::start();
    split.fail_over();
    split.good.freeze();
    split.master.restart();
    let source = Split::run([&split.stale, &split.good], &split.master);
    split.good.thaw();
    assert_eq!(
        source.until("CaughtUp"),
        ["Gap", "Down", "+a", "Up", "CaughtUp"]
    );
    assert_eq!(publish(&mut split.replica.client(), "a", "2"), 1);
    assert_eq!(source.next_short(), "a: 2");
    source.nothing_comes_for(Duration::from_secs(4));
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
