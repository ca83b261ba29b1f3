//! The last description of each sender with a URL, in the state folder: a receiver that is started while its sender does not
//! answer goes on with it.
//!
//! A file is what came, byte for byte. It is verified again when it is read, and only with a key that is known already: a file
//! alone makes nobody trusted.

use super::{Accepted, Trust};
use crate::config::SessionSource;
use bytes::Bytes;
use mahp_common::{Digest, WallTime, limits};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};
use url::Url;

const FOLDER: &str = "descriptions";
/// Files that are kept; the oldest goes first.
const FILES_MAX: usize = 64;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// None: there is no place to remember them.
    folder: Option<PathBuf>,
}

impl Remembered {
    /// In this state folder. Nothing is read or made yet.
    pub fn new(state_dir: Option<&Path>) -> Remembered {
        Remembered { folder: state_dir.map(|f| f.join(FOLDER)) }
    }

    /// The description that `url` had last, if it is still good. One that is damaged is left out with a warning.
    pub fn read(&self, url: &Url, trust: &Trust, now: WallTime) -> Option<(Bytes, Accepted)> {
        let path = self.path(url)?;
        let source = SessionSource::Url(url.clone());
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => return ignored(&path, &e.to_string()),
        };
        match trust.accept_known(&source, &bytes, now)? {
            Ok(accepted) => Some((bytes.into(), accepted)),
            Err(e) => ignored(&path, &e.message),
        }
    }

    /// Remembers what `url` has now. Where it cannot be written, says so.
    pub fn write(&self, url: &Url, bytes: &[u8]) {
        let Some(path) = self.path(url) else { return };
        if let Err(e) = write_whole(&path, bytes).and_then(|()| forget_oldest(&path)) {
            let path = path.display();
            tracing::warn!(
                "W-DESCRIPTION-FILE: {path}: cannot be written ({e}); a restart will need the sender; set --state-dir to a folder it may write"
            );
        }
    }

    fn path(&self, url: &Url) -> Option<PathBuf> {
        let name = Digest::of(url.as_str().as_bytes()).to_hex();
        Some(self.folder.as_ref()?.join(format!("{}.json", &name[..32])))
    }
}

fn ignored<T>(path: &Path, why: &str) -> Option<T> {
    let path = path.display();
    tracing::warn!("W-DESCRIPTION-FILE: {path}: not used: {why}");
    None
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more is refused by those who read it.
    fs::File::open(path)?.take(limits::DESCRIPTION_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let written = fs::File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        _ = fs::remove_file(&beside);
    }
    done
}

/// Keeps the folder of `path` within its bound.
fn forget_oldest(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let mut files: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .filter(|(_, file)| file != path)
        .collect();
    files.sort();
    let surplus = (files.len() + 1).saturating_sub(FILES_MAX);
    files.iter().take(surplus).try_for_each(|(_, file)| fs::remove_file(file))
}
