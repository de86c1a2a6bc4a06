//! Which addresses may be dialled: the public ones, and those that the config allows by name.
//!
//! An IPv6 address that carries an IPv4 address (mapped, NAT64, 6to4, Teredo...) leads to that address, and is judged
//! by it. Metadata services hand out the machine's own credentials: no setting opens them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Which addresses may be dialled beyond the public ones: `[proxy.destinations]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Destinations {
    pub allow: Vec<IpNet>,
}

/// An address that may not be dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Prohibited {
    pub address: IpAddr,
    pub kind: Kind,
}

/// What is wrong with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Never allowed.
    Metadata,
    /// Never allowed: one of our own listeners.
    Own,
    Unspecified,
    Loopback,
    Private,
    SharedCarrier,
    LinkLocal,
    Multicast,
    Broadcast,
    Documentation,
    Benchmarking,
    SiteLocal,
    Reserved,
}

impl Destinations {
    /// Whether `ip` may be dialled, all forms of it considered. Our own listeners are another question: `is_own`.
    pub(super) fn judge(&self, ip: IpAddr) -> Result<(), Prohibited> {
        let inner = carried(ip);
        let refuse = |kind| Err(Prohibited { address: ip, kind });
        if is_metadata(ip) || inner.iter().any(|ip| is_metadata(IpAddr::V4(*ip))) {
            return refuse(Kind::Metadata);
        }
        if self.allows(ip) {
            return Ok(());
        }
        let judged = if inner.is_empty() { vec![ip] } else { inner.into_iter().map(IpAddr::V4).collect() };
        match judged.into_iter().filter(|ip| !self.allows(*ip)).find_map(special) {
            Some(kind) => refuse(kind),
            None => Ok(()),
        }
    }

    fn allows(&self, ip: IpAddr) -> bool {
        self.allow.iter().any(|net| net.contains(&ip))
    }
}

/// Whether a connection to `ip` and `port` would reach one of our `own` listeners.
pub(super) fn is_own(own: &[SocketAddr], ip: IpAddr, port: u16) -> bool {
    let mut targets = vec![ip];
    targets.extend(carried(ip).into_iter().map(IpAddr::V4));
    own.iter().filter(|listener| listener.port() == port).any(|listener| {
        targets.iter().any(|target| {
            let listening = listener.ip().to_canonical();
            // The kernel takes the unspecified address for loopback; a listener on it has every address of the machine.
            *target == listening
                || (target.is_unspecified() && listening.is_loopback())
                || (listening.is_unspecified() && is_local(*target))
        })
    })
}

/// Whether the address is one of this machine's: only then can something be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether a cloud's metadata service answers there: credentials for whoever asks.
pub fn is_metadata(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => METADATA_V4.contains(&ip),
        IpAddr::V6(ip) => METADATA_V6.contains(&ip),
    }
}

/// What keeps an address from being a public one.
fn special(ip: IpAddr) -> Option<Kind> {
    match ip {
        IpAddr::V4(ip) => SPECIAL_V4.iter().find(|(net, _)| net.contains(&ip)).map(|(_, kind)| *kind),
        IpAddr::V6(ip) => SPECIAL_V6
            .iter()
            .find(|(net, _)| net.contains(&ip))
            .map(|(_, kind)| *kind)
            .or((!GLOBAL_UNICAST.contains(&ip)).then_some(Kind::Reserved)),
    }
}

