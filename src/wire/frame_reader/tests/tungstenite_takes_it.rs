use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::*;

/// The reader's frames, one by one; what is written is kept.
struct Pipe<'a> {
    input: &'a [u8],
    written: Vec<u8>,
}

impl std::io::Read for Pipe<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.input.read(out)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl std::io::Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn tungstenite_takes_what_is_handed_out() {
    let config = WebSocketConfig::default()
        .read_buffer_size(0)
        .write_buffer_size(0)
        .accept_unmasked_frames(true);
    let mut context = WebSocketContext::new(Role::Server, Some(config));
    let bytes = [
        frame(0x01, "é".as_bytes()),
        frame(0x89, b"ping"),
        frame(0x80, b"!"),
        frame(0x41, &stored(b"com")[..4]),
        frame(0x80, &stored(b"com")[4..]),
        frame(0x82, &[7; 70_000]),
        frame(0x88, b"\x03\xe8bye"),
    ]
    .concat();
    let mut reader = FrameReader::new(LIMIT, true);
    let mut scratch = FrameScratch::new();
    let (mut input, mut messages, mut written) = (&bytes[..], Vec::new(), Vec::new());
    while let Some(frame) = reader.read(&mut input, &mut scratch).expect("good") {
        let mut pipe = Pipe {
            input: frame.bytes(),
            written: Vec::new(),
        };
        while let Ok(message) = context.read(&mut pipe) {
            messages.push(message);
        }
        written.extend(pipe.written);
    }
    let [
        Message::Ping(_),
        Message::Text(joined),
        Message::Text(inflated),
        Message::Binary(big),
        Message::Close(_),
    ] = &messages[..]
    else {
        panic!("{messages:?}");
    };
    assert_eq!(
        (joined.as_str(), inflated.as_str(), big.len()),
        ("é!", "com", 70_000)
    );
    let answers = [plain(0x8a, b"ping"), plain(0x88, b"\x03\xe8bye")].concat();
    assert_eq!(written, answers);
}
