//! Session tickets that every router of a fleet can open: their keys follow from one secret and the time, so that all
//! routers rotate in step without a word between them.

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{error::Unspecified, hkdf, rand};
use cellway_api::certificate::{self, CertificateError, Mark, SECRET_MIN_BYTES};
use rustls::server::ProducesTickets;
use std::path::PathBuf;
use std::sync::Arc;

/// How long one key makes tickets. A ticket can be used for at least this long, and for less than twice as long.
pub const TICKET_KEY_S: u32 = 6 * 3_600;

/// The largest ticket that is looked at: a client's certificate chain may be in it.
const TICKET_MAX_BYTES: usize = 32 * 1024;

/// Says which key made a ticket.
const KEY_NAME_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// Makes and opens tickets.
#[derive(Debug)]
pub(crate) struct Tickets {
    file: Option<PathBuf>,
    state: ArcSwap<State>,
    clock: fn() -> u64,
}

/// The keys at one time. It is made anew when the time or the secret has gone on.
struct State {
    mark: Option<Mark>,
    secret: Arc<[u8]>,
    /// The secret before: its tickets are good until its file has changed again.
    secret_before: Option<Arc<[u8]>>,
    epoch: u64,
    /// What else the keys depend on.
    context: Arc<[u8]>,
    /// The first makes tickets; all open them.
    keys: Vec<TicketKey>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

struct TicketKey {
    name: [u8; KEY_NAME_BYTES],
    key: LessSafeKey,
}

/// Why there are no tickets.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// The secret's file.
    #[error(transparent)]
    File(#[from] CertificateError),
    /// No random numbers, or no keys.
    #[error("no key can be made")]
    NoKey,
}

impl From<Unspecified> for TicketError {
    fn from(_: Unspecified) -> Self {
        Self::NoKey
    }
}

fn now_s() -> u64 {
    u64::try_from(certificate::now_s()).unwrap_or(0)
}

fn epoch_of(now_s: u64) -> u64 {
    now_s / u64::from(TICKET_KEY_S)
}

impl Tickets {
    /// Tickets of the secret in this file; without one, of a secret that only this process knows.
    pub(crate) fn open(file: Option<PathBuf>) -> Result<Self, TicketError> {
        Self::open_at(file, now_s)
    }

    fn open_at(file: Option<PathBuf>, clock: fn() -> u64) -> Result<Self, TicketError> {
        let mark = file.as_deref().and_then(Mark::of);
        let secret = match &file {
            Some(path) => certificate::read_secret(path)?,
            None => {
                let mut secret = [0; SECRET_MIN_BYTES];
                rand::fill(&mut secret)?;
                secret.into()
            }
        };
        let state = State::new(mark, (secret, None), epoch_of(clock()), Arc::default())?;
        Ok(Self { file, state: ArcSwap::from_pointee(state), clock })
    }

    /// Reads the secret again if its file has changed. Tickets of the one before can still be opened.
    pub(crate) fn refresh(&self) -> Result<(), TicketError> {
        let Some(path) = &self.file else { return Ok(()) };
        let state = self.state.load();
        let mark = Mark::of(path);
        if mark == state.mark && mark.is_some_and(|mark| mark.is_settled()) {
            return Ok(());
        }
        let secret = certificate::read_secret(path)?;
        let before = if secret == state.secret { state.secret_before.clone() } else { Some(Arc::clone(&state.secret)) };
        let context = Arc::clone(&state.context);
        self.state.store(Arc::new(State::new(mark, (secret, before), state.epoch, context)?));
        Ok(())
    }

    /// Makes the keys depend on `context`, such as whom clients are checked by: a ticket that was made in another one is
    /// not opened, and its client checked anew.
    pub(crate) fn bind_to(&self, context: &[u8]) -> Result<(), TicketError> {
        let state = self.state.load();
        let secrets = (Arc::clone(&state.secret), state.secret_before.clone());
        self.state.store(Arc::new(State::new(state.mark, secrets, state.epoch, context.into())?));
        Ok(())
    }

