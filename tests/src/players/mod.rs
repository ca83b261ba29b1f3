//! Drivers of real players. Each plays a URL and tells how it went; none knows whether the URL is an origin's or a receiver's.

pub mod browser;
pub mod ffmpeg;
pub mod gstreamer;
pub mod vlc;
