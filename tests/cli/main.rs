//! The command line as its users see it: the built program, what it prints, and its exit codes.

mod audit;
mod check;
mod child;
mod clients;
mod descriptors;
mod detect;
mod doctor;
mod env;
mod explain;
mod login;
mod paper;
mod report;
mod requests;
mod schema;
mod service;
mod support;
mod tokens;
mod used;
mod wait;
