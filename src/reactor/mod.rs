//! The loop: every system call of the socket side is here.
