//! `Via`: what a request has passed through (RFC 9110, section 7.6.3), and how a loop is told. Answers are not signed: they
//! loop nowhere.

use http::header::VIA;
use http::{HeaderValue, Version};

use super::message::Fields;

/// Our own name in `Via`, of this process alone: two proxies in a row are no loop.
#[derive(Clone, Debug)]
pub struct Via {
    pseudonym: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    pub fn of_this_process() -> Self {
        let pseudonym = format!("countersign-{:016x}", fastrand::u64(..));
        let value = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}")).expect("letters, digits, a hyphen and a space")
        };
        Self { http10: value("1.0"), http11: value("1.1"), http2: value("2.0"), pseudonym }
    }

    /// Whether a request has passed through this process before.
    pub fn is_in(&self, headers: &Fields) -> bool {
        let contains = |value: &HeaderValue| {
            let pseudonym = self.pseudonym.as_bytes();
            value.as_bytes().windows(pseudonym.len()).any(|window| window == pseudonym)
        };
        headers.get_all(VIA).any(contains)
    }

    /// Adds ourselves behind those that a message of this version has passed through.
    pub fn sign(&self, headers: &mut Fields, received: Version) {
        let value = match received {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_10 => &self.http10,
            _ => &self.http11,
        };
        headers.append(VIA, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself_again_and_nobody_else() {
        let (one, other) = (Via::of_this_process(), Via::of_this_process());
        let mut headers = Fields::new();
        headers.append(VIA, HeaderValue::from_static("1.1 squid"));
        assert!(!one.is_in(&headers));
        one.sign(&mut headers, Version::HTTP_2);
        other.sign(&mut headers, Version::HTTP_11);
        assert!(one.is_in(&headers) && other.is_in(&headers) && !Via::of_this_process().is_in(&headers));
        let values: Vec<&str> = headers.get_all(VIA).map(|value| value.to_str().expect("text")).collect();
        assert_eq!(values[0], "1.1 squid");
        assert!(values[1].starts_with("2.0 countersign-") && values[2].starts_with("1.1 countersign-"), "{values:?}");
    }
}
