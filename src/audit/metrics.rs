//! What the trail says of itself to Prometheus.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::AccessCounts;
use super::figures::{Figure, Measured, Told, Week, Weeks};
use crate::metrics::{DETECT_SECONDS, LIFE_SECONDS, PROVISION_SECONDS};

/// The audit trail's metrics; clones share their values.
#[derive(Clone)]
pub struct Metrics {
    pub(super) records: IntCounterVec,
    pub(super) lost: IntCounter,
    pub(super) failures: IntCounterVec,
    pub(super) healthy: IntGauge,
    pub(super) checkpoint_size: IntGauge,
    pub(super) checkpoint_time: IntGauge,
    pub(super) exports: IntCounterVec,
    pub(super) exported_size: IntGaugeVec,
    pub(super) exported_time: IntGaugeVec,
    provision: HistogramVec,
    detect: Histogram,
    replace: Histogram,
    lifetime: Histogram,
    weeks: Arc<Mutex<Weeks>>,
}

impl Metrics {
    /// # Errors
    /// When the registry has metrics of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            records: IntCounterVec::new(
                Opts::new("countersign_audit_records_total", "Records that are durable in the audit trail."),
                &["event"],
            )?,
            lost: IntCounter::new(
                "countersign_audit_records_lost_total",
                "Records that never reached the audit trail; their number is recorded there.",
            )?,
            failures: IntCounterVec::new(
                Opts::new("countersign_audit_failures_total", "Failed operations on the audit trail's files."),
                &["operation"],
            )?,
            healthy: IntGauge::new("countersign_audit_healthy", "1 while the audit trail can be written.")?,
            checkpoint_size: IntGauge::new(
                "countersign_audit_checkpoint_size",
                "How many records the last checkpoint of the audit trail covers.",
            )?,
            checkpoint_time: IntGauge::new(
                "countersign_audit_checkpoint_timestamp_seconds",
                "When a checkpoint of the audit trail was last signed, as Unix time.",
            )?,
            exports: IntCounterVec::new(
                Opts::new(
                    "countersign_audit_exports_total",
                    "Checkpoints of the audit trail on their way off the machine: sent, failed and tried again, or superseded \
                     by newer ones.",
                ),
                &["sink", "outcome"],
            )?,
            exported_size: IntGaugeVec::new(
                Opts::new(
                    "countersign_audit_exported_size",
                    "How many records the last checkpoint covers that a sink has taken.",
                ),
                &["sink"],
            )?,
            exported_time: IntGaugeVec::new(
                Opts::new(
                    "countersign_audit_exported_timestamp_seconds",
                    "When a sink has last taken a checkpoint, as Unix time.",
                ),
                &["sink"],
            )?,
            provision: HistogramVec::new(
                HistogramOpts::new(
                    "countersign_time_to_provision_seconds",
                    "From an access request to its approval, from there to the first generation, and from there to the first \
                     request that its upstream accepted, by stage: decision, generation, use.",
                )
                .buckets(PROVISION_SECONDS.into()),
                &["stage"],
            )?,
            detect: histogram(
                "countersign_time_to_detect_seconds",
                "From the beginning of a misuse, where it is known, to the quarantine or revocation that answers it.",
                DETECT_SECONDS,
            )?,
            replace: histogram(
                "countersign_time_to_replace_seconds",
                "From a quarantine or revocation to a generation that may be used again; in a drill, until the replaced \
                 generation is void at its issuer.",
                PROVISION_SECONDS,
            )?,
            lifetime: histogram(
                "countersign_token_lifetime_seconds",
                "From the issue of each generation until it is void at its issuer or has run out.",
                LIFE_SECONDS,
            )?,
            weeks: Arc::default(),
        };
        registry.register(Box::new(metrics.records.clone()))?;
        registry.register(Box::new(metrics.lost.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.healthy.clone()))?;
        registry.register(Box::new(metrics.checkpoint_size.clone()))?;
        registry.register(Box::new(metrics.checkpoint_time.clone()))?;
        registry.register(Box::new(metrics.exports.clone()))?;
        registry.register(Box::new(metrics.exported_size.clone()))?;
        registry.register(Box::new(metrics.exported_time.clone()))?;
        registry.register(Box::new(metrics.provision.clone()))?;
        for histogram in [&metrics.detect, &metrics.replace, &metrics.lifetime] {
            registry.register(Box::new(histogram.clone()))?;
        }
        for operation in Operation::ALL {
            metrics.failures.with_label_values(&[operation.name()]);
        }
        Ok(metrics)
    }

    /// What was measured before the start: the histograms are of what comes after it.
    pub(super) fn went_before(&self, weeks: Weeks) {
        *self.weeks() = weeks;
    }

    /// All that is measured, week by week.
    pub(super) fn by_week(&self) -> Vec<Week> {
        self.weeks().list()
    }

    /// How the active tokens stood, week by week.
    pub(super) fn trend(&self) -> Vec<(String, AccessCounts)> {
        self.weeks().trend()
    }

    pub(super) fn stood(&self, told: &Told) {
        if let Some(counts) = told.counts() {
            self.weeks().stood(told.at(), counts);
        }
    }

    fn weeks(&self) -> MutexGuard<'_, Weeks> {
        self.weeks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows how long something took.
    pub(super) fn measured(&self, measured: &[Measured]) {
        if measured.is_empty() {
            return;
        }
        self.weeks().add(measured);
        for Measured { figure, took, .. } in measured {
            let histogram = match figure {
                Figure::Decision => &self.provision.with_label_values(&["decision"]),
                Figure::Generation => &self.provision.with_label_values(&["generation"]),
                Figure::Use => &self.provision.with_label_values(&["use"]),
                Figure::Detect => &self.detect,
                Figure::Replace => &self.replace,
                Figure::Lifetime => &self.lifetime,
            };
            histogram.observe(took.as_secs_f64());
        }
    }
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.into()))
}

/// What failed on the disk: a label, and a field of the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Open,
    Write,
    Sync,
    Cut,
    Reserve,
    Checkpoint,
    Journal,
}

impl Operation {
    pub const ALL: [Self; 7] =
        [Self::Open, Self::Write, Self::Sync, Self::Cut, Self::Reserve, Self::Checkpoint, Self::Journal];

    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Cut => "cut",
            Self::Reserve => "reserve",
            Self::Checkpoint => "checkpoint",
            Self::Journal => "journal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_are_registered_once() {
        let registry = Registry::new();
        Metrics::register(&registry).expect("a new registry").records.with_label_values(&["start"]).inc();
        let families = registry.gather();
        let names: Vec<&str> = families.iter().map(prometheus::proto::MetricFamily::name).collect();
        assert_eq!(
            names,
            [
                "countersign_audit_checkpoint_size",
                "countersign_audit_checkpoint_timestamp_seconds",
                "countersign_audit_failures_total",
                "countersign_audit_healthy",
                "countersign_audit_records_lost_total",
                "countersign_audit_records_total",
                "countersign_time_to_detect_seconds",
                "countersign_time_to_replace_seconds",
                "countersign_token_lifetime_seconds"
            ]
        );
        assert!(Metrics::register(&registry).is_err());
    }
}
