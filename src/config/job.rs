//! `jwt` of a `[[client]]`: the job that it is, by what its issuer signs.

use super::reader::Section;
use super::{Context, issuer_url, tls};
use crate::authority::{Endpoint, Host};
use crate::identity::job::{IssuerSettings, Settings, Subject};

/// Issuers that vouch for everybody's jobs: who may have one is decided by what stands before the first slash.
const SHARED: [&str; 2] = ["token.actions.githubusercontent.com", "gitlab.com"];

/// The longest audience, in bytes.
const LONGEST: usize = 200;

pub fn read(mut section: Section<'_>, context: &Context<'_>) -> Option<Settings> {
    section.require("issuer", "`jwt` does not say who signs the token", "issuer = \"https://token.ci.example\"");
    section.require("audience", "`jwt` does not say for whom the token is made", "audience = \"countersign\"");
    section.require("subject", "`jwt` does not say whose job it is", "subject = \"repo:org/app:*\"");
    let written = section.string("issuer");
    let issuer = written
        .as_ref()
        .and_then(|written| issuer_url(&section, written, "write it as the `iss` of its tokens has it", context));
    let tls = tls::read(section.table("tls", "`tls`"), issuer.as_ref(), context);
    let audience = section.text("audience").filter(|audience| {
        let is_good = audience.len() <= LONGEST && !audience.chars().any(char::is_control);
        if !is_good {
            section.refuse(
                "audience",
                format!("`audience` has at most {LONGEST} characters, and none that controls"),
                None,
            );
        }
        is_good
    });
    let subject = section.parsed("subject", str::parse::<Subject>);
    if let (Some(issuer), Some(subject)) = (&issuer, &subject) {
        judge_breadth(&section, issuer.get_ref(), subject.get_ref());
    }
    section.finish();
    let name = (*written?.get_ref()).to_owned();
    let issuer = IssuerSettings { name, endpoint: issuer?.into_inner(), tls };
    Some(Settings { issuer, audience: audience?, subject: subject?.into_inner() })
}

/// At an issuer that all the world shares, a subject names whose jobs are meant.
fn judge_breadth(section: &Section<'_>, issuer: &Endpoint, subject: &Subject) {
    let Host::Name(host) = &issuer.authority.host else { return };
    let is_shared = SHARED.iter().any(|shared| **host == **shared);
    if is_shared && subject.beginning().is_some_and(|beginning| !beginning.contains('/')) {
        let message =
            format!("`subject`: {host} signs for everybody, so that this lets in whoever takes a fitting name");
        section.refuse("subject", message, "write the owner out, as in \"repo:org/*\"");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::config::{Config, Environment};

    const GOOD: &str = include_str!("tests/good.toml");

    /// 2026-11-22T00:00:00Z
    const NOW: Duration = Duration::from_secs(1_795_305_600);

    /// What is said about a file with these further lines.
    fn said(lines: &str) -> String {
        let text = format!("{GOOD}\n{lines}\n");
        let environment =
            Environment { uid: 900, home: Some("/home/proxy".into()), now: NOW, ..Environment::default() };
        let read = Config::parse(&text, "f.toml", Path::new("/"), &environment);
        read.map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    fn client(name: &str, jwt: &str) -> String {
        format!("[[client]]\nname = \"{name}\"\njwt = {jwt}\n")
    }

    fn jwt(subject: &str) -> String {
        format!(r#"{{ issuer = "https://ci.example", audience = "countersign", subject = "{subject}" }}"#)
    }

    #[test]
    fn a_job_is_read_and_needs_no_user() {
        assert_eq!(said(&client("ci", &jwt("repo:org/app:*"))), "");
        let two = client("ci", &jwt("repo:org/app:*")) + &client("lib", &jwt("repo:org/lib:*"));
        assert_eq!(said(&two), "");
    }

    #[test]
    fn what_is_missing_or_wrong_is_said_with_its_fix() {
        for (written, message) in [
            (r#"{ audience = "c", subject = "a:b" }"#, "does not say who signs the token"),
            (r#"{ issuer = "https://ci.example", subject = "a:b" }"#, "does not say for whom the token is made"),
            (r#"{ issuer = "https://ci.example", audience = "c" }"#, "does not say whose job it is"),
            (r#"{ issuer = "ci.example", audience = "c", subject = "a:b" }"#, "`issuer`:"),
            (r#"{ issuer = "http://ci.example", audience = "c", subject = "a:b" }"#, "must be https"),
            (r#"{ issuer = "https://ci.example?a=b", audience = "c", subject = "a:b" }"#, "`issuer`:"),
            (r#"{ issuer = "https://ci.example", audience = "c\u0000", subject = "a:b" }"#, "`audience`"),
            (&jwt("*"), "everybody whom the issuer knows"),
            (&jwt("repo:**"), "one `*` at most"),
            (&jwt("repo: x"), "visible characters"),
            (r#"{ issuer = "https://ci.example", audience = "c", subject = "a:b", sub = "x" }"#, "unknown key `sub`"),
            (r#""eyJhbGciOiJub25lIn0.e30.""#, "`jwt` must be a table"),
        ] {
            let said = said(&client("ci", written));
            assert!(said.contains(message), "{written}: {said}");
            assert!(!said.contains("eyJ"), "{said}");
        }
    }

    #[test]
    fn jobs_that_can_be_one_are_no_two_clients() {
        let overlapping = client("ci", &jwt("repo:org/*")) + &client("other", &jwt("repo:org/app:*"));
        let said_of_both = said(&overlapping);
        assert!(said_of_both.contains("one process can be both client `ci` and client `other`"), "{said_of_both}");
        let apart =
            client("ci", &jwt("repo:org/*")) + "uid = 5\n" + &client("other", &jwt("repo:org/app:*")) + "uid = 6\n";
        assert_eq!(said(&apart), "");
        let other = jwt("repo:org/app:*").replace("countersign", "other");
        assert_eq!(
            said(&(client("ci", &jwt("repo:org/*")) + &client("other", &other))),
            "",
            "a token has one audience"
        );
        let tls = jwt("a:b").replace(" }", ", tls = { ca = \"file:ca.pem\" } }");
        let said = said(&(client("ci", &tls) + &client("other", &jwt("a:c"))));
        assert!(said.contains("something else of the issuer"), "{said}");
    }

    #[test]
    fn at_an_issuer_of_everybody_the_owner_is_named() {
        let at = |subject: &str| jwt(subject).replace("ci.example", "token.actions.githubusercontent.com");
        for broad in ["repo:*", "repo:org*", "repo:*/app:x"] {
            let said = said(&client("ci", &at(broad)));
            assert!(said.contains("signs for everybody"), "{broad}: {said}");
        }
        for narrow in ["repo:org/*", "repo:org/app:ref:refs/heads/main"] {
            assert_eq!(said(&client("ci", &at(narrow))), "", "{narrow}");
        }
    }
}
