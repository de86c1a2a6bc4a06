//! The demo's issuer: a token endpoint (RFC 6749, section 4.4) that signs JWTs which live 30 seconds.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::clock::{Clock, SystemClock};
use crate::secret::Secret;

/// How long its tokens live, in seconds.
pub const LIFE: u64 = 30;

const NAME: &str = "countersign-demo";
const CLIENT: &str = "demo";
const FORM_BYTES: usize = 4096;

/// The issuer's pair of keys: it signs with one, the API verifies with the other.
#[derive(Clone)]
pub struct Keys {
    private: EncodingKey,
    public: DecodingKey,
}

/// What a token says.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    pub scope: String,
    pub iat: u64,
    pub exp: u64,
    pub jti: String,
}

impl Keys {
    pub fn make() -> anyhow::Result<Self> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        Ok(Self {
            private: EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes())?,
            public: DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes())?,
        })
    }

    fn sign(&self, scope: &str) -> anyhow::Result<String> {
        let now = SystemClock.now().wall.as_secs();
        let claims = Claims {
            iss: NAME.into(),
            sub: CLIENT.into(),
            scope: scope.into(),
            iat: now,
            exp: now + LIFE,
            jti: format!("{:016x}", fastrand::u64(..)),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.private).context("cannot sign")
    }

    /// The claims of a token that this issuer signed and that has not expired.
    pub fn verify(&self, token: &str) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[NAME]);
        validation.leeway = 0;
        jsonwebtoken::decode::<Claims>(token, &self.public, &validation).ok().map(|data| data.claims)
    }
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, keys: Keys, client_secret: Secret) {
    let shop = Arc::new((keys, client_secret));
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shop = shop.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let shop = shop.clone();
                async move { Ok::<_, Infallible>(answer(request, &shop.0, &shop.1).await) }
            });
            // A caller that goes away is its own loss.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<Incoming>, keys: &Keys, client_secret: &Secret) -> Response<Full<Bytes>> {
    if request.method() != Method::POST || request.uri().path() != "/token" {
        return json_answer(StatusCode::NOT_FOUND, &json!({ "error": "invalid_request" }));
    }
    if !proves_itself(&request, client_secret) {
        return json_answer(StatusCode::UNAUTHORIZED, &json!({ "error": "invalid_client" }));
    }
    let Ok(form) = Limited::new(request.into_body(), FORM_BYTES).collect().await else {
        return json_answer(StatusCode::BAD_REQUEST, &json!({ "error": "invalid_request" }));
    };
    let form = form.to_bytes();
    let field = |name: &str| form_urlencoded::parse(&form).find(|(key, _)| key == name).map(|(_, value)| value);
    if field("grant_type").as_deref() != Some("client_credentials") {
        return json_answer(StatusCode::BAD_REQUEST, &json!({ "error": "unsupported_grant_type" }));
    }
    let scope = field("scope").unwrap_or_default();
    match keys.sign(&scope) {
        Ok(token) => {
            let body = json!({ "access_token": token, "token_type": "Bearer", "expires_in": LIFE, "scope": scope });
            json_answer(StatusCode::OK, &body)
        }
        Err(_) => json_answer(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "server_error" })),
    }
}

/// HTTP Basic with the demo's client (RFC 6749, section 2.3.1); its id and secret need no escaping.
fn proves_itself(request: &Request<Incoming>, client_secret: &Secret) -> bool {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = header.and_then(|text| text.strip_prefix("Basic ")).and_then(|text| STANDARD.decode(text).ok());
    let Some(sent) = sent.and_then(|sent| String::from_utf8(sent).ok()) else { return false };
    match sent.split_once(':') {
        Some((CLIENT, secret)) => Secret::new(secret).same_as(client_secret),
        _ => false,
    }
}

pub fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body:#}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
