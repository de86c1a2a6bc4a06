//! The config file takes effect when it changes, however it is changed; what is broken or half there changes nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::support::issuer::Reply;
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, log, wait_until};

/// The app, with the token and the route `api`, and the file that it looks after.
struct Place {
    issuer: Issuer,
    upstream: Upstream,
    other: Upstream,
    scene: Scene,
    file: PathBuf,
    hangup: Arc<Notify>,
}

impl Place {
    async fn new() -> Self {
        let (issuer, upstream, other) = (Issuer::start().await, Upstream::http1().await, Upstream::http1().await);
        let setup = Setup::api(&issuer, &upstream);
        let scene = setup.start().await;
        scene.ready().await;
        let file = scene.folder().join("it.toml");
        fs::write(&file, setup.text()).expect("written");
        let hangup = scene.watch(&file, &setup);
        Self { issuer, upstream, other, scene, file, hangup }
    }

    fn setup(&self) -> Setup {
        Setup::api(&self.issuer, &self.upstream)
    }

    /// As text, with one more route.
    fn with_route(&self, name: &str) -> String {
        self.setup().route(name, &self.other, "").text()
    }

    /// The file, which stays the same, is found through a link from now on.
    fn becomes_a_link_to(&self, target: &str) {
        let link = self.scene.folder().join("link");
        symlink(target, &link).expect("a link");
        fs::rename(&link, &self.file).expect("renamed");
    }

    /// Waits until that route is there.
    async fn has_route(&self, name: &str) {
        let path = format!("/{name}/x");
        wait_until(&path, SOON, async || self.scene.get(&path).await.status == 200).await;
    }

    /// Waits until that many configs have been refused.
    async fn refused(&self, count: usize) {
        self.scene.recorded("reload_refused", count).await;
        assert_eq!(self.scene.metric("countersign_config_reload_success", &[]).await, 0.0);
        assert_eq!(self.scene.get("/api/x").await.status, 200, "the old one goes on");
    }

    /// Waits until that is in the log.
    async fn says(&self, what: &str) {
        wait_until(what, SOON, async || log::text().contains(what)).await;
    }

    async fn is_taken(&self, count: usize) {
        self.scene.recorded("reload", count).await;
        self.scene.reaches("countersign_config_reload_success", &[], 1.0).await;
    }
}

#[tokio::test]
async fn a_kubernetes_volume_is_swapped_under_load_without_a_failed_request() {
    let place = Place::new().await;
    let folder = place.scene.folder();
    let version = |number: usize, text: &str| {
        let name = format!("..2026_{number}");
        fs::create_dir(folder.join(&name)).expect("a folder");
        fs::write(folder.join(&name).join("it.toml"), text).expect("written");
        symlink(&name, folder.join("..data_tmp")).expect("a link");
        // What the kubelet does: one rename moves every file of the volume.
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("renamed");
    };
    version(0, &place.setup().text());
    place.becomes_a_link_to("..data/it.toml");

    let mut load = JoinSet::new();
    for _ in 0..2 {
        let mut client = place.scene.client().await;
        load.spawn(async move {
            loop {
                assert_eq!(client.get("/api/x").await.status, 200);
            }
        });
    }
    for number in 1..=3 {
        let route = format!("route-{number}");
        version(number, &place.with_route(&route));
        fs::remove_dir_all(folder.join(format!("..2026_{}", number - 1))).expect("removed");
        place.has_route(&route).await;
    }
    assert!(load.try_join_next().is_none(), "no request failed");
    assert_eq!(place.scene.recorded("reload", 3).await.len(), 3, "a swap is one reload");
    assert_eq!(place.issuer.count(), 1, "the token lives on");
}

#[tokio::test]
async fn a_rename_and_a_write_in_place_are_seen() {
    let place = Place::new().await;
    let new = place.scene.folder().join("it.toml.new");
    fs::write(&new, place.with_route("renamed")).expect("written");
    fs::rename(&new, &place.file).expect("renamed");
    place.has_route("renamed").await;
    fs::write(&place.file, place.with_route("in-place")).expect("written");
    place.has_route("in-place").await;
    assert_eq!(place.scene.get("/renamed/x").await.status, 404);
}

