use super::*;

fn sigv4() -> Placement {
    Placement::SigV4(Place::default())
}

const DUMMY: &str =
    "AWS4-HMAC-SHA256 Credential=countersign/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
const REAL: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

#[test]
fn a_signature_with_keys_that_mean_nothing_is_no_credential() {
    for (authorization, shadow) in [(DUMMY, false), (REAL, true)] {
        let mut fields =
            Fields::of(&[("authorization", authorization), ("x-amz-date", "20260101T000000Z"), ("a", "b")]);
        let own = take_out(&mut fields, None, Some(&sigv4())).expect("known");
        assert_eq!((own.shadow, fields.lines()), (shadow, vec!["a: b".to_owned()]), "{authorization}");
        assert!(own.signing.is_some_and(|signing| signing.form == Form::Header && signing.payload.is_none()));
    }
    // What is no signature is a credential like any other, and is left to whoever removes those.
    let mut fields = Fields::of(&[("authorization", "Bearer mine")]);
    take_out(&mut fields, None, Some(&sigv4())).expect("known");
    assert_eq!(fields.len(), 1);
}

#[test]
fn where_nothing_is_signed_nothing_is_touched() {
    let lines = [("authorization", DUMMY), ("x-amz-date", "20260101T000000Z")];
    let mut fields = Fields::of(&lines);
    let own = take_out(&mut fields, Some("X-Amz-Signature=1"), Some(&Placement::bearer())).expect("known");
    assert_eq!((own.query.as_deref(), fields.len()), (Some("X-Amz-Signature=1"), 2));
    assert!(own.signing.is_none());
}

#[test]
fn a_signature_in_the_query_is_taken_out_under_every_spelling() {
    let signed = "a=1&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=dummy%2F2026&X-Amz-Date=d&x-amz-expires=60\
                  &X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&b=2&%58-Amz-Signature=s";
    let own = take_out(&mut Fields::new(), Some(signed), Some(&sigv4())).expect("known");
    assert_eq!((own.query.as_deref(), own.shadow), (Some("a=1&b=2"), false));
    let lasts = Duration::from_secs(60);
    assert!(own.signing.is_some_and(|signing| signing.form == Form::Query { lasts }));
    for (expires, lasts) in [("604800", LONGEST), ("0", Duration::from_secs(1)), ("x", LONGEST)] {
        let signed = format!("X-Amz-Credential=ASIAIOSFODNN7EXAMPLE%2F2026&X-Amz-Expires={expires}&X-Amz-Signature=s");
        let own = take_out(&mut Fields::new(), Some(&signed), Some(&sigv4())).expect("known");
        assert_eq!((own.query, own.shadow), (None, true));
        assert!(own.signing.is_some_and(|signing| signing.form == Form::Query { lasts }), "{expires}");
    }
}

#[test]
fn a_signature_of_the_older_kind_is_taken_out_too() {
    let own = |query: &'static str| {
        let own = take_out(&mut Fields::new(), Some(query), Some(&sigv4())).expect("it can be signed");
        (own.query.map(Cow::into_owned), own.shadow, own.signing.is_some_and(|s| matches!(s.form, Form::Query { .. })))
    };
    let taken = |query: &str, shadow| (Some(query.to_owned()), shadow, true);
    assert_eq!(own("a=1&AWSAccessKeyId=countersign&Signature=x%3D&Expires=1&b"), taken("a=1&b", false));
    assert_eq!(own("AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=1&Signature=x&a=1"), taken("a=1", true));
    assert_eq!(own("Expires=1&Signature=x").0.as_deref(), Some("Expires=1&Signature=x"), "an API's own parameters");
}

#[test]
fn a_body_of_an_unknown_kind_is_refused() {
    let mut fields = Fields::of(&[("x-amz-content-sha256", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD")]);
    assert!(matches!(take_out(&mut fields, None, Some(&sigv4())), Err(Refusal::HeaderInvalid(_))));
}

#[test]
fn only_what_aws_asks_for_is_covered() {
    let fields = Fields::of(&[
        ("host", "h"),
        ("user-agent", "u"),
        ("content-type", "text/plain"),
        ("x-amz-meta-a", "1"),
        ("x-amz-date", "old"),
        ("x-amz-security-token", "old"),
        ("traceparent", "t"),
        ("via", "v"),
    ]);
    let covered = covered(&fields).expect("text");
    assert_eq!(covered, [("content-type", "text/plain"), ("x-amz-meta-a", "1")]);
}

#[test]
fn room_is_bounded_and_given_back() {
    let room = Room::new();
    let mut held: Vec<Held<'_>> = (0..ROOM / MOST).map(|_| Held { room: &room, bytes: 0 }).collect();
    held.iter_mut().for_each(|held| held.hold(MOST).expect("room"));
    let mut late = Held { room: &room, bytes: 0 };
    assert!(matches!(late.hold(1), Err(Refusal::NoRoomToSign)));
    held.pop();
    late.hold(1).expect("room again");
    assert_eq!(late.bytes, LEAST);
    late.hold(MOST).expect("room again");
    assert!(matches!(late.hold(MOST + 1), Err(Refusal::BodyUnsignable)));
    drop((held, late));
    assert_eq!(room.left.get(), ROOM);
}
