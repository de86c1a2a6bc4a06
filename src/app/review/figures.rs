//! How fast things went, for the report: as the histograms of the scrape have it.

use prometheus::Registry;

use crate::review::Figure;

/// The families that tell it, without their prefix.
const FAMILIES: [&str; 4] =
    ["time_to_provision_seconds", "time_to_detect_seconds", "time_to_replace_seconds", "token_lifetime_seconds"];

/// What has been measured so far, a figure for each series.
pub fn figures(registry: &Registry) -> Vec<Figure> {
    let families = registry.gather();
    let known = families.iter().filter_map(|family| {
        let name = family.name().strip_prefix("countersign_")?;
        FAMILIES.contains(&name).then_some((name, family))
    });
    let series = known.flat_map(|(name, family)| family.get_metric().iter().map(move |metric| (name, metric)));
    let figure = |(name, metric): (&str, &prometheus::proto::Metric)| {
        let histogram = metric.get_histogram();
        let count = histogram.get_sample_count();
        let labels: Vec<String> =
            metric.get_label().iter().map(|label| format!("{} {}", label.name(), label.value())).collect();
        let within = |share: f64| {
            let buckets = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
            let mut enough = buckets.filter(|bucket| bucket.cumulative_count() as f64 >= share * count as f64);
            enough.next().map(prometheus::proto::Bucket::upper_bound)
        };
        (count > 0).then(|| Figure {
            name: if labels.is_empty() { name.to_owned() } else { format!("{name} ({})", labels.join(", ")) },
            count,
            mean_seconds: histogram.get_sample_sum() / count as f64,
            half_within_seconds: within(0.5),
            most_within_seconds: within(0.95),
        })
    };
    series.filter_map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{LIFE_SECONDS, Metrics};

    #[test]
    fn a_figure_says_how_often_and_about_how_long() {
        let metrics = Metrics::new().expect("metrics");
        let of = |name: &str| metrics.histogram(name, "It.", LIFE_SECONDS).expect("a histogram");
        let (lifetime, _unmeasured, _other) =
            (of("token_lifetime_seconds"), of("time_to_detect_seconds"), of("elsewhere_seconds"));
        [4.0, 14.0, 42.0, 1e9].into_iter().for_each(|seconds| lifetime.observe(seconds));
        let figures = figures(metrics.registry());
        let [figure] = &figures[..] else { panic!("one is measured: {figures:?}") };
        assert_eq!((&*figure.name, figure.count), ("token_lifetime_seconds", 4));
        assert_eq!((figure.half_within_seconds, figure.most_within_seconds), (Some(15.0), None));
    }
}
