//! The kinds of sources that ask a token endpoint: what they have in common, and what each is told besides.

use toml::Spanned;
use toml::de::DeValue;

use super::pairs::{field, header, pairs};
use super::{asked_scopes, assertion, signed_jwt, texts};
use crate::authority::Endpoint;
use crate::config::reader::Section;
use crate::config::{Context, issuer_url, tls};
use crate::secret::Reference;
use crate::token::source::Settings as Source;
use crate::token::source::oauth::bound::Binding;
use crate::token::source::oauth::grant::{Assertion, Exchange, Presented};
use crate::token::source::oauth::{Auth, Client, Grant, Issuer, Settings, assertion as proof, sign_in};
use crate::token::source::refresh_token as refresh;

pub fn client_credentials(section: &mut Section<'_>, scopes: &[String], context: &Context<'_>) -> Option<Source> {
    require_issuer(section);
    section.require("client_id", "`source` does not say as whom to ask", "client_id = \"ci\"");
    let common = Common::of_standard(section, scopes, context);
    let client = client(section, &common, context);
    common.with("client_credentials", Grant::ClientCredentials, client.map(Some))
}

pub fn jwt_bearer(section: &mut Section<'_>, scopes: &[String], context: &Context<'_>) -> Option<Source> {
    require_issuer(section);
    let example = "assertion = { key = \"file:/etc/countersign/jwt.pem\", ... }";
    section.require("assertion", "`source` does not say which JWT it shows", example);
    let common = Common::of_standard(section, scopes, context);
    let assertion = shown_assertion(section, common.audience_of_proof(), context);
    let client = optional_client(section, &common, context);
    common.with("jwt_bearer", Grant::JwtBearer(assertion?), client)
}

pub fn token_exchange(section: &mut Section<'_>, scopes: &[String], context: &Context<'_>) -> Option<Source> {
    require_issuer(section);
    let example = "subject_token = \"file:/run/secrets/token\"";
    section.require("subject_token", "`source` does not say which token it gives in exchange", example);
    let common = Common::of_standard(section, scopes, context);
    let subject = presented(section, ["subject_token", "subject_token_type"], context);
    let actor = presented(section, ["actor_token", "actor_token_type"], context);
    if section.has("actor_token_type") && !section.has("actor_token") {
        section.refuse("actor_token_type", "`actor_token_type` is for an `actor_token`", "add that, or remove it");
    }
    let requested_type = token_type(section, "requested_token_type");
    let client = optional_client(section, &common, context);
    let grant = Grant::TokenExchange(Exchange { subject: subject?, actor, requested_type });
    common.with("token_exchange", grant, client)
}

pub fn refresh_token(section: &mut Section<'_>, scopes: &[String], context: &Context<'_>) -> Option<Source> {
    require_issuer(section);
    let example = "refresh_token = \"file:/etc/countersign/refresh-token\"";
    section.require("refresh_token", "`source` does not say where the refresh token of a sign-in is", example);
    let common = Common::of_standard(section, scopes, context);
    let refresh_token = section.reference("refresh_token", context.base);
    let mut sign_in = |key: &'static str| {
        let url = section.endpoint(key);
        url.inspect(|url| context.judge_endpoint(key, url)).map(Spanned::into_inner)
    };
    let sign_in = sign_in::Settings {
        device_authorization_url: sign_in("device_authorization_url"),
        authorization_url: sign_in("authorization_url"),
        scope: sign_in_scope(section),
    };
    if let Some(Binding::Made) = &common.dpop {
        let message = "a refresh token may be bound to the key, and outlives one that is made at each start";
        section.refuse("dpop", message, "name a key that stays: `dpop = \"file:/path\"`");
    }
    let rotating = section.boolean("rotating").unwrap_or(true);
    let reuse_after_loss = section.boolean("reuse_after_loss").unwrap_or(false);
    if reuse_after_loss && !rotating {
        let message = "`reuse_after_loss` is for an issuer that gives another refresh token with each answer";
        section.refuse("reuse_after_loss", message, "remove it: one that stays the same is always shown again");
    }
    let single_instance = section.boolean("single_instance").unwrap_or(false);
    if rotating && !single_instance {
        let message = "two replicas would make each other's refresh tokens invalid";
        let help = "add `single_instance = true` if there is one, or `rotating = false` if the issuer gives the same one for good";
        section.report.error(section.at(), message, help);
    }
    let client = optional_client(section, &common, context);
    let oauth = common.settings("refresh_token", Grant::RefreshToken, client)?;
    let settings = refresh::Settings { oauth, refresh_token: refresh_token?, sign_in, rotating, reuse_after_loss };
    Some(Source::RefreshToken(Box::new(settings)))
}

