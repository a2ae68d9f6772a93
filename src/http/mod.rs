//! Plain HTTP on a side thread.
