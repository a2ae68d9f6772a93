//! The client side of each contract.
