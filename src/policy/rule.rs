//! `METHOD /path/pattern` rules: which requests a route lets pass.
//!
//! ```text
//! minting: does any rule match, read widely and in any case? ─► refused
//! deny: does any rule match, read widely? ─► refused
//! allow: does any rule match, read exactly? ─► passed, else refused
//! ```
//!
//! Each rule is read against its own side: where servers may take a path in two ways, an allow rule covers only the one that it
//! writes, and a deny rule all of them. So a deny rule for `/a:b` covers `/a%3Ab` and `/a:b/` too, and, where the route's paths
//! are opaque, one for `/a/b` covers `/a%2Fb` and `/a;x/b`; one for DELETE covers `delete`.
//!
//! Judging allocates nothing, and its time is bounded by the product of the lengths of path and pattern, whatever the pattern.

use std::fmt;
use std::str::FromStr;

use http::Method;

use crate::path::{self, Canonical, Character, Form, PathError};
use crate::usage::RuleMark;

/// A route's rules.
#[derive(Clone, PartialEq, Debug)]
pub struct Rules {
    /// How paths are read, those of the rules and those of requests.
    pub form: Form,
    pub allow: Allow,
    pub deny: Vec<Rule>,
    /// Requests whose answer is a credential, which whoever asks would keep.
    pub minting: Vec<Rule>,
}

/// What a route lets pass, if no deny rule covers it.
#[derive(Clone, PartialEq, Debug)]
pub enum Allow {
    Any,
    These(Vec<Rule>),
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    #[error("the route allows this path, but not with this method")]
    Method,
    #[error("the route does not allow this path")]
    Path,
    #[error("the answer would be a credential")]
    Minting,
}

impl Rules {
    /// Whether there is nothing that they refuse.
    pub fn pass_everything(&self) -> bool {
        matches!(self.allow, Allow::Any) && self.deny.is_empty() && self.minting.is_empty()
    }

    /// Judges a request by its method and the path that the upstream will get. Returns the allow rule that covers it; `None`
    /// where anything passes.
    pub fn judge(&self, method: &Method, path: &Canonical<'_>) -> Result<Option<RuleMark>, Denied> {
        if self.minting.iter().any(|rule| rule.mints(method, path)) {
            return Err(Denied::Minting);
        }
        let denied = self.deny.iter().any(|rule| rule.covers_widely(method) && rule.matches_widely(path));
        let mut other_method = false;
        let allowed = match &self.allow {
            Allow::Any => Some(None),
            Allow::These(rules) => {
                let mut fitting = rules.iter().filter(|rule| rule.matches_exactly(path));
                let covering = fitting.find(|rule| {
                    other_method = true;
                    rule.covers(method)
                });
                covering.map(|rule| Some(rule.mark))
            }
        };
        match (allowed, denied) {
            (Some(rule), false) => Ok(rule),
            (Some(_), true) => Err(Denied::Path),
            (None, _) => Err(if other_method { Denied::Method } else { Denied::Path }),
        }
    }
}

