//! `[vault]`: the Vault or OpenBao that secrets and tokens come from, and who we are to it.

use std::path::PathBuf;

use toml::Spanned;

use super::reader::Section;
use super::{Context, tls};
use crate::secret::{Opening, Reference, vault_path};
use crate::vault::{Auth, Settings};

/// Where every pod finds the token of its account.
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What a config says of it.
#[derive(Clone)]
pub struct Vault {
    pub settings: Settings,
    /// Through which the references of the config reach it.
    pub opening: Opening,
}

impl PartialEq for Vault {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

/// To be read before whatever may refer to it.
pub fn read(mut section: Section<'_>, context: &Context<'_>) -> Option<Vault> {
    if !section.is_present() {
        return None;
    }
    let opening = context.report.has_a_vault();
    section.require("url", "[vault] does not say where the vault is", "url = \"https://vault.example:8200\"");
    section.require("auth", "[vault] does not say how to log in", "auth = { kind = \"approle\", ... }");
    let url = section.endpoint("url");
    if let Some(url) = &url {
        context.judge_endpoint("url", url);
        context.report.vault_is_at(url.get_ref().to_string());
    }
    let namespace =
        section.parsed("namespace", |text| vault_path(text).ok_or("a namespace is a path like \"team/ci\""));
    let tls = tls::read(section.table("tls", "`tls`"), url.as_ref(), context);
    let auth = auth(section.table("auth", "`auth`"), context);
    section.finish();
    let settings = Settings { url: url?.into_inner(), namespace: namespace.map(Spanned::into_inner), auth: auth?, tls };
    Some(Vault { settings, opening })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Token,
    AppRole,
    Jwt,
    Kubernetes,
}

fn auth(mut section: Section<'_>, context: &Context<'_>) -> Option<Auth> {
    let kinds =
        [("approle", Kind::AppRole), ("jwt", Kind::Jwt), ("kubernetes", Kind::Kubernetes), ("token", Kind::Token)];
    section.require("kind", "`auth` does not say of which kind it is", "kind = \"approle\"");
    let kind = section.choice("kind", &kinds, &[]);
    let token = own(&mut section, "token", context);
    let role_id = own(&mut section, "role_id", context);
    let secret_id = own(&mut section, "secret_id", context);
    let jwt = own(&mut section, "jwt", context);
    let role = section.text("role");
    let mount = section.parsed("mount", |text| vault_path(text).ok_or("a mount is a path like \"approle\""));
    let (word, keys): (&str, &[(&str, &str)]) = match kind? {
        Kind::Token => ("token", &[("token", "token = \"file:/run/secrets/vault-token\"")]),
        Kind::AppRole => ("approle", &[("role_id", "role_id = \"env:ROLE_ID\"")]),
        Kind::Jwt => ("jwt", &[("role", "role = \"countersign\""), ("jwt", "jwt = \"file:/run/secrets/jwt\"")]),
        Kind::Kubernetes => ("kubernetes", &[("role", "role = \"countersign\"")]),
    };
    for (key, example) in keys {
        section.require(key, format!("`auth` of kind `{word}` needs `{key}`"), example);
    }
    let further: &[&str] = match kind? {
        Kind::Token => &[],
        Kind::AppRole => &["secret_id", "mount"],
        Kind::Jwt => &["mount"],
        Kind::Kubernetes => &["jwt", "mount"],
    };
    for key in ["token", "role_id", "secret_id", "jwt", "role", "mount"] {
        if section.has(key) && !further.contains(&key) && !keys.iter().any(|(known, _)| *known == key) {
            section.refuse(key, format!("`{key}` would have no effect: it is not for the kind `{word}`"), "remove it");
        }
    }
    let at = |usual: &str| mount.map_or_else(|| usual.to_owned(), Spanned::into_inner);
    let projected = Reference::File(PathBuf::from(MOUNTED));
    let given = section.has("jwt");
    let secret_is_wrong = section.has("secret_id") && secret_id.is_none();
    section.finish();
    match kind? {
        Kind::Token => token.map(Auth::Token),
        Kind::AppRole if secret_is_wrong => None,
        Kind::AppRole => Some(Auth::AppRole { mount: at("approle"), role_id: role_id?, secret_id }),
        Kind::Jwt => Some(Auth::Jwt { mount: at("jwt"), role: role?, jwt: jwt? }),
        Kind::Kubernetes => {
            let jwt = if given { jwt? } else { projected };
            Some(Auth::Jwt { mount: at("kubernetes"), role: role?, jwt })
        }
    }
}

/// What proves us, which cannot lie where it opens the door.
fn own(section: &mut Section<'_>, key: &'static str, context: &Context<'_>) -> Option<Reference> {
    let reference = section.reference(key, context.base)?;
    if matches!(reference, Reference::Vault(_)) {
        let message = format!("`{key}` cannot lie in the vault that it opens");
        section.refuse(key, message, "keep it elsewhere: \"file:/path\", \"env:NAME\" or \"credential:NAME\"");
        return None;
    }
    Some(reference)
}
