//! Networks in CIDR notation: whom to believe what they say of others.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// Bits in front of the IPv4 address in an IPv4-mapped IPv6 address (`::ffff:0:0/96`).
const MAPPED_BITS: u8 = 96;

/// A range of addresses of one family. An IPv4-mapped IPv6 address counts as the IPv4 address, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// What stands before the slash.
    #[error("{0:?} is not an address or a network such as 10.0.0.0/8 or fd00::/8")]
    Address(String),
    /// What stands behind the slash.
    #[error("{text:?} needs a prefix length from 0 to {max} behind the slash")]
    Prefix {
        /// The text.
        text: String,
        /// The longest prefix of the family.
        max: u8,
    },
    /// An address inside of the network instead of the network: which of the two was meant is not clear.
    #[error("{text:?} has bits set behind its prefix: write {network} for the network, or {address} for the address")]
    HostBits {
        /// The text.
        text: String,
        /// The network that the address is in.
        network: Network,
        /// The address alone.
        address: IpAddr,
    },
}

impl Network {
    /// The network of `prefix` bits that `address` is in; `None` if the family has fewer bits.
    pub fn around(address: IpAddr, prefix: u8) -> Option<Self> {
        let mapped = address.is_ipv6() && address.to_canonical().is_ipv4();
        let (address, prefix) = match prefix.checked_sub(MAPPED_BITS) {
            Some(prefix) if mapped => (address.to_canonical(), prefix),
            _ => (address, prefix),
        };
        (prefix <= bits(address)).then(|| Self { first: masked(address, prefix), prefix })
    }

    /// Whether `address` is inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.prefix) == self.first
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let dropped = u32::from(bits(address).saturating_sub(prefix));
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(dropped).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(dropped).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    /// `address/prefix`, or an address alone.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork::Address(text.to_owned()))?;
        let max = bits(address);
        let length = match prefix {
            None => Some(max),
            Some(digits) if digits.len() <= 3 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok()
            }
            Some(_) => None,
        };
        let network = length.and_then(|length| Self::around(address, length));
        let network = network.ok_or_else(|| InvalidNetwork::Prefix { text: text.to_owned(), max })?;
        let address = address.to_canonical();
        if network.first != address {
            return Err(InvalidNetwork::HostBits { text: text.to_owned(), network, address });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// A list of networks. The empty list, which is the default, has nobody in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

impl Networks {
    /// Whether `address` is in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (net, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("::/0", "fe80::1", "1.2.3.4"),
            ("fd00::/8", "fdff::1", "fc00::1"),
            ("::1/128", "::1", "::2"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::ffff:11.0.0.0"),
            ("::ffff:10.0.0.0/104", "10.1.1.1", "11.1.1.1"),
        ] {
            assert!(network(net).contains(address(inside)), "{inside} in {net}");
            assert!(!network(net).contains(address(outside)), "{outside} in {net}");
        }
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
        assert_eq!(network("192.0.2.1").to_string(), "192.0.2.1/32");
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_was_meant() {
        for bad in ["", "/8", "10/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "::/0008", "a/8", "::1/8/8"]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        let said = "10.0.0.1/8".parse::<Network>().expect_err("which was meant?").to_string();
        assert!(said.contains("10.0.0.0/8") && said.contains("or 10.0.0.1 "), "{said}");
        assert!("::ffff:10.0.0.1/104".parse::<Network>().is_err());
        assert!("::ffff:0:0/90".parse::<Network>().is_err(), "half of it would be IPv4");
    }

    #[test]
    fn an_empty_list_trusts_nobody() {
        let nobody = Networks::default();
        assert!(nobody.is_empty() && !nobody.contain(address("127.0.0.1")) && !nobody.contain(address("::")));
        let two: Networks = [network("10.0.0.0/8"), network("::1")].into_iter().collect();
        assert!(two.contain(address("10.1.2.3")) && two.contain(address("::1")) && !two.contain(address("1.1.1.1")));
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
            any::<u128>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
            any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped().into()),
        ]
    }

    proptest! {
        #[test]
        fn a_network_reads_back_as_it_is_printed(address in any_address(), prefix in 0u8..=128) {
            if let Some(network) = Network::around(address, prefix) {
                prop_assert_eq!(network.to_string().parse(), Ok(network));
                prop_assert!(network.contains(network.first));
            }
        }

        #[test]
        fn inside_is_what_shares_the_first_bits(base in any::<u128>(), flip in 0u32..128, prefix in 0u8..=128) {
            let other = IpAddr::from((base ^ (1 << flip)).to_be_bytes());
            let base = IpAddr::from(base.to_be_bytes());
            prop_assume!(base.to_canonical().is_ipv6() && other.to_canonical().is_ipv6());
            let network = Network::around(base, prefix).expect("at most 128");
            prop_assert!(network.contains(base));
            prop_assert_eq!(network.contains(other), flip < 128 - u32::from(prefix));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[0-9a-f.:/%x ]{0,50}") {
            let _ = text.parse::<Network>();
        }
    }
}
