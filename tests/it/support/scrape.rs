//! A scrape of the metrics, read as Prometheus reads it.

use std::collections::BTreeMap;

pub struct Scrape(Vec<Series>);

struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(series).collect())
    }

    /// The sum of all series of this name that have at least these labels; `None` if there is none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |series: &&Series| {
            labels.iter().all(|(label, value)| series.labels.get(*label).is_some_and(|own| own == value))
        };
        let found: Vec<f64> =
            self.0.iter().filter(|series| series.name == name).filter(has).map(|series| series.value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// As [`Scrape::find`], 0 for a counter that nothing has counted yet.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or(0.0)
    }
}

/// No label of ours holds a quotation mark or a comma.
fn series(line: &str) -> Series {
    let (name, value) = line.rsplit_once(' ').expect("a name and a value");
    let (name, labels) = match name.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("a brace")),
        None => (name, ""),
    };
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
        let (label, value) = label.split_once('=').expect("a label's value");
        (label.to_owned(), value.trim_matches('"').to_owned())
    });
    Series { name: name.to_owned(), labels: labels.collect(), value: value.parse().expect("a number") }
}
