//! `[telemetry]`, `[state]`, `[audit]` and `[review]`: what is told, kept and looked at.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::reader::Section;
use super::{Context, value};
use crate::audit::{self, OnFailure, Target, Usage};
use crate::authority::Endpoint;
use crate::proxy::Address;
use crate::review;
use crate::secret::Reference;
use crate::telemetry::{Format, Level, Settings};

const DAY: Duration = Duration::from_secs(86_400);

/// `[telemetry]`: the listener of metrics and health, and logs.
pub fn telemetry(mut section: Section<'_>) -> (Spanned<SocketAddr>, Settings) {
    let parse = |text: &str| text.parse::<SocketAddr>().map_err(|_| "an address is an IP address and a port");
    let default = Spanned::new(section.at(), SocketAddr::from((Ipv4Addr::LOCALHOST, 9180)));
    let listen = section.parsed("listen", parse).unwrap_or(default);
    let settings = log(section.table("log", "`log`"));
    section.finish();
    (listen, settings)
}

fn log(mut section: Section<'_>) -> Settings {
    let levels = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];
    let settings = Settings {
        level: section.choice("level", &levels, &[]).unwrap_or(Level::Info),
        format: section
            .choice("format", &[("text", Format::Text), ("json", Format::Json)], &[])
            .unwrap_or(Format::Text),
        access: section.boolean("access").unwrap_or(true),
    };
    section.finish();
    settings
}

/// Two listeners cannot share an address.
pub fn keep_apart(telemetry: &Spanned<SocketAddr>, proxy: &[Spanned<Address>], context: &Context<'_>) {
    let own = telemetry.get_ref();
    if proxy.iter().any(|address| share(&Address::Tcp(*own), address.get_ref())) {
        let message = format!("the telemetry listener and the proxy cannot both listen on {own}");
        context.report.error(telemetry.span(), message, "give `listen` in [telemetry] another port");
    }
}

/// Nor can the admin listener share one.
pub fn keep_admin_apart(
    admin: &Spanned<crate::admin::Settings>,
    telemetry: &Spanned<SocketAddr>,
    proxy: &[Spanned<Address>],
    context: &Context<'_>,
) {
    let telemetry = Address::Tcp(*telemetry.get_ref());
    let own = &admin.get_ref().listen;
    if proxy.iter().map(Spanned::get_ref).chain([&telemetry]).any(|other| share(own, other)) {
        let message = format!("the admin listener cannot listen on {own}, where another one of ours listens");
        context.report.error(admin.span(), message, "give `listen` in [admin] another address");
    }
}

/// Whether two listeners would be in each other's way. Port 0 stands for any free port.
pub fn share(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one) | Address::Tls(one), Address::Tcp(other) | Address::Tls(other)) => {
            let everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || everywhere)
        }
        (one, other) => one == other,
    }
}

/// `[state]`: the folder of what outlives a restart, and what seals it.
pub fn state(mut section: Section<'_>, context: &Context<'_>) -> (PathBuf, Option<Reference>, bool) {
    let written = section.path("dir", context.base);
    if written.is_none() && !section.has("dir") && context.environment.state_dir().is_none() {
        let message = "there is no folder for state: neither $STATE_DIRECTORY nor $XDG_STATE_HOME nor $HOME is set";
        context.report.error(section.at(), message, "add `dir = \"/var/lib/countersign\"` to [state]");
    }
    let key = section.reference_at_rest("key", context.base);
    let keep_generations = section.boolean("keep_generations").unwrap_or(true);
    section.finish();
    (written.or_else(|| context.environment.state_dir()).unwrap_or_default(), key, keep_generations)
}

/// Where checkpoints go besides.
fn export(section: &mut Section<'_>, context: &Context<'_>) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for text in section.strings("export").into_iter().flatten() {
        match target(&text, context) {
            Ok(target) if targets.iter().any(|other| other.name() == target.name()) => {
                let help = "one of each is enough: metrics could not tell them apart";
                context.report.error(text.span(), format!("`export` names {} twice", target.name()), help);
            }
            Ok(target) => targets.push(target),
            Err(message) => {
                let help = "write \"https://host/path\", \"syslog:\", \"syslog:192.0.2.1:514\" or \"file:/mnt/elsewhere/checkpoints\"";
                context.report.error(text.span(), format!("`export`: {message}"), help);
            }
        }
    }
    targets
}

/// One of them.
fn target(text: &Spanned<&str>, context: &Context<'_>) -> Result<Target, String> {
    if let Some(path) = text.get_ref().strip_prefix("file:") {
        let path = value::path(path).map_err(|error| format!("the file {error}"))?;
        return Ok(Target::File(context.base.join(path)));
    }
    if let Some(rest) = text.get_ref().strip_prefix("syslog:") {
        return match rest {
            "" => Ok(Target::SyslogSocket("/dev/log".into())),
            path if path.starts_with('/') => Ok(Target::SyslogSocket(path.into())),
            address => address
                .parse()
                .map(Target::SyslogUdp)
                .map_err(|_| "syslog is a socket's path, or an IP address and a port".to_owned()),
        };
    }
    let endpoint = Endpoint::parse(text.get_ref()).map_err(|error| error.to_string())?;
    let endpoint = Spanned::new(text.span(), endpoint);
    context.judge_endpoint("export", &endpoint);
    Ok(Target::Https(endpoint.into_inner()))
}

/// `[review]`: how often people look at what tokens are used for.
pub fn review(mut section: Section<'_>) -> review::Settings {
    let settings = review::Settings { every: section.duration("every", DAY..=DAY * 366) };
    section.finish();
    settings
}

/// `[audit]`: the trail.
pub fn audit(mut section: Section<'_>, state_dir: &Path, context: &Context<'_>) -> audit::Settings {
    let answers = [("continue", OnFailure::Continue), ("refuse", OnFailure::Refuse)];
    let settings = audit::Settings {
        dir: section.path("dir", context.base).unwrap_or_else(|| state_dir.join("audit")),
        key: state_dir.join("audit.key"),
        on_failure: section.choice("on_failure", &answers, &[]).unwrap_or(OnFailure::Continue),
        usage: section
            .choice("usage", &[("roll-up", Usage::RollUp), ("each", Usage::Each)], &[])
            .unwrap_or(Usage::RollUp),
        export: export(&mut section, context),
    };
    section.finish();
    settings
}