/// The rule that decides a request, with its place among those of its list, from 0.
#[derive(Clone, PartialEq, Debug)]
pub enum Ruling<'a> {
    AllowedByAny,
    Allowed(usize, &'a Rule),
    /// An allow rule covers it too.
    Denied(usize, &'a Rule),
    /// Whatever else covers it.
    Minting(usize, &'a Rule),
    /// No allow rule covers it. These allow the path, with other methods.
    NotAllowed(Vec<&'a Rule>),
}

impl Rules {
    /// The rule behind what [`Rules::judge`] says: for people to read, where there is time to look.
    pub fn ruling(&self, method: &Method, path: &Canonical<'_>) -> Ruling<'_> {
        if let Some((at, rule)) = self.minting.iter().enumerate().find(|(_, rule)| rule.mints(method, path)) {
            return Ruling::Minting(at, rule);
        }
        let allowed = match &self.allow {
            Allow::Any => Ruling::AllowedByAny,
            Allow::These(rules) => {
                let fitting = rules.iter().enumerate().filter(|(_, rule)| rule.matches_exactly(path));
                match fitting.clone().find(|(_, rule)| rule.covers(method)) {
                    Some((at, rule)) => Ruling::Allowed(at, rule),
                    None => return Ruling::NotAllowed(fitting.map(|(_, rule)| rule).collect()),
                }
            }
        };
        let mut deny = self.deny.iter().enumerate();
        let denied = deny.find(|(_, rule)| rule.covers_widely(method) && rule.matches_widely(path));
        denied.map_or(allowed, |(at, rule)| Ruling::Denied(at, rule))
    }
}

impl Rules {
    /// The rule that would let such requests pass, and no others; `None` where they are denied, or pass, or no rule says exactly
    /// this: a star is a pattern.
    pub fn missing(&self, method: &Method, path: &Canonical<'_>) -> Option<Rule> {
        let widely = |rule: &Rule| rule.covers_widely(method) && rule.matches_widely(path);
        let denied = self.deny.iter().any(widely) || self.minting.iter().any(|rule| rule.mints(method, path));
        if denied || self.judge(method, path).is_ok() || path.as_str().contains('*') {
            return None;
        }
        Rule::parse(&format!("{method} {}", path.as_str()), self.form).ok()
    }
}

/// The rules as written: `allow GET /repos/**, POST /repos/*/*/issues; deny DELETE /**`.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("allow ")?;
        match &self.allow {
            Allow::Any => f.write_str("any")?,
            Allow::These(rules) if rules.is_empty() => f.write_str("nothing")?,
            Allow::These(rules) => write_list(f, rules)?,
        }
        for (what, rules) in [("; deny ", &self.deny), ("; minting ", &self.minting)] {
            if !rules.is_empty() {
                f.write_str(what)?;
                write_list(f, rules)?;
            }
        }
        Ok(())
    }
}

fn write_list(f: &mut fmt::Formatter<'_>, rules: &[Rule]) -> fmt::Result {
    for (index, rule) in rules.iter().enumerate() {
        write!(f, "{}{rule}", if index == 0 { "" } else { ", " })?;
    }
    Ok(())
}

/// One rule: `GET /repos/**`, `POST /repos/*/*/issues`, `* /files/v*.json`.
///
/// - The method is upper-case, or `*` for any; GET includes HEAD.
/// - `*` alone between slashes is one segment that is not empty; inside a segment it is any characters of it, or none.
/// - `**` alone between slashes is any number of segments, or none: `/repos/**` matches `/repos`, `/repos/` and `/repos/a/b`.
/// - All else is literal, and as sent after canonicalisation: `/caf%c3%a9` matches `/caf%C3%A9`.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    written: Box<str>,
    mark: RuleMark,
    /// `None`: any.
    method: Option<Method>,
    segments: Vec<Segment>,
}

#[derive(Clone, PartialEq, Debug)]
enum Segment {
    /// `**`
    AnyNumber,
    /// `*`
    One,
    Literal(Box<str>),
    /// `v*.json`; none of the pieces: `*`.
    Within(Vec<Option<Character>>),
}

impl Rule {
    /// Parses a rule of a route that reads paths in this form.
    pub fn parse(text: &str, form: Form) -> Result<Self, RuleError> {
        let (method, pattern) = text.split_once(' ').ok_or(RuleError::Shape)?;
        if pattern.contains('?') {
            return Err(RuleError::Query);
        }
        let pattern = form.canonical(pattern).map_err(RuleError::NeverMatches)?;
        Ok(Self {
            written: text.into(),
            mark: RuleMark::of(text),
            method: parse_method(method)?,
            segments: pattern.segments().map(Segment::parse).collect::<Result<_, _>>()?,
        })
    }

    fn covers(&self, method: &Method) -> bool {
        self.method.as_ref().is_none_or(|own| own == method || (own == Method::GET && method == Method::HEAD))
    }

    /// Whether a server that does not care for the case of a method may take it for the rule's.
    fn covers_widely(&self, method: &Method) -> bool {
        let is = |name: &Method| name.as_str().eq_ignore_ascii_case(method.as_str());
        self.method.as_ref().is_none_or(|own| is(own) || (own == Method::GET && is(&Method::HEAD)))
    }

    fn matches_exactly(&self, path: &Canonical<'_>) -> bool {
        matches(&self.segments, path.segments(), Segment::is_any_number, Segment::is)
    }

    /// Whether a server may take the path for one that the rule writes: its encoded slashes may be data or slashes.
    fn matches_widely(&self, path: &Canonical<'_>) -> bool {
        self.matches_exactly(path) || self.may_be(path, byte)
    }

    /// The same, and more: some servers do not care for the case of a path either.
    fn mints(&self, method: &Method, path: &Canonical<'_>) -> bool {
        self.covers_widely(method) && self.may_be(path, |character| character.byte.to_ascii_lowercase())
    }

    /// Whether a server that sees as much of each character as `seen` does may take the path for one that the rule writes.
    fn may_be(&self, path: &Canonical<'_>, seen: fn(Character) -> u8) -> bool {
        let slashes = || path.segments().flat_map(|segment| segment.split("%2F"));
        self.may_mean(path.segments(), seen) || (path.as_str().contains("%2F") && self.may_mean(slashes(), seen))
    }

    /// Whether a server that skips empty segments, such as a trailing slash makes, may take these for the rule's.
    fn may_mean<'p>(&self, segments: impl Iterator<Item = &'p str> + Clone, seen: fn(Character) -> u8) -> bool {
        let pattern = match self.segments.split_last() {
            Some((Segment::Literal(last), rest)) if last.is_empty() => rest,
            _ => &self.segments,
        };
        let shown = segments.filter(|text| !without_parameters(text).is_empty());
        matches(pattern, shown, Segment::is_any_number, |segment, text| segment.may_be(text, seen))
    }
}

