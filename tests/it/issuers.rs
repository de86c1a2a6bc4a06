//! Each kind of source that asks somebody: what its issuer got, and what the upstream got of that. The answers are those that
//! the providers publish.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign::clock::{Clock as _, SystemClock};
use countersign::proxy::Address;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::support::issuer::Reply;
use crate::support::{Gate, Issuer, SOON, Scene, Setup, Upstream, operator, trail, wait_for, wait_until};

/// A folder with a private key for RS256 in `key.pem`, and the public half.
fn folder_with_key() -> (TempDir, DecodingKey) {
    let folder = TempDir::new().expect("a folder");
    let pem = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key").serialize_pem();
    std::fs::write(folder.path().join("key.pem"), &pem).expect("written");
    let key = EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a key");
    let jwk = Jwk::from_encoding_key(&key, Algorithm::RS256).expect("its public half");
    (folder, DecodingKey::from_jwk(&jwk).expect("a key to verify with"))
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("written");
}

/// The claims of a JWT, if its signature is good.
fn claims(jwt: &str, key: &DecodingKey, audience: Option<&str>) -> Value {
    let mut validation = Validation::new(Algorithm::RS256);
    match audience {
        Some(audience) => validation.set_audience(&[audience]),
        None => validation.validate_aud = false,
    }
    jsonwebtoken::decode(jwt, key, &validation).expect("a good signature").claims
}

/// The app with one token from this source, and what its upstream got.
async fn attached(folder: TempDir, source: &str, more: &str) -> (Scene, Upstream, String) {
    let upstream = Upstream::http1().await;
    let setup = Setup::new().token_from("api", source, more).route("api", &upstream, r#"token = "api""#);
    let scene = Scene::start_in(Arc::new(folder), &setup).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    let got = upstream.last().all("authorization").concat();
    (scene, upstream, got)
}

#[tokio::test]
async fn an_assertion_buys_a_token_without_any_client() {
    let (folder, key) = folder_with_key();
    let issuer = Issuer::start().await;
    let source = format!(
        r#"{{ kind = "jwt_bearer", token_url = "{}", assertion = {{ key = "file:key.pem", algorithm = "RS256", issuer = "the app", subject = "alice" }} }}"#,
        issuer.url()
    );
    let (scene, _upstream, got) = attached(folder, &source, "").await;
    assert_eq!(got, "Bearer tok-1");
    let call = issuer.calls().remove(0);
    let claims = claims(&call.fields["assertion"], &key, Some(&issuer.url()));
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!("the app"), &json!("alice")));
    assert_eq!(call.fields["scope"], "read");
    let issued = scene.finish().await.into_iter().find(|record| record["event"] == "token_issued");
    assert_eq!(issued.expect("a record")["source"], "jwt_bearer");
}

