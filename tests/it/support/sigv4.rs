//! Checks signatures of AWS as its reference describes them, over what an upstream has got, and with other code than the
//! proxy's.

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::body::hex;
use super::upstream::Seen;

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Whose signature it has to be.
pub struct Signer {
    pub id: &'static str,
    pub key: &'static str,
    pub region: &'static str,
    pub service: &'static str,
}

/// What a request says of its signature.
pub struct Signature {
    pub signed_headers: Vec<String>,
    pub value: String,
    pub date: String,
}

impl Signer {
    /// The signature in `Authorization`, if it is right. `payload` is what it says of the body.
    ///
    /// # Panics
    /// When it is not.
    pub fn verify(&self, seen: &Seen, payload: &str) -> Signature {
        let [authorization] = seen.all("authorization")[..] else { panic!("one signature: {seen:?}") };
        let rest = authorization.strip_prefix("AWS4-HMAC-SHA256 ").expect("its algorithm");
        let part = |name: &str| {
            let found = rest.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("{name} in {authorization}")).to_owned()
        };
        let date = seen.header("x-amz-date").expect("a date").to_owned();
        assert_eq!(part("Credential"), format!("{}/{}", self.id, self.scope(&date)));
        let signed_headers: Vec<String> = part("SignedHeaders").split(';').map(str::to_owned).collect();
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        let request = self.canonical(seen, path, query, &signed_headers, payload);
        let value = part("Signature");
        assert_eq!(value, self.sign(&date, &request), "{request}");
        Signature { signed_headers, value, date }
    }

    /// The signature in the query, if it is right.
    ///
    /// # Panics
    /// When it is not.
    pub fn verify_query(&self, seen: &Seen, payload: &str) -> Signature {
        assert!(seen.all("authorization").is_empty(), "one signature: {seen:?}");
        let (path, query) = seen.target.split_once('?').expect("a query");
        let value = |name: &str| {
            let values: Vec<&str> =
                query.split('&').filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).collect();
            let [value] = values[..] else { panic!("one {name} in {query}") };
            percent_decode_str(value).decode_utf8().expect("text").into_owned()
        };
        let date = value("X-Amz-Date");
        assert_eq!(value("X-Amz-Credential"), format!("{}/{}", self.id, self.scope(&date)));
        let signed_headers: Vec<String> = value("X-Amz-SignedHeaders").split(';').map(str::to_owned).collect();
        let others: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("X-Amz-Signature=")).collect();
        let request = self.canonical(seen, path, &others.join("&"), &signed_headers, payload);
        let signature = value("X-Amz-Signature");
        assert_eq!(signature, self.sign(&date, &request), "{request}");
        Signature { signed_headers, value: signature, date }
    }

    /// The signature of a chunk, or of trailers: `about` are the lines after the signature before it.
    pub fn sign_further(&self, algorithm: &str, date: &str, before: &str, about: &str) -> String {
        let text = format!("{algorithm}\n{date}\n{}\n{before}\n{about}", self.scope(date));
        hex(self.hmac(date, &text).as_ref())
    }

    fn scope(&self, date: &str) -> String {
        format!("{}/{}/{}/aws4_request", &date[..8], self.region, self.service)
    }

    fn canonical(&self, seen: &Seen, path: &str, query: &str, signed: &[String], payload: &str) -> String {
        let once = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8().expect("text").into_owned();
            utf8_percent_encode(&decoded, RESERVED).to_string()
        };
        let twice = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
        let segments: Vec<String> =
            path.split('/').map(|text| if self.service == "s3" { once(text) } else { twice(text) }).collect();
        let mut pairs: Vec<(String, String)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (once(name), once(value)))
            .collect();
        pairs.sort();
        let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut headers = String::new();
        for name in signed {
            let values = match name.as_str() {
                "host" => seen.authority.clone().unwrap_or_else(|| seen.all("host").join(",")),
                name => seen.all(name).join(","),
            };
            writeln!(headers, "{name}:{values}").expect("a text");
        }
        let [method, path, query] = [seen.method.as_str(), &segments.join("/"), &pairs.join("&")];
        format!("{method}\n{path}\n{query}\n{headers}\n{}\n{payload}", signed.join(";"))
    }

    fn sign(&self, date: &str, request: &str) -> String {
        let hash = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{}\n{hash}", self.scope(date));
        hex(self.hmac(date, &text).as_ref())
    }

    fn hmac(&self, date: &str, text: &str) -> hmac::Tag {
        let hmac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let mut key = hmac(format!("AWS4{}", self.key).as_bytes(), &date[..8]);
        for part in [self.region, self.service, "aws4_request"] {
            key = hmac(key.as_ref(), part);
        }
        hmac(key.as_ref(), text)
    }
}
