//! `clients key`

use crate::support::Place;

#[test]
fn a_key_is_printed_alone_and_how_to_keep_it_beside() {
    let place = Place::empty();
    for (arguments, begins, length) in [
        (&["clients", "key", "billing"][..], "sk-", 51),
        (&["clients", "key", "billing", "--format", "ghp"], "ghp_", 40),
        (&["clients", "key", "billing", "--format", "xoxb"], "xoxb-", 56),
        (&["clients", "key", "billing", "--format", "own.{40:hex}"], "own.", 44),
        (&["clients", "key", "billing", "--format", "anthropic"], "sk-ant-api03-", 108),
    ] {
        let ended = place.run(arguments);
        assert_eq!(ended.code, 0, "{}", ended.err);
        let key = ended.out.strip_suffix('\n').expect("a line");
        assert!(key.starts_with(begins) && key.len() == length && !key.contains('\n'), "{key}");
        assert!(
            ended.err.contains("key = \"file:/etc/countersign/billing.key\"") && !ended.err.contains(key),
            "{}",
            ended.err
        );
    }
    for bad in [&["clients", "key", "billing", "--format", "kk"][..], &["clients", "key", "Bad Name"]] {
        let ended = place.run(bad);
        assert_eq!((ended.code, ended.out.as_str()), (64, ""), "{}", ended.err);
    }
}
