//! Pure codecs: request head, frame reader, frame encoding, deflate, JSON guard.
//!
//! Bytes in, values out, and back. A codec keeps no connection and knows no hub.

pub mod encode;
