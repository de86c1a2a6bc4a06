//! What an issuer tells of itself: its metadata (RFC 8414), and OpenID Connect Discovery's, which is alike.
//!
//! ```text
//!  issuer ─▶ /.well-known/oauth-authorization-server ─▶ Metadata, if it is of this issuer
//!                └─ no such document ─▶ /.well-known/openid-configuration ─┘
//! ```
//!
//! Invariants: what is of another issuer is not believed; a URL in it is https, or plain http where the issuer is, and there only.

use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::authority::{Endpoint, EndpointError, Scheme};
use crate::fetch::{Call, FetchError, Fetcher, Remote, RemoteError};
use crate::tls;

/// An issuer that is known by its name alone.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// As it calls itself, byte for byte.
    pub name: String,
    /// The same, as a URL.
    pub endpoint: Endpoint,
    pub tls: tls::Settings,
}

/// Where an issuer tells of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standard {
    /// RFC 8414, section 3: before the path of the issuer.
    OAuth,
    /// OpenID Connect Discovery 1.0, section 4: after it.
    OpenId,
}

/// The documents of one issuer, in the order in which they are asked for.
pub struct Documents {
    settings: Settings,
    remotes: Vec<Remote>,
}

/// What an issuer tells of itself, as far as anybody here wants to know.
#[derive(Debug)]
pub struct Metadata {
    own: Endpoint,
    told: Told,
}

#[derive(Deserialize, Default, Debug)]
struct Told {
    issuer: String,
    #[serde(flatten)]
    urls: Urls,
    #[serde(default)]
    mtls_endpoint_aliases: Urls,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

#[derive(Deserialize, Default, Debug)]
#[serde(default)]
struct Urls {
    token_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    authorization_endpoint: Option<String>,
    jwks_uri: Option<String>,
}

/// What an issuer has a URL for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Token,
    Revocation,
    DeviceAuthorization,
    Authorization,
    Keys,
}

/// Why nothing is known of an issuer. No text holds what it said, but where that is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}: {1}")]
    Fetch(Endpoint, Box<FetchError>),
    #[error("{0} answers {1}")]
    Status(Endpoint, StatusCode),
    #[error("{0} does not tell of an issuer")]
    NoDocument(Endpoint),
    #[error("{0} is of another issuer")]
    OfAnother(Endpoint),
    #[error("its `{}`: {}", .0.name(), .1)]
    Url(Purpose, EndpointError),
    #[error("its `{}` is plain http", .0.name())]
    Clear(Purpose),
    #[error("its `{}`: {}", .0.name(), .1)]
    Remote(Purpose, Box<RemoteError>),
    #[error("it does not tell `{}`", .0.name())]
    Untold(Purpose),
}

impl Purpose {
    pub const ALL: [Self; 5] =
        [Self::Token, Self::Revocation, Self::DeviceAuthorization, Self::Authorization, Self::Keys];

    /// As the document has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token_endpoint",
            Self::Revocation => "revocation_endpoint",
            Self::DeviceAuthorization => "device_authorization_endpoint",
            Self::Authorization => "authorization_endpoint",
            Self::Keys => "jwks_uri",
        }
    }
}

impl Documents {
    /// # Errors
    /// When the issuer cannot be called at all.
    pub fn new(settings: &Settings, standards: &[Standard]) -> Result<Self, RemoteError> {
        let remote = |standard: &Standard| Remote::new(standard.of(&settings.endpoint), &settings.tls);
        let remotes = standards.iter().map(remote).collect::<Result<_, _>>()?;
        Ok(Self { settings: settings.clone(), remotes })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// # Errors
    /// When none of them is there, or one is of another issuer.
    pub async fn read(&self, fetcher: &Fetcher) -> Result<Metadata, Error> {
        let mut first = None;
        for remote in &self.remotes {
            match self.take(fetcher, remote).await {
                Err(error) if error.is_no_document() => {
                    // What stands first is what the issuer should have.
                    first.get_or_insert(error);
                }
                other => return other,
            }
        }
        Err(first.unwrap_or_else(|| Error::NoDocument(self.settings.endpoint.clone())))
    }

    async fn take(&self, fetcher: &Fetcher, remote: &Remote) -> Result<Metadata, Error> {
        let document = get(fetcher, remote).await?;
        let place = || remote.endpoint().clone();
        let told: Told = serde_json::from_slice(&document).map_err(|_| Error::NoDocument(place()))?;
        if told.issuer != self.settings.name {
            return Err(Error::OfAnother(place()));
        }
        Ok(Metadata { own: self.settings.endpoint.clone(), told })
    }
}

impl Metadata {
    /// # Errors
    /// When there is none, or it may not be called.
    pub fn endpoint(&self, purpose: Purpose) -> Result<Endpoint, Error> {
        self.judge(purpose, &self.told.urls).and_then(|found| found.ok_or(Error::Untold(purpose)))
    }

