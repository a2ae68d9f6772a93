//! The reverse proxy over real sockets: each test plays the client and the service.

mod connections;
mod counted;
mod faults;
mod large;
mod messages;
mod refused;
mod rig;
mod streams;
