//! The engines: [`send::SendSession`] turns objects into paced packets, [`recv::RecvSession`] turns packets into objects.
//!
//! Both have one input method and one output method. After each `handle_input`, call `poll_output` until it returns
//! `Output::Timeout` (call again with `Input::Timeout` at that time, or earlier with anything else). Time never goes back.
//! Heavy work (RaptorQ) comes out as a command and its result goes in again, so a driver may use other threads.

pub mod recv;
pub mod send;

#[cfg(test)]
mod describe_tests;
#[cfg(test)]
mod forgery_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod symbol_tests;
#[cfg(test)]
mod tests;