    /// As [`Metadata::endpoint`], for a client that proves itself with its certificate (RFC 8705, section 5).
    ///
    /// # Errors
    /// As there.
    pub fn endpoint_under_certificate(&self, purpose: Purpose) -> Result<Endpoint, Error> {
        match self.judge(purpose, &self.told.mtls_endpoint_aliases)? {
            Some(alias) => Ok(alias),
            None => self.endpoint(purpose),
        }
    }

    /// Whether it tells a URL for this, good or not.
    pub fn has(&self, purpose: Purpose) -> bool {
        self.told.urls.get(purpose).is_some()
    }

    /// How clients may prove themselves at the token endpoint; what is not told is what the RFC has in its place.
    pub fn takes(&self, method: &str) -> bool {
        match &self.told.token_endpoint_auth_methods_supported {
            Some(methods) => methods.iter().any(|known| known == method),
            None => method == "client_secret_basic",
        }
    }

    /// Whether it says in its answers to a sign-in who it is (RFC 9207).
    pub fn names_itself(&self) -> bool {
        self.told.authorization_response_iss_parameter_supported
    }

    /// What it tells, by name, without a judgement: URLs, and those for certificates.
    pub fn urls(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        let of = |set: &'static str, urls| {
            Purpose::ALL.into_iter().filter_map(move |purpose| Some((set, purpose.name(), Urls::get(urls, purpose)?)))
        };
        of("", &self.told.urls).chain(of("mtls_endpoint_aliases.", &self.told.mtls_endpoint_aliases))
    }

    fn judge(&self, purpose: Purpose, urls: &Urls) -> Result<Option<Endpoint>, Error> {
        let Some(text) = urls.get(purpose) else { return Ok(None) };
        let endpoint = Endpoint::parse(text).map_err(|error| Error::Url(purpose, error))?;
        let own = &self.own;
        if endpoint.scheme == Scheme::Http && (own.scheme, &own.authority) != (Scheme::Http, &endpoint.authority) {
            return Err(Error::Clear(purpose));
        }
        Ok(Some(endpoint))
    }
}

impl Urls {
    fn get(&self, purpose: Purpose) -> Option<&str> {
        let url = match purpose {
            Purpose::Token => &self.token_endpoint,
            Purpose::Revocation => &self.revocation_endpoint,
            Purpose::DeviceAuthorization => &self.device_authorization_endpoint,
            Purpose::Authorization => &self.authorization_endpoint,
            Purpose::Keys => &self.jwks_uri,
        };
        url.as_deref()
    }
}

impl Error {
    /// The issuer has answered, and has nothing there.
    fn is_no_document(&self) -> bool {
        match self {
            Self::Status(_, status) => status.is_client_error() && *status != StatusCode::TOO_MANY_REQUESTS,
            Self::NoDocument(_) => true,
            _ => false,
        }
    }
}

impl Standard {
    fn of(self, issuer: &Endpoint) -> Endpoint {
        match self {
            Self::OAuth => {
                let path = format!("/.well-known/oauth-authorization-server{}", issuer.path.trim_end_matches('/'));
                Endpoint { path, ..issuer.clone() }
            }
            Self::OpenId => issuer.below("/.well-known/openid-configuration"),
        }
    }
}