/// The IPv4 addresses that a packet to `ip` may end at, if it is an IPv6 address that carries any.
fn carried(ip: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return Vec::new() };
    let octets = ip.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    let last = at([12, 13, 14, 15]);
    if ip.is_unspecified() || ip.is_loopback() {
        Vec::new()
    } else if MAPPED.contains(&ip) || COMPATIBLE.contains(&ip) || NAT64.contains(&ip) {
        vec![last]
    } else if NAT64_LOCAL.contains(&ip) {
        // The operator of the translator chooses the length of the prefix (RFC 6052, section 2.2): each is tried.
        vec![at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), last]
    } else if SIX_TO_FOUR.contains(&ip) {
        vec![at([2, 3, 4, 5])]
    } else if TEREDO.contains(&ip) {
        // The server, and the client behind its translator, which is written with every bit turned.
        vec![at([4, 5, 6, 7]), Ipv4Addr::from(!u32::from(last))]
    } else if ISATAP.contains(&(u32::from_be_bytes([octets[8], octets[9], octets[10], octets[11]]))) {
        vec![last]
    } else {
        Vec::new()
    }
}

impl fmt::Display for Prohibited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, kind } = self;
        match kind {
            Kind::Metadata => write!(f, "{address} is a metadata service, which can never be allowed"),
            Kind::Own => write!(f, "{address} leads back to our own listener"),
            other => write!(f, "{address} is {}, and proxy.destinations.allow does not contain it", other.as_str()),
        }
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "a metadata service",
            Self::Own => "our own listener",
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::SharedCarrier => "a carrier's shared address",
            Self::LinkLocal => "a link-local address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Documentation => "an address for documentation",
            Self::Benchmarking => "an address for benchmarks",
            Self::SiteLocal => "a site-local address",
            Self::Reserved => "a reserved address",
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

/// A prefix of IPv6 by its first three groups; none that matters here needs more.
const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// Where clouds hand out credentials; 168.63.129.16 is Azure's, and a public address by its number.
const METADATA_V4: [Ipv4Addr; 8] = [
    Ipv4Addr::new(169, 254, 0, 23),
    Ipv4Addr::new(169, 254, 42, 42),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];

const METADATA_V6: [Ipv6Addr; 6] = [
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const COMPATIBLE: Ipv6Net = v6(0, 0, 0, 96);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
const NAT64_LOCAL: Ipv6Net = v6(0x64, 0xff9b, 1, 48);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 16);
const TEREDO: Ipv6Net = v6(0x2001, 0, 0, 32);
/// What the lower half of an address begins with that leads through an ISATAP router (RFC 5214, section 6.1).
const ISATAP: [u32; 2] = [0x0000_5efe, 0x0200_5efe];
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

/// IANA's registry of special addresses (RFC 6890), as far as they are not for everyone to reach.
const SPECIAL_V4: [(Ipv4Net, Kind); 17] = [
    (v4(0, 0, 0, 0, 8), Kind::Unspecified),
    (v4(10, 0, 0, 0, 8), Kind::Private),
    (v4(100, 64, 0, 0, 10), Kind::SharedCarrier),
    (v4(127, 0, 0, 0, 8), Kind::Loopback),
    (v4(169, 254, 0, 0, 16), Kind::LinkLocal),
    (v4(172, 16, 0, 0, 12), Kind::Private),
    (v4(192, 0, 0, 0, 24), Kind::Reserved),
    (v4(192, 0, 2, 0, 24), Kind::Documentation),
    (v4(192, 88, 99, 0, 24), Kind::Reserved),
    (v4(192, 168, 0, 0, 16), Kind::Private),
    (v4(198, 18, 0, 0, 15), Kind::Benchmarking),
    (v4(198, 51, 100, 0, 24), Kind::Documentation),
    (v4(203, 0, 113, 0, 24), Kind::Documentation),
    (v4(233, 252, 0, 0, 24), Kind::Documentation),
    (v4(224, 0, 0, 0, 4), Kind::Multicast),
    (v4(255, 255, 255, 255, 32), Kind::Broadcast),
    (v4(240, 0, 0, 0, 4), Kind::Reserved),
];