#[tokio::test]
async fn a_token_of_the_cluster_is_exchanged_as_it_is_when_it_is_needed() {
    let (folder, issuer) = (TempDir::new().expect("a folder"), Issuer::start().await);
    let path = folder.path().to_owned();
    write(&path, "subject", "canary.of.the.pod\n");
    let source = format!(
        r#"{{ kind = "token_exchange", token_url = "{}", subject_token = "file:subject", subject_token_type = "jwt", audience = "api" }}"#,
        issuer.url()
    );
    let (scene, upstream, got) = attached(folder, &source, "").await;
    assert_eq!(got, "Bearer tok-1");
    write(&path, "subject", "canary.of.the.next.pod\n");
    scene.rotate("api").await.expect("a generation");
    let calls = issuer.calls();
    assert_eq!(calls[0].fields["subject_token_type"], "urn:ietf:params:oauth:token-type:jwt");
    let shown: Vec<&str> = calls.iter().map(|call| call.fields["subject_token"].as_str()).collect();
    assert_eq!(shown, ["canary.of.the.pod", "canary.of.the.next.pod"]);

    // What the issuer says of it is told without it.
    issuer.answers(|_| {
        Reply::json(400, r#"{"error":"invalid_request","error_description":"canary.of.the.next.pod is unfit"}"#)
    });
    scene.rotate("api").await.expect_err("no generation");
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(upstream.last().all("authorization").concat(), "Bearer tok-2", "the live one lives on");
    let failed = scene.finish().await.into_iter().find(|record| record["event"] == "token_failed");
    assert_eq!(failed.expect("a record")["detail"], "the issuer answered 400: invalid_request ([redacted] is unfit)");
}

#[tokio::test]
async fn a_google_service_account_signs_for_its_scopes() {
    let (folder, key) = folder_with_key();
    let issuer = Issuer::start().await;
    let pem = std::fs::read_to_string(folder.path().join("key.pem")).expect("read");
    let account = json!({ "client_email": "ci@p.iam.example", "private_key": pem, "private_key_id": "k1" });
    write(folder.path(), "account.json", &account.to_string());
    let source =
        format!(r#"{{ kind = "gcp_service_account", key = "file:account.json", token_url = "{}" }}"#, issuer.url());
    let (scene, _upstream, got) = attached(folder, &source, r#"scopes = ["https://a.example/auth/x"]"#).await;
    assert_eq!(got, "Bearer tok-1");
    let claims = claims(&issuer.calls()[0].fields["assertion"], &key, Some(&issuer.url()));
    let expected = json!(["ci@p.iam.example", "https://a.example/auth/x"]);
    assert_eq!(json!([claims["iss"], claims["scope"]]), expected);
    scene.finish().await;
}

#[tokio::test]
async fn an_application_of_azure_proves_itself_by_what_its_cluster_signs() {
    let (folder, issuer) = (TempDir::new().expect("a folder"), Issuer::start().await);
    write(folder.path(), "federated", "signed.by.cluster");
    let source = format!(
        r#"{{ kind = "azure_client", token_url = "{}", client_id = "app", federated_token = "file:federated" }}"#,
        issuer.url()
    );
    let (scene, _upstream, got) = attached(folder, &source, r#"scopes = ["https://vault.azure.net/.default"]"#).await;
    assert_eq!(got, "Bearer tok-1");
    let fields = &issuer.calls()[0].fields;
    assert_eq!((&*fields["client_id"], &*fields["client_assertion"]), ("app", "signed.by.cluster"));
    assert_eq!(fields["scope"], "https://vault.azure.net/.default");
    scene.finish().await;
}

#[tokio::test]
async fn the_machine_itself_is_known_to_its_cloud() {
    let google = Issuer::answering(|number| {
        let body = json!({ "access_token": format!("ya29-{number}"), "expires_in": 3599, "token_type": "Bearer" });
        Reply::with(200, "Content-Type: application/json\r\nMetadata-Flavor: Google\r\n", &body.to_string())
    })
    .await;
    let source = format!(r#"{{ kind = "gcp_metadata", metadata_url = "http://{}" }}"#, google.address);
    let (scene, _upstream, got) = attached(TempDir::new().expect("a folder"), &source, "").await;
    assert_eq!(got, "Bearer ya29-1");
    let call = google.calls().remove(0);
    let first = "GET /computeMetadata/v1/instance/service-accounts/default/token?scopes=read HTTP/1.1";
    assert_eq!((call.head.lines().next(), call.header("metadata-flavor")), (Some(first), "Google"));
    scene.finish().await;

    let azure = Issuer::answering(|_| {
        Reply::json(200, r#"{"access_token":"az-1","expires_in":"86399","resource":"r","token_type":"Bearer"}"#)
    })
    .await;
    let source = format!(r#"{{ kind = "azure_metadata", resource = "r", metadata_url = "http://{}" }}"#, azure.address);
    let (scene, _upstream, got) = attached(TempDir::new().expect("a folder"), &source, "").await;
    assert_eq!(got, "Bearer az-1");
    assert_eq!(azure.calls()[0].header("metadata"), "true");
    scene.finish().await;
}

#[tokio::test]
async fn an_app_of_github_gets_a_token_for_its_permissions_and_voids_it_at_the_end() {
    let (folder, key) = folder_with_key();
    let github = Issuer::answering(|number| {
        let ends = SystemClock.now().after(Duration::from_secs(3600)).to_rfc3339();
        let permissions = json!({ "contents": "read", "metadata": "read" });
        let body = json!({ "token": format!("ghs_{number}"), "expires_at": ends, "permissions": permissions });
        Reply::json(201, &body.to_string())
    })
    .await;
    let source = format!(
        r#"{{ kind = "github_app", app_id = "Iv1", installation_id = 7, key = "file:key.pem", repositories = ["one"], api_url = "http://{}" }}"#,
        github.address
    );
    let (scene, _upstream, got) = attached(folder, &source, r#"scopes = ["contents:read"]"#).await;
    assert_eq!(got, "Bearer ghs_1");
    let call = github.calls().remove(0);
    let jwt = call.header("authorization").strip_prefix("Bearer ").expect("a proof");
    assert_eq!(claims(jwt, &key, None)["iss"], "Iv1");
    assert!(call.head.starts_with("POST /app/installations/7/access_tokens HTTP/1.1\r\n"), "{}", call.head);
    let wish: Value = serde_json::from_str(&call.body).expect("JSON");
    assert_eq!(wish, json!({ "permissions": { "contents": "read" }, "repositories": ["one"] }));

    github.answers(|_| Reply::with(204, "", ""));
    let retired = operator::act(&scene, "api", "retire", None).await;
    assert_eq!(retired.status, 200, "{}", retired.text());
    wait_until("GitHub is told", SOON, async || github.count() == 2).await;
    let told = github.calls().remove(1);
    assert!(told.head.starts_with("DELETE /installation/token HTTP/1.1\r\n"), "{}", told.head);
    assert_eq!(told.header("authorization"), "Bearer ghs_1");
    let records = scene.finish().await;
    assert_eq!(trail::of(&records, "token_retired").len(), 1);
}

/// The answer to a refresh token: an access token, and the next one.
fn rotating(number: usize) -> Reply {
    let body = json!({ "access_token": format!("at-{number}"), "token_type": "Bearer", "expires_in": 3600,
        "refresh_token": format!("canary-rt-{}", number + 1) });
    Reply::json(200, &body.to_string())
}

/// A token that comes of what lies in `signed-in`.
fn signed_in(issuer: &Issuer, upstream: &Upstream) -> Setup {
    let source = format!(
        r#"{{ kind = "refresh_token", token_url = "{}", client_id = "app", refresh_token = "file:signed-in", single_instance = true }}"#,
        issuer.url()
    );
    Setup::new().token_from("api", &source, "").route("api", upstream, r#"token = "api""#)
}

#[tokio::test]
async fn a_refresh_token_that_is_refused_asks_for_a_sign_in_and_the_next_sign_in_is_enough() {
    let (folder, upstream) = (TempDir::new().expect("a folder"), Upstream::http1().await);
    let folder = Arc::new(folder);
    write(folder.path(), "signed-in", "canary-rt-1\n");
    let issuer = Issuer::answering(rotating).await;
    // A restart has to show the refresh token.
    let setup = signed_in(&issuer, &upstream).state("keep_generations = false");
    let scene = Scene::start_in(folder.clone(), &setup).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    scene.rotate("api").await.expect("a generation");
    scene.finish().await;

    // After a restart the disk knows the newest; the issuer has ended the sign-in meanwhile.
    issuer.next(Reply::json(400, r#"{"error":"invalid_grant","error_description":"canary-rt-3 was seen before"}"#));
    let scene = Scene::start_in(folder.clone(), &setup).await;
    let failed = scene.recorded("token_failed", 1).await.remove(0);
    assert_eq!((&failed["reason"], failed.to_string().contains("canary")), (&json!("invalid_grant"), false));
    for _ in 0..3 {
        assert_eq!(scene.get("/api/x").await.refusal(), (503, "reauth_required".to_owned()));
    }
    let shown: Vec<_> = issuer.calls().iter().map(|call| call.fields["refresh_token"].clone()).collect();
    assert_eq!(shown, ["canary-rt-1", "canary-rt-2", "canary-rt-3"], "each once");

    // Somebody signs in: nothing has to be restarted.
    let beside = folder.path().join("signed-in.new");
    std::fs::write(&beside, "canary-rt-9\n").expect("written");
    std::fs::rename(beside, folder.path().join("signed-in")).expect("renamed");
    wait_until("the sign-in is seen", SOON, async || scene.get("/api/x").await.status == 200).await;
    assert_eq!(issuer.calls()[3].fields["refresh_token"], "canary-rt-9");
    scene.finish().await;
}

#[tokio::test]
async fn a_refresh_that_is_under_way_when_the_app_ends_is_waited_for() {
    let (folder, upstream) = (Arc::new(TempDir::new().expect("a folder")), Upstream::http1().await);
    write(folder.path(), "signed-in", "canary-rt-1\n");
    let (issuer, gate) = (Issuer::answering(rotating).await, Gate::closed());
    issuer.next(rotating(1).behind(&gate));
    let setup = signed_in(&issuer, &upstream);
    let mut scene = Scene::start_in(folder.clone(), &setup).await;
    wait_until("the issuer is called", SOON, async || issuer.count() == 1).await;
    let Address::Unix(door) = scene.admin.clone() else { unreachable!("the tests' operators come by a socket") };
    scene.shut_down();
    wait_until("nobody is let in", SOON, async || UnixStream::connect(&door).await.is_err()).await;
    gate.open();
    scene.finish().await;

    let scene = Scene::start_in(folder.clone(), &setup).await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    let shown: Vec<_> = issuer.calls().iter().map(|call| call.fields["refresh_token"].clone()).collect();
    assert_eq!(shown, ["canary-rt-1", "canary-rt-2"], "what came at the last moment was kept");
    scene.finish().await;
}

#[tokio::test]
async fn the_cluster_signs_for_a_service_account_as_long_as_the_pod_may_ask_for_it() {
    let folder = TempDir::new().expect("a folder");
    write(folder.path(), "own", "canary.of.the.pod\n");
    let cluster = Issuer::answering(|number| {
        let ends = SystemClock.now().after(Duration::from_secs(600)).to_rfc3339();
        let status = json!({ "token": format!("jwt-{number}"), "expirationTimestamp": ends });
        Reply::json(201, &json!({ "kind": "TokenRequest", "status": status }).to_string())
    })
    .await;
    let source = format!(
        r#"{{ kind = "kubernetes", namespace = "billing", service_account = "reader", audience = "api", lifetime = "10m", own_token = "file:own", api_url = "http://{}" }}"#,
        cluster.address
    );
    let (scene, upstream, got) = attached(folder, &source, "").await;
    assert_eq!(got, "Bearer jwt-1");
    let call = cluster.calls().remove(0);
    assert!(call.head.starts_with("POST /api/v1/namespaces/billing/serviceaccounts/reader/token HTTP/1.1\r\n"));
    assert_eq!(call.header("authorization"), "Bearer canary.of.the.pod");
    let wish: Value = serde_json::from_str(&call.body).expect("JSON");
    assert_eq!(wish["spec"], json!({ "audiences": ["api"], "expirationSeconds": 600 }));

    cluster.answers(|_| {
        let status = json!({ "kind": "Status", "message": "canary.of.the.pod cannot create serviceaccounts/token" });
        Reply::json(403, &status.to_string())
    });
    scene.rotate("api").await.expect_err("no generation");
    assert_eq!(scene.get("/api/x").await.status, 200);
    assert_eq!(upstream.last().all("authorization").concat(), "Bearer jwt-1", "the live one lives on");
    let failed = scene.finish().await.into_iter().find(|record| record["event"] == "token_failed");
    let expected = "the issuer answered 403: [redacted] cannot create serviceaccounts/token";
    assert_eq!(failed.expect("a record")["detail"], expected);
}

/// Metadata of the issuer at `name`, whose token endpoint is at this path of it.
fn metadata(name: &str, path: &str) -> Reply {
    Reply::json(200, &json!({ "issuer": name, "token_endpoint": format!("{name}{path}") }).to_string())
}

#[tokio::test]
async fn an_issuer_is_found_by_its_name_and_what_it_changes_is_recorded_and_told() {
    let (issuer, upstream) = (Issuer::start().await, Upstream::http1().await);
    let name = format!("http://{}", issuer.address);
    issuer.next(metadata(&name, "/first"));
    let source = format!(
        r#"{{ kind = "client_credentials", issuer = "{name}", client_id = "api", client_secret = "file:client-secret" }}"#
    );
    let setup = Setup::new().token_from("api", &source, "").route("api", &upstream, r#"token = "api""#);
    let scene = setup.start().await;
    assert_eq!(scene.get("/api/x").await.status, 200);
    let first_line = |number: usize| issuer.calls()[number].head.lines().next().unwrap_or_default().to_owned();
    assert_eq!(first_line(0), "GET /.well-known/oauth-authorization-server HTTP/1.1");
    assert_eq!(first_line(1), "POST /first HTTP/1.1");

    // Whoever watches compares what it has seen: it has to have looked once.
    let told = wait_for("it is told", SOON, async || {
        let path =
            if issuer.calls().last().is_some_and(|call| call.head.contains("/second")) { "/third" } else { "/second" };
        scene.clock.advance(Duration::from_secs(3601));
        issuer.next(metadata(&name, path));
        let _ = scene.rotate("api").await;
        // So many generations in an hour are unusual, too.
        let told = scene.trail().into_iter().filter(|record| record["event"] == "anomaly");
        told.into_iter().find(|told| told["signal"] == "issuer_change")
    })
    .await;
    assert_eq!(told["token"], "api", "{told}");
    assert_eq!(first_line(3), "POST /second HTTP/1.1");
    let changed = scene.recorded("issuer_metadata_changed", 1).await.remove(0);
    assert_eq!((&changed["token"], &changed["what"]), (&json!("api"), &json!("token_endpoint")));
    assert_eq!(changed["after"], format!("{name}/second"));
    scene.finish().await;
}
