//! The worst days of a cluster of three servers with streams of three replicas: nothing lost,
//! nothing twice, the order kept.

use nats::jetstream::{ClusterInfo, PeerInfo, PublishOptions};
use weirgate_test_support::NatsCluster;

use super::*;

/// Elections after the loss of a leader take seconds.
pub(super) const ELECTED_WITHIN: Duration = Duration::from_secs(40);

/// A cluster with the streams, three replicas each, and how many messages were published.
struct Day {
    cluster: NatsCluster,
    published: usize,
}

impl Day {
    fn begin() -> Self {
        let cluster = NatsCluster::start();
        let js = jetstream(&cluster.urls());
        for spec in settings("").streams {
            eventually_within(ELECTED_WITHIN, "the cluster makes a stream", || {
                let config = StreamConfig {
                    name: spec.name.clone(),
                    subjects: spec.subjects.clone(),
                    num_replicas: cluster.servers(),
                    ..StreamConfig::default()
                };
                js.add_stream(config).is_ok() || js.stream_info(&spec.name).is_ok()
            });
        }
        Self {
            cluster,
            published: 0,
        }
    }

    /// Publishes some messages through whichever server answers, each once: a message that may
    /// have been stored is sent again with the same identifier.
    fn publish(&mut self, count: usize) {
        let mut js = None;
        for _ in 0..count {
            let text = self.published.to_string();
            let options = PublishOptions {
                timeout: Some(Duration::from_millis(500)),
                id: Some(text.clone()),
                ..PublishOptions::default()
            };
            let until = Instant::now() + ELECTED_WITHIN;
            while let Err(error) = self.publish_once(&mut js, &text, &options) {
                assert!(Instant::now() < until, "message {text}: {error}");
                js = None;
                thread::sleep(Duration::from_millis(20));
            }
            self.published += 1;
        }
    }

    fn publish_once(
        &self,
        js: &mut Option<JetStream>,
        text: &str,
        options: &PublishOptions,
    ) -> std::io::Result<()> {
        if js.is_none() {
            let connection = nats::connect(self.cluster.urls())?;
            *js = Some(nats::jetstream::new(connection));
        }
        let js = js.as_ref().expect("a connection");
        js.publish_with_options(LEVELS, text, options).map(drop)
    }

    /// All that was published since `first` comes, each once and in order. Returns how often the
    /// source said that NATS is away meanwhile.
    fn all_come(&self, source: &Running, first: usize) -> usize {
        let mut next = first;
        let mut downs = 0;
        let until = Instant::now() + ELECTED_WITHIN;
        while next < self.published {
            let left = until.saturating_duration_since(Instant::now());
            let event = source.events.recv_timeout(left).expect("an event");
            match event {
                BusEvent::Down(_) => downs += 1,
                BusEvent::Up | BusEvent::CaughtUp => {}
                other => {
                    // What warms the cache before a long backlog has its place in the backlog too.
                    assert_eq!(short(&other), format!("levels {next}"));
                    next += 1;
                }
            }
        }
        downs
    }

    fn leader(&self, source_url: &str) -> usize {
        let js = jetstream(source_url);
        let mut leader = None;
        eventually_within(ELECTED_WITHIN, "the consumer has a leader", || {
            let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels").ok();
            let name = info.and_then(|info| info.cluster.leader);
            leader = name.and_then(|name| self.cluster.index_of(&name));
            leader.is_some()
        });
        leader.expect("a leader")
    }

    /// Waits until a server that was started again answers, and every replica of the stream and of
    /// its consumer has what it missed: with one that has not, the next stop could leave no majority.
    fn is_whole_again(&self, index: usize) {
        let js = jetstream(&self.cluster[index].url());
        let others = self.cluster.servers() - 1;
        let is_whole = |cluster: ClusterInfo| {
            let current = |peer: &PeerInfo| peer.current && !peer.offline;
            let replicas = cluster.replicas;
            cluster.leader.is_some() && replicas.len() == others && replicas.iter().all(current)
        };
        eventually_within(ELECTED_WITHIN, "all replicas have all", || {
            let stream = js.stream_info("LEVEL_SIGNALS").ok();
            let consumer = js.consumer_info("LEVEL_SIGNALS", "gateway_levels").ok();
            stream.is_some_and(|info| is_whole(info.cluster))
                && consumer.is_some_and(|info| is_whole(info.cluster))
        });
    }
}

#[test]
fn a_cluster_loses_the_leader_and_then_each_server_in_turn() {
    let mut day = Day::begin();
    let mut patient = settings(&day.cluster.urls());
    patient.backlog_quiet_min = 1_000;
    (
        patient.times.ping_interval_ms,
        patient.times.ping_timeout_ms,
        patient.consumer_silence_max_ms,
    ) = (1_000, 2_000, 30_000);
    let source = run(patient);
    source.until("CaughtUp");
    day.publish(20);
    day.all_come(&source, 0);
    let leader = day.leader(&day.cluster.urls());
    day.cluster[leader].kill();
    day.publish(20);
    day.all_come(&source, 20);
    day.cluster[leader].restart();
    day.is_whole_again(leader);
    for index in 0..day.cluster.servers() {
        day.cluster[index].shut_down();
        let first = day.published;
        day.publish(20);
        day.all_come(&source, first);
        day.cluster[index].restart();
        day.is_whole_again(index);
    }
    source.nothing_comes_twice();
}

#[test]
fn a_server_that_is_not_in_the_url_takes_over() {
    let mut day = Day::begin();
    let mut patient = settings(&day.cluster[0].url());
    patient.backlog_quiet_min = 1_000;
    let source = run(patient);
    source.until("CaughtUp");
    day.publish(20);
    day.all_come(&source, 0);
    // For good. The connections to another server stand before these end.
    day.cluster[0].lame_duck();
    day.publish(20);
    assert_eq!(day.all_come(&source, 20), 0);
    thread::sleep(Duration::from_secs(3));
    day.cluster[0].kill();
    day.publish(20);
    day.all_come(&source, 40);
    eventually("another server is used", || source.status.subscribed());
    source.nothing_comes_twice();
}

impl Running {
    fn nothing_comes_twice(&self) {
        let until = Instant::now() + Duration::from_secs(1);
        while let Ok(event) = self.events.recv_deadline(until) {
            assert!(!matches!(event, BusEvent::Message(_)), "{event:?}");
        }
    }
}
