//! Connections that one process hands to another over a pair of sockets (`SCM_RIGHTS`, unix(7)). There is no address at which
//! a third process could connect or listen, and no file that somebody could remove.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Each descriptor needs a byte that it comes with.
const BYTE: [u8; 1] = [b'>'];

/// Hands an open file over. The caller may close its own descriptor afterwards.
///
/// # Errors
/// [`ErrorKind::WouldBlock`]: the other end does not take what it was given so far. Or it is closed.
pub(crate) fn hand_over(to: impl AsFd, file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    control.push(SendAncillaryMessage::ScmRights(&files));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(to, &[IoSlice::new(&BYTE)], &mut control, flags)?;
    Ok(())
}

/// Takes the next file that was handed over.
///
/// # Errors
/// [`ErrorKind::WouldBlock`]: there is none yet. [`ErrorKind::UnexpectedEof`]: the other end is closed.
pub(crate) fn take_handed(from: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    if recvmsg(from, &mut bytes, &mut control, flags)?.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let handed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    // The kernel closes the file in place of handing it over if this process is at its limit of open files (unix(7)).
    handed.ok_or_else(|| io::Error::other("a connection was handed over and did not arrive"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_handed_over_arrives_in_order_until_the_other_end_closes() {
        let (to, from) = UnixStream::pair().expect("a pair");
        let nothing = take_handed(&from).expect_err("nothing yet");
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        for text in ["one", "two"] {
            let (mut own, other) = UnixStream::pair().expect("a pair");
            hand_over(&to, other.as_fd()).expect("room");
            own.write_all(text.as_bytes()).expect("room");
        }
        drop(to);
        for text in ["one", "two"] {
            let mut got = String::new();
            let handed = UnixStream::from(take_handed(&from).expect("a socket"));
            (&handed).read_to_string(&mut got).expect("text");
            assert_eq!(got, text);
        }
        let ended = take_handed(&from).expect_err("closed");
        assert_eq!(ended.kind(), ErrorKind::UnexpectedEof);
    }

    /// A process that does not run keeps nobody waiting.
    #[test]
    fn who_takes_nothing_is_given_no_more_at_some_time() {
        let (to, from) = UnixStream::pair().expect("a pair");
        let error = (0..10_000).find_map(|_| hand_over(&to, from.as_fd()).err());
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::WouldBlock));
    }
}
