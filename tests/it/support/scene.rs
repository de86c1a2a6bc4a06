//! The app itself, in this process: as `run` starts it, on a thread of its own, in a folder of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use countersign::app::{App, Handle, ReloadError, Reloads, RotateNamedError, RunError, Surroundings};
use countersign::clock::ManualClock;
use countersign::dial::Resolver;
use countersign::proxy::Address;
use countersign::systemd::Inherited;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime;
use tokio::sync::{Notify, oneshot};

use super::client::Answer;
use super::scrape::Scrape;
use super::{Client, Setup, log, setup, soon, trail, wait_until};

pub struct Scene {
    pub proxy: SocketAddr,
    /// Where apps of other machines come in.
    pub under_tls: Option<SocketAddr>,
    pub socket: PathBuf,
    pub telemetry: SocketAddr,
    /// Where operators come in.
    pub admin: Address,
    pub clock: Arc<ManualClock>,
    folder: Arc<TempDir>,
    handle: Handle,
    /// The runtime on which the app lives.
    control: runtime::Handle,
    shutdown: Option<oneshot::Sender<&'static str>>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

/// What the app's thread tells when it is bound.
struct Started {
    listen: Vec<Address>,
    telemetry: SocketAddr,
    admin: Address,
    handle: Handle,
    control: runtime::Handle,
}

impl Scene {
    /// Starts the app.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(setup: &Setup) -> Self {
        log::collect();
        let folder = TempDir::new().expect("a temporary folder");
        std::fs::write(folder.path().join("client-secret"), "first-client-secret\n").expect("written");
        Self::start_in(Arc::new(folder), setup).await
    }

    /// Starts the app in a folder that is there already: what it reads from files lies there.
    pub async fn start_in(folder: Arc<TempDir>, setup: &Setup) -> Self {
        log::collect();
        let config = setup.config(folder.path());
        let clock = Arc::new(ManualClock::default());
        let (started, starts) = oneshot::channel();
        let (shutdown, stop) = oneshot::channel();
        let (own_clock, own_folder) = (clock.clone(), folder.clone());
        let resolver = match setup.resolve.clone() {
            Some(answer) => Resolver::given(move |name| answer(name)),
            None => Resolver::System,
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || {
            // The folder outlives the app, whoever lets go of the scene.
            let _folder = own_folder;
            let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let control = runtime.handle().clone();
            runtime.block_on(async move {
                let inherited = Inherited::default();
                let surroundings = Surroundings { clock: own_clock, log: None, resolver, inherited };
                let bound = App::bind_in(surroundings, config).await.expect("starts");
                let (listen, telemetry) = (bound.listen.clone(), bound.telemetry_address);
                let (admin, handle) = (bound.admin.clone(), bound.handle());
                let told = started.send(Started { listen, telemetry, admin, handle, control });
                assert!(told.is_ok(), "the test waits for the start");
                bound.run(async { stop.await.unwrap_or("the test has gone") }).await
            })
        });
        let Started { listen, telemetry, admin, handle, control } = soon("the start", starts).await.expect("it starts");
        let proxy = listen.iter().find_map(|address| match address {
            Address::Tcp(address) => Some(*address),
            Address::Tls(_) | Address::Unix(_) => None,
        });
        let under_tls = listen.iter().find_map(|address| match address {
            Address::Tls(address) => Some(*address),
            Address::Tcp(_) | Address::Unix(_) => None,
        });
        Self {
            proxy: proxy.expect("an address"),
            under_tls,
            socket: folder.path().join("proxy.sock"),
            telemetry,
            admin,
            clock,
            folder,
            handle,
            control,
            shutdown: Some(shutdown),
            thread: Some(thread.expect("a thread")),
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn client(&self) -> Client {
        Client::tcp(self.proxy).await
    }

    /// `GET`, on a connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        self.client().await.get(path).await
    }

    /// What the proxy answers to exactly these bytes, on a connection of their own.
    pub async fn exchange(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut client = self.client().await;
        client.send(bytes).await;
        client.answer().await.expect("an answer")
    }

    /// Asks the telemetry listener.
    pub async fn ask(&self, path: &str) -> Answer {
        Client::tcp(self.telemetry).await.get(path).await
    }

    pub async fn scrape(&self) -> Scrape {
        Scrape::parse(self.ask("/metrics").await.text())
    }

    /// One value of the scrape: the sum of the series with these labels, 0 without any.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.scrape().await.value(name, labels)
    }

    /// Waits until a value of the scrape is at least this.
    pub async fn reaches(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        let what = format!("{name} {labels:?} reaches {least}");
        wait_until(&what, super::SOON, async || self.metric(name, labels).await >= least).await;
    }

    /// Waits until every required token is there.
    pub async fn ready(&self) {
        wait_until("ready", super::SOON, async || self.ask("/readyz").await.status == 200).await;
    }

    /// The trail as it is now.
    pub fn trail(&self) -> Vec<Value> {
        trail::read(&self.folder().join("state/audit"))
    }

    /// Waits until the trail has so many records of an event.
    pub async fn recorded(&self, event: &str, least: usize) -> Vec<Value> {
        let what = format!("{least} records of {event}");
        wait_until(&what, super::SOON, async || trail::of(&self.trail(), event).len() >= least).await;
        self.trail().into_iter().filter(|record| record["event"] == event).collect()
    }

    /// Puts another config in force.
    ///
    /// # Errors
    /// When the app refuses it.
    pub async fn reload(&self, setup: &Setup) -> Result<(), ReloadError> {
        let (handle, config) = (self.handle.clone(), setup.config(self.folder()));
        let reloading = self.control.spawn(async move { handle.reload(&config).await });
        soon("a reload", reloading).await.expect("no panic")
    }

    /// Has the app look after this file, as `run` does, with `running` in force. What is returned is its SIGHUP.
    pub fn watch(&self, file: &Path, running: &Setup) -> Arc<Notify> {
        let config = running.config(self.folder());
        let clock = self.clock.clone();
        let reloads = Reloads::new(self.handle.clone(), file.to_owned(), &config, setup::environment(), clock);
        let asks = Arc::new(Notify::new());
        // Sooner than in earnest, so that the tests do not take their time.
        self.control.spawn(reloads.each(Duration::from_millis(100)).run(asks.clone()));
        asks
    }

    /// Rotates a token now.
    ///
    /// # Errors
    /// When the issuer gives no new generation.
    pub async fn rotate(&self, token: &str) -> Result<u64, RotateNamedError> {
        let (handle, token) = (self.handle.clone(), token.parse().expect("a name"));
        soon("a rotation", self.control.spawn(async move { handle.rotate(&token).await })).await.expect("no panic")
    }

    /// Tells the app to drain and end.
    pub fn shut_down(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            // It may have ended by itself.
            let _ = shutdown.send("the test's end");
        }
    }

    /// Ends the app well; the whole trail.
    ///
    /// # Panics
    /// When it does not end well.
    pub async fn finish(mut self) -> Vec<Value> {
        self.shut_down();
        let thread = self.thread.take().expect("a scene ends once");
        let ended = tokio::task::spawn_blocking(move || thread.join());
        let ended = tokio::time::timeout(Duration::from_secs(40), ended).await.expect("it ends in time");
        ended.expect("joined").expect("no panic").expect("the app ends well");
        self.trail()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shut_down();
    }
}
