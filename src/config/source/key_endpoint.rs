//! `source = { kind = "key_endpoint", ... }`: keys that an API makes and deletes.

use std::time::Duration;

use http::Method;
use toml::Spanned;

use super::pairs::{header, pairs};
use crate::authority::Endpoint;
use crate::config::reader::Section;
use crate::config::{Context, placement, tls, value};
use crate::token::Placement;
use crate::token::source::Settings as Source;
use crate::token::source::key_endpoint::{Create, Delete, Settings, Template, TemplateError};

const HOUR: Duration = Duration::from_secs(3600);

pub fn read(section: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    let needed = [
        ("secret", "does not say what proves to the API that keys may be made", "secret = \"env:ADMIN_KEY\""),
        ("create", "does not say how a key is made", "create = { url = \"https://api.example.com/v1/keys\" }"),
        ("key", "does not say where the answer has the key", "key = \"/secret\""),
        ("id", "does not say where the answer has the key's id", "id = \"/id\""),
        ("delete", "does not say how a key is deleted", "delete = { url = \"https://api.example.com/v1/keys/{id}\" }"),
    ];
    for (key, what, example) in needed {
        section.require(key, format!("`source` {what}"), example);
    }
    let secret = section.reference("secret", context.base);
    let auth = auth(section);
    let headers = pairs(section, "headers", header);
    let key = section.parsed("key", value::pointer).map(Spanned::into_inner);
    let id = section.parsed("id", value::pointer).map(Spanned::into_inner);
    let expires = section.parsed("expires", value::pointer).map(Spanned::into_inner);
    let life = section.duration("life", Duration::from_secs(60)..=HOUR * 24 * 90);
    if !section.has("expires") && !section.has("life") && section.is_present() {
        let message = "`source` does not say how long a key lives";
        let help = "add `life = \"24h\"`, or `expires = \"/expires_at\"` where the answer has it";
        section.report.error(section.at(), message, help);
    }
    let create = create(section.table("create", "`create`"), context);
    let delete = delete(section.table("delete", "`delete`"), context);
    let tls = tls::read(section.table("tls", "`tls`"), create.as_ref().map(|(_, url)| url), context);
    Some(Source::KeyEndpoint(Box::new(Settings {
        secret: secret?,
        auth: auth?,
        headers,
        create: create?.0,
        key: key?,
        id: id?,
        expires,
        life: life.unwrap_or(HOUR),
        delete: delete?,
        tls,
    })))
}

/// Where what proves us goes: a header.
fn auth(section: &mut Section<'_>) -> Option<Placement> {
    let place = placement::read_at(section, "auth")?;
    match place {
        Placement::Header { .. } | Placement::Basic { .. } => Some(place),
        Placement::Query { .. }
        | Placement::Cookie { .. }
        | Placement::Dpop
        | Placement::SigV4(_)
        | Placement::Hmac(_) => {
            section.refuse("auth", "`auth`: what proves us goes into a header", "as in { header = \"x-api-key\" }");
            None
        }
    }
}

fn create(mut section: Section<'_>, context: &Context<'_>) -> Option<(Create, Spanned<Endpoint>)> {
    section.require("url", "`create` does not say whom to ask", "url = \"https://api.example.com/v1/keys\"");
    let url = section.endpoint("url");
    if let Some(url) = &url {
        context.judge_endpoint("url", url);
    }
    let method = section.choice("method", &[("POST", Post), ("PUT", Put)], &[]);
    let body = body(&mut section, |template| match template.has_id() {
        true => Err(TemplateError::NoId),
        false => Ok(template),
    });
    section.finish();
    let url = url?;
    let method = method.unwrap_or(Post).method();
    Some((Create { url: url.get_ref().clone(), method, body: body? }, url))
}

fn delete(mut section: Section<'_>, context: &Context<'_>) -> Option<Delete> {
    section.require("url", "`delete` does not say whom to ask", "url = \"https://api.example.com/v1/keys/{id}\"");
    let url = section.string("url");
    let place = url.as_ref().and_then(|url| target(&section, url, context));
    let methods = [("DELETE", Verb::Delete), ("POST", Post), ("PUT", Put), ("PATCH", Verb::Patch)];
    let method = section.choice("method", &methods, &[]);
    let body = body(&mut section, Ok);
    let missing = section.choice("missing", &[("gone", true), ("unclear", false)], &[]);
    if let (Some((_, path)), Some(body)) = (&place, &body)
        && !path.has_id()
        && !body.as_ref().is_some_and(Template::has_id)
    {
        let help = "write {id} in the `url` or in the `body`";
        section.refuse("url", "`delete` does not say which key", help);
    }
    section.finish();
    let (base, path) = place?;
    let method = method.unwrap_or(Verb::Delete).method();
    Some(Delete { base, path, method, body: body?, missing_is_gone: missing.unwrap_or(true) })
}

/// The URL's scheme and host, and its path, where the id may stand.
fn target(section: &Section<'_>, url: &Spanned<&str>, context: &Context<'_>) -> Option<(Endpoint, Template)> {
    let told = |error: String| section.report.error(url.span(), format!("`url`: {error}"), None);
    let text = *url.get_ref();
    let path_at = text.find("://").and_then(|at| text[at + 3..].find('/').map(|slash| at + 3 + slash));
    let (base, path) = text.split_at(path_at.unwrap_or(text.len()));
    let base = Endpoint::parse(base).map_err(|error| told(error.to_string())).ok()?;
    context.judge_endpoint("url", &Spanned::new(url.span(), base.clone()));
    if path.contains(['?', '#', ' ']) {
        told("the URL has a path, and neither a query nor spaces".to_owned());
        return None;
    }
    let path = Template::parse(path).map_err(|error| told(error.to_string())).ok()?;
    Some((base, path))
}

/// `Some(None)`: none is sent.
fn body(
    section: &mut Section<'_>,
    judge: impl FnOnce(Template) -> Result<Template, TemplateError>,
) -> Option<Option<Template>> {
    if !section.has("body") {
        section.take("body");
        return Some(None);
    }
    section.parsed("body", |text| Template::parse(text).and_then(judge)).map(|body| Some(body.into_inner()))
}

#[derive(Clone, Copy)]
enum Verb {
    Delete,
    Patch,
    Post,
    Put,
}
use Verb::{Post, Put};

impl Verb {
    fn method(self) -> Method {
        match self {
            Self::Delete => Method::DELETE,
            Self::Patch => Method::PATCH,
            Post => Method::POST,
            Put => Method::PUT,
        }
    }
}