/// Parses a rule of a route with strict paths.
impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        Self::parse(text, Form::Strict)
    }
}

/// As written.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, RuleError> {
        match text {
            "**" => Ok(Self::AnyNumber),
            "*" => Ok(Self::One),
            _ if text.contains("**") => Err(RuleError::DoubleStar),
            _ if text.contains('*') => {
                let star = Character { byte: b'*', encoded: false };
                Ok(Self::Within(
                    path::characters(text).map(|character| (character != star).then_some(character)).collect(),
                ))
            }
            _ => Ok(Self::Literal(text.into())),
        }
    }

    fn is_any_number(&self) -> bool {
        *self == Self::AnyNumber
    }

    fn is(&self, text: &str) -> bool {
        match self {
            Self::AnyNumber => true,
            Self::One => !text.is_empty(),
            Self::Literal(literal) => **literal == *text,
            Self::Within(pieces) => is_within(pieces, text, |own, other| own == other),
        }
    }

    /// Whether a server may take the text for this segment: it decodes it, or cuts off its parameters.
    fn may_be(&self, text: &str, seen: fn(Character) -> u8) -> bool {
        let decoded = |text: &str| match self {
            Self::AnyNumber | Self::One => true,
            Self::Literal(literal) => path::characters(literal).map(seen).eq(path::characters(text).map(seen)),
            Self::Within(pieces) => is_within(pieces, text, |own, other| seen(own) == seen(other)),
        };
        decoded(text) || decoded(without_parameters(text))
    }
}

fn is_within(pieces: &[Option<Character>], text: &str, same: impl Fn(Character, Character) -> bool) -> bool {
    let one = |piece: &Option<Character>, character| piece.is_some_and(|own| same(own, character));
    matches(pieces, path::characters(text), Option::is_none, one)
}

fn byte(character: Character) -> u8 {
    character.byte
}

fn without_parameters(segment: &str) -> &str {
    segment.split_once(';').map_or(segment, |(name, _)| name)
}

/// Why a text is no rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RuleError {
    #[error("a rule is a method, a space and a path pattern, as in \"GET /repos/**\"")]
    Shape,
    #[error("the method of a rule is in upper case, or * for any")]
    Method,
    #[error("a rule is judged on the path alone: leave out the query")]
    Query,
    #[error("** stands alone between two slashes; inside a segment write *")]
    DoubleStar,
    #[error("the pattern can never match, as such paths are refused: {0}")]
    NeverMatches(PathError),
}

