//! Content codings that services use though none was asked for (RFC 9110 §8.4).

use std::io::{self, Read};

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use hyper::header::{CONTENT_ENCODING, HeaderMap};

use crate::gateways::events::call::CallFailure;
use crate::http::aside;

/// How much larger a body without its coding commonly is.
const COMMON_RATIO: usize = 10;

/// A body without its coding, which may have `bytes_max` bytes. A coding that is not known, or that
/// the body does not have, leaves it as it came: what it means is the gateway's to say.
///
/// # Errors
/// It is too large.
pub(super) async fn decoded(
    headers: &HeaderMap,
    body: Vec<u8>,
    bytes_max: usize,
) -> Result<Vec<u8>, CallFailure> {
    let Some(coding) = headers.get(CONTENT_ENCODING) else {
        return Ok(body);
    };
    let coding = String::from_utf8_lossy(coding.as_bytes()).to_ascii_lowercase();
    let bytes = body.len().saturating_mul(COMMON_RATIO);
    let plain = aside::work(bytes, move || without(&coding, body, bytes_max)).await;
    plain.unwrap_or(Err(CallFailure::Unreachable))
}

fn without(coding: &str, body: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, CallFailure> {
    let plain = match coding {
        "gzip" | "x-gzip" => read(MultiGzDecoder::new(&*body), bytes_max),
        "deflate" => read(ZlibDecoder::new(&*body), bytes_max),
        _ => return Ok(body),
    };
    match plain {
        Ok(plain) if plain.len() > bytes_max => Err(CallFailure::TooLarge),
        Ok(plain) => Ok(plain),
        Err(_) => Ok(body),
    }
}

/// All of it, or one byte more than there may be.
fn read(from: impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    from.take(bytes_max as u64 + 1).read_to_end(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn read_as(coding: &str, body: &[u8]) -> Result<Vec<u8>, CallFailure> {
        without(coding, body.to_vec(), 100)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn common_codings_are_taken_off() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(b"deflated").unwrap();
        let deflated = encoder.finish().unwrap();
        assert_eq!(read_as("deflate", &deflated), Ok(b"deflated".to_vec()));
        let twice = [gzip(b"a "), gzip(b"gzip")].concat();
        for coding in ["gzip", "x-gzip"] {
            assert_eq!(read_as(coding, &twice), Ok(b"a gzip".to_vec()), "{coding}");
        }
    }

    #[test]
    fn what_has_no_known_coding_stays_as_it_came() {
        for coding in ["identity", "br", "gzip", "deflate", "gzip, gzip"] {
            assert_eq!(read_as(coding, b"plain"), Ok(b"plain".to_vec()), "{coding}");
        }
        let cut = &gzip(b"cut off")[..20];
        assert_eq!(read_as("gzip", cut), Ok(cut.to_vec()));
    }

    #[test]
    fn the_limit_holds_for_what_comes_out() {
        assert_eq!(read_as("gzip", &gzip(&[0; 100])), Ok(vec![0; 100]));
        let bomb = gzip(&vec![0; 1 << 20]);
        assert_eq!(read_as("gzip", &bomb), Err(CallFailure::TooLarge));
    }
}
