//! The release build between real servers: an OpenID provider that issues tokens which live five seconds, and Caddy and nginx,
//! which write down every request they get. What the proxy did is judged by what they recorded.
//!
//! ```text
//! load, curl ──> countersign (a process) ──TLS──> Caddy or nginx ──> access log ──> judged
//!                      │
//!                      └──> oidc-provider
//! ```
//!
//! `make test` installs the servers and runs this. `COUNTERSIGN_BIN` names another binary than the release build,
//! `COUNTERSIGN_PEERS_SECONDS` the length of the load (60). The tests take turns: each has the machine for itself.

mod admin;
mod alerts;
mod attack;
mod aws;
mod calls;
mod cgroups;
mod clients;
mod crashes;
mod github;
mod hanging;
mod jobs;
mod keepalive;
mod kubernetes;
mod leaks;
mod life;
mod load;
mod openbao;
mod outage;
mod prometheus;
mod proofs;
mod sign_in;
mod spiffe;
mod strangers;
mod support;
mod themselves;
mod tlog;
mod tunnels;
mod upstream_proxy;
