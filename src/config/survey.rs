//! What a config refers to outside of itself: secrets, files and other machines, wherever they stand in it.
//!
//! It goes by the form of values, not by their keys, so that what a new kind of source refers to is seen without being listed.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::problem::Report;
use super::reader::Section;
use super::{Context, Environment, tls};
use crate::authority::Endpoint;
use crate::dial::Destinations;
use crate::secret::Reference;

/// Texts for people and words of others, which may look like anything.
const PROSE: [&str; 5] = ["owner", "reason", "name", "scopes", "scope"];

/// Files under these keys are for everybody to read.
const PUBLIC: [&str; 3] = ["ca", "client_ca", "cert"];

/// What was found, each with its place: `token github: source.client_secret`.
#[derive(Default, Debug)]
pub struct Survey {
    pub secrets: Vec<(String, Reference)>,
    /// Files that decide who is trusted, and hold nothing secret.
    pub public_files: Vec<(String, PathBuf)>,
    pub upstreams: Vec<Remote>,
    pub issuers: Vec<Remote>,
}

/// Another machine, and how it is known to be the right one.
#[derive(Debug)]
pub struct Remote {
    pub place: String,
    pub endpoint: Endpoint,
    pub tls: crate::tls::Settings,
}

/// Goes through the text of a config that has no problems.
pub fn survey(text: &str, base: &Path) -> Survey {
    let Ok(table) = DeTable::parse(text) else { return Survey::default() };
    // It has none: nothing is reported.
    let report = Report::new(text);
    let environment = Environment::default();
    let context = Context { report: &report, base, environment: &environment, destinations: Destinations::default() };
    let mut walk = Walk { context: &context, survey: Survey::default() };
    walk.table(table.get_ref(), "");
    walk.survey
}

struct Walk<'a> {
    context: &'a Context<'a>,
    survey: Survey,
}

impl<'a> Walk<'a> {
    fn table(&mut self, table: &'a DeTable<'a>, place: &str) {
        let text = |key: &str| table.get(key).and_then(|value| value.get_ref().as_str());
        match (text("kind"), text("path"), text("name")) {
            (Some("file"), Some(path), _) => {
                self.survey.secrets.push((join(place, "path"), Reference::File(self.context.base.join(path))));
            }
            (Some("env"), _, Some(name)) => {
                self.survey.secrets.push((join(place, "name"), Reference::Env(name.to_owned())));
            }
            _ => {}
        }
        for (key, value) in table {
            let key: &str = key.get_ref();
            if !PROSE.contains(&key) {
                self.value(table, key, value.get_ref(), place);
            }
        }
    }

    fn value(&mut self, table: &'a DeTable<'a>, key: &str, value: &'a DeValue<'a>, place: &str) {
        match value {
            DeValue::String(text) => self.text(table, key, text, place),
            DeValue::Table(inner) => self.table(inner, &join(place, key)),
            DeValue::Array(list) => {
                for item in list.iter().map(toml::Spanned::get_ref) {
                    match item {
                        DeValue::Table(inner) => {
                            let name = inner.get("name").and_then(|name| name.get_ref().as_str()).unwrap_or_default();
                            self.table(inner, format!("{key} {name}").trim());
                        }
                        other => self.value(table, key, other, place),
                    }
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, table: &'a DeTable<'a>, key: &str, text: &str, place: &str) {
        let place = join(place, key);
        if let Ok(reference) = Reference::parse(text, self.context.base) {
            match reference {
                Reference::File(path) if PUBLIC.contains(&key) => self.survey.public_files.push((place, path)),
                reference => self.survey.secrets.push((place, reference)),
            }
        } else if (key == "upstream" || key.ends_with("_url") || place == "vault.url" || names_issuer(table, key))
            && let Ok(endpoint) = Endpoint::parse(text)
        {
            let inner = table.get("tls").and_then(|tls| tls.get_ref().as_table());
            let section = Section::new(self.context.report, "`tls`", 0..0, inner);
            let tls = tls::read(section, None, self.context);
            let remotes = if key == "upstream" { &mut self.survey.upstreams } else { &mut self.survey.issuers };
            remotes.push(Remote { place, endpoint, tls });
        }
    }
}

/// Whether this is a source that asks an issuer by its name. In what the proxy signs itself, it is only a name.
fn names_issuer(table: &DeTable<'_>, key: &str) -> bool {
    let kind = table.get("kind").and_then(|kind| kind.get_ref().as_str());
    key == "issuer" && kind.is_some_and(|kind| kind != "signed_jwt")
}

/// `token github: source.client_secret`
fn join(place: &str, key: &str) -> String {
    match place {
        "" => key.to_owned(),
        // Below the entry of a list.
        _ if place.contains(' ') && !place.contains(": ") => format!("{place}: {key}"),
        _ => format!("{place}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_config_refers_to_is_found() {
        let survey = survey(include_str!("tests/full.toml"), Path::new("/etc/countersign"));
        let secrets: Vec<String> = survey.secrets.iter().map(|(place, what)| format!("{place} = {what}")).collect();
        for expected in [
            "token issued: source.client_secret = file:/etc/countersign/secret",
            "token from-env: source.name = env:API_TOKEN",
            "token from-file: source.path = file:/etc/countersign/token",
            "token signed: source.key = credential:jwt",
            "token exchanged: source.subject_token = exec:/usr/bin/helper",
        ] {
            assert!(secrets.iter().any(|known| known == expected), "{expected} is not in {secrets:#?}");
        }
        for expected in ["token issued: source.tls.ca", "route api: tls.ca", "proxy.tls.client_ca", "admin.tls.cert"] {
            assert!(survey.public_files.iter().any(|(place, _)| place == expected), "{expected} is not in {survey:?}");
        }
        let issuer = survey.issuers.iter().find(|remote| remote.place == "token issued: source.token_url");
        let issuer = issuer.expect("the issuer");
        assert_eq!(issuer.tls.ca.as_deref(), Some(Path::new("/etc/countersign/ca.pem")));
        let upstream =
            survey.upstreams.iter().find(|remote| remote.place == "route api: upstream").expect("the upstream");
        assert_eq!(upstream.endpoint.to_string(), "https://api.example.com/v1");
        assert_eq!(upstream.tls.ca.as_deref(), Some(Path::new("/etc/ssl/upstream.pem")));
    }

    #[test]
    fn a_scope_that_is_spelt_like_a_reference_is_none() {
        let survey = survey("[[token]]\nname = \"a\"\nscopes = [\"file:read\"]\n", Path::new("/"));
        assert!(survey.secrets.is_empty() && survey.public_files.is_empty(), "{survey:?}");
    }
}
