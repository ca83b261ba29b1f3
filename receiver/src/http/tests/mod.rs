//! Tests of the HTTP half against a library and web servers that do as they are told.

mod access;
mod growing;
mod ladder;
mod manifests;
mod ranges;
pub(crate) mod rig;
mod web;
mod window;
mod wire;
