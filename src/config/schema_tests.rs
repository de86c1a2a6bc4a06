//! The schema and the reader know the same keys and words, and the schema takes every example that the reader takes.
//!
//! A section of the reader and an object of the schema belong together by their title. Of a section that has several objects,
//! such as one for each kind of source, the keys are taken together.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;
use serde_json::{Value, json};
use toml::de::{DeTable, DeValue};

use super::reader::asked;
use super::{Config, Environment, SCHEMA};

const FULL: &str = include_str!("tests/full.toml");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("JSON")
}

/// Every key and every word of the schema, as the reader would note them.
fn of_schema() -> BTreeSet<[String; 3]> {
    let schema = schema();
    let objects = schema["$defs"].as_object().expect("definitions").values().chain([&schema]);
    let mut all = BTreeSet::new();
    for object in objects.filter(|object| object["properties"].is_object()) {
        assert_eq!(object["additionalProperties"], false, "{}", object["title"]);
        let title = object["title"].as_str().expect("a title");
        for (key, property) in object["properties"].as_object().expect("properties") {
            all.insert([title, key, ""].map(str::to_owned));
            all.extend(words(property).into_iter().map(|word| [title, key, word].map(str::to_owned)));
        }
    }
    all
}

/// The words that a property can be, or a list in it can hold; those beside another form are words too, but `any` of `allow`, which is no choice.
fn words(property: &Value) -> Vec<&str> {
    let of_items = property["items"]["enum"].as_array().into_iter().flatten();
    let own = property["enum"].as_array().into_iter().flatten().chain(of_items).chain([&property["const"]]);
    let own = own.filter_map(Value::as_str);
    let beside = property["anyOf"].as_array().into_iter().flatten();
    let beside = beside.flat_map(|form| form["enum"].as_array().into_iter().flatten()).filter_map(Value::as_str);
    own.chain(beside).collect()
}

