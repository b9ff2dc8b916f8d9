//! What a metric is, and how a table of them is written.

/// How its values are to be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows, until whoever counts starts again.
    Counter,
    /// What is so now.
    Gauge,
    /// How many were at most so much: the upper bounds.
    Histogram(&'static [f64]),
}

/// All that is said of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct About {
    /// As it is exposed; a counter's ends in `_total`.
    pub name: &'static str,
    /// What it tells, without a full stop.
    pub help: &'static str,
    /// How to read it.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
}

/// A metric of `N` labels.
#[derive(Debug)]
pub struct Metric<const N: usize> {
    pub(crate) about: About,
}

impl<const N: usize> Metric<N> {
    pub(crate) const fn new(
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: &'static [&'static str; N],
    ) -> Self {
        let about = About {
            name,
            help,
            kind,
            labels,
        };
        Self { about }
    }
}

/// A table: statics, and `ALL` of them.
macro_rules! table {
    ($($item:ident: $kind:expr, $name:literal [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $item: $crate::Metric<{ <[&str]>::len(&[$($label),*]) }> =
                $crate::Metric::new($name, $help, $kind, &[$($label),*]);
        )*
        /// All of them, in the order of the table.
        pub static ALL: &[$crate::About] = &[$($item.about),*];
    };
}
pub(crate) use table;
