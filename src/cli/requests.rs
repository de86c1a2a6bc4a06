//! `requests`: what is asked for, and what is decided about it, by the admin API of the running proxy; and grants that an
//! approver signs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::admin::{AdminOption, Failed};
use super::shown::{Shown, columns, text};
use super::{ended, say};
use crate::access::grants::Signer;
use crate::access::request::{Digest, Request, RequestId, Requester, Until, since_epoch};
use crate::access::risk::Factor;
use crate::clock::{Clock as _, SystemClock};
use crate::name::TokenName;
use crate::secret::Reference;

#[derive(Subcommand)]
pub enum Requests {
    /// What waits, is granted, or was decided last
    List {
        #[command(flatten)]
        admin: AdminOption,
    },
    /// One request, with its risk explained
    Show {
        id: RequestId,
        #[command(flatten)]
        admin: AdminOption,
    },
    /// Ask for a token of the config for a while: as it is, with other scopes, or with more that its routes allow. A
    /// requester's
    Submit(Submission),
    /// Approve what others ask for. An approver's
    Approve {
        id: RequestId,
        /// Why, for the trail
        #[arg(long, value_name = "TEXT", required_unless_present = "sign")]
        reason: Option<String>,
        /// Write a signed grant instead, with this Ed25519 key in PEM: it holds on every replica that has it
        #[arg(long, value_name = "KEYFILE")]
        sign: Option<PathBuf>,
        /// Until when the signed grant holds [default: as long as the request asks for]
        #[arg(long, value_name = "TIME", requires = "sign")]
        until: Option<String>,
        /// Where to write the signed grant [default: ID.json]
        #[arg(long, value_name = "FILE", requires = "sign")]
        out: Option<PathBuf>,
        #[command(flatten)]
        admin: AdminOption,
    },
    /// Deny a request, or take away what it was granted. An approver's, a responder's, or of who asked
    Deny {
        id: RequestId,
        /// Why, for the trail
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        admin: AdminOption,
    },
    /// Print what `signers` of [approval] holds for a key
    Signer {
        /// An Ed25519 key in PEM, as `openssl genpkey -algorithm ed25519` makes it
        key: PathBuf,
    },
}

#[derive(Args)]
pub struct Submission {
    token: TokenName,
    /// How long, from the approval on, as in 30m
    #[arg(long = "for", value_name = "DURATION")]
    lasts: String,
    /// Why, for whoever decides and for the trail
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Exactly the scopes that it shall have [default: those of the config]
    #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<String>,
    /// What a route shall allow in addition, as 'POST /repos/**' or 'ROUTE:POST /repos/**'
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
    /// What a refused request lacked, by the `request_id` of its refusal
    #[arg(long, value_name = "REQUEST_ID")]
    refused: Option<String>,
    #[command(flatten)]
    admin: AdminOption,
}

pub fn requests(command: &Requests) -> ExitCode {
    let (admin, method, path, body) = match command {
        Requests::List { admin } => (admin, Method::GET, "/v1/requests".to_owned(), Value::Null),
        Requests::Show { id, admin } => (admin, Method::GET, format!("/v1/requests/{id}"), Value::Null),
        Requests::Submit(submission) => (&submission.admin, Method::POST, "/v1/requests".to_owned(), submission.body()),
        Requests::Approve { id, sign: Some(key), until, out, admin, .. } => {
            return sign(*id, key, until.as_deref(), out.as_deref(), admin);
        }
        Requests::Approve { id, reason, admin, .. } => return approve(*id, reason.as_deref(), admin),
        Requests::Deny { id, reason, admin } => {
            (admin, Method::POST, format!("/v1/requests/{id}/deny"), json!({ "reason": reason }))
        }
        Requests::Signer { key } => {
            return ended(signer(key).map(|signer| {
                say(&signer.public_key().to_string());
                ExitCode::SUCCESS
            }));
        }
    };
    admin.show(method, &path, &body, &Shown { list: "requests", table, page })
}

impl Submission {
    fn body(&self) -> Value {
        let Self { token, lasts, reason, scopes, allow, refused, admin: _ } = self;
        let mut body = json!({ "token": token, "for": lasts, "reason": reason, "allow": allow });
        if !scopes.is_empty() {
            body["scopes"] = json!(scopes);
        }
        if let Some(id) = refused {
            body["refused"] = json!(id);
        }
        body
    }
}