pub fn service_account(section: &mut Section<'_>, scopes: &[String], context: &Context<'_>) -> Option<Source> {
    let example = "key = \"file:/etc/countersign/account.json\"";
    section.require("key", "`source` does not say where the account's key file is", example);
    let common = Common::read(section, Some("https://oauth2.googleapis.com/token"), scopes, context);
    let key = section.reference("key", context.base);
    let subject = section.text("subject");
    let grant = Grant::JwtBearer(Assertion::ServiceAccount { key: key?, subject });
    common.with("gcp_service_account", grant, Some(None))
}

/// A secret, a certificate with its key, or what a cluster signs for the client: one of them.
pub fn azure_client(section: &mut Section<'_>, scopes: &[String], context: &Context<'_>) -> Option<Source> {
    section.require("client_id", "`source` does not say as whom to ask", "client_id = \"...\"");
    if !section.has("token_url") {
        section.require("tenant", "`source` does not name its tenant", "tenant = \"example.onmicrosoft.com\"");
    }
    let tenant = section.parsed("tenant", tenant).map(Spanned::into_inner);
    let issuer = tenant.map(|tenant| format!("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"));
    let common = Common::read(section, issuer.as_deref(), scopes, context);
    let id = section.text("client_id");
    let auth = azure_proof(section, common.audience_of_proof(), context);
    let client = id.zip(auth).map(|(id, auth)| Some(Client { id, auth }));
    common.with("azure_client", Grant::ClientCredentials, client)
}

fn azure_proof(section: &mut Section<'_>, audience: Option<String>, context: &Context<'_>) -> Option<Auth> {
    let secret = section.reference("client_secret", context.base);
    let certificate = tls::file(section, "cert", context);
    let key = section.reference("key", context.base);
    let federated = section.reference("federated_token", context.base);
    let given: Vec<&str> =
        ["client_secret", "cert", "federated_token"].into_iter().filter(|key| section.has(key)).collect();
    match given.as_slice() {
        ["client_secret"] if !section.has("key") => secret.map(Auth::Post),
        ["federated_token"] if !section.has("key") => federated.map(Auth::Assertion),
        ["cert"] => {
            let example = "key = \"file:/etc/countersign/client.pem\"";
            section.require("key", "`source` has a certificate without its private key", example);
            Some(Auth::PrivateKeyJwt(Box::new(proof::Settings {
                key: key?,
                algorithm: jsonwebtoken::Algorithm::PS256,
                key_id: None,
                certificate: Some(certificate?),
                audience: audience?,
            })))
        }
        [] if !section.has("key") => {
            let message = "`source` does not say how the client proves itself";
            let help = "add `client_secret`, or `cert` with its `key`, or `federated_token`: each names where it is";
            section.report.error(section.at(), message, help);
            None
        }
        _ => {
            let message = "`source` proves the client in one way";
            let help = "leave one of `client_secret`, `cert` with its `key`, and `federated_token`";
            section.report.error(section.at(), message, help);
            None
        }
    }
}

/// A directory's number or one of its domains: a segment of the URL.
fn tenant(text: &str) -> Result<String, &'static str> {
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    let fits = fits && !text.starts_with('.');
    fits.then(|| text.to_owned()).ok_or("a tenant is a domain, or a number like 11111111-2222-3333-4444-555555555555")
}

/// By its own name, or by where it is asked.
fn require_issuer(section: &Section<'_>) {
    if section.has("issuer") && section.has("token_url") {
        let message = "`issuer` tells where its token endpoint is, and `token_url` says it too";
        section.refuse("token_url", message, "leave one of them");
    } else if !section.has("issuer") {
        let example = "token_url = \"https://issuer.example/token\"";
        section.require("token_url", "`source` does not name its issuer", example);
    }
}

/// What each kind is told.
struct Common {
    issuer: Option<Issuer>,
    dpop: Option<Binding>,
    revocation_url: Option<Endpoint>,
    scope: Vec<String>,
    audience: Vec<String>,
    resource: Vec<String>,
    extra: Vec<(String, String)>,
    headers: Vec<(http::HeaderName, http::HeaderValue)>,
    tls: crate::tls::Settings,
}

