//! What the trail says of itself to Prometheus.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The audit trail's metrics; clones share their values.
#[derive(Clone)]
pub struct Metrics {
    pub(super) records: IntCounterVec,
    pub(super) lost: IntCounter,
    pub(super) failures: IntCounterVec,
    pub(super) healthy: IntGauge,
    pub(super) checkpoint_size: IntGauge,
    pub(super) checkpoint_time: IntGauge,
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
        };
        registry.register(Box::new(metrics.records.clone()))?;
        registry.register(Box::new(metrics.lost.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.healthy.clone()))?;
        registry.register(Box::new(metrics.checkpoint_size.clone()))?;
        registry.register(Box::new(metrics.checkpoint_time.clone()))?;
        for operation in Operation::ALL {
            metrics.failures.with_label_values(&[operation.name()]);
        }
        Ok(metrics)
    }
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
}

impl Operation {
    pub const ALL: [Self; 6] = [Self::Open, Self::Write, Self::Sync, Self::Cut, Self::Reserve, Self::Checkpoint];

    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Cut => "cut",
            Self::Reserve => "reserve",
            Self::Checkpoint => "checkpoint",
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
                "countersign_audit_records_total"
            ]
        );
        assert!(Metrics::register(&registry).is_err());
    }
}
