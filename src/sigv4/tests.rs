use super::*;

/// `(method, path, query, headers, body)` at 2015-08-30T12:36:00Z for `service` in us-east-1, and the signature that is right:
/// cases of the suite that AWS publishes, as the crate that signs carries it.
type Case = (&'static str, &'static str, Option<&'static str>, &'static [(&'static str, &'static str)], &'static str);

const SUITE_AT: Duration = Duration::from_secs(1_440_938_160);

fn keys(id: &str, key: &str, session_token: Option<&str>) -> Keys {
    let secret = Secret::of_aws(id.as_bytes(), key.as_bytes(), session_token.map(str::as_bytes)).expect("keys");
    Keys::of(&secret).expect("keys")
}

fn suite_keys(session_token: Option<&str>) -> Keys {
    keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", session_token)
}

fn of_suite(case: &Case, form: Form, keys: &Keys) -> Signed {
    let (method, path, query, headers, body) = *case;
    let payload = Payload::of(body.as_bytes());
    let host = "example.amazonaws.com";
    let signable = Signable { method, host, path, query, headers, payload: &payload, form, at: SUITE_AT };
    signed(&signable, Scope { region: "us-east-1", service: "service" }, keys).expect("signable")
}

#[test]
fn the_suite_of_aws_is_signed_as_it_says() {
    const HASHED: (&str, &str) = (CONTENT_SHA256, "");
    const LENGTH: (&str, &str) = ("content-length", "13");
    const FORM: [(&str, &str); 3] = [("content-type", "application/x-www-form-urlencoded"), LENGTH, HASHED];
    const UTF_8: (&str, &str) = ("content-type", "application/x-www-form-urlencoded; charset=utf-8");
    const FORM_OF: [(&str, &str); 3] = [UTF_8, LENGTH, HASHED];
    let cases: [(Case, &str); 7] = [
        (("GET", "/", None, &[], ""), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        (
            ("GET", "/", Some("Param2=value2&Param1=value1"), &[], ""),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (("GET", "//example//", None, &[], ""), "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
        (
            ("POST", "/", None, &[("my-header1", "value1")], ""),
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        ),
        (
            ("GET", "/", None, &[("my-header1", "value2"), ("my-header1", "value2"), ("my-header1", "value1")], ""),
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
        ),
        (
            ("POST", "/", None, &FORM, "Param1=value1"),
            "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
        ),
        (
            ("POST", "/", None, &FORM_OF, "Param1=value1"),
            "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
        ),
    ];
    for (case, signature) in &cases {
        assert_eq!(of_suite(case, Form::Header, &suite_keys(None)).signature, *signature, "{case:?}");
    }
    let lasts = Duration::from_secs(3600);
    let presigned = of_suite(&("GET", "/", None, &[], ""), Form::Query { lasts }, &suite_keys(None));
    assert_eq!(presigned.signature, "e93c787ed7f371d5c6b165c1b38ede9550f4dce4144713e844b25b7192d3865d");
    assert!(presigned.headers.is_empty());
}

#[test]
fn a_session_token_is_signed_and_sent() {
    let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
    let case = ("GET", "/", None, &[][..], "");
    let header = of_suite(&case, Form::Header, &suite_keys(Some(token)));
    assert_eq!(header.signature, "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8");
    let sent = header.headers.iter().find(|(name, _)| name == "x-amz-security-token").expect("sent");
    assert!(sent.1 == token && sent.1.is_sensitive());
    let lasts = Duration::from_secs(3600);
    let query = of_suite(&case, Form::Query { lasts }, &suite_keys(Some(token)));
    assert_eq!(query.signature, "7ff2b50b376cb4d151970630573d6291dc128cc5c2a12ffb237f73cc53f67b6c");
    assert!(query.query.is_some_and(|pairs| pairs.contains(&format!("X-Amz-Security-Token={token}"))));
}

/// The examples of "Authenticating Requests" in the reference of S3.
fn of_s3(method: &str, path: &str, query: Option<&str>, headers: &[(&str, &str)], body: Payload, form: Form) -> String {
    let keys = keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None);
    let at = Duration::from_secs(1_369_353_600);
    let host = "examplebucket.s3.amazonaws.com";
    let signable = Signable { method, host, path, query, headers, payload: &body, form, at };
    signed(&signable, Scope { region: "us-east-1", service: "s3" }, &keys).expect("signable").signature
}

#[test]
fn the_examples_of_s3_are_signed_as_its_reference_says() {
    let nothing = || Payload::of(b"");
    let get = of_s3("GET", "/test.txt", None, &[("range", "bytes=0-9")], nothing(), Form::Header);
    assert_eq!(get, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    let headers = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
    // However the client wrote the key.
    for path in ["/test$file.text", "/test%24file.text", "/tes%74%24file.text"] {
        let put = of_s3("PUT", path, None, &headers, Payload::of(b"Welcome to Amazon S3."), Form::Header);
        assert_eq!(put, "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd", "{path}");
    }
    let lifecycle = of_s3("GET", "/", Some("lifecycle"), &[], nothing(), Form::Header);
    assert_eq!(lifecycle, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    let list = of_s3("GET", "/", Some("max-keys=2&prefix=J"), &[], nothing(), Form::Header);
    assert_eq!(list, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    let day = Form::Query { lasts: Duration::from_secs(86_400) };
    let presigned = of_s3("GET", "/test.txt", None, &[], Payload::Unsigned, day);
    assert_eq!(presigned, "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
}

#[test]
fn a_declared_payload_is_read_as_it_is_written() {
    for text in [
        "UNSIGNED-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ] {
        assert_eq!(Payload::parse(text).as_ref().map(Payload::as_str), Some(text));
    }
    for text in ["", "unsigned-payload", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", &"E3".repeat(32)] {
        assert_eq!(Payload::parse(text), None, "{text}");
    }
}
