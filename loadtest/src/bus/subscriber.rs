//! A subscription to one subject, read by the thread with the clients or by a thread for the bus.

use std::io;
use std::net::TcpStream;

use super::jetstream::{self, ACK_WAIT, Acks};
use super::nats::Nats;
use super::redis::Redis;
use super::{Address, Bus, Read};
use crate::fault::{Fault, Tried};
use crate::launch::BusKind;

/// A connection with a single subscription.
pub(crate) struct Subscriber(Link);

enum Link {
    Nats(Nats),
    Jetstream(Nats, Acks),
    Redis(Redis),
}

impl Subscriber {
    /// Connects and subscribes; every message published later arrives. The socket blocks, at most for the longest wait of an
    /// acknowledgement.
    pub(crate) fn open(bus: Bus, url: &str, subject: &str) -> Result<Self, Fault> {
        let address = Address::parse(url)?;
        if address.kind != bus.kind() {
            return Err(Fault::Usage(format!("{url} is no URL of this bus")));
        }
        let link = match bus.kind() {
            BusKind::Redis => {
                let mut redis = Redis::connect(&address)?;
                redis.subscribe(subject)?;
                Link::Redis(redis)
            }
            BusKind::Nats => {
                let mut nats = Nats::connect(&address)?;
                if bus == Bus::Jetstream {
                    jetstream::consume(&mut nats, subject)?;
                    Link::Jetstream(nats, Acks::default())
                } else {
                    nats.subscribe(subject, jetstream::FEED)?;
                    Link::Nats(nats)
                }
            }
        };
        let subscriber = Self(link);
        let timeout = subscriber.stream().set_read_timeout(Some(ACK_WAIT));
        timeout.tried("SO_RCVTIMEO")?;
        Ok(subscriber)
    }

    /// The socket.
    pub(crate) fn stream(&self) -> &TcpStream {
        match &self.0 {
            Link::Nats(nats) | Link::Jetstream(nats, _) => nats.stream(),
            Link::Redis(redis) => redis.stream(),
        }
    }

    /// Reads once, calls `each` with every whole payload, and sends due acknowledgements. The end of the
    /// connection is an error.
    pub(crate) fn read(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<Read> {
        match &mut self.0 {
            Link::Nats(nats) => {
                let read = nats.read()?;
                while let Some(message) = nats.next_read()? {
                    each(nats.payload(&message));
                }
                Ok(read)
            }
            Link::Jetstream(nats, acks) => {
                let read = nats.read()?;
                while let Some(message) = nats.next_read()? {
                    if message.sid != jetstream::FEED {
                        continue;
                    }
                    each(nats.payload(&message));
                    if let Some(reply) = nats.reply(&message) {
                        acks.add(reply);
                    }
                }
                acks.send_due(nats)?;
                Ok(read)
            }
            Link::Redis(redis) => {
                let read = redis.read()?;
                while let Some(published) = redis.next_read()? {
                    if let Some(payload) = published {
                        each(redis.at(payload));
                    }
                }
                Ok(read)
            }
        }
    }
}
