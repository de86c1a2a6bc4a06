//! What is kept over a restart, and the room that it takes.

use super::*;

#[test]
fn a_client_that_made_room_is_not_new_when_it_comes_back() {
    let mut engine = usual();
    let client = |number: u64| format!("client-{number}");
    for number in 0..1200 {
        engine.observe(&request("github", &client(number), NOW + number));
    }
    let mut restored = Engine::default();
    for (name, page) in engine.pages(0, 10) {
        restored.restore(&name, &page);
    }
    assert!(restored.tokens["github"].clients.len() < 1200, "not all of them are kept");
    for number in 0..1200 {
        let told = restored.observe(&request("github", &client(number), NOW + DAY + number));
        assert!(told.iter().all(|anomaly| anomaly.signal() != Signal::NewClient), "{number}: {told:?}");
    }
}

#[test]
fn what_is_taken_up_has_the_bound_of_what_is_learned() {
    let mut engine = Engine::default();
    for number in 0..500 {
        engine.observe(&request("github", &format!("client-{number}"), number));
    }
    let (_, page) = engine.pages(0, 1).remove(0);
    let mut restored = Engine::default();
    for number in 0..2 * MOST_PROFILES / 500 {
        restored.restore(&format!("token-{number}"), &page).expect("it was kept");
        assert!(restored.profiles < MOST_PROFILES, "{}", restored.profiles);
    }
    let profiles: usize = restored.tokens.values().map(|token| token.clients.len()).sum();
    assert_eq!(profiles, restored.profiles);
}

#[test]
fn names_without_end_take_no_room_without_end() {
    let mut engine = Engine::default();
    for number in 0..MOST_TOKENS as u64 + 50 {
        engine.observe(&request(&format!("token-{number}"), "app", number));
    }
    assert!(engine.tokens.len() <= MOST_TOKENS);
    assert!(!engine.tokens.contains_key("token-0"), "the one that rested longest made room");
    assert_eq!(engine.profiles, engine.tokens.len());
    for number in 0..MOST_HOSTS as u64 + 50 {
        let host = format!("{number}.example.com");
        engine.observe(&Event { host, ..request("token-100", "app", 10_000 + number) });
    }
    assert!(engine.hosts.len() <= MOST_HOSTS);
    for number in 0..MOST_SHADOWS as u64 + 50 {
        let shadow = request("token-100", &format!("client-{number}"), 12_000 + number);
        assert_eq!(engine.observe(&Event { event: Some(Step::Shadow), ..shadow }).is_empty(), number >= 16);
    }
    assert!(engine.tokens["token-100"].shadows.len() <= MOST_SHADOWS);
}

#[test]
fn what_was_kept_is_taken_up_and_goes_on_as_if_nothing_had_been() {
    let mut engine = usual();
    let mut restored = Engine::default();
    for (name, page) in engine.pages(0, 10) {
        assert_eq!(restored.restore(&name, &page), Some(MONDAY + 10 * DAY - 300));
    }
    assert_eq!((restored.tokens.len(), restored.profiles), (2, 2));
    assert_eq!(engine.pages(0, 10), [], "nothing has changed since");
    for second in 0..300 {
        for (client, status) in [("app", 404), ("stranger", 200)] {
            let path = format!("/admin/{second}");
            let event = Event { path, status, ..request("github", client, NOW + second) };
            assert_eq!(engine.observe(&event), restored.observe(&event), "{second}");
        }
    }
    assert!(restored.tokens["github"].open.is_some(), "there was something to tell");
}