    /// The keys of now. Two threads that find the old ones at once make the same new ones.
    fn state(&self) -> Option<Arc<State>> {
        let state = self.state.load_full();
        let epoch = epoch_of((self.clock)());
        if state.epoch == epoch {
            return Some(state);
        }
        let secrets = (Arc::clone(&state.secret), state.secret_before.clone());
        let state = Arc::new(State::new(state.mark, secrets, epoch, Arc::clone(&state.context)).ok()?);
        self.state.store(Arc::clone(&state));
        Some(state)
    }
}

impl State {
    /// The key of this epoch makes tickets. Those of the epochs beside it open them too: the last one's are still
    /// good, and another router's clock may be ahead.
    fn new(
        mark: Option<Mark>,
        (secret, secret_before): (Arc<[u8]>, Option<Arc<[u8]>>),
        epoch: u64,
        context: Arc<[u8]>,
    ) -> Result<Self, TicketError> {
        let epochs = [epoch, epoch.saturating_sub(1), epoch + 1];
        let secrets = std::iter::once(&secret).chain(&secret_before);
        let keys: Result<Vec<_>, _> =
            secrets.flat_map(|secret| epochs.map(|epoch| TicketKey::derive(secret, epoch, &context))).collect();
        Ok(Self { mark, keys: keys?, secret, secret_before, epoch, context })
    }
}

/// How many bytes are to be derived.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl TicketKey {
    fn derive(secret: &[u8], epoch: u64, context: &[u8]) -> Result<Self, Unspecified> {
        let source = hkdf::Salt::new(hkdf::HKDF_SHA256, b"cellway session tickets 1").extract(secret);
        let mut made = [0; KEY_NAME_BYTES + KEY_BYTES];
        source.expand(&[&epoch.to_be_bytes()[..], context], Length(made.len()))?.fill(&mut made)?;
        let (name, key) = made.split_at(KEY_NAME_BYTES);
        let name = name.try_into().map_err(|_| Unspecified)?;
        // A synthetic nonce: many routers draw random ones for the same key, and a repeated one must harm nothing.
        Ok(Self { name, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key)?) })
    }

    fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce)?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(self.name);
        self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)?;
        Ok([&self.name[..], &nonce, &sealed].concat())
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let sealed = ticket.strip_prefix(&self.name)?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let length = self.key.open_in_place(nonce, Aad::from(self.name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_KEY_S
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        if plain.len() + KEY_NAME_BYTES + NONCE_LEN + TAG_BYTES > TICKET_MAX_BYTES {
            return None;
        }
        self.state()?.keys.first()?.seal(plain).ok()
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_MAX_BYTES {
            return None;
        }
        self.state()?.keys.iter().find_map(|key| key.open(ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    const HOUR_S: u64 = 3_600;

    fn secret_file(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("tickets");
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("set");
        path
    }

    fn at(path: &Path, clock: fn() -> u64) -> Tickets {
        Tickets::open_at(Some(path.to_owned()), clock).expect("tickets")
    }

    #[test]
    fn routers_with_one_secret_open_each_others_tickets() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = secret_file(dir.path(), &"a".repeat(48));
        let ticket = at(&path, || 1_000 * HOUR_S).encrypt(b"session").expect("sealed");
        for clock in [|| 1_000 * HOUR_S, || 1_005 * HOUR_S, || 1_007 * HOUR_S, || 995 * HOUR_S] as [fn() -> u64; 4] {
            assert_eq!(at(&path, clock).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        }
        for clock in [|| 1_020 * HOUR_S, || 980 * HOUR_S] as [fn() -> u64; 2] {
            assert_eq!(at(&path, clock).decrypt(&ticket), None);
        }
    }

    #[test]
    fn a_ticket_of_another_secret_or_a_changed_one_is_not_opened() {
        let tickets = Tickets::open(None).expect("tickets");
        let ticket = tickets.encrypt(b"session").expect("sealed");
        assert_eq!(Tickets::open(None).expect("tickets").decrypt(&ticket), None);
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "byte {index}");
            assert_eq!(tickets.decrypt(&ticket[..index]), None, "cut at {index}");
        }
    }

    #[test]
    fn a_ticket_is_good_in_its_own_context_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = secret_file(dir.path(), &"a".repeat(48));
        let (one, other) = (at(&path, now_s), at(&path, now_s));
        one.bind_to(b"a CA").expect("bound");
        let ticket = one.encrypt(b"session").expect("sealed");
        assert_eq!(other.decrypt(&ticket), None);
        other.bind_to(b"a CA").expect("bound");
        assert_eq!(other.decrypt(&ticket).as_deref(), Some(&b"session"[..]), "at another router");
        one.bind_to(b"another CA").expect("bound");
        assert_eq!(one.decrypt(&ticket), None);
    }

    #[test]
    fn a_new_secret_still_opens_the_tickets_of_the_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = secret_file(dir.path(), &"a".repeat(48));
        let tickets = at(&path, now_s);
        let ticket = tickets.encrypt(b"session").expect("sealed");
        secret_file(dir.path(), &"b".repeat(47));
        tickets.refresh().expect("a good secret");
        assert!(tickets.decrypt(&ticket).is_some());
        assert!(at(&path, now_s).decrypt(&ticket).is_none());
        secret_file(dir.path(), "short");
        assert!(matches!(tickets.refresh(), Err(TicketError::File(CertificateError::ShortSecret { .. }))));
        assert!(tickets.decrypt(&ticket).is_some());
    }
}
