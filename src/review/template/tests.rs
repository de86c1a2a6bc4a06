use proptest::prelude::*;

use super::*;
use crate::path::Form;
use crate::policy::rule::{Allow, Rule, Rules};

/// How many uses there were.
#[derive(Default, PartialEq, Debug, Serialize, Deserialize)]
struct Count(u64);

impl Learned for Count {
    fn absorb(&mut self, other: Self) {
        self.0 += other.0;
    }

    fn size(&self) -> usize {
        1
    }
}

fn learned<'p>(paths: impl IntoIterator<Item = &'p str>) -> Templates<Count> {
    let mut templates = Templates::default();
    paths.into_iter().for_each(|path| templates.learn(path, |count: &mut Count| count.0 += 1));
    templates
}

fn texts(templates: &Templates<Count>) -> Vec<String> {
    templates.all().into_iter().map(|(text, count)| format!("{text} {}", count.0)).collect()
}

#[test]
fn what_looks_like_an_identifier_varies_from_the_first_one_on() {
    for identifier in [
        "1",
        "00042",
        "2026-11-22",
        "2026-11-22T10:00:00Z",
        "1.2.3",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
        "9fd25a2",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "cus_9s6XKzkNRiz8i3",
        "pi_3MtwBwLkdIwHu7ix28a3tqPd",
        "a*b",
        &"x".repeat(65),
    ] {
        assert!(varies(identifier), "{identifier}");
    }
    for word in [
        "",
        "v1",
        "v2.1",
        "oauth2",
        "s3",
        "base64url",
        "sha256sum",
        "facade",
        "added",
        "repos",
        "us-east-1",
        "web3",
        "user-profile",
        "group%2Fproject",
        ".well-known",
        "ec2-instances",
        "caf%C3%A9",
    ] {
        assert!(!varies(word), "{word}");
    }
}

#[test]
fn templates_are_what_a_reader_would_write() {
    for (paths, expected) in [
        (&["/"][..], &["/ 1"][..]),
        (&["/a", "/a/", "/a"], &["/a 2", "/a/ 1"]),
        (&["/users/1", "/users/2", "/users/me"], &["/users/me 1", "/users/* 2"]),
        (&["/v1/charges/ch_3MmlLrLkdIwHu7ix0snN0B15/refunds"], &["/v1/charges/*/refunds 1"]),
        (&["/repos/a/b/issues/17", "/repos/a/c/issues/4"], &["/repos/a/b/issues/* 1", "/repos/a/c/issues/* 1"]),
        (
            &["/1/2/3/4/5/6/7/8/9/10/11/12", "/1/2/3/4/5/6/7/8/9/10/11/12/13"],
            &["/*/*/*/*/*/*/*/*/*/*/*/* 1", "/*/*/*/*/*/*/*/*/*/*/*/*/** 1"],
        ),
    ] {
        assert_eq!(texts(&learned(paths.iter().copied())), expected, "{paths:?}");
    }
}

#[test]
fn names_that_are_many_become_one_with_what_follows_them() {
    let names = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal", "ida", "jim"];
    let paths: Vec<String> = names.iter().map(|name| format!("/users/{name}/posts/latest")).collect();
    let ten = learned(paths.iter().map(String::as_str));
    assert_eq!(ten.all().len(), 10, "ten may be all that there are");
    let eleven = learned(paths.iter().map(String::as_str).chain(["/users/kim/likes", "/users/", "/users/ann"]));
    assert_eq!(texts(&eleven), ["/users/ 1", "/users/* 1", "/users/*/likes 1", "/users/*/posts/latest 10"]);
}

#[test]
fn a_million_random_paths_take_no_more_room_than_is_given() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut templates: Templates<Count> = Templates::default();
    for _ in 0..1_000_000 {
        let mut path = String::new();
        for _ in 0..rng.usize(1..8) {
            path.push('/');
            (0..rng.usize(1..4)).for_each(|_| path.push(rng.lowercase()));
        }
        templates.learn(&path, |count| count.0 += 1);
        assert!(templates.size <= MOST, "{}", templates.size);
    }
    assert!(templates.root.size() <= templates.size);
    assert_eq!(templates.all().iter().map(|(_, count)| count.0).sum::<u64>(), 1_000_000, "none is forgotten");
}