#[test]
fn what_is_told_and_goes_on_does_so_over_a_restart_until_a_person_says_otherwise() {
    let mut engine = usual();
    let restarted = |engine: &mut Engine| {
        let mut restored = Engine::default();
        for (name, page) in engine.pages(0, 10) {
            restored.restore(&name, &page).expect("it was kept");
        }
        restored
    };
    let at = |seconds: u64| Time(Duration::from_secs(MONDAY + NOW + seconds));
    let delete = |seconds| Event { method: "DELETE".to_owned(), ..request("github", "app", NOW + seconds) };
    let shadow = |seconds| Event { event: Some(Step::Shadow), ..request("github", "app", NOW + seconds) };
    assert_eq!((engine.observe(&delete(0)).len(), engine.observe(&shadow(1)).len()), (1, 1));
    for hour in 1..4 {
        engine = restarted(&mut engine);
        let times = [hour * HOUR - 60, hour * HOUR];
        assert_eq!((engine.observe(&delete(times[0])), engine.observe(&shadow(times[1]))), (vec![], vec![]), "{hour}");
        assert!(engine.goes_on("github", "app", at(times[1])), "{hour}");
    }
    assert!(!restarted(&mut engine).goes_on("github", "app", at(4 * HOUR)), "nothing more is seen of it");
    engine.observe(&delete(4 * HOUR - 1));
    engine.close("github");
    let mut engine = restarted(&mut engine);
    assert!(!engine.goes_on("github", "app", at(4 * HOUR)), "somebody has said that it may be");
    assert_eq!(engine.pages(0, 10), []);
}

#[test]
fn a_record_has_a_bound_whatever_is_told() {
    let mut engine = Engine::default();
    let name = |number: u64| format!("{number:0>64}");
    for number in 0..2000 {
        let mut event = request("github", &name(number), number);
        event.host = format!("{number:0>250}");
        engine.observe(&event);
        engine.observe(&Event { event: Some(Step::Shadow), ..event });
    }
    let token = engine.tokens.get_mut("github").expect("a token");
    for number in 0..2000 {
        let mut event = request("github", &name(number), 3000);
        for host in 0..10 {
            event.host = format!("{host:0>250}");
            let place = Finding::fact(Signal::NewPlace, 2.5, format!("first request to {}", event.host));
            let place = Finding { client: event.client.clone(), ..place };
            token.tell(event.time, "github", &event, vec![place]);
        }
    }
    let bytes = token.page().len();
    assert!(bytes < 1024 * 1024, "{bytes}");
    println!("{bytes} bytes at the most");
}

#[test]
fn a_token_is_kept_once_a_minute_and_so_many_at_once() {
    let mut engine = Engine::default();
    let names = |pages: Vec<(String, Vec<u8>)>| pages.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    for token in ["a", "b", "c"] {
        engine.observe(&request(token, "app", 0));
    }
    assert_eq!(names(engine.pages(60, 2)), [""; 0]);
    engine.pass(request("a", "app", 60).time);
    assert_eq!(names(engine.pages(60, 2)), ["a", "b"]);
    assert_eq!(names(engine.pages(60, 2)), ["c"]);
    engine.observe(&request("a", "app", 61));
    assert_eq!(names(engine.pages(60, 2)), [""; 0]);
    engine.not_kept(["b".to_owned()].into_iter());
    assert_eq!(names(engine.pages(0, 2)), ["a", "b"]);
}

#[test]
fn what_nobody_kept_is_not_taken_up() {
    let (name, page) = usual().pages(0, 1).remove(0);
    let mut engine = Engine::default();
    for wrong in [&page[..page.len() - 1], &[&page[..], &[0]].concat(), &[&[VERSION + 1], &page[1..]].concat(), &[]] {
        assert_eq!(engine.restore(&name, wrong), None);
    }
    assert_eq!((engine.tokens.len(), engine.profiles), (0, 0));
}

#[test]
fn ten_thousand_clients_of_tokens_take_less_than_two_kib_each_at_rest() {
    let mut engine = Engine::default();
    for number in 0..10_000 {
        engine.observe(&request(&format!("token-{}", number % 100), &format!("client-{}", number / 100), number));
    }
    let bytes: usize = engine.pages(0, 100).iter().map(|(_, page)| page.len()).sum();
    println!("{bytes} bytes for 10,000 clients of tokens");
    assert!(bytes < 2048 * 10_000, "{bytes}");
}
