//! Metric names, histograms, log set-up.

mod bus_status;

pub use bus_status::{BusStatus, ConsumerStatus};
