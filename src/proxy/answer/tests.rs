use super::*;

fn answer(status: u16, version: Version, fields: &[(&str, &str)]) -> Response<()> {
    Response { status: StatusCode::from_u16(status).expect("a status"), version, fields: Fields::of(fields), body: () }
}

fn judged(status: u16, fields: &[(&str, &str)]) -> Result<Fields, Fault> {
    let mut response = answer(status, Version::HTTP_11, fields);
    judge(&mut response, false).map(|()| response.fields)
}

#[test]
fn a_transfer_coding_is_chunked_or_the_answer_is_refused() {
    const CODING: &str = "transfer-encoding";
    for good in ["chunked", "CHUNKED", " chunked\t"] {
        for status in [200, 304, 404] {
            assert!(judged(status, &[(CODING, good)]).is_ok(), "{good} {status}");
        }
        assert_eq!(judged(204, &[(CODING, good)]).err(), Some(Fault::TransferEncoding));
        let mut old = answer(200, Version::HTTP_10, &[(CODING, good)]);
        assert_eq!(judge(&mut old, false), Err(Fault::TransferEncoding));
        let mut http2 = answer(200, Version::HTTP_2, &[(CODING, good)]);
        assert_eq!(judge(&mut http2, true), Err(Fault::TransferEncoding));
    }
    let odd =
        ["", "identity", "gzip, chunked", "chunked, chunked", "xchunked", "chunked;q=1", "chunked,", "\u{b}chunked"];
    for odd in odd.into_iter().filter(|odd| HeaderValue::from_str(odd).is_ok()) {
        assert_eq!(judged(200, &[(CODING, odd)]).err(), Some(Fault::TransferEncoding), "{odd}");
    }
    for (one, other) in [("chunked", "chunked"), ("xchunked", "chunked"), ("chunked", "identity")] {
        assert_eq!(judged(200, &[(CODING, one), (CODING, other)]).err(), Some(Fault::TransferEncoding));
    }
    let both = [(CODING, "chunked"), ("content-length", "5")];
    assert_eq!(judged(200, &both).err(), Some(Fault::TwoFramings));
    assert_eq!(judged(304, &both).err(), Some(Fault::TwoFramings));
}

#[test]
fn a_length_is_one_number() {
    const LENGTH: &str = "content-length";
    for status in [200, 304] {
        assert_eq!(judged(status, &[(LENGTH, "5")]).expect("passes").said(LENGTH), "5");
        assert_eq!(judged(status, &[(LENGTH, "007")]).expect("passes").said(LENGTH), "7");
        let twice = judged(status, &[(LENGTH, "5"), (LENGTH, "5")]).expect("passes");
        assert_eq!(twice.lines(), ["content-length: 5"]);
        for odd in ["", "-5", "+5", "5, 5", "0x5", "5 ", "9223372036854775808", "18446744073709551617"] {
            assert_eq!(judged(status, &[(LENGTH, odd)]).err(), Some(Fault::ContentLength), "{odd}");
        }
        assert_eq!(judged(status, &[(LENGTH, "5"), (LENGTH, "6")]).err(), Some(Fault::ContentLength));
    }
}

#[test]
fn a_status_without_a_body_has_no_length() {
    assert!(judged(204, &[("content-length", "0")]).expect("passes").is_empty());
    assert_eq!(judged(204, &[("content-length", "5")]).err(), Some(Fault::LengthOfNothing));
}

#[test]
fn a_status_is_one_of_http_and_a_version_that_of_the_connection() {
    for (status, passes) in [(200, true), (599, true), (600, false), (999, false), (101, false), (103, false)] {
        assert_eq!(judged(status, &[]).is_ok(), passes, "{status}");
    }
    for (version, http1, http2) in [
        (Version::HTTP_09, false, false),
        (Version::HTTP_10, true, false),
        (Version::HTTP_11, true, false),
        (Version::HTTP_2, false, true),
        (Version::HTTP_3, false, false),
    ] {
        assert_eq!(judge(&mut answer(200, version, &[]), false).is_ok(), http1, "{version:?}");
        assert_eq!(judge(&mut answer(200, version, &[]), true).is_ok(), http2, "{version:?}");
    }
}

#[test]
fn a_head_has_its_bounds() {
    let fields: Vec<String> = (0..=FIELDS).map(|number| format!("x-{number}")).collect();
    let fields: Vec<(&str, &str)> = fields.iter().map(|name| (name.as_str(), "v")).collect();
    assert!(judged(200, &fields[1..]).is_ok());
    assert_eq!(judged(200, &fields).err(), Some(Fault::Fields));
    let long = "v".repeat(HEAD_BYTES / 2);
    assert_eq!(judged(200, &[("x-1", &long), ("x-2", &long)]).err(), Some(Fault::HeadBytes));
}

#[test]
fn a_value_cannot_hold_what_would_end_its_line() {
    for byte in [b'\0', b'\r', b'\n', 0x7f] {
        assert!(HeaderValue::from_bytes(&[b'a', byte, b'b']).is_err(), "{byte}");
    }
}
