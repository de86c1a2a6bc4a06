use super::*;

fn recipe(message: &str, header: &str, encoding: Encoding, key: KeyForm) -> Recipe {
    let message = Template::message(message).expect("a message");
    let header = (HeaderName::from_static("x-signature"), Template::header(header).expect("a header"));
    Recipe::new(Algorithm::Sha256, encoding, key, message, vec![header])
}

const REQUEST: Signable<'_> = Signable {
    method: "POST",
    host: "api.example.com",
    path: "/a",
    query: Some("b=c"),
    body: b"",
    at: Duration::from_secs(1_531_420_618),
};

fn signed(recipe: &Recipe, token: &str, request: &Signable<'_>) -> Vec<String> {
    let key = recipe.key(&Secret::new(token.as_bytes())).expect("a key");
    let headers = recipe.sign(&key, request).expect("written");
    headers.iter().map(|(_, value)| value.to_str().expect("ASCII").to_owned()).collect()
}

/// "Validating webhook deliveries", docs.github.com.
#[test]
fn what_github_publishes_is_what_is_signed() {
    let recipe = recipe("{body}", "sha256={signature}", Encoding::Hex, KeyForm::Text);
    let request = Signable { body: b"Hello, World!", ..REQUEST };
    let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(signed(&recipe, "It's a Secret to Everybody", &request), [expected]);
    assert!(recipe.needs_body());
}

/// "Verifying requests from Slack", docs.slack.dev.
#[test]
fn what_slack_publishes_is_what_is_signed() {
    let recipe = recipe("v0:{timestamp}:{body}", "v0={signature}", Encoding::Hex, KeyForm::Text);
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let request = Signable { body: body.as_bytes(), ..REQUEST };
    let expected = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    assert_eq!(signed(&recipe, "8f742231b10e8888abcd99yyyzzz85a5", &request), [expected]);
}

/// RFC 4231, section 4.3.
#[test]
fn a_key_is_written_as_text_in_base64_or_in_hex() {
    let expected = "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=";
    for (token, key) in [("Jefe", KeyForm::Text), ("SmVmZQ==", KeyForm::Base64), ("4a656665", KeyForm::Hex)] {
        let recipe = recipe("{body}", "{signature}", Encoding::Base64, key);
        let request = Signable { body: b"what do ya want for nothing?", ..REQUEST };
        assert_eq!(signed(&recipe, token, &request), [expected], "{key:?}");
    }
    let not = |token: &str, key| recipe("{body}", "{signature}", Encoding::Hex, key).key(&Secret::new(token)).err();
    assert_eq!(not("a b", KeyForm::Base64), Some(NotAKey::Base64));
    assert_eq!(not("abc", KeyForm::Hex), Some(NotAKey::Hex));
    assert_eq!(not("xy", KeyForm::Hex), Some(NotAKey::Hex));
    assert_eq!(not("", KeyForm::Text), Some(NotAKey::Empty));
}

#[test]
fn every_place_says_what_the_request_is() {
    let all = "{method} {host} {path} {query} {target} {timestamp} {timestamp_ms} {time} {body_sha256}";
    let recipe = recipe("x", all, Encoding::Hex, KeyForm::Text);
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let expected = format!("POST api.example.com /a b=c /a?b=c 1531420618 1531420618000 2018-07-12T18:36:58Z {empty}");
    assert_eq!(signed(&recipe, "key", &REQUEST), [expected]);
}

#[test]
fn message_and_headers_have_one_nonce() {
    let message = Template::message("{nonce}").expect("a message");
    let header = |text| Template::header(text).expect("a header");
    let headers = vec![
        (HeaderName::from_static("x-nonce"), header("{nonce}")),
        (HeaderName::from_static("x-signature"), header("{signature}")),
    ];
    let recipe = Recipe::new(Algorithm::Sha512, Encoding::Hex, KeyForm::Text, message, headers);
    assert!(!recipe.needs_body());
    let [one, other] = [(); 2].map(|()| signed(&recipe, "key", &REQUEST));
    assert_ne!(one, other);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, b"key"), one[0].as_bytes());
    assert_eq!(one[1], text::hex(tag.as_ref()));
}

#[test]
fn what_is_no_template_is_told() {
    for (message, why) in [
        ("{methd}", NoTemplate::Place),
        ("{", NoTemplate::Place),
        ("a}b", NoTemplate::Place),
        ("{path}}", NoTemplate::Place),
        ("{signature}", NoTemplate::Signature),
    ] {
        assert_eq!(Template::message(message), Err(why), "{message}");
    }
    for (header, why) in [("{body}", NoTemplate::Body), ("a\nb", NoTemplate::Header), ("", NoTemplate::Header)] {
        assert_eq!(Template::header(header), Err(why), "{header:?}");
    }
    assert!(Template::message("{method}\n{body}\n").is_ok());
}
