//! `[admin]`: where operators come in.

use std::path::{Path, PathBuf};

use toml::Spanned;

use super::Context;
use super::proxy::{AddressError, socket_path};
use super::reader::Section;
use super::tls;
use crate::admin::Settings;
use crate::operator;
use crate::proxy::Address;
use crate::tls::{Identity, ServerSettings};

/// The name of the socket, where the config does not say which.
const SOCKET: &str = "admin.sock";

/// The settings, with the place of the address.
pub fn read(
    mut section: Section<'_>,
    state_dir: &Path,
    state_is_written: bool,
    context: &Context<'_>,
) -> Spanned<Settings> {
    let written = section.string("listen");
    let at = written.as_ref().map_or(section.at(), Spanned::span);
    let listen = written.and_then(|text| {
        let refuse = |error: AddressError| {
            section.report.error(text.span(), format!("`listen`: {error}"), help(error));
        };
        address(text.get_ref(), context.base).map_err(refuse).ok()
    });
    let secured = section.has("tls");
    let tls = server(section.table("tls", "`tls` in [admin]"), context);
    match &listen {
        Some(Address::Unix(_) | Address::Tls(_)) | None if secured => {
            section.refuse("tls", "`tls` is for an address on TCP: nobody is between the ends of a unix socket", None);
        }
        Some(Address::Tcp(address)) if !secured && !address.ip().is_loopback() => {
            let message = "`listen`: anything but a loopback address or a unix socket needs `tls`";
            section.report.error(at.clone(), message, "add `tls = { cert = \"file:...\", key = \"file:...\" }`");
        }
        _ => {}
    }
    section.finish();
    let mut places = context.environment.admin_sockets(state_dir, state_is_written, SOCKET).into_iter();
    let (listen, elsewhere) = match listen {
        Some(listen) => (listen, Vec::new()),
        None => (Address::Unix(places.next().unwrap_or_default()), places.collect::<Vec<PathBuf>>()),
    };
    Spanned::new(at, Settings { listen, elsewhere, tls })
}

fn address(text: &str, base: &Path) -> Result<Address, AddressError> {
    match text.strip_prefix("unix:") {
        Some(path) => socket_path(path, base).map(Address::Unix),
        None => text.parse().map(Address::Tcp).map_err(|_| AddressError::Shape),
    }
}

fn help(error: AddressError) -> &'static str {
    match error {
        AddressError::Shape => "as in \"unix:/run/countersign/admin.sock\" or \"127.0.0.1:9190\"",
        AddressError::Open | AddressError::Tls | AddressError::Long => error.help(),
    }
}

/// `tls = { cert, key, client_ca }` of a listener.
pub fn server(mut section: Section<'_>, context: &Context<'_>) -> Option<ServerSettings> {
    let certificate = tls::file(&mut section, "cert", context);
    let key = section.reference_at_rest("key", context.base);
    let client_ca = tls::file(&mut section, "client_ca", context);
    section.require("cert", "`tls` has no certificate", "cert = \"file:/path\"");
    section.require("key", "`tls` has no key", "key = \"file:/path\"");
    section.finish();
    Some(ServerSettings { identity: Identity { certificate: certificate?, key: key? }, client_ca })
}

/// Whether they can come in: over TCP no operator is known by its user.
pub fn check_operators(admin: &Spanned<Settings>, operators: &[Spanned<operator::Settings>], context: &Context<'_>) {
    let Settings { listen, tls, .. } = admin.get_ref();
    let asks_for_certificates = tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    let over_tcp = matches!(listen, Address::Tcp(_) | Address::Tls(_));
    for (at, settings) in operators.iter().map(|operator| (operator.span(), operator.get_ref())) {
        let never = format!("operator `{}` can never call", settings.name);
        match (settings.uid, &settings.certificate) {
            (Some(_), None) if over_tcp => {
                let message = format!("{never}: its `uid` is told on a unix socket only");
                context.report.warning(at, message, "give it a `key` alone, or have [admin] listen on a unix socket");
            }
            (None, Some(_)) if !asks_for_certificates => {
                let message = format!("{never}: nobody is asked for a `certificate`");
                context.report.warning(at, message, "have [admin] listen on TCP, with `tls` and its `client_ca`");
            }
            _ => {}
        }
    }
    if over_tcp && operators.is_empty() {
        let message = "nobody can call over TCP: the file names no operator, and users are told on unix sockets only";
        context.report.error(admin.span(), message, "add an [[operator]] with a `key`, or listen on a unix socket");
    }
}
