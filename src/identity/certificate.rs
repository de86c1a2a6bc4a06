//! Who a client's certificate says it is: its SPIFFE ID (X.509-SVID, section 2), or one of its DNS names. That somebody
//! trustworthy has signed it, TLS has verified by then.
//!
//! Invariant: names are compared whole, and none stands for others: a wildcard is nobody's name, a subject is not looked at,
//! and a certificate with more than one URI says nothing at all.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::{CertificateDer, DnsName};
use webpki::EndEntityCert;

/// The names of a certificate that was shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Certificate {
    uri: Option<Box<str>>,
    dns: Vec<Box<str>>,
}

/// `spiffe` and `dns` of a `[[client]]`: one at least, and what is given must all hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    spiffe: Option<SpiffeId>,
    dns: Option<DnsName<'static>>,
}

/// `spiffe://trust.domain/path`
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SpiffeId(Box<str>);

/// Why a text is no SPIFFE ID of a workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoSpiffeId {
    #[error(
        "a SPIFFE ID begins with \"spiffe://\" and a trust domain: lower-case letters, digits, \"-\", \"_\" and \".\""
    )]
    TrustDomain,
    #[error("a SPIFFE ID has a path that names one workload: without it, it names the whole trust domain")]
    NoPath,
    #[error(
        "the segments of a SPIFFE ID's path are letters, digits, \"-\", \"_\" and \".\"; none is empty, \".\" or \"..\""
    )]
    Path,
    #[error("a SPIFFE ID has at most {MAX_ID} bytes, and its trust domain {MAX_TRUST_DOMAIN}")]
    Long,
}

/// The longest ID, and the longest trust domain in one, that everybody has to take (SPIFFE ID, section 2.3).
const MAX_ID: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

impl Certificate {
    /// What cannot be read says nothing.
    pub fn of(der: &CertificateDer<'_>) -> Self {
        let Ok(certificate) = EndEntityCert::try_from(der) else { return Self::default() };
        let mut uris = certificate.valid_uri_names();
        let uri = uris.next().map(Into::into);
        if uris.next().is_some() {
            return Self::default();
        }
        let stands_for_one = |name: &&str| !name.starts_with("*.");
        Self { uri, dns: certificate.valid_dns_names().filter(stands_for_one).map(Into::into).collect() }
    }

    #[cfg(test)]
    pub fn with(uri: Option<&str>, dns: &[&str]) -> Self {
        Self { uri: uri.map(Into::into), dns: dns.iter().map(|name| (*name).into()).collect() }
    }
}

impl Named {
    /// `None` where nothing is asked.
    pub fn new(spiffe: Option<SpiffeId>, dns: Option<DnsName<'static>>) -> Option<Self> {
        (spiffe.is_some() || dns.is_some()).then_some(Self { spiffe, dns })
    }

    /// Whether this certificate is the one that is meant.
    pub fn is(&self, shown: &Certificate) -> bool {
        let has = |name: &DnsName<'_>| shown.dns.iter().any(|own| own.eq_ignore_ascii_case(name.as_ref()));
        self.spiffe.as_ref().is_none_or(|id| shown.uri.as_deref() == Some(&*id.0)) && self.dns.as_ref().is_none_or(has)
    }

