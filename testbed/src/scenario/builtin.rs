//! The scenarios that are part of the program (`testbed/scenarios/*.toml`).

/// A shipped scenario.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Its name on the command line.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(Builtin { name: $name, text: include_str!(concat!("../../scenarios/", $name, ".toml")) }),*]
    };
}

/// All of them, in the order of `suite full` (which leaves out the longest).
pub fn all() -> &'static [Builtin] {
    shipped![
        "clean",
        "loss-1",
        "loss-5",
        "loss-10",
        "loss-20",
        "wifi",
        "wifi-lossy",
        "satellite",
        "congested",
        "outage",
        "origin-gone",
        "sender-killed",
        "standby",
        "receiver-killed",
        "late-join",
        "vod-join",
        "reorder",
        "corrupt",
        "forged",
        "slow-origin",
        "access-link",
        "crowd",
        "second-layer",
        "startup",
        "ipv6",
        "pattern",
        "players",
        "no-fec",
        "no-repair",
        "no-unicast",
        "soak",
    ]
}

/// The one of this name.
pub fn find(name: &str) -> Option<&'static Builtin> {
    all().iter().find(|b| b.name == name)
}
