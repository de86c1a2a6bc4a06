//! `tls = { ca, cert, key, pin }`: whose certificates are trusted, and what we prove ourselves with.

use std::path::PathBuf;

use toml::Spanned;

use super::reader::Section;
use super::{Context, value};
use crate::authority::{Endpoint, Scheme};
use crate::tls::{Identity, Pin, Settings};

/// `endpoint` is what the section is about, if that could be read.
pub fn read(mut section: Section<'_>, endpoint: Option<&Spanned<Endpoint>>, context: &Context<'_>) -> Settings {
    if section.entries().next().is_some() && endpoint.is_some_and(|endpoint| endpoint.get_ref().scheme == Scheme::Http)
    {
        let message = "`tls` would have no effect, since the URL is plain http";
        section.report.error(section.at(), message, "remove it, or write https://");
    }
    let ca = file(&mut section, "ca", context);
    let certificate = file(&mut section, "cert", context);
    let key = section.reference_at_rest("key", context.base);
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if section.has(one) && !section.has(other) {
            let message = format!("`tls` has a `{one}` without a `{other}`");
            section.refuse(one, message, format!("add `{other} = \"file:/path\"`: a client proves itself with both"));
        }
    }
    let pins = pins(&mut section);
    section.finish();
    let identity = certificate.zip(key).map(|(certificate, key)| Identity { certificate, key });
    Settings { ca, identity, pins }
}

pub fn file(section: &mut Section<'_>, key: &'static str, context: &Context<'_>) -> Option<PathBuf> {
    let path = section.parsed(key, |text| match text.strip_prefix("file:") {
        Some(path) => value::path(path).map_err(|error| error.to_string()),
        None => Err("a file of certificates is written \"file:/path\"".to_owned()),
    });
    path.map(|path| context.base.join(path.into_inner()))
}

fn pins(section: &mut Section<'_>) -> Vec<Pin> {
    let Some(texts) = section.string_or_strings("pin") else { return Vec::new() };
    if texts.is_empty() {
        section.refuse("pin", "`pin` must name at least one key", "remove it to trust any that the CA vouches for");
    }
    let pin = |text: &Spanned<&str>| {
        let parsed = text.get_ref().parse().map_err(|error| {
            // A private key may have been pasted here.
            section.report.conceal(text.span());
            section.report.error(text.span(), format!("`pin`: {error}"), HOW_TO_PIN);
        });
        parsed.ok()
    };
    texts.iter().filter_map(pin).collect()
}

const HOW_TO_PIN: &str = "openssl x509 -in server.pem -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64";
