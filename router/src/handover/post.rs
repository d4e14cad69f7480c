//! The Unix socket at which a running router is asked for its listeners.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::net::UnixListener;
use tokio::time::sleep;

use super::wire::Wire;

/// The longest path: with what is put behind it until it is in place, the kernel takes no longer one.
pub const PATH_MAX_BYTES: usize = 90;
/// Only its owner may connect.
const MODE: u32 = 0o600;
/// How long to wait when accepting fails.
const PAUSE_MS: u64 = 50;

pub(super) struct Post {
    listener: UnixListener,
    path: PathBuf,
    /// Where it is until it is in place.
    aside: Option<PathBuf>,
}

impl Post {
    /// Listens beside the path, so that a folder that cannot be written to is found before anything is taken over.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let length = path.as_os_str().as_bytes().len();
        ensure!(length <= PATH_MAX_BYTES, "the handover path has {length} bytes, at most {PATH_MAX_BYTES} can be used");
        let mut aside = OsString::from(path);
        aside.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(aside);
        let opened = || -> io::Result<UnixListener> {
            match fs::remove_file(&aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&aside)?;
            fs::set_permissions(&aside, Permissions::from_mode(MODE))?;
            Ok(listener)
        };
        let listener = opened().with_context(|| format!("cannot listen on {} (handover)", aside.display()))?;
        Ok(Self { listener, path: path.to_owned(), aside: Some(aside) })
    }

    /// Puts it in place, at once, of whatever is there.
    pub(super) fn publish(&mut self) -> io::Result<()> {
        if let Some(aside) = &self.aside {
            fs::rename(aside, &self.path)?;
            self.aside = None;
        }
        Ok(())
    }

    /// The next who asks, of our own user or root: others are not heard.
    pub(super) async fn accept(&self) -> Wire {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let wire = Wire::new(stream);
                    match wire.is_of_our_user() {
                        Ok(true) => return wire,
                        Ok(false) => tracing::warn!("another user asks for the listeners of this router; not heard"),
                        Err(error) => tracing::warn!(%error, "who asks for the listeners is not known; not heard"),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the handover socket");
                    sleep(Duration::from_millis(PAUSE_MS)).await;
                }
            }
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        // What is in place stays: a file that nobody listens at is replaced by the next router.
        if let Some(aside) = &self.aside {
            let _ = fs::remove_file(aside);
        }
    }
}