/// A document that anybody may read.
///
/// # Errors
/// When it is not there.
pub async fn get(fetcher: &Fetcher, remote: &Remote) -> Result<Zeroizing<Vec<u8>>, Error> {
    let call = Call { method: Method::GET, remote, headers: HeaderMap::new(), body: Zeroizing::default() };
    let place = || remote.endpoint().clone();
    let answer = fetcher.send(call).await.map_err(|error| Error::Fetch(place(), error.into()))?;
    if answer.status != StatusCode::OK {
        return Err(Error::Status(place(), answer.status));
    }
    Ok(answer.body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::scripted::{Scripted, fetcher};

    const BOTH: [Standard; 2] = [Standard::OAuth, Standard::OpenId];

    fn settings(name: &str) -> Settings {
        let endpoint = Endpoint::parse(name).expect("well-formed");
        Settings { name: name.to_owned(), endpoint, tls: tls::Settings::default() }
    }

    fn metadata(issuer: &str, document: &str) -> Metadata {
        let told = serde_json::from_str(document).expect("a document");
        Metadata { own: Endpoint::parse(issuer).expect("well-formed"), told }
    }

    fn json(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn a_document_lies_where_its_standard_puts_it() {
        for (issuer, oauth, openid) in [
            ("https://a.example", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"),
            ("https://a.example/", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"),
            (
                "https://a.example/t/1",
                "/.well-known/oauth-authorization-server/t/1",
                "/t/1/.well-known/openid-configuration",
            ),
            (
                "https://a.example/t/",
                "/.well-known/oauth-authorization-server/t",
                "/t/.well-known/openid-configuration",
            ),
        ] {
            let endpoint = settings(issuer).endpoint;
            assert_eq!(BOTH.map(|standard| standard.of(&endpoint).path), [oauth, openid], "{issuer}");
        }
    }

    #[tokio::test]
    async fn where_there_is_no_document_the_other_one_is_asked_for() {
        let server = Scripted::start().await;
        let name = server.endpoint().to_string();
        let documents = Documents::new(&settings(&name), &BOTH).expect("well-formed");
        let document = json(&format!(r#"{{"issuer":"{name}","token_endpoint":"{name}"}}"#));
        for missing in ["HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_owned(), json("<html>")] {
            let fetcher = fetcher();
            let (read, requests) = tokio::join!(documents.read(&fetcher), async {
                [server.answer(&missing).await, server.answer(&document).await]
            });
            assert_eq!(read.expect("a document").endpoint(Purpose::Token).expect("a URL").to_string(), name);
            let [first, second] = requests;
            assert!(first.starts_with("GET /.well-known/oauth-authorization-server/token HTTP/1.1\r\n"), "{first}");
            assert!(second.starts_with("GET /token/.well-known/openid-configuration HTTP/1.1\r\n"), "{second}");
        }
    }

    #[tokio::test]
    async fn what_is_of_another_issuer_is_an_end_and_so_is_trouble() {
        let server = Scripted::start().await;
        let name = server.endpoint().to_string();
        let documents = Documents::new(&settings(&name), &BOTH).expect("well-formed");
        let other = json(&format!(r#"{{"issuer":"{name}/","token_endpoint":"{name}"}}"#));
        let redirect = "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".to_owned();
        let trouble = "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_owned();
        for (answer, why) in [(other, "is of another issuer"), (redirect, "answers 302"), (trouble, "answers 503")] {
            let fetcher = fetcher();
            let (read, _) = tokio::join!(documents.read(&fetcher), server.answer(&answer));
            let error = read.expect_err("nothing to believe").to_string();
            assert!(error.ends_with(why) || error.contains(&format!("{why} ")), "{error}");
            assert!(error.contains("/.well-known/oauth-authorization-server/token"), "{error}");
        }
    }

    #[test]
    fn a_url_is_protected_as_well_as_its_issuer_is() {
        let document = |url: &str| format!(r#"{{"issuer":"x","token_endpoint":"{url}"}}"#);
        for (issuer, url, is_good) in [
            ("https://a.example", "https://b.example/token", true),
            ("https://a.example", "http://a.example/token", false),
            ("https://a.example", "http://127.0.0.1/token", false),
            ("http://127.0.0.1:1", "http://127.0.0.1:1/token", true),
            ("http://127.0.0.1:1", "http://127.0.0.1:2/token", false),
            ("https://a.example", "https://u:p@a.example/token", false),
            ("https://a.example", "/token", false),
        ] {
            let told = metadata(issuer, &document(url)).endpoint(Purpose::Token);
            assert_eq!(told.is_ok(), is_good, "{url}: {told:?}");
        }
        let silent = metadata("https://a.example", r#"{"issuer":"x"}"#).endpoint(Purpose::Token);
        assert_eq!(silent.expect_err("none").to_string(), "it does not tell `token_endpoint`");
    }

    #[test]
    fn a_client_with_a_certificate_takes_the_alias_where_there_is_one() {
        let told = metadata(
            "https://a.example",
            r#"{"issuer":"x","token_endpoint":"https://a.example/t","revocation_endpoint":"https://a.example/r",
                "mtls_endpoint_aliases":{"token_endpoint":"https://mtls.a.example/t"}}"#,
        );
        let under = |purpose| told.endpoint_under_certificate(purpose).expect("a URL").to_string();
        assert_eq!(under(Purpose::Token), "https://mtls.a.example/t");
        assert_eq!(under(Purpose::Revocation), "https://a.example/r");
        assert_eq!(told.endpoint(Purpose::Token).expect("a URL").to_string(), "https://a.example/t");
        assert!(told.takes("client_secret_basic") && !told.takes("none"));
    }
}
