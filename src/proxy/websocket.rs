//! WebSocket (RFC 6455) on the routes that allow it: the request that asks for it, and the answer that grants it.
//!
//! Invariant: the protocol changes only after an answer that proves that the upstream read this very request as one for
//! WebSocket. Until then not a byte goes past HTTP.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Method, StatusCode, Version};

use super::answer::Fault;
use super::error::Refusal;
use super::head::Head;
use super::message::Fields;

/// What every key is hashed with (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// A request to change to WebSocket.
pub struct Handshake {
    /// What the answer has to say.
    accept: String,
    /// The subprotocols that the client speaks.
    protocols: Option<HeaderValue>,
    /// Whether the client would take an answer that grants nothing for one that does (RFC 8441, section 5).
    by_stream: bool,
}

impl Handshake {
    /// `None` when the request does not ask for WebSocket.
    ///
    /// # Errors
    /// When it does, in a form that two readers could read differently.
    pub fn asked(head: &Head, headers: &Fields) -> Result<Option<Self>, Refusal> {
        let Some(protocol) = headers.only(UPGRADE) else { return Ok(None) };
        if !protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()) || !names_upgrade(headers) {
            return Ok(None);
        }
        if head.version == Version::HTTP_10 || head.method != Method::GET {
            return Err(Refusal::HeaderInvalid("WebSocket is asked for with GET in HTTP/1.1, with CONNECT in HTTP/2"));
        }
        if headers.contains(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
            return Err(Refusal::HeaderInvalid("WebSocket is asked for without a body"));
        }
        if headers.only(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(Refusal::HeaderInvalid("WebSocket has version 13"));
        }
        let key = headers.only(SEC_WEBSOCKET_KEY).filter(|key| BASE64.decode(key).is_ok_and(|key| key.len() == 16));
        let Some(key) = key else { return Err(Refusal::HeaderInvalid("`Sec-WebSocket-Key` is no key")) };
        let (accept, protocols) = (accept(key), headers.get(SEC_WEBSOCKET_PROTOCOL).cloned());
        Ok(Some(Self { accept, protocols, by_stream: head.version == Version::HTTP_2 }))
    }

    /// Says of a stream of HTTP/2 what a request of HTTP/1.1 for the same says (RFC 8441, section 5.1). There, nobody else can:
    /// these fields are malformed in HTTP/2.
    pub fn translate(protocol: &str, headers: &mut Fields) {
        if let Ok(protocol) = HeaderValue::from_str(protocol) {
            headers.insert(UPGRADE, protocol);
        }
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        let key: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
        if let Ok(key) = HeaderValue::from_str(&BASE64.encode(key)) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
    }

    /// Takes out of a grant what a stream does not say.
    pub fn translate_grant(headers: &mut Fields) {
        headers.retain(|name, _| ![CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT].contains(name));
    }

    /// Whether an answer of this status may reach the client, if it is not 101.
    pub fn may_be_answered(&self, status: StatusCode) -> bool {
        !(self.by_stream && status.is_success())
    }

    /// Asks the upstream.
    pub fn ask(headers: &mut Fields) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, WEBSOCKET);
    }

    /// Whether an answer of status 101 grants what was asked.
    ///
    /// # Errors
    /// When it grants something else, or was not made for this request.
    pub fn verify(&self, headers: &Fields) -> Result<(), Fault> {
        let protocol = headers.only(UPGRADE).map(HeaderValue::as_bytes);
        let granted = protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
        let proven = headers.only(SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| accept == self.accept.as_str());
        let spoken = match headers.get(SEC_WEBSOCKET_PROTOCOL) {
            None => true,
            Some(chosen) => self.protocols.as_ref().is_some_and(|offered| offers(offered, chosen)),
        };
        if granted && names_upgrade(headers) && proven && spoken { Ok(()) } else { Err(Fault::Upgrade) }
    }
}

