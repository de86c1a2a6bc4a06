//! Countersign: a sidecar proxy that attaches short-lived tokens to an app's outbound API calls, so that the app never
//! holds a credential. This page is the architecture; `README.md` is for its users.
//!
//! # Three ways through the house
//!
//! ```text
//!  request   listener → identity → target → route → policy → token slot → pool → inject → upstream → body → usage
//!  token     config, operators → access (request, risk, rule, approval) → grant → source → lifecycle → supervisor → slot
//!            → retire                                                                        → audit
//!  watching  usage → metrics → scrape
//!                  └─→ the stream of uses ┬─→ review → report
//!                                         └─→ detect → anomalies → audit, quarantine
//!            what is wrong → alert → Alertmanager, webhooks, log
//! ```
//!
//! # Threads
//!
//! ```text
//!  worker 0..N   a runtime each, with its own connections, pools and buffers. The listening sockets are opened once and
//!                shared by descriptor. On the request path workers share the table of routes and the tokens' slots, both
//!                read through an ArcSwap, and atomics; nothing else.
//!  control       one runtime: a supervisor for each token, reload, operators, telemetry.
//!  audit         a thread that may wait for the disk.
//!  log           a thread that may wait for whoever reads standard error.
//! ```
//!
//! A request waits for its connection and, within bounds, for its token's slot to change. It never waits for an issuer as
//! such, for a disk, or for a lock.
//!
//! # Floors
//!
//! A module imports only from modules below it; `tests/floors.rs` holds the order.
//!
//! | floor | modules |
//! |---|---|
//! | command line | [`cli`] |
//! | the whole | [`app`], [`demo`] |
//! | from text to settings | [`config`] |
//! | faces | [`proxy`], [`scrape`], [`admin`] |
//! | decisions over many requests | [`route`], [`detect`], [`review`] |
//! | tokens and rules | [`token`], [`policy`] |
//! | entitlement | [`access`] |
//! | records, and who | [`audit`], [`usage`], [`identity`], [`operator`], [`alert`] |
//! | tools | [`state`], [`seal`], [`store`], [`readiness`], [`systemd`], [`watched`], [`announced`], [`tls`], [`dial`], [`fetch`], [`discovery`], [`vault`], [`interception`] |
//! | primitives, which know nothing of tokens | [`program`], [`secret`], [`clock`], [`name`], [`backoff`], [`tasks`], [`barrier`], [`room`], [`signals`], [`metrics`], [`telemetry`], [`text`], [`path`], [`authority`], [`hmac`], [`sigv4`], [`dpop`] |
//!
//! Each part owns its settings, its metrics and its errors; [`config`] fills the settings in, and only `proxy/error.rs` turns
//! errors into HTTP.
//!
//! # Authority by handle
//!
//! | who | holds | and can |
//! |---|---|---|
//! | the request path | [`token::SlotReader`] | read the live generation, and say what upstreams answer to it |
//! | a token's supervisor | the slot's writing half | publish one |
//! | app's desk | the gate of a token | let it be provisioned when its request is granted |
//! | app, and operators through it | [`token::Control`] | have it rotated, taken out of use, let in, retired |
//! | policy | the making of a [`policy::Permit`] | let a request through; attaching a token demands one |
//! | every part that changes a state | [`audit::Recorder`] | append to the trail |
//!
//! # Invariants
//!
//! 1. A secret's plain text leaves [`secret`] through a few named functions whose callers the floors test lists; it meets no
//!    log, metric, record or error.
//! 2. What the client sent in a place where a token goes is removed, always, under every spelling.
//! 3. A token is attached only under a permit, only towards its own hosts, after the connection it will travel on is
//!    established and its certificate verified. Redirects are not followed.
//! 4. An expired generation is never attached: that is checked when the request is written, by two clocks, not by a timer.
//!    A quarantined or revoked one neither: when that is acknowledged, no request leaves with it.
//! 5. A failed rotation keeps the live generation until its expiry; a worse token never replaces a good one, and a revoked
//!    one does not come back.
//! 6. Each request is counted in exactly one usage cell, even if it is dropped. Each change of a token's state leaves one
//!    audit record, durable before the change where the change lets something in.
//! 7. The request path waits for its connection and, bounded, for a slot to change; for nothing else.
//! 8. A bad reload changes nothing and says so.
//! 9. No queue is without a bound and a stated behaviour when full.
//! 10. A token's supervisor that fails is restarted, with its token unready meanwhile; any other supervising task or thread
//!     that dies takes the process out of ready and down.
//! 11. The judged form of host and path is byte for byte the sent form, whichever way a request came in.
//! 12. Nothing reaches an upstream from a request that was refused.
#![forbid(unsafe_code)]

pub mod access;
pub mod admin;
pub mod alert;
pub mod announced;
pub mod app;
pub mod audit;
pub mod authority;
pub mod backoff;
pub mod barrier;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod detect;
pub mod dial;
pub mod discovery;
pub mod dpop;
pub mod fetch;
pub mod hmac;
pub mod identity;
pub mod interception;
pub mod metrics;
pub mod name;
pub mod operator;
pub mod path;
pub mod policy;
pub mod program;
pub mod proxy;
pub mod readiness;
pub mod review;
pub mod room;
pub mod route;
pub mod scrape;
pub mod seal;
pub mod secret;
pub mod signals;
pub mod sigv4;
pub mod state;
pub mod store;
pub mod systemd;
pub mod tasks;
pub mod telemetry;
pub mod text;
pub mod tls;
pub mod token;
pub mod usage;
pub mod vault;
pub mod watched;

/// What this was built from: the commit, as the build was told, or `unknown`.
pub const REVISION: &str = match option_env!("COUNTERSIGN_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
