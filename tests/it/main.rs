//! The app in this process, between an issuer, upstreams and clients that are played by the tests: what it does is judged by
//! what the upstream got, by its answers, its metrics and its trail.

mod admin;
mod answers;
mod bodies;
mod canary;
mod clients;
mod cold;
mod credentials;
mod destinations;
mod drain;
mod echoes;
mod framing;
mod grants;
mod hostile_upstreams;
mod http2;
mod limits;
mod outage;
mod placements;
mod poisoned;
mod pool;
mod programs;
mod refusals;
mod refused_streams;
mod rejected;
mod reload;
mod rotation;
mod shares;
mod sources;
mod support;
mod tls;
mod traces;
mod upstream_proxy;
mod watch;
mod ways_in;
mod websocket;