/// Approves what is shown, and nothing else.
fn approve(id: RequestId, reason: Option<&str>, admin: &AdminOption) -> ExitCode {
    let looked_at = match admin.call(Method::GET, &format!("/v1/requests/{id}"), &Value::Null) {
        Ok(request) => request,
        Err(failed) => return failed.tell(admin.json),
    };
    let digest = match digest_of(id, &looked_at) {
        Ok(digest) => digest,
        Err(error) => return ended(Err(error)),
    };
    if !admin.json {
        say(&format!("{}\n", page(&looked_at)));
    }
    let body = json!({ "reason": reason, "digest": digest });
    let decided = |answer: &Value| format!("decided:       {}", text(&answer["summary"]));
    let path = format!("/v1/requests/{id}/approve");
    admin.show(Method::POST, &path, &body, &Shown { list: "requests", table, page: decided })
}

/// The digest of what is shown, computed here: what the proxy says of it is not relied on.
fn digest_of(id: RequestId, shown: &Value) -> anyhow::Result<Digest> {
    let request: Request = serde_json::from_value(shown["request"].clone())
        .context("the proxy's answer is not understood: is it another version than this program?")?;
    let digest = request.digest();
    anyhow::ensure!(
        digest.id() == id && shown["digest"] == digest.to_string(),
        "what the proxy shows is not the request {id}: its digest is {digest}. Nothing was approved"
    );
    Ok(digest)
}

/// Signs exactly what is shown, in the name that the proxy knows the caller by.
fn sign(id: RequestId, key: &Path, until: Option<&str>, out: Option<&Path>, admin: &AdminOption) -> ExitCode {
    let asked = || -> Result<(Value, Value), Failed> {
        let request = admin.call(Method::GET, &format!("/v1/requests/{id}"), &Value::Null)?;
        Ok((request, admin.call(Method::GET, "/v1/operator", &Value::Null)?))
    };
    match asked() {
        Err(failed) => failed.tell(admin.json),
        Ok((request, operator)) => ended(write(id, &request, &operator, key, until, out).map(|file| {
            say(&page(&request));
            say(&format!("signed:        {}", file.display()));
            ExitCode::SUCCESS
        })),
    }
}

