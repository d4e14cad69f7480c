//! One normaliser of host names, used wherever a host is written, read or looked up.
//!
//! A normal host name: A-labels (UTS 46, non-transitional), lower case, no port, one trailing dot dropped, at most
//! 253 bytes, no IP literal, no empty label.

use std::fmt;

use smol_str::SmolStr;

/// Longest host name in bytes (RFC 1035, without the trailing dot).
pub const HOSTNAME_MAX_BYTES: usize = 253;

/// A normalised host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(SmolStr);

/// Why a text is no host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHostname {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// More than 253 bytes.
    #[error("the host is longer than 253 bytes")]
    TooLong,
    /// Two dots in a row, or a dot at the start.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// A label over 63 bytes, or with a character that no host name has.
    #[error("the host has a label that is no DNS label")]
    Label,
    /// An IP address.
    #[error("the host is an IP address, not a name")]
    IpLiteral,
    /// The port is no number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// A Unicode name without an A-label form.
    #[error("the host is not a valid internationalised name")]
    Idna,
}

impl Hostname {
    /// The host of an HTTP authority (`host[:port]`) that is already in ASCII: what a router does per request.
    pub fn from_authority(authority: &str) -> Result<Self, InvalidHostname> {
        if authority.starts_with('[') {
            return Err(InvalidHostname::IpLiteral);
        }
        let host = match authority.split_once(':') {
            Some((host, port)) => {
                check_port(port)?;
                host
            }
            None => authority,
        };
        Self::from_ascii(host)
    }

    /// A host name as a person writes it, Unicode allowed: what the API does once per claim.
    pub fn from_text(text: &str) -> Result<Self, InvalidHostname> {
        if text.len() > 4 * HOSTNAME_MAX_BYTES {
            return Err(InvalidHostname::TooLong);
        }
        if text.is_ascii() {
            return Self::from_ascii(text);
        }
        let ascii =
            idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::URL).map_err(|_| InvalidHostname::Idna)?;
        Self::from_ascii(&ascii)
    }

    fn from_ascii(text: &str) -> Result<Self, InvalidHostname> {
        let host = text.strip_suffix('.').unwrap_or(text);
        if host.is_empty() {
            return Err(InvalidHostname::Empty);
        }
        if host.len() > HOSTNAME_MAX_BYTES {
            return Err(InvalidHostname::TooLong);
        }
        let (mut begin, mut is_punycode, mut has_uppercase) = (0, false, false);
        for (at, byte) in host.bytes().enumerate() {
            match CHARACTERS[usize::from(byte)] {
                Character::Normal => {}
                Character::Uppercase => has_uppercase = true,
                Character::Dot => {
                    is_punycode |= check_label(&host[begin..at])?;
                    begin = at + 1;
                }
                Character::Illegal => return Err(InvalidHostname::Label),
            }
        }
        let last = &host[begin..];
        is_punycode |= check_label(last)?;
        // A last label of digits only is how an IPv4 address is told from a name (WHATWG URL, "ends in a number").
        let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        if last.bytes().all(|byte| byte.is_ascii_digit())
            || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(InvalidHostname::IpLiteral);
        }
        let host = if has_uppercase { SmolStr::from(host.to_ascii_lowercase()) } else { SmolStr::new(host) };
        if is_punycode {
            check_punycode(&host)?;
        }
        Ok(Self(host))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one label in front of `base`, if the name is exactly one label below it.
    pub fn label_under<'a>(&'a self, base: &Hostname) -> Option<&'a str> {
        let label = self.0.strip_suffix(base.as_str())?.strip_suffix('.')?;
        (!label.contains('.')).then_some(label)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a byte is in a host name.
#[derive(Clone, Copy)]
enum Character {
    Normal,
    Uppercase,
    Dot,
    Illegal,
}

/// As a table, since every byte of every request's host is looked up.
static CHARACTERS: [Character; 256] = {
    let mut characters = [Character::Illegal; 256];
    let mut byte = 0;
    while byte < characters.len() {
        characters[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => Character::Normal,
            b'A'..=b'Z' => Character::Uppercase,
            b'.' => Character::Dot,
            _ => Character::Illegal,
        };
        byte += 1;
    }
    characters
};

fn check_port(port: &str) -> Result<(), InvalidHostname> {
    let digits = !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number) if digits && number > 0 => Ok(()),
        _ => Err(InvalidHostname::Port),
    }
}

/// Checks a label whose characters are legal, and says whether it is in Punycode.
fn check_label(label: &str) -> Result<bool, InvalidHostname> {
    let label = label.as_bytes();
    match (label.first(), label.last()) {
        (None, _) => Err(InvalidHostname::EmptyLabel),
        (Some(b'-'), _) | (_, Some(b'-')) => Err(InvalidHostname::Label),
        _ if label.len() > crate::ids::LABEL_MAX_BYTES => Err(InvalidHostname::Label),
        _ => Ok(label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"xn--"))),
    }
}

