//! `schema`

use crate::support::Place;

#[test]
fn it_prints_the_schema_that_is_shipped() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/countersign.schema.json");
    let shipped = std::fs::read_to_string(shipped).expect("the schema");
    assert_eq!(Place::empty().run(&["schema"]).ok(), shipped);
}