#[tokio::test]
async fn a_broken_file_is_refused_once_and_the_old_text_is_taken_again() {
    let place = Place::new().await;
    let good = place.setup().text();
    let broken = [
        ("[[route".to_owned(), "this is not TOML"),
        (good.replace("workers = 2", "wokers = 2"), "did you mean `workers`?"),
        (String::new(), "the file is empty"),
        (good.replace("workers = 2", "workers = 3"), "`proxy.workers` takes effect at a restart only"),
    ];
    for (number, (text, said)) in broken.iter().enumerate() {
        fs::write(&place.file, text).expect("written");
        place.refused(number + 1).await;
        place.says(said).await;
    }
    fs::write(&place.file, &good).expect("written");
    place.is_taken(1).await;
    assert_eq!(place.scene.recorded("reload_refused", 4).await.len(), 4);
}

#[tokio::test]
async fn a_file_that_others_may_write_is_refused_until_they_may_not() {
    let place = Place::new().await;
    fs::write(&place.file, place.with_route("new")).expect("written");
    fs::set_permissions(&place.file, fs::Permissions::from_mode(0o666)).expect("a mode");
    place.refused(1).await;
    fs::set_permissions(&place.file, fs::Permissions::from_mode(0o644)).expect("a mode");
    place.has_route("new").await;
}

#[tokio::test]
async fn a_folder_that_goes_and_comes_back_is_looked_after_again() {
    let place = Place::new().await;
    let away = place.scene.folder().join("away");
    fs::create_dir(&away).expect("a folder");
    fs::copy(&place.file, away.join("it.toml")).expect("copied");
    place.becomes_a_link_to("away/it.toml");
    fs::remove_dir_all(&away).expect("removed");
    place.refused(1).await;
    place.says("the file is not there").await;
    fs::create_dir(&away).expect("a folder");
    fs::write(away.join("it.toml"), place.with_route("back")).expect("written");
    place.has_route("back").await;
    place.scene.reaches("countersign_config_reload_success", &[], 1.0).await;
}

#[tokio::test]
async fn many_writes_in_a_row_are_few_reloads() {
    let place = Place::new().await;
    for number in 0..200 {
        fs::write(&place.file, place.with_route(&format!("route-{number}"))).expect("written");
        tokio::task::yield_now().await;
    }
    place.has_route("route-199").await;
    let reloads = place.scene.recorded("reload", 1).await.len();
    assert!(reloads <= 20, "{reloads} reloads");
}

#[tokio::test]
async fn a_signal_loads_the_file_even_if_it_did_not_change() {
    let place = Place::new().await;
    place.hangup.notify_one();
    place.is_taken(1).await;
    fs::write(&place.file, "").expect("written");
    place.refused(1).await;
    place.hangup.notify_one();
    place.refused(2).await;
}

#[tokio::test]
async fn an_unwatched_file_waits_for_the_signal() {
    let place = Place::new().await;
    let unwatched = |route: &str| place.setup().proxy("watch = false").route(route, &place.other, "").text();
    fs::write(&place.file, unwatched("first")).expect("written");
    place.has_route("first").await;
    fs::write(&place.file, unwatched("second")).expect("written");
    // The watch of another file in the same process has had its time by then.
    let witness = Place::new().await;
    fs::write(&witness.file, witness.with_route("second")).expect("written");
    witness.has_route("second").await;
    assert_eq!(place.scene.get("/second/x").await.status, 404);
    place.hangup.notify_one();
    place.has_route("second").await;
}

#[tokio::test]
async fn a_good_text_whose_issuer_is_down_is_taken_when_the_issuer_is_back() {
    let place = Place::new().await;
    place.issuer.answers(|_| Reply::json(503, "{}"));
    let changed = Setup::new()
        .proxy("acquire_timeout = \"100ms\"")
        .token("api", &place.issuer, "reason = \"another\"")
        .route("api", &place.upstream, r#"token = "api""#);
    fs::write(&place.file, changed.text()).expect("written");
    place.refused(1).await;
    place.issuer.answers(|_| Reply::token("tok-after", 3600));
    place.is_taken(1).await;
    assert_eq!(place.scene.get("/api/x").await.status, 200);
    assert_eq!(place.upstream.last().all("authorization"), ["Bearer tok-after"]);
}
