//! Keys of senders that were met before: `known_keys.toml` in the state folder.

use mahp_common::auth::VerifyingKey;
use mahp_runtime::error::StartupError;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

const FILE: &str = "known_keys.toml";
const HEAD: &str = "# Public keys of MAHP senders, remembered at first contact. Remove a line to trust that sender's next key.\n";

/// Origin (`http://host:port`, or `source@group:port`) to key.
#[derive(Debug, Default)]
pub struct KnownKeys {
    /// None: there is no place to remember them; they are known as long as the program runs.
    path: Option<PathBuf>,
    keys: BTreeMap<String, VerifyingKey>,
}

impl KnownKeys {
    /// Reads the file in `folder`, if there is one.
    ///
    /// # Errors
    /// `E-KNOWN-KEYS`: it is there and cannot be read. Going on without it would mean to trust anybody anew.
    pub fn load(folder: Option<&Path>) -> Result<KnownKeys, StartupError> {
        let Some(path) = folder.map(|f| f.join(FILE)) else { return Ok(KnownKeys::default()) };
        let broken = |what: String| {
            StartupError::usage(
                "E-KNOWN-KEYS",
                format!("{}: {what}", path.display()),
                "mend the file, or remove it to trust the keys of the next contact",
            )
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(broken(format!("cannot be read: {e}"))),
        };
        let table: BTreeMap<String, String> =
            toml::from_str(&text).map_err(|e| broken(e.message().to_owned()))?;
        let mut keys = BTreeMap::new();
        for (origin, key) in table {
            let key = VerifyingKey::from_base64(&key).map_err(|e| broken(format!("{origin}: {e}")))?;
            keys.insert(origin, key);
        }
        Ok(KnownKeys { path: Some(path), keys })
    }

    /// The key of an origin.
    pub fn get(&self, origin: &str) -> Option<VerifyingKey> {
        self.keys.get(origin).copied()
    }

    /// Remembers a key. If the file cannot be written, only as long as the program runs, and says so.
    pub fn pin(&mut self, origin: &str, key: &VerifyingKey) {
        self.keys.insert(origin.to_owned(), *key);
        if let Some(path) = &self.path
            && let Err(e) = self.write(path)
        {
            let path = path.display();
            tracing::warn!(
                "W-KNOWN-KEYS: {path}: cannot be written ({e}); the key of {origin} is remembered until the program ends; set --state-dir to a folder it may write"
            );
        }
    }

    /// The refusal of another key.
    pub fn changed(&self, origin: &str, pinned: &VerifyingKey, found: &str) -> StartupError {
        let place = self.path.as_ref().map_or_else(String::new, |p| p.display().to_string());
        let known = pinned.to_base64();
        StartupError::usage(
            "E-KEY-CHANGED",
            format!("{origin} now signs with key {found}; remembered from first contact is {known}"),
            format!(
                "if the sender got a new key on purpose: remove the line of {origin} in {place}, or give --key {found}\n\
                 if not, somebody else answers at this address"
            ),
        )
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let table: BTreeMap<&String, String> = self.keys.iter().map(|(o, k)| (o, k.to_base64())).collect();
        let text = toml::to_string(&table).map_err(io::Error::other)?;
        let beside = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = fs::File::create(&beside)?;
        file.write_all(format!("{HEAD}{text}").as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    }
}