#[test]
fn the_schema_and_the_reader_know_the_same_keys_and_words() {
    asked::take();
    Config::parse(FULL, "full.toml", Path::new("/etc/countersign"), &Environment::default()).expect("a good config");
    let (read, known) = (asked::take(), of_schema());
    let only = |one: &BTreeSet<[String; 3]>, other: &BTreeSet<[String; 3]>| {
        one.difference(other).map(|entry| entry.join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(only(&read, &known), [""; 0], "the reader takes these, and config/countersign.schema.json has them not");
    assert_eq!(only(&known, &read), [""; 0], "config/countersign.schema.json has these; does tests/full.toml?");
}

#[test]
fn the_example_with_everything_has_a_source_of_every_kind() {
    let example = json_of(FULL);
    let kinds: BTreeSet<&str> = example["token"]
        .as_array()
        .expect("tokens")
        .iter()
        .filter_map(|token| token["source"]["kind"].as_str())
        .collect();
    let known = of_schema();
    let known = known.iter().filter(|[title, key, _]| title == "`source`" && key == "kind");
    let known: BTreeSet<&str> = known.map(|[.., kind]| kind.as_str()).filter(|kind| !kind.is_empty()).collect();
    assert_eq!(kinds, known);
}

#[test]
fn the_schema_takes_every_example() {
    let shipped = [include_str!("../../config/countersign.toml"), include_str!("../../config/demo.toml")];
    for text in shipped.into_iter().chain([FULL, include_str!("tests/good.toml")]) {
        let problems = problems(&schema(), &json_of(text));
        assert!(problems.is_empty(), "{problems:#?}\n{text}");
    }
}

#[test]
fn the_schema_takes_what_the_documentation_writes_as_a_source() {
    let documentation = include_str!("../../docs/configuration.md");
    let written = documentation.split('`').filter(|text| text.starts_with("source = {") && !text.contains("..."));
    let sources: Vec<&str> = written.collect();
    assert!(!sources.is_empty());
    for source in sources {
        let source = &json_of(source)["source"];
        let problems = problems(&schema()["$defs"]["source"], source);
        assert!(problems.is_empty(), "{source}: {problems:?}");
    }
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let good = include_str!("tests/good.toml");
    for (before, after) in [
        ("[[route]]", "[[route]]\nnonsense = 1"),
        ("[[route]]", "[[route]]\npath = \"loose\""),
        ("allow = ", "allow = \"all\"\ndeny = "),
        ("[[route]]", "[[route]]\ntimeouts = { idle = 5 }"),
        ("[[route]]", "[[route]]\ntimeouts = { idle = \"5 minutes\" }"),
        ("[[token]]", "[[client]]\nname = \"App\"\nuid = 1\n[[token]]"),
        ("[[token]]", "[proxy]\nworkers = 0\n[[token]]"),
        ("kind = \"", "kind = \"un"),
        ("owner", "reason_for_owner"),
    ] {
        let text = good.replacen(before, after, 1);
        assert_ne!(text, good, "{before}");
        assert!(!problems(&schema(), &json_of(&text)).is_empty(), "the schema takes {after}");
        let read = Config::parse(&text, "bad.toml", Path::new("/"), &Environment::default());
        assert!(read.is_err(), "the reader takes {after}");
    }
}

/// A TOML text as editors see it.
fn json_of(text: &str) -> Value {
    fn table(table: &DeTable<'_>) -> Value {
        table.iter().map(|(key, item)| (key.get_ref().to_string(), value(item.get_ref()))).collect()
    }
    fn value(item: &DeValue<'_>) -> Value {
        match item {
            DeValue::String(text) => json!(text),
            DeValue::Integer(number) => json!(i64::from_str_radix(number.as_str(), number.radix()).expect("a number")),
            DeValue::Float(number) => json!(number.as_str().parse::<f64>().expect("a number")),
            DeValue::Boolean(truth) => json!(truth),
            DeValue::Datetime(time) => json!(time.to_string()),
            DeValue::Array(list) => list.iter().map(|item| value(item.get_ref())).collect(),
            DeValue::Table(inner) => table(inner),
        }
    }
    table(DeTable::parse(text).unwrap_or_else(|error| panic!("{error}: {text}")).get_ref())
}

/// What a value breaks of a schema: as much of JSON Schema as ours uses, and no keyword that is not known here.
fn problems(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |holds: bool, keyword: &str| {
        if !holds {
            found.push(format!("{keyword}: {value}"));
        }
    };
    let number = |bound: &Value| bound.as_f64().expect("a number");
    let list = |all: &Value| all.as_array().expect("a list").clone();
    let mut inner: Vec<(Value, &Value)> = Vec::new();
    for (keyword, rule) in schema.as_object().expect("an object") {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "examples" => {}
            "$ref" => {
                let name = rule.as_str().expect("a reference").strip_prefix("#/$defs/").expect("one of ours");
                inner.push((self::schema()["$defs"][name].clone(), value));
            }
            "type" => check(is_of(rule, value), keyword),
            "const" => check(rule == value, keyword),
            "enum" => check(list(rule).contains(value), keyword),
            "pattern" => {
                let pattern = Regex::new(rule.as_str().expect("a pattern")).expect("a pattern");
                check(value.as_str().is_none_or(|text| pattern.is_match(text)), keyword);
            }
            "minLength" => check(value.as_str().is_none_or(|text| text.len() as f64 >= number(rule)), keyword),
            "maxLength" => {
                check(value.as_str().is_none_or(|text| text.chars().count() as f64 <= number(rule)), keyword);
            }
            "minimum" => check(value.as_f64().is_none_or(|own| own >= number(rule)), keyword),
            "maximum" => check(value.as_f64().is_none_or(|own| own <= number(rule)), keyword),
            "minItems" => check(value.as_array().is_none_or(|items| items.len() as f64 >= number(rule)), keyword),
            "items" => inner.extend(value.as_array().into_iter().flatten().map(|item| (rule.clone(), item))),
            "required" => {
                let has = |key: &Value| value.get(key.as_str().expect("a key")).is_some();
                check(list(rule).iter().all(has), keyword);
            }
            "anyOf" => check(list(rule).iter().any(|form| problems(form, value).is_empty()), keyword),
            "oneOf" => {
                let fitting = list(rule).iter().filter(|form| problems(form, value).is_empty()).count();
                check(fitting == 1, keyword);
            }
            "properties" => {
                let known = rule.as_object().expect("properties").iter();
                inner.extend(known.filter_map(|(key, property)| Some((property.clone(), value.get(key)?))));
            }
            "additionalProperties" => {
                let known = schema["properties"].as_object();
                let others = value.as_object().into_iter().flatten();
                let others = others.filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)));
                match rule {
                    Value::Bool(allowed) => check(*allowed || others.count() == 0, keyword),
                    form => inner.extend(others.map(|(_, other)| (form.clone(), other))),
                }
            }
            other => panic!("the keyword {other} is not known to this test"),
        }
    }
    found.into_iter().chain(inner.into_iter().flat_map(|(schema, value)| problems(&schema, value))).collect()
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        other => panic!("the type {other} is not known to this test"),
    }
}
