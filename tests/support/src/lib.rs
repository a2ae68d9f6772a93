//! What several test programs of weirgate share. Nothing here knows weirgate: parts that need its
//! types are modules of the test program that uses them.
//!
//! Everything panics when it cannot do what a test asks for: the test has then failed.

mod deflate_sender;
pub mod http_client;
mod link_proxy;
mod nats_cluster;
mod nats_server;
mod port;
mod program;
mod redis_server;

pub use deflate_sender::DeflateSender;
pub use link_proxy::LinkProxy;
pub use nats_cluster::NatsCluster;
pub use nats_server::NatsServer;
pub use port::free_port;
pub use program::Program;
pub use redis_server::RedisServer;