#[test]
fn where_there_is_no_room_for_all_of_a_path_its_end_stands_for_anything() {
    let segment = |number: usize| ["a", "b", "c", "d"][number % 4];
    let paths: Vec<String> =
        (0..4096).map(|n| (0..6).map(|at| format!("/{}", segment(n / 4_usize.pow(at)))).collect()).collect();
    let templates = learned(paths.iter().map(String::as_str));
    assert_eq!(templates.deepest, 4, "4 + 16 + 64 + 256 nodes, and what was learned");
    assert!(templates.all().iter().all(|(text, count)| text.ends_with("/**") && count.0 == 16));
}

#[test]
fn what_is_not_kept_leaves_nothing_behind() {
    let mut templates = learned(["/a/b/1", "/a/c", "/a/c", "/d"]);
    templates.retain(&mut |count: &mut Count| count.0 > 1);
    assert_eq!((texts(&templates), templates.size), (vec!["/a/c 2".to_owned()], 3));
}

#[test]
fn depth_comes_back_when_what_took_the_room_has_gone() {
    let segment = |number: usize| ["a", "b", "c", "d"][number % 4];
    let paths: Vec<String> =
        (0..4096).map(|n| (0..6).map(|at| format!("/{}", segment(n / 4_usize.pow(at)))).collect()).collect();
    let mut templates = learned(paths.iter().map(String::as_str));
    templates.retain(&mut |_: &mut Count| true);
    assert_eq!(templates.deepest, 4, "all of it is still there");
    templates.retain(&mut |_: &mut Count| false);
    templates.learn("/a/b/c/d/a/b", |count| count.0 += 1);
    assert_eq!(texts(&templates), ["/a/b/c/d/a/b 1"]);
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![4 => "[a-d]", 2 => "[a-z]{1,2}", 1 => "[0-9]{1,3}"];
    let segments = prop::collection::vec(segment, 0..6);
    (segments, any::<bool>()).prop_map(|(segments, slash)| match (&segments[..], slash) {
        ([], _) => "/".to_owned(),
        (_, slash) => format!("/{}{}", segments.join("/"), if slash { "/" } else { "" }),
    })
}

proptest! {
    #[test]
    fn the_order_of_uses_changes_nothing(paths in prop::collection::vec(path(), 0..120), seed: u64) {
        let mut shuffled = paths.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let one = learned(paths.iter().map(String::as_str));
        let other = learned(shuffled.iter().map(String::as_str));
        prop_assert_eq!(texts(&one), texts(&other));
    }

    #[test]
    fn each_path_is_covered_by_a_template_read_as_a_rule(paths in prop::collection::vec(path(), 1..120)) {
        let templates = learned(paths.iter().map(String::as_str));
        let all = templates.all();
        let rules = all.iter().map(|(text, _)| Rule::parse(&format!("GET {text}"), Form::Strict));
        let allow = Allow::These(rules.collect::<Result<_, _>>().expect("rules"));
        let rules = Rules { form: Form::Strict, allow, deny: Vec::new(), minting: Vec::new() };
        for path in paths.iter().filter_map(|path| Form::Strict.canonical(path).ok()) {
            prop_assert!(rules.judge(&http::Method::GET, &path).is_ok(), "{}", path.as_str());
        }
    }

    #[test]
    fn what_was_written_is_read_again(paths in prop::collection::vec(path(), 0..60)) {
        let templates = learned(paths.iter().map(String::as_str));
        let written = serde_json::to_string(&templates).expect("JSON");
        let again: Templates<Count> = serde_json::from_str(&written).expect("what was written");
        prop_assert_eq!((texts(&again), again.size), (texts(&templates), templates.size));
    }
}
