//! Identifiers of connections: a random one, and the name of a client for itself as operators see it.

use aws_lc_rs::digest::{SHA256, digest};

use weirgate_core::Core;

/// The bytes of a hash that the log shows: enough to find the lines of one name.
const HASH_BYTES_SHOWN: usize = 6;

/// Returns a client's name for itself, for the log and the operator's page: the beginning of the name's SHA-256. The
/// name itself is not shown, because a device's id alone opens the pushes of the device, and a name may be a mail
/// address.
pub(in crate::gateways) fn shown_hashed(name: &str) -> Box<str> {
    let hash = digest(&SHA256, name.as_bytes());
    let bytes = hash.as_ref().iter().take(HASH_BYTES_SHOWN);
    let digits: String = bytes.map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}").into()
}

/// A version 4 UUID (RFC 9562 §5.4) from the core's generator.
pub(in crate::gateways) fn uuid(core: &mut Core) -> String {
    let (high, low) = (core.random(), core.random());
    let (high, low) = (high & !0xf000 | 0x4000, low & !(0b11 << 62) | 0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
