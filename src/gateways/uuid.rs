//! Identifiers of connections.

use crate::hub::Core;

/// A version 4 UUID (RFC 9562 §5.4) from the core's generator.
pub(super) fn uuid(core: &mut Core) -> String {
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
