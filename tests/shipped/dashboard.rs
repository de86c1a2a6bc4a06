//! The dashboard: whoever looks at it knows what each figure is, and in which unit.

use std::collections::BTreeSet;

use serde_json::Value;

use super::shipped;

/// What Grafana itself knows.
const BUILT_IN: [&str; 2] = ["__rate_interval", "__range"];

/// The columns that Grafana divides a dashboard into.
const COLUMNS: u64 = 24;

#[test]
fn each_panel_says_what_it_shows_and_in_which_unit() {
    let panels = panels();
    assert!(panels.len() > 30, "{}", panels.len());
    for panel in &panels {
        let title = panel["title"].as_str().expect("a title");
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{title}: {description:?} is no sentence");
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
        assert!(!unit.is_empty(), "{title} has no unit");
    }
}

#[test]
fn no_panel_takes_the_number_or_the_place_of_another() {
    let dashboard = dashboard();
    let all = dashboard["panels"].as_array().expect("panels");
    let (mut numbers, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in all {
        let (number, title) = (panel["id"].as_u64().expect("a number"), &panel["title"]);
        assert!(numbers.insert(number), "{title} has the number of another");
        let [x, y, width, height] = ["x", "y", "w", "h"]
            .map(|side| panel["gridPos"][side].as_u64().unwrap_or_else(|| panic!("{title}: {side}")));
        assert!(x + width <= COLUMNS && width > 0 && height > 0, "{title}");
        for place in (x..x + width).flat_map(|column| (y..y + height).map(move |line| (column, line))) {
            assert!(taken.insert(place), "{title} lies over another");
        }
    }
}

#[test]
fn each_query_goes_to_the_data_source_that_was_chosen_and_uses_variables_that_there_are() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let known: BTreeSet<&str> =
        variables.iter().map(|variable| variable["name"].as_str().expect("a name")).chain(BUILT_IN).collect();
    assert!(known.contains("token") && known.contains("datasource"), "{known:?}");
    for panel in panels() {
        let (title, targets) = (&panel["title"], panel["targets"].as_array().expect("queries"));
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let query = target["expr"].as_str().expect("a query");
            for rest in query.split('$').skip(1) {
                let end = rest.find(|character: char| !character.is_alphanumeric() && character != '_');
                let variable = &rest[..end.unwrap_or(rest.len())];
                assert!(known.contains(variable), "{title}: there is no ${variable}");
            }
        }
    }
}

/// All but the rows' titles.
fn panels() -> Vec<Value> {
    let panels = dashboard()["panels"].as_array().expect("panels").clone();
    panels.into_iter().filter(|panel| panel["type"] != "row").collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&shipped("deploy/grafana/dashboard.json")).expect("JSON")
}
