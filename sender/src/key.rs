//! The Ed25519 key of the sender: one file of 64 hexadecimal digits, readable by its owner only.

use mahp_common::Digest;
use mahp_common::WallTime;
use mahp_common::auth::SigningKey;
use mahp_runtime::error::StartupError;
use mahp_runtime::settings::state_folder;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Reads the key at `path` (or at the default place), creating it when there is none.
///
/// # Errors
/// `E-KEY`: it can be neither read nor made, or it is not a key.
pub fn load_or_create(path: Option<&Path>) -> Result<SigningKey, StartupError> {
    let path = place(path).ok_or_else(|| {
        StartupError::usage(
            "E-KEY",
            "there is no place for the signing key: neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME is set",
            "--key-file /var/lib/mahp/sender.key",
        )
    })?;
    match fs::read_to_string(&path) {
        Ok(text) => parse(&text).ok_or_else(|| {
            StartupError::usage("E-KEY", format!("{}: not a key (64 hexadecimal digits)", path.display()), "give the right file with --key-file, or remove it: a new key is made, and receivers must pin that one")
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => create(&path).map_err(|e| trouble(&path, "cannot be created", &e)),
        Err(e) => Err(trouble(&path, "cannot be read", &e)),
    }
}

/// The key, where there is one that can be read: for a look at what a start would do.
pub fn peek(path: Option<&Path>) -> Option<SigningKey> {
    parse(&fs::read_to_string(place(path)?).ok()?)
}

fn place(path: Option<&Path>) -> Option<PathBuf> {
    path.map(Path::to_path_buf).or_else(|| Some(state_folder()?.join("sender.key")))
}

fn trouble(path: &Path, what: &str, error: &io::Error) -> StartupError {
    StartupError::usage(
        "E-KEY",
        format!("{}: {what}: {}", path.display(), error.kind()),
        "--key-file FILE in a folder this user may write, or mend the permissions",
    )
}

fn parse(text: &str) -> Option<SigningKey> {
    Digest::from_hex(text.trim()).map(|d| SigningKey::from_seed(&d.0))
}

fn create(path: &Path) -> io::Result<SigningKey> {
    let seed = random_seed()?;
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    // Written beside and linked into place: another sender that starts now sees a whole key or none, and the first one wins.
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written =
        file.write_all(format!("{}\n", Digest(seed).to_hex()).as_bytes()).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| fs::hard_link(&beside, path));
    fs::remove_file(&beside)?;
    match linked {
        Ok(()) => Ok(SigningKey::from_seed(&seed)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            parse(&fs::read_to_string(path)?).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        }
        Err(e) => Err(e),
    }
}

fn random_seed() -> io::Result<[u8; 32]> {
    let mut seed = [0u8; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

/// Eight bytes of the operating system's randomness.
///
/// # Errors
/// `E-KEY` when there is no randomness.
pub fn random_u64() -> Result<u64, StartupError> {
    let seed = random_seed().map_err(|e| trouble(Path::new("/dev/urandom"), "cannot be read", &e))?;
    let mut first = [0u8; 8];
    first.copy_from_slice(&seed[..8]);
    Ok(u64::from_be_bytes(first))
}

/// Identity of this run: grows with wall clock (receivers refuse what an earlier run described while a later one is alive);
/// the lowest 20 bits are random, so that two runs of the same millisecond differ.
///
/// # Errors
/// Those of [`random_u64`].
pub fn random_session(wall: WallTime) -> Result<u64, StartupError> {
    Ok(wall.unix_millis() << 20 | random_u64()? & 0xf_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn key_is_made_once_and_kept_private() {
        let folder = std::env::temp_dir().join(format!("mahp-key-{}", std::process::id()));
        let path = folder.join("a/b/sender.key");
        let first = load_or_create(Some(&path)).expect("created").verifying_key();
        let second = load_or_create(Some(&path)).expect("read").verifying_key();
        assert_eq!(first, second);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(path.parent().expect("folder")).expect("listed").count(),
            1,
            "nothing beside it"
        );
        fs::write(&path, "not a key").expect("written");
        assert_eq!(load_or_create(Some(&path)).expect_err("refused").code, "E-KEY");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
