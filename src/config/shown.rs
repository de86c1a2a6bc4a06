//! The config as operators may see it. A config holds references to secrets and no secret; what may hold one all the same,
//! because its words are somebody else's, is left out.

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

/// Values that other parties gave a meaning, and digests of keys that may have been short.
const LEFT_OUT: [&str; 4] = ["extra", "headers", "command", "parameters"];

/// What stands in the place of what is left out.
const MARK: &str = "(not shown)";

pub fn shown(table: &DeTable<'_>) -> Value {
    Value::Object(object(table))
}

fn object(table: &DeTable<'_>) -> Map<String, Value> {
    let entry = |key: &str, item: &DeValue<'_>| {
        let digest = item.as_str().is_some_and(|text| key == "key" && text.starts_with("sha256:"));
        let command = item.as_str().is_some_and(|text| text.starts_with("exec:"));
        match LEFT_OUT.contains(&key) || digest || command {
            true => MARK.into(),
            false => value(item),
        }
    };
    table.iter().map(|(key, item)| (key.get_ref().to_string(), entry(key.get_ref(), item.get_ref()))).collect()
}

fn value(item: &DeValue<'_>) -> Value {
    match item {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.as_str().into(), Value::from)
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or(Value::Null, Value::from),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(list) => list.iter().map(|item| value(item.get_ref())).collect(),
        DeValue::Table(table) => Value::Object(object(table)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_a_secret_is_left_out_and_all_else_is_shown() {
        let text = r#"
[a]
key = "sha256:00"
n = 0x10
f = 1.5
on = true
[[b]]
key = "file:/key"
when = 2027-01-01
source = { kind = "exec", command = ["/bin/x", "secret"], headers = { A = "secret" }, extra = { b = "secret" } }
other = "exec:/bin/x secret"
"#;
        let table = DeTable::parse(text).expect("TOML");
        let left_out = "(not shown)";
        assert_eq!(
            shown(table.get_ref()),
            serde_json::json!({
                "a": { "key": left_out, "n": 16, "f": 1.5, "on": true },
                "b": [{
                    "key": "file:/key",
                    "when": "2027-01-01",
                    "source": { "kind": "exec", "command": left_out, "headers": left_out, "extra": left_out },
                    "other": left_out,
                }],
            })
        );
    }
}
