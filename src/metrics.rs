//! What every part needs to own its metrics: full names with help and unit, label values that come from the config only,
//! and buckets that fit what is measured.
//!
//! Invariant: no label value is taken from a request or an answer, so the config bounds the number of series.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

pub use prometheus::Error;

/// A request: 0.5 ms to 60 s.
pub const REQUEST_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Our own share of a request: 5 us to 10 ms.
pub const OVERHEAD_SECONDS: &[f64] =
    &[0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01];

/// A generation's life: 5 s to 30 days.
pub const LIFE_SECONDS: &[f64] =
    &[5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 10_800.0, 43_200.0, 86_400.0, 604_800.0, 2_592_000.0];

/// From a request to what it is for: 10 ms of a machine's work to a week of people's.
pub const PROVISION_SECONDS: &[f64] =
    &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0, 3600.0, 28_800.0, 86_400.0, 604_800.0];

/// From the beginning of a misuse to the answer to it: a second to 30 days.
pub const DETECT_SECONDS: &[f64] =
    &[1.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 28_800.0, 86_400.0, 259_200.0, 604_800.0, 2_592_000.0];

/// The registry, and short ways to make metrics in it.
#[derive(Clone)]
pub struct Metrics(Registry);

impl Metrics {
    /// A registry with the process's own metrics (`process_*`) and `countersign_build_info`.
    pub fn new() -> Result<Self, Error> {
        let metrics = Self(Registry::new());
        metrics.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let info = metrics.gauges("build_info", "What runs: always 1.", &["version", "revision"])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), crate::REVISION]).set(1);
        Ok(metrics)
    }

    pub fn registry(&self) -> &Registry {
        &self.0
    }

    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::with_opts(opts(name, help))?)
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.register(IntCounterVec::new(opts(name, help), labels)?)
    }

    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.register(IntGauge::with_opts(opts(name, help))?)
    }

    /// A gauge of a share, from 0 to 1.
    pub fn ratio(&self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.register(Gauge::with_opts(opts(name, help))?)
    }

    /// Such gauges, one for each of these labels.
    pub fn ratios(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Error> {
        self.register(GaugeVec::new(opts(name, help), labels)?)
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, Error> {
        self.register(IntGaugeVec::new(opts(name, help), labels)?)
    }

    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts)?)
    }

    pub fn histograms(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> Result<HistogramVec, Error> {
        let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels)?)
    }

    /// Everything in the text format of Prometheus (version 0.0.4).
    pub fn scrape(&self) -> String {
        let mut text = String::new();
        let encoder = prometheus::TextEncoder::new();
        match encoder.encode_utf8(&self.0.gather(), &mut text) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "cannot write the metrics");
                String::new()
            }
        }
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("countersign_{name}"), help)
}
