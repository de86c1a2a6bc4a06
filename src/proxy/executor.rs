//! Runs hyper's tasks on the worker's own thread: a connection's task ends with its connection, and the worker's runtime
//! with the worker.

use std::future::Future;

use hyper::rt::Executor;

/// For the streams of HTTP/2, which hyper spawns itself.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        run(future);
    }
}

pub fn run(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}
