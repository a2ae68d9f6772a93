//! Tokens, roles, origins, rate limits.