/// What is special within or outside of `GLOBAL_UNICAST`; the rest outside is reserved.
const SPECIAL_V6: [(Ipv6Net, Kind); 10] = [
    (v6(0, 0, 0, 128), Kind::Unspecified),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), Kind::Loopback),
    (v6(0xfe80, 0, 0, 10), Kind::LinkLocal),
    (v6(0xfec0, 0, 0, 10), Kind::SiteLocal),
    (v6(0xfc00, 0, 0, 7), Kind::Private),
    (v6(0xff00, 0, 0, 8), Kind::Multicast),
    (v6(0x2001, 2, 0, 48), Kind::Benchmarking),
    (v6(0x2001, 0xdb8, 0, 32), Kind::Documentation),
    (v6(0x3fff, 0, 0, 20), Kind::Documentation),
    (v6(0x2001, 0, 0, 23), Kind::Reserved),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(allow: &[&str], ip: &str) -> Result<(), Kind> {
        let allow = allow.iter().map(|net| net.parse().expect("well-formed")).collect();
        Destinations { allow }.judge(ip.parse().expect("well-formed")).map_err(|prohibited| prohibited.kind)
    }

    #[test]
    fn public_addresses_pass() {
        for ip in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450:4001:800::200e",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:0:808:808::f7f7:f7f7",
        ] {
            assert_eq!(judge(&[], ip), Ok(()), "{ip}");
        }
    }

    #[test]
    fn everything_that_is_not_public_is_prohibited() {
        for (ip, kind) in [
            ("0.0.0.0", Kind::Unspecified),
            ("0.1.2.3", Kind::Unspecified),
            ("10.0.0.1", Kind::Private),
            ("100.64.0.1", Kind::SharedCarrier),
            ("100.127.255.255", Kind::SharedCarrier),
            ("127.0.0.1", Kind::Loopback),
            ("127.255.255.254", Kind::Loopback),
            ("169.254.0.1", Kind::LinkLocal),
            ("172.16.0.1", Kind::Private),
            ("172.31.255.255", Kind::Private),
            ("192.0.0.8", Kind::Reserved),
            ("192.0.2.1", Kind::Documentation),
            ("192.88.99.1", Kind::Reserved),
            ("192.168.1.1", Kind::Private),
            ("198.18.0.1", Kind::Benchmarking),
            ("198.19.255.255", Kind::Benchmarking),
            ("198.51.100.1", Kind::Documentation),
            ("203.0.113.1", Kind::Documentation),
            ("224.0.0.1", Kind::Multicast),
            ("233.252.0.1", Kind::Documentation),
            ("239.255.255.255", Kind::Multicast),
            ("240.0.0.1", Kind::Reserved),
            ("255.255.255.254", Kind::Reserved),
            ("255.255.255.255", Kind::Broadcast),
            ("::", Kind::Unspecified),
            ("::1", Kind::Loopback),
            ("100::1", Kind::Reserved),
            ("2001:2::1", Kind::Benchmarking),
            ("2001:20::1", Kind::Reserved),
            ("2001:db8::1", Kind::Documentation),
            ("3fff:fff::1", Kind::Documentation),
            ("4000::1", Kind::Reserved),
            ("5f00::1", Kind::Reserved),
            ("fc00::1", Kind::Private),
            ("fdff:ffff::1", Kind::Private),
            ("fe80::1", Kind::LinkLocal),
            ("febf::1", Kind::LinkLocal),
            ("fec0::1", Kind::SiteLocal),
            ("ff02::1", Kind::Multicast),
            ("::ffff:0:8.8.8.8", Kind::Reserved),
        ] {
            assert_eq!(judge(&[], ip), Err(kind), "{ip}");
        }
    }

    #[test]
    fn a_carried_ipv4_address_is_what_is_judged() {
        for (ip, kind) in [
            ("::ffff:127.0.0.1", Kind::Loopback),
            ("::ffff:10.0.0.1", Kind::Private),
            ("::10.0.0.1", Kind::Private),
            ("::2", Kind::Unspecified),
            ("64:ff9b::10.0.0.1", Kind::Private),
            ("64:ff9b:1::10.0.0.1", Kind::Unspecified),
            ("2002:7f00:1::1", Kind::Loopback),
            ("2002:c0a8:101::1", Kind::Private),
            ("2001:0:a00:1::f7f7:f7f7", Kind::Private),
            ("2001:0:808:808::80ff:fffe", Kind::Loopback),
            ("2a00:1450::5efe:10.0.0.1", Kind::Private),
            ("2a00:1450::200:5efe:127.0.0.1", Kind::Loopback),
            ("fe80::5efe:10.0.0.1", Kind::Private),
        ] {
            assert_eq!(judge(&[], ip), Err(kind), "{ip}");
        }
    }

    #[test]
    fn what_is_allowed_by_name_passes_in_every_form() {
        assert_eq!(judge(&["127.0.0.0/8"], "127.0.0.1"), Ok(()));
        assert_eq!(judge(&["127.0.0.0/8"], "::ffff:127.0.0.1"), Ok(()));
        assert_eq!(judge(&["127.0.0.0/8"], "::1"), Err(Kind::Loopback));
        assert_eq!(judge(&["::1/128"], "::1"), Ok(()));
        assert_eq!(judge(&["10.1.0.0/16"], "10.1.2.3"), Ok(()));
        assert_eq!(judge(&["10.1.0.0/16"], "10.2.2.3"), Err(Kind::Private));
        assert_eq!(judge(&["fd12::/16"], "fd12::1"), Ok(()));
        assert_eq!(judge(&["10.0.0.0/8"], "2001:0:a00:1::80ff:fffe"), Err(Kind::Loopback), "both must pass");
        assert_eq!(judge(&["64:ff9b:1::/48"], "64:ff9b:1::10.0.0.1"), Ok(()), "the operator's own translator");
    }

    #[test]
    fn no_setting_opens_a_metadata_service() {
        for ip in [
            "169.254.169.254",
            "169.254.0.23",
            "169.254.42.42",
            "169.254.170.2",
            "169.254.170.23",
            "192.0.0.192",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:42::42",
            "fd00:c1::a9fe:a9fe",
            "fe80::a9fe:a9fe",
            "2a00:1450::5efe:169.254.169.254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::f7f7:f7f7",
            "2001:0:808:808::5601:5601",
        ] {
            assert_eq!(judge(&["0.0.0.0/0", "::/0"], ip), Err(Kind::Metadata), "{ip}");
        }
    }

    #[test]
    fn our_own_listeners_are_known_by_every_name_they_have() {
        let own = |listener: &str, ip: &str, port| {
            is_own(&[listener.parse().expect("well-formed")], ip.parse().expect("well-formed"), port)
        };
        assert!(own("127.0.0.1:8080", "127.0.0.1", 8080));
        assert!(own("127.0.0.1:8080", "::ffff:127.0.0.1", 8080));
        assert!(own("127.0.0.1:8080", "0.0.0.0", 8080), "the kernel takes it for loopback");
        assert!(own("[::1]:8080", "::", 8080));
        assert!(own("0.0.0.0:8080", "127.9.9.9", 8080));
        assert!(own("[::]:8080", "127.0.0.1", 8080));
        assert!(own("[::]:8080", "::1", 8080));
        assert!(own("0.0.0.0:8080", "::ffff:127.0.0.1", 8080));
        assert!(own("127.0.0.1:8080", "64:ff9b::127.0.0.1", 8080), "behind a translator of our own");
        assert!(own("127.0.0.1:8080", "2002:7f00:1::1", 8080));
        assert!(own("[::]:8080", "0.0.0.0", 8080));
        assert!(!own("127.0.0.1:8080", "127.0.0.1", 8081));
        assert!(!own("127.0.0.1:8080", "127.0.0.2", 8080));
        assert!(!own("0.0.0.0:443", "1.1.1.1", 443));
    }
}
