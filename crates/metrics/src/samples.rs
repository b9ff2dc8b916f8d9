//! Values of metrics, and their text.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::metric::{About, Kind, Metric};

const COUNTER_SUFFIX: &str = "_total";

/// Samples, in the order of names and labels. A clone keeps numbers as they are; histograms go on
/// with whoever observes them.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug, Clone)]
struct Family {
    about: About,
    values: BTreeMap<Vec<String>, Value>,
}

#[derive(Debug, Clone)]
enum Value {
    Number(f64),
    Histogram(Histogram),
}

impl Samples {
    fn family<const N: usize>(&mut self, metric: &'static Metric<N>) -> &mut Family {
        let about = metric.about;
        let new = || Family {
            about,
            values: BTreeMap::new(),
        };
        self.families.entry(about.name).or_insert_with(new)
    }

    fn number<const N: usize>(&mut self, metric: &'static Metric<N>, labels: [&str; N]) -> &mut f64 {
        let values = &mut self.family(metric).values;
        let value = values.entry(owned(labels)).or_insert(Value::Number(0.0));
        match value {
            Value::Number(number) => number,
            Value::Histogram(_) => unreachable!("a histogram is observed: {}", metric.about.name),
        }
    }

    /// What is so now; of a counter, what somebody else has counted.
    pub fn set<const N: usize>(&mut self, metric: &'static Metric<N>, labels: [&str; N], value: f64) {
        *self.number(metric, labels) = value;
    }

    /// So many more. Adding 0 shows a counter before anything was counted, so that its first count
    /// is seen as a rise.
    pub fn add<const N: usize>(&mut self, metric: &'static Metric<N>, labels: [&str; N], more: f64) {
        *self.number(metric, labels) += more;
    }

    /// The histogram of these labels, shared with whoever observes it from elsewhere.
    pub fn histogram<const N: usize>(&mut self, metric: &'static Metric<N>, labels: [&str; N]) -> Histogram {
        let Kind::Histogram(bounds) = metric.about.kind else {
            unreachable!("{} is no histogram", metric.about.name)
        };
        let new = || Value::Histogram(Histogram::new(bounds.iter().copied()));
        match self
            .family(metric)
            .values
            .entry(owned(labels))
            .or_insert_with(new)
        {
            Value::Histogram(histogram) => histogram.clone(),
            Value::Number(_) => unreachable!("only histograms are kept of {}", metric.about.name),
        }
    }

    /// One more observation.
    pub fn observe<const N: usize>(&mut self, metric: &'static Metric<N>, labels: [&str; N], value: f64) {
        self.histogram(metric, labels).observe(value);
    }

    /// The text of a scrape.
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("a string takes all text");
        text
    }
}

fn owned<const N: usize>(labels: [&str; N]) -> Vec<String> {
    labels.map(str::to_owned).to_vec()
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.families
            .values()
            .try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let About { name, help, .. } = self.about;
        let (name, kind) = match self.about.kind {
            // The library puts it on again.
            Kind::Counter => (name.trim_end_matches(COUNTER_SUFFIX), MetricType::Counter),
            Kind::Gauge => (name, MetricType::Gauge),
            Kind::Histogram(_) => (name, MetricType::Histogram),
        };
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for (values, value) in &self.values {
            let names = self.about.labels.iter().copied();
            let labels: Vec<(&str, &str)> = names.zip(values.iter().map(String::as_str)).collect();
            self.encode_value(metric.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    fn encode_value(&self, mut encoder: MetricEncoder, value: &Value) -> fmt::Result {
        match (value, self.about.kind) {
            (Value::Histogram(histogram), _) => histogram.encode(encoder),
            (Value::Number(number), Kind::Counter) => match whole(*number) {
                Some(whole) => encoder.encode_counter::<NoLabelSet, u64, u64>(&whole, None),
                None => encoder.encode_counter::<NoLabelSet, f64, f64>(number, None),
            },
            (Value::Number(number), _) => match whole(*number) {
                Some(whole) => encoder.encode_gauge(&whole),
                None => encoder.encode_gauge(number),
            },
        }
    }
}

/// People read counts and bytes as whole numbers.
fn whole(number: f64) -> Option<u64> {
    let whole = number as u64;
    (whole as f64 == number && whole < u64::MAX).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::metric::table! {
        FRAMES: Kind::Counter, "t_frames_total" ["vm", "side"], "Frames";
        ROOM: Kind::Gauge, "t_room_bytes" [], "Room that is left";
        WAIT: Kind::Histogram(&[0.5, 2.0]), "t_wait_seconds" ["why"], "Waits";
    }

    #[test]
    fn each_kind_has_its_text() {
        let mut samples = Samples::default();
        samples.add(&FRAMES, ["vm2", "target"], 0.0);
        samples.add(&FRAMES, ["vm1", "source"], 2.0);
        samples.add(&FRAMES, ["vm1", "source"], 3.0);
        samples.set(&ROOM, [], 7.0);
        samples.set(&ROOM, [], -1.5);
        samples.observe(&WAIT, ["x"], 0.5);
        samples.observe(&WAIT, ["x"], 1.0);
        samples.observe(&WAIT, ["x"], 4.0);
        let expected = "\
# HELP t_frames_total Frames
# TYPE t_frames_total counter
t_frames_total{vm=\"vm1\",side=\"source\"} 5
t_frames_total{vm=\"vm2\",side=\"target\"} 0
# HELP t_room_bytes Room that is left
# TYPE t_room_bytes gauge
t_room_bytes -1.5
# HELP t_wait_seconds Waits
# TYPE t_wait_seconds histogram
t_wait_seconds_bucket{why=\"x\",le=\"0.5\"} 1
t_wait_seconds_bucket{why=\"x\",le=\"2\"} 2
t_wait_seconds_bucket{why=\"x\",le=\"+Inf\"} 3
t_wait_seconds_sum{why=\"x\"} 5.5
t_wait_seconds_count{why=\"x\"} 3
";
        assert_eq!(samples.text(), expected);
        let names = ALL.iter().map(|about| about.name);
        assert!(names.eq(["t_frames_total", "t_room_bytes", "t_wait_seconds"]));
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut samples = Samples::default();
        samples.add(&FRAMES, ["a\"b\\c\nd", ""], 1.0);
        let text = samples.text();
        assert!(text.contains(r#"{vm="a\"b\\c\nd",side=""} 1"#), "{text}");
    }

    #[test]
    fn a_clone_keeps_its_numbers() {
        let mut samples = Samples::default();
        samples.add(&ROOM, [], 1.0);
        let before = samples.clone();
        samples.add(&ROOM, [], 1.0);
        assert!(before.text().ends_with("t_room_bytes 1\n"));
        assert!(samples.text().ends_with("t_room_bytes 2\n"));
    }
}