impl Common {
    /// Of a kind whose issuer can be anybody: at a URL, or by a name under which it tells its URLs.
    fn of_standard(section: &mut Section<'_>, scopes: &[String], context: &Context<'_>) -> Self {
        let named = section.string("issuer").and_then(|written| named_issuer(section, &written, context));
        let url = named.as_ref().map(|(_, url)| url);
        let common = Self::further(section, url, scopes, context);
        let named = named.map(|(name, url)| Issuer::Named { name, endpoint: url.into_inner() });
        let dpop = dpop(section, context);
        Self { issuer: named.or(common.issuer), dpop, ..common }
    }

    /// `usual`: the token endpoint where the section names none.
    fn read(section: &mut Section<'_>, usual: Option<&str>, scopes: &[String], context: &Context<'_>) -> Self {
        let common = Self::further(section, None, scopes, context);
        let usual = usual.filter(|_| !section.has("token_url")).and_then(|usual| Endpoint::parse(usual).ok());
        Self { issuer: common.issuer.or(usual.map(Issuer::At)), ..common }
    }

    fn further(
        section: &mut Section<'_>,
        issuer: Option<&Spanned<Endpoint>>,
        scopes: &[String],
        context: &Context<'_>,
    ) -> Self {
        let token_url = section.endpoint("token_url");
        if let Some(url) = &token_url {
            context.judge_endpoint("token_url", url);
        }
        let revocation_url = section.endpoint("revocation_url");
        if let Some(url) = &revocation_url {
            context.judge_endpoint("revocation_url", url);
        }
        let tls = tls::read(section.table("tls", "`tls`"), issuer.or(token_url.as_ref()), context);
        Self {
            issuer: token_url.map(|url| Issuer::At(url.into_inner())),
            dpop: None,
            revocation_url: revocation_url.map(Spanned::into_inner),
            scope: asked_scopes(section, scopes),
            audience: texts(section, "audience"),
            resource: texts(section, "resource"),
            extra: pairs(section, "extra", field),
            headers: pairs(section, "headers", header),
            tls,
        }
    }

    /// For whom what the client signs is, where nothing else is said.
    fn audience_of_proof(&self) -> Option<String> {
        self.issuer.as_ref().map(Issuer::audience)
    }

    /// `client`: `None` where it could not be read, `Some(None)` where there is none.
    fn with(self, kind: &'static str, grant: Grant, client: Option<Option<Client>>) -> Option<Source> {
        self.settings(kind, grant, client).map(|settings| Source::OAuth(settings.into()))
    }

    fn settings(self, kind: &'static str, grant: Grant, client: Option<Option<Client>>) -> Option<Settings> {
        let Self { issuer, dpop, revocation_url, scope, audience, resource, extra, headers, tls } = self;
        let (issuer, client) = (issuer?, client?);
        Some(Settings {
            kind,
            grant,
            issuer,
            revocation_url,
            dpop,
            client,
            scope,
            audience,
            resource,
            extra,
            headers,
            tls,
        })
    }
}

/// Nothing that the token's own scopes would have to name, so that it is reviewed.
fn sign_in_scope(section: &mut Section<'_>) -> Vec<String> {
    let written = texts(section, "sign_in_scope");
    if !written.iter().all(|scope| ["offline_access", "openid"].contains(&scope.as_str())) {
        let message = "`sign_in_scope` takes what makes an issuer give a refresh token, and nothing that opens more";
        section.refuse(
            "sign_in_scope",
            message,
            "write \"offline_access\" or \"openid\"; other scopes go into `scopes`",
        );
    }
    written
}

/// What tokens are bound to: a key that is made, or one that lies somewhere.
fn dpop(section: &mut Section<'_>, context: &Context<'_>) -> Option<Binding> {
    match section.take("dpop")?.get_ref() {
        DeValue::Boolean(is_wanted) => is_wanted.then_some(Binding::Made),
        _ => section.reference("dpop", context.base).map(Binding::Kept),
    }
}

/// An issuer by its own name.
fn named_issuer(
    section: &Section<'_>,
    written: &Spanned<&str>,
    context: &Context<'_>,
) -> Option<(String, Spanned<Endpoint>)> {
    let url = issuer_url(section, written, "write it as its metadata has it (RFC 8414): `issuer`", context)?;
    Some(((*written.get_ref()).to_owned(), url))
}

