//! `login`: somebody signs in at an issuer, and the refresh token that comes of it is put where the config says that it is.
//!
//! ```text
//!  token ─▶ its file can be replaced? ─▶ device code, or browser ─▶ refresh token ─▶ the file ─▶ a running proxy sees it
//! ```

mod deposit;
mod door;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use self::deposit::{Deposit, DepositError};
use self::door::Door;
use super::{CONFIG, ConfigOption, NOT_ALLOWED, UNREACHABLE, USAGE, runtime, say};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::dial::{Dialer, Tunnel};
use crate::fetch::Fetcher;
use crate::name::TokenName;
use crate::secret::Reference;
use crate::text::show_duration;
use crate::token::source::oauth::sign_in::{Prompt, SignIn, Way};
use crate::token::source::refresh_token::Settings;
use crate::token::source::{Failure, Reason, Settings as Source};
use crate::vault::Vault;

#[derive(Args)]
pub struct Login {
    /// A token of the config whose source is a `refresh_token`
    token: TokenName,
    #[command(flatten)]
    pub config: ConfigOption,
    /// Sign in with a browser of this machine, though a code could be typed in any
    #[arg(long)]
    browser: bool,
    /// The port to which that browser comes back, where the issuer wants to know it beforehand [default: one that is free]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Print an object a line: what to do, and what was done
    #[arg(long)]
    json: bool,
}

/// Why nobody is signed in, and as what exit code.
struct Failed {
    code: u8,
    said: String,
}

pub fn login(config: &Config, login: &Login) -> ExitCode {
    match login.run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed { code, said }) => {
            eprintln!("countersign: {said}");
            ExitCode::from(code)
        }
    }
}

impl Login {
    fn run(&self, config: &Config) -> Result<(), Failed> {
        let settings = self.source(config)?;
        let Reference::File(path) = &settings.refresh_token else {
            let (token, place) = (&self.token, &settings.refresh_token);
            return Err(Failed::config(format!(
                "the refresh token of {token} is {place}, where nothing can be put\n  help: write `refresh_token = \"file:/path\"`"
            )));
        };
        let deposit = Deposit::open(path)?;
        let runtime = runtime().map_err(|error| Failed { code: 1, said: error.to_string() })?;
        let refresh_token = runtime.block_on(self.sign_in(config, settings))?;
        deposit.put(&refresh_token)?;
        let (token, place) = (&self.token, path.display().to_string());
        say(&match self.json {
            true => json!({ "token": token, "signed_in": true, "file": place }).to_string(),
            false => {
                format!("{token}: signed in. The refresh token is in {place}; a proxy that runs takes it up by itself")
            }
        });
        Ok(())
    }

    fn source<'c>(&self, config: &'c Config) -> Result<&'c Settings, Failed> {
        let Some(token) = config.tokens.iter().find(|token| token.name == self.token) else {
            let known: Vec<&str> = config.tokens.iter().map(|token| token.name.as_str()).collect();
            let said = format!("there is no token {}\n  help: the tokens are: {}", self.token, known.join(", "));
            return Err(Failed { code: USAGE, said });
        };
        match (&token.source, &token.next_source) {
            (Source::RefreshToken(settings), _) | (_, Some(Source::RefreshToken(settings))) => Ok(settings),
            (other, _) => {
                let (name, kind) = (&self.token, other.kind());
                let help = "a sign-in is for a source of the kind `refresh_token`";
                Err(Failed::config(format!(
                    "nobody signs in for {name}: its source is of the kind `{kind}`\n  help: {help}"
                )))
            }
        }
    }

    async fn sign_in(&self, config: &Config, settings: &Settings) -> Result<Zeroizing<String>, Failed> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let fetcher = fetcher(config, &clock)?;
        let sign_in = SignIn::new(settings.oauth.clone(), settings.sign_in.clone(), fetcher, clock.clone());
        let sign_in = sign_in.map_err(|error| Failed::config(error.to_string()))?;
        match self.way(&sign_in).await? {
            Way::Device => {
                let prompt = sign_in.prompt().await?;
                self.show(&prompt, &*clock);
                Ok(sign_in.wait(prompt).await?)
            }
            Way::Browser => {
                let door = Door::open(self.port).await.map_err(|error| Failed {
                    code: 1,
                    said: format!("the browser cannot come back to port {}: {error}", self.port),
                })?;
                let visit = sign_in.visit(&door.url).await?;
                match self.json {
                    true => say(&json!({ "authorization_url": visit.url, "redirect_uri": door.url }).to_string()),
                    false => eprintln!("Open this in a browser of this machine, and sign in:\n\n    {}\n", visit.url),
                }
                let code = door.code(&visit).await?;
                Ok(sign_in.redeem(&visit, &code).await?)
            }
        }
    }

    async fn way(&self, sign_in: &SignIn) -> Result<Way, Failed> {
        let ways = sign_in.ways().await?;
        let way = ways.into_iter().find(|way| !self.browser || *way == Way::Browser);
        way.ok_or_else(|| {
            let help =
                "write `device_authorization_url` or `authorization_url` in its source, or an `issuer` that tells them";
            Failed::config(format!("the issuer of {} does not say where to sign in so\n  help: {help}", self.token))
        })
    }

    fn show(&self, prompt: &Prompt, clock: &dyn Clock) {
        let lasts = prompt.lasts(clock.now());
        if self.json {
            let object = json!({
                "verification_uri": prompt.url, "verification_uri_complete": prompt.complete,
                "user_code": prompt.code, "expires_in": lasts.as_secs(),
            });
            say(&object.to_string());
            return;
        }
        let lasts = show_duration(std::time::Duration::from_secs(lasts.as_secs()));
        eprintln!("Open {} in a browser, and type the code\n\n    {}\n\nwithin {lasts}.", prompt.url, prompt.code);
        if let Some(complete) = &prompt.complete {
            eprintln!("With the code in it: {complete}");
        }
    }
}

/// The way out that the proxy takes, too.
fn fetcher(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<Fetcher>, Failed> {
    let dialer = Arc::new(Dialer::new(config.destinations.clone(), Vec::new()));
    let tunnel = config.upstream_proxy.as_ref().map(Tunnel::new).transpose();
    let tunnel = tunnel.map_err(|error| Failed::config(format!("upstream_proxy: {error}")))?;
    dialer.through(tunnel.map(Arc::new));
    let fetcher = Arc::new(Fetcher::new(dialer));
    if let Some(named) = &config.vault {
        let vault = Vault::new(&named.settings, fetcher.clone(), clock.clone());
        named.opening.lead_to(Arc::new(vault.map_err(|error| Failed::config(format!("vault: {error}")))?));
    }
    Ok(fetcher)
}

impl Failed {
    fn config(said: String) -> Self {
        Self { code: CONFIG, said }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        let code = match failure.reason {
            Reason::Prohibited | Reason::Resolve | Reason::Connect | Reason::Tls | Reason::Timeout | Reason::CutOff => {
                UNREACHABLE
            }
            Reason::AccessDenied => NOT_ALLOWED,
            _ => 1,
        };
        Self { code, said: format!("nobody is signed in: {failure}") }
    }
}

impl From<DepositError> for Failed {
    fn from(error: DepositError) -> Self {
        let code = if matches!(error, DepositError::Owner(..)) { NOT_ALLOWED } else { 1 };
        Self { code, said: error.to_string() }
    }
}
