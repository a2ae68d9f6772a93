//! The common parts of weirgate's test programs. Nothing here knows weirgate: a part with types of
//! weirgate is a module of a test program.
//!
//! On an error every function panics, and the test fails.

mod client_frame;
mod deflate_sender;
mod empty_blocks;
pub mod http_client;
mod kept_inflater;
mod link_proxy;
mod nats_cluster;
mod nats_server;
mod patience;
mod port;
mod program;
mod redis_server;

pub use client_frame::client_frame;
pub use deflate_sender::DeflateSender;
pub use empty_blocks::empty_blocks;
pub use kept_inflater::KeptInflater;
pub use link_proxy::LinkProxy;
pub use nats_cluster::NatsCluster;
pub use nats_server::NatsServer;
pub use patience::patient;
pub use port::free_port;
pub use program::Program;
pub use redis_server::RedisServer;