    /// Whether both are said to have the same name. A certificate may have the names of two clients all the same: it is
    /// neither's then.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (&self.spiffe, &other.spiffe) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => self.dns.is_some() && self.dns == other.dns,
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.spiffe, &self.dns) {
            (Some(id), Some(name)) => write!(f, "{id} and {}", name.as_ref()),
            (Some(id), None) => write!(f, "{id}"),
            (None, name) => f.write_str(name.as_ref().map_or("", DnsName::as_ref)),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = NoSpiffeId;

    fn from_str(text: &str) -> Result<Self, NoSpiffeId> {
        let rest = text.strip_prefix("spiffe://").ok_or(NoSpiffeId::TrustDomain)?;
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        let fits_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        let fits_path = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let segment = |part: &str| !["", ".", ".."].contains(&part) && part.bytes().all(fits_path);
        match path {
            _ if domain.is_empty() || !domain.bytes().all(fits_domain) => Err(NoSpiffeId::TrustDomain),
            _ if domain.len() > MAX_TRUST_DOMAIN || text.len() > MAX_ID => Err(NoSpiffeId::Long),
            None => Err(NoSpiffeId::NoPath),
            Some(path) if !path.split('/').all(segment) => Err(NoSpiffeId::Path),
            Some(_) => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn shown(uris: &[&str], names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, "billing.example");
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("a URI"))));
        let issued = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        Certificate::of(issued.der())
    }

    fn named(spiffe: Option<&str>, dns: Option<&str>) -> Named {
        let dns = dns.map(|name| DnsName::try_from(name.to_owned()).expect("a name"));
        Named::new(spiffe.map(|id| id.parse().expect("an ID")), dns).expect("something")
    }

    #[test]
    fn an_id_is_compared_as_it_is() {
        let billing = named(Some("spiffe://example.org/ns/a/billing"), None);
        assert!(billing.is(&shown(&["spiffe://example.org/ns/a/billing"], &["x.example"])));
        for uris in [
            &["spiffe://example.org/ns/a/billing/"][..],
            &["spiffe://example.org/ns/a/Billing"],
            &["spiffe://EXAMPLE.org/ns/a/billing"],
            &["SPIFFE://example.org/ns/a/billing"],
            &["spiffe://example.org/ns/a"],
            &["spiffe://example.org/ns/a/billing?x"],
            &["spiffe://example.org/ns/a/%62illing"],
            &["https://example.org/ns/a/billing"],
            &["spiffe://example.org/ns/a/billing", "spiffe://example.org/ns/a/other"],
            &["spiffe://example.org/ns/a/billing", "spiffe://example.org/ns/a/billing"],
            &["https://example.org", "spiffe://example.org/ns/a/billing"],
            &[],
        ] {
            assert!(!billing.is(&shown(uris, &["x.example"])), "{uris:?}");
        }
    }

    #[test]
    fn a_name_that_stands_for_many_is_nobodys_and_the_subject_is_not_looked_at() {
        let billing = named(None, Some("billing.example"));
        assert!(billing.is(&shown(&[], &["other.example", "Billing.Example"])));
        assert!(billing.is(&shown(&["spiffe://example.org/x"], &["billing.example"])));
        for names in [&["*.example"][..], &["billing.example.org"], &["xbilling.example"], &["127.0.0.1"], &[]] {
            assert!(!billing.is(&shown(&[], names)), "{names:?}");
        }
        let two_uris = ["https://example.org/a", "https://example.org/b"];
        assert!(!billing.is(&shown(&two_uris, &["billing.example"])));
        assert_eq!(Certificate::of(&CertificateDer::from(vec![1, 2, 3])), Certificate::default());
    }

    #[test]
    fn what_is_given_must_all_hold() {
        let both = named(Some("spiffe://example.org/a"), Some("a.example"));
        assert!(both.is(&shown(&["spiffe://example.org/a"], &["a.example"])));
        assert!(!both.is(&shown(&["spiffe://example.org/a"], &["b.example"])));
        assert!(!both.is(&shown(&["spiffe://example.org/b"], &["a.example"])));
    }

    #[test]
    fn two_of_one_name_overlap() {
        let (a, b) = (Some("spiffe://example.org/a"), Some("spiffe://example.org/b"));
        let (x, y) = (Some("x.example"), Some("y.example"));
        for (one, other, expected) in [
            ((a, None), (a, None), true),
            ((a, None), (b, None), false),
            ((a, x), (a, y), true),
            ((a, x), (b, x), false),
            ((None, x), (None, x), true),
            ((None, x), (None, y), false),
            ((a, None), (None, x), false),
            ((a, x), (None, x), true),
        ] {
            assert_eq!(named(one.0, one.1).overlaps(&named(other.0, other.1)), expected, "{one:?} {other:?}");
            assert_eq!(named(other.0, other.1).overlaps(&named(one.0, one.1)), expected, "{other:?} {one:?}");
        }
    }

    #[test]
    fn what_is_no_id_of_a_workload_is_refused() {
        let long_domain = format!("spiffe://{}/a", "d".repeat(256));
        let long = format!("spiffe://example.org/{}", "a".repeat(2048));
        for (text, why) in [
            ("", NoSpiffeId::TrustDomain),
            ("spiffe://", NoSpiffeId::TrustDomain),
            ("spiffe:///a", NoSpiffeId::TrustDomain),
            ("spiffe://Example.org/a", NoSpiffeId::TrustDomain),
            ("spiffe://example.org:1/a", NoSpiffeId::TrustDomain),
            ("spiffe://u@example.org/a", NoSpiffeId::TrustDomain),
            ("https://example.org/a", NoSpiffeId::TrustDomain),
            ("spiffe://example.org", NoSpiffeId::NoPath),
            ("spiffe://example.org/", NoSpiffeId::Path),
            ("spiffe://example.org/a/", NoSpiffeId::Path),
            ("spiffe://example.org//a", NoSpiffeId::Path),
            ("spiffe://example.org/a/../b", NoSpiffeId::Path),
            ("spiffe://example.org/a b", NoSpiffeId::Path),
            ("spiffe://example.org/a?b", NoSpiffeId::Path),
            ("spiffe://example.org/%61", NoSpiffeId::Path),
            (&long_domain, NoSpiffeId::Long),
            (&long, NoSpiffeId::Long),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text}");
        }
    }
}
