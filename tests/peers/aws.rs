//! boto3, with keys that mean nothing, between the proxy and moto, which plays AWS: what the proxy has signed anew is what S3 and
//! DynamoDB accept, with keys of a user, and with those that STS gives for a role.

use crate::support::in_turn;
use crate::support::moto::{Moto, Prepared};
use crate::support::proxy::{Proxy, in_a_month};

#[test]
fn what_boto3_does_reaches_s3_and_dynamodb_under_signatures_that_hold() {
    in_turn(async {
        let moto = Moto::start().await;
        let Prepared { id, key, role } = moto.prepare();
        let file = |name: &str, text: &str| {
            let path = moto.folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let keys =
            format!(r#"access_key_id = "file:{}", secret_access_key = "file:{}""#, file("id", &id), file("key", &key));
        let sts =
            format!(r#"role_arn = "{role}", sts_url = "{}/", region = "eu-west-1", lifetime = "15m""#, moto.url());
        let jwt = file("jwt", "eyJhbGciOiJub25lIn0.e30.");
        let assumed = format!(r#"kind = "aws_assume_role", {sts}, {keys}"#);
        let shown = format!(r#"kind = "aws_web_identity", {sts}, web_identity_token = "file:{jwt}""#);
        let objects = entry(&moto, "127.0.0.1", "objects", "s3", &assumed);
        let rows = entry(&moto, "localhost", "rows", "dynamodb", &shown);
        // Who shows a JWT signs nothing, and moto would want a signature of everybody: so that role is had before.
        let proxy = Proxy::with(&format!("{objects}{rows}")).await;
        moto.verify_signatures();
        let (code, printed) = proxy.run(&["tokens", "rotate", "objects"]);
        assert_eq!(code, Some(0), "the call for the role is signed well: {printed}");

        let url = |proxy: &Proxy| format!("http://{}", proxy.address);
        moto.aws_py(&["use", &moto.url(), &url(&proxy)], &[]);
        assert!(!proxy.output().contains(&key) && !proxy.metrics().await.contains(&key), "nobody reads the keys");
        drop(proxy);

        let objects = entry(&moto, "127.0.0.1", "objects", "s3", &format!(r#"kind = "aws_static", {keys}"#));
        // Keys that last are for somebody to approve.
        let proxy = Proxy::with(&format!("[approval]\ndefault = \"approve\"\n{objects}")).await;
        let log = moto.log();
        let arguments = ["presigned", &moto.url(), &url(&proxy), log.to_str().expect("a path in UTF-8")];
        moto.aws_py(&arguments, &[("AWS_ID", &id), ("AWS_KEY", &key)]);
    });
}

/// A token, and the route of its name that leads to moto, by this name of its machine.
fn entry(moto: &Moto, host: &str, name: &str, service: &str, source: &str) -> String {
    format!(
        r#"
[[token]]
name = "{name}"
owner = "team-peers@example.com"
reason = "to call moto"
scopes = ["{service}:all"]
expires = "{}"
hosts = ["{host}"]
placement = {{ sigv4 = {{ region = "eu-west-1", service = "{service}" }} }}
source = {{ {source} }}

[[route]]
name = "{name}"
upstream = "http://{host}:{}"
token = "{name}"
path = "opaque"
allow = "any"
"#,
        in_a_month(),
        moto.address.port(),
    )
}
