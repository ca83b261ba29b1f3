//! `mahp-moq`.
