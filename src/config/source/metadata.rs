//! `source = { kind = "gcp_metadata" }` and `{ kind = "azure_metadata" }`: the machine's own identity in its cloud.

use toml::Spanned;

use super::asked_scopes;
use crate::authority::{Endpoint, Host};
use crate::config::Context;
use crate::config::reader::Section;
use crate::dial::address::is_metadata;
use crate::token::source::Settings as Source;
use crate::token::source::metadata::{Settings, Wish};

pub fn google(section: &mut Section<'_>, scopes: &[String], context: &Context<'_>) -> Option<Source> {
    let url = url(section, context);
    let named = section.has("account");
    let account = section.parsed("account", account).map(Spanned::into_inner);
    let account = if named { account } else { Some("default".to_owned()) };
    let scope = asked_scopes(section, scopes);
    let audience = section.text("audience");
    if section.has("audience") && section.has("scope") {
        let message = "a token for an `audience` says who the account is, and has no scopes";
        section.refuse("scope", message, "remove `scope`, or `audience`");
    }
    let account = account?;
    let wish = match audience {
        Some(audience) => Wish::GoogleIdentity { account, audience },
        None => Wish::Google { account, scope },
    };
    Some(Source::Metadata(Settings { url: url?, wish }))
}

pub fn azure(section: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    let example = "resource = \"https://vault.azure.net\"";
    section.require("resource", "`source` does not say for which API the token is", example);
    let url = url(section, context);
    let resource = section.text("resource");
    let client = section.text("client_id");
    Some(Source::Metadata(Settings { url: url?, wish: Wish::Azure { resource: resource?, client } }))
}

/// Where every cloud has it, or somewhere else on this machine. `None` only with an error reported.
fn url(section: &mut Section<'_>, context: &Context<'_>) -> Option<Endpoint> {
    if !section.has("metadata_url") {
        section.take("metadata_url");
        return Endpoint::parse("http://169.254.169.254").ok();
    }
    let url = section.endpoint("metadata_url")?;
    if !matches!(url.get_ref().authority.host, Host::Ip(ip) if is_metadata(ip)) {
        context.judge_endpoint("metadata_url", &url);
    }
    Some(url.into_inner())
}

/// `default`, or the account's address.
fn account(text: &str) -> Result<String, &'static str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'@' | b'.' | b'-' | b'_');
    let is_one = !text.is_empty() && !text.starts_with('.') && text.bytes().all(fits);
    is_one.then(|| text.to_owned()).ok_or("an account is \"default\", or its address")
}
