//! The numbers of a connection that the kernel reports, by `getsockopt(TCP_INFO)`: about 1 us a call.

use mio::net::TcpStream;

use weirgate_core::TcpSample;

/// The size of the structure up to `tcpi_snd_wnd`, the last member that is read here. This member came with Linux 5.4.
const INFO_BYTES: usize = 232;

/// Returns the numbers of a connection; `None` for a socket that is not TCP, on an older kernel, and on other
/// systems. The caller sets the time of the sample.
pub(super) fn sample(stream: &TcpStream) -> Option<TcpSample> {
    read(stream).map(|info| sample_of(&info))
}

/// Reads the members by their offsets in `struct tcp_info` (linux/tcp.h): the kernel only ever appends members, and the
/// structure of the C library may be shorter than that of the kernel.
fn sample_of(info: &[u8; INFO_BYTES]) -> TcpSample {
    let small = |at: usize| u32::from_ne_bytes(std::array::from_fn(|n| info[at + n]));
    let large = |at: usize| u64::from_ne_bytes(std::array::from_fn(|n| info[at + n]));
    TcpSample {
        at_us: 0,
        retransmits: info[2],
        mss_bytes: small(16),
        last_ack_ms: small(56),
        rtt_us: small(68),
        cwnd_segments: small(80),
        acked_bytes: large(120),
        unsent_bytes: small(144),
        min_rtt_us: small(148),
        busy_us: large(168),
        window_limited_us: large(176),
        sent_bytes: large(200),
        resent_bytes: large(208),
        window_bytes: small(228),
    }
}

/// Returns `TCP_INFO`, or `None` if the kernel has none for the socket or gives less than the fields that are read
/// here.
#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "a system call for which no crate has a safe form"
)]
fn read(stream: &TcpStream) -> Option<[u8; INFO_BYTES]> {
    use std::os::fd::AsRawFd;

    let mut info = [0; INFO_BYTES];
    let mut bytes = INFO_BYTES as libc::socklen_t;
    let (fd, to) = (stream.as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: the descriptor is open, and the kernel writes at most `bytes` bytes to `info`, then their number.
    let failed =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut bytes) };
    is_whole(failed, bytes).then_some(info)
}

#[cfg(not(target_os = "linux"))]
fn read(_: &TcpStream) -> Option<[u8; INFO_BYTES]> {
    None
}

/// Whether the kernel has written the whole structure.
#[cfg(target_os = "linux")]
fn is_whole(failed: libc::c_int, bytes: libc::socklen_t) -> bool {
    failed == 0 && bytes as usize == INFO_BYTES
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_connection_has_its_numbers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        ours.write_all(&[7; 3_000]).unwrap();
        client.read_exact(&mut [0; 3_000]).unwrap();
        client.write_all(b"got it").unwrap();
        ours.read_exact(&mut [0; 6]).unwrap();
        let sample = sample(&mio::net::TcpStream::from_std(ours)).expect("Linux 5.4");
        assert_eq!((sample.sent_bytes, sample.acked_bytes), (3_000, 3_000));
        assert_eq!((sample.resent_bytes, sample.retransmits), (0, 0));
        assert!(
            sample.mss_bytes >= 536 && sample.cwnd_segments > 0,
            "{sample:?}"
        );
        assert!(
            sample.window_bytes >= 3_000 && sample.rtt_us > 0,
            "{sample:?}"
        );
        assert!(sample.min_rtt_us <= sample.rtt_us * 100, "{sample:?}");
    }

    #[test]
    fn a_unix_socket_and_a_shorter_structure_have_no_numbers() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let stream = TcpStream::from(OwnedFd::from(ours));
        assert_eq!(sample(&mio::net::TcpStream::from_std(stream)), None);
        assert!(is_whole(0, 232) && !is_whole(0, 224) && !is_whole(-1, 232));
    }
}