fn parse_method(text: &str) -> Result<Option<Method>, RuleError> {
    if text == "*" {
        return Ok(None);
    }
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(RuleError::Method);
    }
    Method::from_bytes(text.as_bytes()).map(Some).map_err(|_| RuleError::Shape)
}

/// Whether the items are what the pattern says, where some of its parts stand for any number of items. One matcher for the
/// segments of a path and for the characters of a segment.
///
/// Only the last wildcard met is ever tried again: what an earlier one could take in addition, the last can as well. So each
/// item is compared with each part at most once.
fn matches<Part, Items: Iterator<Item: Copy> + Clone>(
    pattern: &[Part],
    mut items: Items,
    any_number: impl Fn(&Part) -> bool,
    one: impl Fn(&Part, Items::Item) -> bool,
) -> bool {
    let mut at = 0;
    // Where the pattern goes on after the last wildcard, and what that has not taken yet.
    let mut last_wildcard: Option<(usize, Items)> = None;
    loop {
        let part = pattern.get(at);
        if part.is_some_and(&any_number) {
            at += 1;
            if at == pattern.len() {
                return true;
            }
            last_wildcard = Some((at, items.clone()));
            continue;
        }
        match (part, items.next()) {
            (None, None) => return true,
            (Some(part), Some(item)) if one(part, item) => at += 1,
            (_, None) => return false,
            _ => {
                let Some((after, left)) = &mut last_wildcard else { return false };
                left.next();
                at = *after;
                items = left.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn rule(text: &str) -> Rule {
        Rule::parse(text, Form::Opaque).expect(text)
    }

    fn rules(form: Form, allow: Option<&[&str]>, deny: &[&str]) -> Rules {
        let parse = |texts: &[&str]| texts.iter().map(|text| Rule::parse(text, form).expect(text)).collect();
        Rules {
            form,
            allow: allow.map_or(Allow::Any, |texts| Allow::These(parse(texts))),
            deny: parse(deny),
            minting: Vec::new(),
        }
    }

    fn judge(rules: &Rules, request: &str) -> Result<(), Denied> {
        let (method, path) = request.split_once(' ').expect(request);
        let judged = rules.judge(&method.parse().expect(request), &rules.form.canonical(path).expect(request));
        judged.map(drop)
    }

    #[test]
    fn whoever_passes_is_told_by_which_rule() {
        let listed = rules(Form::Strict, Some(&["GET /a/*", "* /a/**"]), &["DELETE /**"]);
        let mark = |rules: &Rules, method: Method| rules.judge(&method, &rules.form.canonical("/a/b").expect("a path"));
        assert_eq!(mark(&listed, Method::HEAD), Ok(Some(RuleMark::of("GET /a/*"))));
        assert_eq!(mark(&listed, Method::POST), Ok(Some(RuleMark::of("* /a/**"))));
        assert_eq!(mark(&listed, Method::DELETE), Err(Denied::Path));
        assert_eq!(mark(&rules(Form::Strict, None, &[]), Method::POST), Ok(None));
    }

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, matching, other) in [
            ("/", &["/"][..], &["/a", "/a/"][..]),
            ("/repos", &["/repos", "/rep%6Fs"], &["/", "/repos/", "/reposx", "/Repos", "/repos/a"]),
            ("/repos/", &["/repos/"], &["/repos", "/repos/a"]),
            (
                "/repos/**",
                &["/repos", "/repos/", "/repos/a", "/repos/a/", "/repos/a/b"],
                &["/", "/repo", "/reposx", "/a/repos"],
            ),
            ("/**", &["/", "/a", "/a/", "/a/b/c"], &[]),
            ("/*", &["/a", "/*"], &["/", "/a/", "/a/b"]),
            (
                "/repos/*/*/issues",
                &["/repos/a/b/issues"],
                &["/repos/a/issues", "/repos/a/b/c/issues", "/repos/a/b/issues/"],
            ),
            ("/a/**/z", &["/a/z", "/a/b/z", "/a/z/z", "/a/b/z/c/z"], &["/a", "/a/z/", "/a/b", "/z"]),
            ("/a/**/", &["/a/", "/a/b/"], &["/a", "/a/b"]),
            ("/**/b/**/c", &["/b/c", "/b/b/c", "/x/b/c/c"], &["/c", "/c/b", "/b/c/x"]),
            ("/**/**/x", &["/x", "/a/x"], &["/"]),
            ("/v*.json", &["/v1.json", "/v.json", "/v1.json.json"], &["/v1.jso", "/1.json", "/v/1.json", "/v1.json/"]),
            ("/*a*b*", &["/ab", "/xaybz", "/abab"], &["/ba", "/a", "/b"]),
            ("/caf%c3%a9", &["/caf%C3%A9", "/c%61f%c3%a9"], &["/caf%C3%A8"]),
            ("/a:b", &["/a:b"], &["/a%3Ab"]),
            ("/*9", &["/19"], &["/%C3%A9"]),
            ("/*/x", &["/a%2Fb/x"], &["/a/b/x"]),
            ("/a%2fb", &["/a%2Fb"], &["/a/b"]),
            ("/%2a", &["/%2A"], &["/a", "/*"]),
        ] {
            let rule = rule(&format!("GET {pattern}"));
            let fits = |path: &str| rule.matches_exactly(&Form::Opaque.canonical(path).expect(path));
            for path in matching {
                assert!(fits(path), "{pattern} matches {path}");
            }
            for path in other {
                assert!(!fits(path), "{pattern} does not match {path}");
            }
        }
    }

    #[test]
    fn a_deny_rule_covers_what_a_server_may_take_for_its_path() {
        for (pattern, covered, other) in [
            (
                "/admin",
                &["/admin", "/admin/", "/%61dmin", "/admin;x=1", "/admin;/", "/admin/;x"][..],
                &["/adminx", "/admin/a", "/a/admin"][..],
            ),
            ("/admin/", &["/admin", "/admin/"], &["/admin/a"]),
            ("/admin/**", &["/admin", "/admin/a", "/admin%2Fa", "/admin;x/a"], &["/administration"]),
            ("/m/*:run", &["/m/a:run", "/m/a%3Arun", "/m/a:run/", "/m%2Fa%3arun"], &["/m/a:stop"]),
            ("/m/**/x(1)", &["/m/a/x%281)", "/m/x(1)/"], &["/m/x(2)"]),
            ("/p/*/hooks", &["/p/a%2Fb/hooks", "/p/a/hooks"], &["/p/a/b/hooks"]),
            ("/a%3Bb", &["/a;b", "/a%3bb"], &["/a"]),
            ("/;*", &["/;x"], &["/a"]),
            ("/", &["/"], &["/a"]),
            ("/**", &["/", "/a/b/"], &[]),
        ] {
            let rules = rules(Form::Opaque, None, &[&format!("* {pattern}")]);
            for path in covered {
                assert_eq!(judge(&rules, &format!("GET {path}")), Err(Denied::Path), "{pattern} covers {path}");
            }
            for path in other {
                assert_eq!(judge(&rules, &format!("GET {path}")), Ok(()), "{pattern} does not cover {path}");
            }
        }
    }

    #[test]
    fn get_includes_head_and_a_star_any_method() {
        let rules = rules(Form::Strict, Some(&["GET /a", "POST /b", "* /c", "PURGE /d"]), &[]);
        for passed in ["GET /a", "HEAD /a", "POST /b", "DELETE /c", "HEAD /c", "PURGE /d"] {
            assert_eq!(judge(&rules, passed), Ok(()), "{passed}");
        }
        for refused in ["POST /a", "get /a", "GET /b", "HEAD /b", "HEAD /d"] {
            assert_eq!(judge(&rules, refused), Err(Denied::Method), "{refused}");
        }
        assert_eq!(judge(&rules, "GET /e"), Err(Denied::Path));
    }

    #[test]
    fn deny_always_wins() {
        let rules = rules(Form::Strict, Some(&["* /a/**", "GET /b"]), &["DELETE /**", "GET /a/secret"]);
        assert_eq!(judge(&rules, "POST /a/secret"), Ok(()));
        assert_eq!(judge(&rules, "GET /a/secret"), Err(Denied::Path));
        assert_eq!(judge(&rules, "HEAD /a/secret"), Err(Denied::Path));
        assert_eq!(judge(&rules, "hEAD /a/secret"), Err(Denied::Path));
        assert_eq!(judge(&rules, "delete /a/x"), Err(Denied::Path));
        assert_eq!(judge(&rules, "DELETE /a/x"), Err(Denied::Path));
        assert_eq!(judge(&rules, "DELETE /b"), Err(Denied::Method));
    }

    #[test]
    fn the_ruling_is_the_rule_behind_the_judgement() {
        let mut rules = rules(Form::Strict, Some(&["GET /a/**", "POST /a/*", "PUT /a/*"]), &["* /b", "* /a/secret"]);
        rules.minting = vec!["POST /a/keys".parse().expect("a rule")];
        let ruling = |request: &str| {
            let (method, path) = request.split_once(' ').expect(request);
            let ruling = rules.ruling(&method.parse().expect(request), &Form::Strict.canonical(path).expect(request));
            let passes = matches!(ruling, Ruling::Allowed(..) | Ruling::AllowedByAny);
            assert_eq!(judge(&rules, request).is_ok(), passes, "{request}");
            match ruling {
                Ruling::AllowedByAny => "any".to_owned(),
                Ruling::Allowed(at, rule) => format!("allow {at} {rule}"),
                Ruling::Denied(at, rule) => format!("deny {at} {rule}"),
                Ruling::Minting(at, rule) => format!("minting {at} {rule}"),
                Ruling::NotAllowed(others) => others.iter().map(|rule| format!("not {rule};")).collect(),
            }
        };
        assert_eq!(ruling("POST /a/x"), "allow 1 POST /a/*");
        assert_eq!(ruling("HEAD /a/x"), "allow 0 GET /a/**");
        assert_eq!(ruling("PUT /a/secret"), "deny 1 * /a/secret");
        assert_eq!(ruling("DELETE /a/secret"), "not GET /a/**;not POST /a/*;not PUT /a/*;", "as the judgement says");
        assert_eq!(ruling("GET /b"), "");
        assert_eq!(ruling("POST /a/keys"), "minting 0 POST /a/keys");
    }

    #[test]
    fn what_mints_is_refused_under_every_spelling_whatever_else_is_allowed() {
        let mut rules = rules(Form::Opaque, None, &["* /a/keys"]);
        rules.minting = vec![rule("POST /**/tokens"), rule("* /v1/*:sign")];
        for request in [
            "POST /tokens",
            "POST /a/b/tokens",
            "POST /a/tokens/",
            "POST /a/TOKENS",
            "post /a/tokens",
            "POST /a%2Ftokens",
            "POST /a/%74okens;v=1",
            "GET /v1/me:sign",
            "GET /V1/me%3ASIGN",
        ] {
            assert_eq!(judge(&rules, request), Err(Denied::Minting), "{request}");
        }
        for request in ["GET /a/tokens", "POST /a/tokens/1", "POST /a/token", "GET /v1/me:signs"] {
            assert_eq!(judge(&rules, request), Ok(()), "{request}");
        }
        assert!(!rules.pass_everything());
    }

    #[test]
    fn without_an_allow_rule_nothing_passes() {
        assert_eq!(judge(&rules(Form::Strict, Some(&[]), &[]), "GET /"), Err(Denied::Path));
        assert_eq!(judge(&rules(Form::Strict, None, &[]), "BREW /pot"), Ok(()));
    }

    #[test]
    fn a_rule_that_can_never_match_is_refused() {
        use RuleError::{DoubleStar, Method, NeverMatches, Query, Shape};
        for (text, error) in [
            ("", Shape),
            ("/repos", Shape),
            ("GET", Shape),
            ("G(T /a", Shape),
            (" /a", Shape),
            ("get /a", Method),
            ("Get /a", Method),
            ("GET /a?b=c", Query),
            ("GET /a**", DoubleStar),
            ("GET /***", DoubleStar),
            ("GET /**.json", DoubleStar),
            ("GET repos", NeverMatches(PathError::NoSlash)),
            ("GET  /a", NeverMatches(PathError::NoSlash)),
            ("GET ", NeverMatches(PathError::NoSlash)),
            ("GET https://api.example.com/", NeverMatches(PathError::NoSlash)),
            ("GET /a/../b", NeverMatches(PathError::DotSegment)),
            ("GET /a//b", NeverMatches(PathError::EmptySegment)),
            ("GET /a b", NeverMatches(PathError::Character)),
            ("GET /{owner}", NeverMatches(PathError::Character)),
            ("GET /a%2Fb", NeverMatches(PathError::EncodedSlash)),
        ] {
            assert_eq!(text.parse::<Rule>(), Err(error), "{text}");
        }
        assert!(Rule::parse("GET /a%2Fb", Form::Opaque).is_ok());
    }

    #[test]
    fn rules_are_shown_as_written() {
        let written = "GET /caf%c3%a9/**";
        assert_eq!(rule(written).to_string(), written);
        let shown = |allow, deny| rules(Form::Strict, allow, deny).to_string();
        assert_eq!(shown(None, &[]), "allow any");
        assert_eq!(shown(Some(&[]), &["* /x"]), "allow nothing; deny * /x");
        assert_eq!(
            shown(Some(&["GET /a", written]), &["* /x", "PUT /y"]),
            "allow GET /a, GET /caf%c3%a9/**; deny * /x, PUT /y"
        );
    }

    #[test]
    fn a_hostile_pattern_compares_each_item_with_each_part_once_at_most() {
        let pattern: Vec<Option<char>> =
            "*a".repeat(50).chars().chain("b".chars()).map(|c| (c != '*').then_some(c)).collect();
        let items = "a".repeat(2_000);
        let compared = Cell::new(0);
        let one = |part: &Option<char>, item| {
            compared.set(compared.get() + 1);
            *part == Some(item)
        };
        assert!(!matches(&pattern, items.chars(), Option::is_none, one));
        assert!(compared.get() <= pattern.len() * items.len(), "{}", compared.get());
        let rules = rules(Form::Strict, Some(&[&format!("GET {}/b", "/**/*a*a*c*".repeat(20))]), &[]);
        assert_eq!(judge(&rules, &format!("GET {}", "/aaaaaaaaaaac".repeat(600))), Err(Denied::Path));
    }

    /// What a pattern means, without regard to time.
    fn by_definition(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**", rest @ ..], _) => (0..=path.len()).any(|taken| by_definition(rest, &path[taken..])),
            ([part, rest @ ..], [segment, others @ ..]) => {
                let one = match *part {
                    "*" => !segment.is_empty(),
                    "a*" => segment.starts_with('a'),
                    _ => part == segment,
                };
                one && by_definition(rest, others)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_what_their_definition_says(
            pattern in prop::collection::vec(prop::sample::select(&["**", "*", "a*", "a", "b", "ab"][..]), 1..7),
            mut path in prop::collection::vec(prop::sample::select(&["a", "b", "ab"][..]), 0..7),
            trailing_slash: bool,
        ) {
            if trailing_slash || path.is_empty() {
                path.push("");
            }
            let rule = rule(&format!("GET /{}", pattern.join("/")));
            let text = format!("/{}", path.join("/"));
            let canonical = Form::Strict.canonical(&text).expect("plain segments");
            let exactly = rule.matches_exactly(&canonical);
            prop_assert_eq!(exactly, by_definition(&pattern, &path));
            prop_assert!(!exactly || rule.matches_widely(&canonical));
        }

        #[test]
        fn any_text_is_a_rule_or_an_error(text in "(GET|\\*|[a-zA-Z]*) ?(/|\\*|[a-z]|%2[fe5]|\\PC){0,12}") {
            for form in [Form::Strict, Form::Opaque] {
                if let Ok(rule) = Rule::parse(&text, form) {
                    prop_assert_eq!(rule.to_string(), &text[..]);
                }
            }
        }

        #[test]
        fn a_rule_matches_its_own_path_when_it_has_no_wildcards(path in "(/[a-z:%.]{1,4}){1,4}/?") {
            if let (Ok(rule), Ok(canonical)) = (Rule::parse(&format!("GET {path}"), Form::Strict), Form::Strict.canonical(&path)) {
                prop_assert!(rule.matches_exactly(&canonical) && rule.matches_widely(&canonical));
            }
        }
    }
}