fn write(
    id: RequestId,
    shown: &Value,
    operator: &Value,
    key: &Path,
    until: Option<&str>,
    out: Option<&Path>,
) -> anyhow::Result<PathBuf> {
    let digest = digest_of(id, shown)?;
    let request: Request = serde_json::from_value(shown["request"].clone())?;
    anyhow::ensure!(
        !request.is_submitted(),
        "a request that was submitted is decided where it was made: approve it without --sign"
    );
    let until = match (until, request.until) {
        (Some(text), _) => {
            since_epoch(text).with_context(|| format!("{text:?} is no time, as 2027-06-30T00:00:00Z"))?
        }
        (None, Until::At(end)) => end,
        (None, Until::For(_) | Until::Permanent) => {
            anyhow::bail!("say until when, as in --until 2027-06-30T00:00:00Z: the request is {}", request.until)
        }
    };
    anyhow::ensure!(until > SystemClock.now().wall, "the grant would have ended already: say another --until");
    let approver = operator["name"].as_str().context("the proxy's answer is not understood")?;
    let grant = signer(key)?.grant(digest, &request.token, approver, until);
    let file = out.map_or_else(|| PathBuf::from(format!("{id}.json")), Path::to_owned);
    std::fs::write(&file, format!("{}\n", serde_json::to_string(&grant)?))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn signer(key: &Path) -> anyhow::Result<Signer> {
    let pem = Reference::File(std::path::absolute(key)?).resolve()?;
    Signer::from_pem(&pem).with_context(|| key.display().to_string())
}

/// A line a request.
fn table(requests: &[Value]) -> String {
    let head = ["ID", "STATE", "TOKEN", "RISK", "REQUESTER", "REASON"];
    let row = |request: &Value| {
        [
            &request["id"],
            &request["state"],
            &request["token"],
            &request["risk"]["level"],
            &request["requester"],
            &request["reason"],
        ]
        .map(text)
    };
    columns(head, requests.iter().map(row))
}

/// A line for each thing that there is to say of one request. All that is asked for is taken from what the digest is of.
fn page(shown: &Value) -> String {
    let mut lines = Vec::new();
    let mut say = |name: &str, value: String| lines.push(format!("{:<15}{value}", format!("{name}:")));
    let request = &shown["request"];
    say("id", text(&shown["id"]));
    say("summary", text(&shown["summary"]));
    say("token", text(&request["token"]));
    say("requester", requester(&request["requester"]));
    for name in ["owner", "reason", "scopes", "hosts", "until"] {
        say(name, text(&request[name]));
    }
    let lives = if request["source"]["static"] == true { ", static" } else { "" };
    say(
        "source",
        format!("{}{lives}, settings {}", text(&request["source"]["kind"]), text(&request["source"]["settings"])),
    );
    let next = &request["next_source"];
    if next.is_object() {
        say("next source", format!("{}, settings {}", text(&next["kind"]), text(&next["settings"])));
    }
    say("asked", text(&shown["asked"]));
    for (route, reach) in request["routes"].as_object().into_iter().flatten() {
        let allow = if reach["allow"] == "any" { "any".to_owned() } else { text(&reach["allow"]["these"]) };
        say("route", format!("{route}: {allow}, to {}", text(&reach["upstream"])));
        let denied = reach["deny"].as_array().is_some_and(|rules| !rules.is_empty());
        let further = [
            denied.then(|| format!("deny {}", text(&reach["deny"]))),
            Some(match &reach["clients"] {
                Value::Null => "for all clients".to_owned(),
                clients => format!("for the clients {}", text(clients)),
            }),
            (reach["observe"] == true).then(|| "its rules are not enforced (observe)".to_owned()),
            (reach["opaque"] == true).then(|| "an encoded slash is data (opaque)".to_owned()),
        ];
        further.into_iter().flatten().for_each(|line| say("", line));
    }
    say("risk", text(&shown["risk"]["level"]));
    for factor in shown["risk"]["factors"].as_array().into_iter().flatten() {
        say("", Factor::deserialize(factor).map_or_else(|_| text(factor), |factor| factor.to_string()));
    }
    for approval in shown["approvals"].as_array().into_iter().flatten() {
        say(
            "approved",
            format!("by {} at {}: {}", text(&approval["by"]), text(&approval["at"]), text(&approval["reason"])),
        );
    }
    say("digest", text(&shown["digest"]));
    lines.join("\n")
}

/// Who asks, with what decides whose request it is: the groups of an operator, the token of a job.
fn requester(asked_by: &Value) -> String {
    match Requester::deserialize(asked_by) {
        Ok(operator @ Requester::Operator { .. }) => {
            let groups = text(&asked_by["operator"]["groups"]);
            if groups.is_empty() { operator.to_string() } else { format!("{operator} (of {groups})") }
        }
        Ok(job @ Requester::Job { ends, .. }) => format!("the job {job}, whose own token is good {ends}"),
        Ok(known @ (Requester::ConfigFile | Requester::Detection)) => known.to_string(),
        // Of another version than this program: as it stands there.
        Err(_) => text(asked_by),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the admin API shows one.
    fn shown(requester: &Value) -> Value {
        json!({
            "id": "0011223344556677",
            "requester": "whatever the proxy says",
            "risk": { "level": "high", "factors": [
                { "points": 1, "why": "for more than 90 days" },
                { "points": 8, "why": "permanent" },
            ] },
            "request": { "requester": requester, "token": "api" },
        })
    }

    fn line(page: &str, name: &str) -> String {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().to_owned()
    }

    #[test]
    fn the_page_names_whoever_asked() {
        let asked_by = |requester: &Requester| line(&page(&shown(&json!(requester))), "requester:");
        let operator = |groups: &[&str]| Requester::Operator {
            groups: groups.iter().map(|&g| g.to_owned()).collect(),
            name: "bob".to_owned(),
        };
        assert_eq!(asked_by(&Requester::ConfigFile), "the owner of the config file");
        assert_eq!(asked_by(&operator(&[])), "bob");
        assert_eq!(asked_by(&operator(&["build", "release"])), "bob (of build, release)");
        let job = Requester::Job {
            client: "ci".to_owned(),
            ends: Until::At(std::time::Duration::from_secs(1_800_000_000)),
            subject: "repo:org/app:ref:main".to_owned(),
        };
        assert_eq!(
            asked_by(&job),
            "the job ci (repo:org/app:ref:main), whose own token is good until 2027-01-15T08:00:00.000Z"
        );
        let newer = json!({ "robot": { "name": "r2" } });
        assert!(line(&page(&shown(&newer)), "requester:").contains("r2"), "never somebody else");
    }

    #[test]
    fn the_page_says_risks_as_the_trail_does() {
        let page = page(&shown(&json!("config_file")));
        assert_eq!(line(&page, "risk:"), "high");
        assert!(page.contains(" for more than 90 days (+1)\n") && page.contains(" permanent (+8)"), "{page}");
        assert!(!page.contains("for for"), "{page}");
    }
}
