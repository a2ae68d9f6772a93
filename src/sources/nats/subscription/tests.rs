//! The cursor over streams that are made anew or restored.

use super::*;

const fn stream(created_unix_ns: i64, last_sequence: u64) -> StreamState {
    StreamState {
        created_unix_ns,
        last_sequence,
    }
}

#[test]
fn same_stream_goes_on() {
    let mut cursor = Cursor::default();
    cursor.observe(stream(50, 7));
    assert_eq!(cursor.reached(), None);
    cursor.reach(7);
    cursor.observe(stream(50, 9));
    assert_eq!(cursor.reached(), Some(7));
    assert_eq!(cursor.position(8).epoch, 50);
}

#[test]
fn new_stream_starts_over_and_counts_as_newer() {
    let mut cursor = Cursor::default();
    cursor.observe(stream(50, 7));
    cursor.reach(7);
    cursor.observe(stream(60, 2));
    assert_eq!(cursor.reached(), Some(0));
    assert_eq!(cursor.position(1).epoch, 60);
    // an older backup in the place of the stream is newer to us all the same
    cursor.observe(stream(10, 2));
    assert_eq!(cursor.reached(), Some(0));
    assert_eq!(cursor.position(1).epoch, 61);
}

#[test]
fn stream_that_lost_its_tail_counts_as_newer() {
    let mut cursor = Cursor::default();
    cursor.observe(stream(50, 7));
    cursor.reach(7);
    cursor.observe(stream(50, 3));
    assert_eq!(cursor.reached(), None);
    assert_eq!(cursor.position(4).epoch, 51);
    // seen again before anything was reached: nothing changes
    cursor.observe(stream(50, 3));
    assert_eq!(cursor.position(4).epoch, 51);
}