fn accept(key: &HeaderValue) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(GUID);
    BASE64.encode(context.finish())
}

fn offers(offered: &HeaderValue, chosen: &HeaderValue) -> bool {
    let mut all = offered.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    all.any(|one| one == chosen.as_bytes())
}

fn names_upgrade(headers: &Fields) -> bool {
    let mut options = headers.get_all(CONNECTION).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn asked(more: &[(&'static str, &'static str)], method: Method) -> Result<Option<Handshake>, Refusal> {
        let usual = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-version", "13")];
        let head = Head { method, uri: Uri::from_static("/"), version: Version::HTTP_11 };
        Handshake::asked(&head, &Fields::of(&[&usual[..], more].concat()))
    }

    #[test]
    fn only_a_well_formed_request_asks_for_websocket() {
        assert!(asked(&[("sec-websocket-key", KEY)], Method::GET).is_ok_and(|asked| asked.is_some()));
        assert!(asked(&[("sec-websocket-key", KEY)], Method::POST).is_err());
        assert!(asked(&[], Method::GET).is_err());
        assert!(asked(&[("sec-websocket-key", "c2hvcnQ=")], Method::GET).is_err());
        assert!(asked(&[("sec-websocket-key", KEY), ("sec-websocket-version", "8")], Method::GET).is_err());
        assert!(asked(&[("sec-websocket-key", KEY), ("content-length", "5")], Method::GET).is_err());
        let none = asked(&[("sec-websocket-key", KEY), ("upgrade", "h2c")], Method::GET);
        assert!(none.is_ok_and(|asked| asked.is_none()), "two protocols are none");
    }

    #[test]
    fn what_a_stream_asks_for_is_translated_and_no_other_success_is_told() {
        let mut fields = Fields::of(&[("sec-websocket-version", "13"), ("sec-websocket-key", "the client's own")]);
        Handshake::translate("websocket", &mut fields);
        let head = Head { method: Method::GET, uri: Uri::from_static("/"), version: Version::HTTP_2 };
        let asked = Handshake::asked(&head, &fields).expect("well-formed").expect("it is asked for");
        let ordinary = asked_with_a_key();
        for (status, by_stream) in [(StatusCode::OK, false), (StatusCode::FORBIDDEN, true), (StatusCode::FOUND, true)] {
            assert_eq!(
                (asked.may_be_answered(status), ordinary.may_be_answered(status)),
                (by_stream, true),
                "{status}"
            );
        }
        let mut other = Fields::of(&[("sec-websocket-version", "13")]);
        Handshake::translate("connect-udp", &mut other);
        assert!(Handshake::asked(&head, &other).is_ok_and(|asked| asked.is_none()));
    }

    fn asked_with_a_key() -> Handshake {
        asked(&[("sec-websocket-key", KEY)], Method::GET).expect("well-formed").expect("it is asked for")
    }

    #[test]
    fn only_the_answer_to_this_request_grants_it() {
        let offer = [("sec-websocket-key", KEY), ("sec-websocket-protocol", "chat, mqtt")];
        let handshake = asked(&offer, Method::GET).expect("well-formed").expect("it is asked for");
        let answer = |accept, upgrade, connection, protocol| {
            let protocol = [("sec-websocket-protocol", protocol)];
            let own = [("sec-websocket-accept", accept), ("upgrade", upgrade), ("connection", connection)];
            handshake.verify(&Fields::of(&[&own[..], &protocol[..]].concat())).is_ok()
        };
        assert!(answer(ACCEPT, "websocket", "Upgrade", "mqtt"));
        assert!(!answer("AAAA", "websocket", "Upgrade", "mqtt"));
        assert!(!answer(ACCEPT, "h2c", "Upgrade", "mqtt"));
        assert!(!answer(ACCEPT, "websocket", "close", "mqtt"));
        assert!(!answer(ACCEPT, "websocket", "Upgrade", "other"));
    }
}