/// An `xn--` label must be the A-label of something, or two spellings could mean one host to others and two to us.
fn check_punycode(host: &str) -> Result<(), InvalidHostname> {
    let (_, result) = idna::domain_to_unicode(host);
    result.map_err(|_| InvalidHostname::Idna)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(text: &str) -> Result<String, InvalidHostname> {
        Hostname::from_authority(text).map(|host| host.to_string())
    }

    #[test]
    fn authorities_are_normalised() {
        assert_eq!(normal("Acme.Example.COM"), Ok("acme.example.com".into()));
        assert_eq!(normal("acme.example.com."), Ok("acme.example.com".into()));
        assert_eq!(normal("acme.example.com:8080"), Ok("acme.example.com".into()));
        assert_eq!(normal("acme.example.com.:8080"), Ok("acme.example.com".into()));
        assert_eq!(normal("xn--bcher-kva.example"), Ok("xn--bcher-kva.example".into()));
        assert_eq!(normal("a.XN--bcher-kva"), Ok("a.xn--bcher-kva".into()));
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for (text, why) in [
            ("", InvalidHostname::Empty),
            (".", InvalidHostname::Empty),
            ("a..b", InvalidHostname::EmptyLabel),
            (".a", InvalidHostname::EmptyLabel),
            ("a.b..", InvalidHostname::EmptyLabel),
            ("127.0.0.1", InvalidHostname::IpLiteral),
            ("1", InvalidHostname::IpLiteral),
            ("a.0x7f", InvalidHostname::IpLiteral),
            ("[::1]", InvalidHostname::IpLiteral),
            ("a@b", InvalidHostname::Label),
            ("a/b", InvalidHostname::Label),
            ("a b", InvalidHostname::Label),
            ("-a.example", InvalidHostname::Label),
            ("a-.example", InvalidHostname::Label),
            ("a.b-", InvalidHostname::Label),
            ("xn--a.example", InvalidHostname::Idna),
            ("a.XN--A", InvalidHostname::Idna),
            ("a:80@b", InvalidHostname::Port),
            ("a:", InvalidHostname::Port),
            ("a:0", InvalidHostname::Port),
            ("a:65536", InvalidHostname::Port),
            ("a:+80", InvalidHostname::Port),
            ("bücher.example", InvalidHostname::Label),
        ] {
            assert_eq!(normal(text), Err(why), "{text:?}");
        }
        assert!(normal(&format!("{}.example", "a".repeat(63))).is_ok());
        assert_eq!(normal(&format!("{}.example", "a".repeat(64))), Err(InvalidHostname::Label));
        assert_eq!(normal(&"a.".repeat(130)), Err(InvalidHostname::TooLong));
    }

    #[test]
    fn a_name_in_unicode_becomes_its_a_label() {
        assert_eq!(Hostname::from_text("Bücher.example").map(|h| h.to_string()), Ok("xn--bcher-kva.example".into()));
        assert_eq!(Hostname::from_text("straße.example").map(|h| h.to_string()), Ok("xn--strae-oqa.example".into()));
    }

    #[test]
    fn a_tenant_is_exactly_one_label_below_the_base() {
        let base = Hostname::from_text("cells.localhost").expect("legal");
        let label = |text: &str| Hostname::from_text(text).expect("legal").label_under(&base).map(str::to_owned);
        assert_eq!(label("acme.cells.localhost"), Some("acme".into()));
        assert_eq!(label("a.acme.cells.localhost"), None);
        assert_eq!(label("cells.localhost"), None);
        assert_eq!(label("acmecells.localhost"), None);
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "[ -~äßü。]{0,80}") {
            if let Ok(once) = Hostname::from_text(&text) {
                prop_assert_eq!(Hostname::from_authority(once.as_str()), Ok(once.clone()));
                prop_assert_eq!(Hostname::from_text(once.as_str()), Ok(once));
            }
        }

        #[test]
        fn case_port_and_one_trailing_dot_do_not_matter(
            host in "[a-z][a-z0-9]{0,10}(\\.[a-z][a-z0-9]{0,10}){0,3}", port in 1u16..
        ) {
            let plain = Hostname::from_authority(&host);
            prop_assert!(plain.is_ok());
            prop_assert_eq!(&Hostname::from_authority(&host.to_ascii_uppercase()), &plain);
            prop_assert_eq!(&Hostname::from_authority(&format!("{host}.")), &plain);
            prop_assert_eq!(&Hostname::from_authority(&format!("{host}:{port}")), &plain);
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in "\\PC{0,300}") {
            let _ = Hostname::from_authority(&text);
            let _ = Hostname::from_text(&text);
        }
    }
}