/// Where the JWT comes from that is shown: it is there already, or we sign it.
fn shown_assertion(section: &mut Section<'_>, accepts: Option<String>, context: &Context<'_>) -> Option<Assertion> {
    match section.take("assertion")?.get_ref() {
        DeValue::Table(_) => {
            let mut table = section.table("assertion", "`assertion`");
            let settings = signed_jwt::read(&mut table, "`assertion`", accepts, context);
            table.finish();
            settings.map(|settings| Assertion::Signed(Box::new(settings)))
        }
        _ => section.reference("assertion", context.base).map(Assertion::Ready),
    }
}

/// A token that is shown to the issuer, and its type, which is that of an access token where nothing else is said.
fn presented(section: &mut Section<'_>, [token, kind]: [&'static str; 2], context: &Context<'_>) -> Option<Presented> {
    let token = section.reference(token, context.base);
    let kind = token_type(section, kind).unwrap_or_else(|| format!("{TOKEN_TYPES}access_token"));
    Some(Presented { token: token?, kind })
}

/// A type of tokens: one of the words of RFC 8693 (section 3), or any other as the URN that it is.
fn token_type(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    const WORDS: [&str; 6] = ["access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt"];
    let parse = |text: &str| match text {
        word if WORDS.contains(&word) => Ok(format!("{TOKEN_TYPES}{word}")),
        urn if urn.starts_with("urn:") && urn.bytes().all(|b| b.is_ascii_graphic()) => Ok(urn.to_owned()),
        _ => Err(format!("a type of tokens is one of {}, or a URN", WORDS.join(", "))),
    };
    section.parsed(key, parse).map(Spanned::into_inner)
}

const TOKEN_TYPES: &str = "urn:ietf:params:oauth:token-type:";

/// The client, where a grant can do without one: with neither a name nor a proof there is none.
fn optional_client(section: &mut Section<'_>, common: &Common, context: &Context<'_>) -> Option<Option<Client>> {
    let proves_itself = section.has("auth") || section.has("client_secret");
    if proves_itself {
        section.require("client_id", "`source` does not say as whom to ask", "client_id = \"ci\"");
        return client(section, common, context).map(Some);
    }
    // A key that would prove the client has no effect here, and is refused.
    let _ = assertion::read(section, false, None, context);
    section.take("auth");
    section.take("client_secret");
    let is_named = section.has("client_id");
    let id = section.text("client_id");
    match id {
        Some(id) => Some(Some(Client { id, auth: Auth::Nothing })),
        None => (!is_named).then_some(None),
    }
}

fn client(section: &mut Section<'_>, common: &Common, context: &Context<'_>) -> Option<Client> {
    let id = section.text("client_id");
    let auth = auth(section, &common.tls, common.audience_of_proof(), context);
    Some(Client { id: id?, auth: auth? })
}

/// How the client proves itself: with a secret, with the certificate of its `tls`, or with what it signs.
fn auth(
    section: &mut Section<'_>,
    tls: &crate::tls::Settings,
    audience: Option<String>,
    context: &Context<'_>,
) -> Option<Auth> {
    let with_secret = |auth: fn(Reference) -> Auth| Proof::Secret(auth);
    let ways = [
        ("basic", with_secret(Auth::Basic)),
        ("post", with_secret(Auth::Post)),
        ("mtls", Proof::Certificate),
        ("private_key_jwt", Proof::Signature),
    ];
    let way = section.choice("auth", &ways, &[]);
    let secret = section.reference("client_secret", context.base);
    let assertion = assertion::read(section, matches!(way, Some(Proof::Signature)), audience, context);
    match way.or((!section.has("auth")).then_some(with_secret(Auth::Basic)))? {
        Proof::Secret(auth) => {
            let example = "client_secret = \"env:CI_SECRET\"";
            section.require("client_secret", "`source` does not say where its secret is", example);
            secret.map(auth)
        }
        Proof::Certificate | Proof::Signature if section.has("client_secret") => {
            let message = "this `auth` proves the client with a key, and sends no secret";
            section.refuse("client_secret", message, "remove `client_secret`");
            None
        }
        Proof::Certificate if tls.identity.is_none() => {
            let message = "`auth = \"mtls\"` needs the client certificate that it proves itself with";
            section.refuse("auth", message, "add `tls = { cert = \"file:/path\", key = \"file:/path\" }`");
            None
        }
        Proof::Certificate => Some(Auth::Mtls),
        Proof::Signature => assertion.map(|settings| Auth::PrivateKeyJwt(Box::new(settings))),
    }
}

#[derive(Clone, Copy)]
enum Proof {
    Secret(fn(Reference) -> Auth),
    Certificate,
    Signature,
}
