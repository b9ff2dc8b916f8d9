//! Tables, CSV and boxes of what was measured. Pure but for the strings.

use std::fmt::Write;

use transhume_lab::Circuits;
use transhume_lab::boxes::{Boxes, Group};
use transhume_lab::neighbours::Ratio;
use transhume_lab::plot::Spread;

use super::measured::Row;
use crate::args::Part;
use crate::measurement::Account;
use crate::table::Table;

type Value = fn(&Row) -> Option<f64>;

/// The probes, by what they stand for.
const PROBES: [(&str, Value); 3] = [
    ("CT, guests", |row| row.ct_p99_ms),
    ("CT, hosts", |row| row.ct_hosts_p99_ms),
    ("NAST, reads", |row| row.nast_p99_ms),
];

/// What is held against what is allowed.
const USES: [(Part, &str, Value); 6] = [
    (Part::Alone, "VMCT of what it may", Row::vmct_use),
    (Part::Bulk, "CT flow, Mbit/s", |row| row.bulk_mbit_s),
    (Part::Bulk, "CT flow of its guarantee", Row::bulk_use),
    (Part::Two, "busiest second of what VMCT may", Row::busiest_use),
    (Part::Two, "least share of either move", |row| row.least_share),
    (Part::Two, "seconds together", |row| row.met_seconds),
];

const FORMS: [Circuits; 3] = [Circuits::Shared, Circuits::Separate, Circuits::Undivided];

fn form(circuits: Circuits) -> &'static str {
    match circuits {
        Circuits::Shared => "shared",
        Circuits::Separate => "separate",
        Circuits::Undivided => "undivided",
    }
}

fn spread(rows: &[Row], circuits: Circuits, part: Part, value: Value) -> Option<Spread> {
    let of = rows
        .iter()
        .filter(|row| (row.circuits, row.part) == (circuits, part));
    Spread::of(of.filter_map(value))
}

/// A form's values over those of separate circuits, by repetition.
fn ratio(rows: &[Row], circuits: Circuits, part: Part, value: Value) -> Option<Ratio> {
    let of = |circuits: Circuits| {
        let of = rows
            .iter()
            .filter(move |row| (row.circuits, row.part) == (circuits, part));
        of.filter_map(move |row| Some((row.repetition, value(row)?)))
    };
    Ratio::of(of(circuits).filter_map(|(repetition, own)| {
        let mut others = of(Circuits::Separate);
        let (_, other) = others.find(|(other, _)| *other == repetition)?;
        Some((own, other))
    }))
}

/// Three tables: the probes, what is held against what is allowed, and the accounts.
pub fn summary(rows: &[Row]) -> String {
    let mut probes = Table::new(&[
        "p99",
        "WHILE",
        "CIRCUITS",
        "MOVES",
        "MEDIAN ms",
        "Q1-Q3",
        "OF SEPARATE",
        "95 %",
    ]);
    let mut uses = Table::new(&["WHAT", "CIRCUITS", "MOVES", "MEDIAN", "LEAST", "MOST"]);
    let mut accounts = Table::new(&[
        "WHILE", "CIRCUITS", "MOVES", "SECONDS", "FRAMES", "MESSAGES", "MISSING",
    ]);
    for (name, value) in PROBES {
        for part in [Part::Rest, Part::Latency] {
            for circuits in FORMS {
                let Some(spread) = spread(rows, circuits, part, value) else {
                    continue;
                };
                let ratio = ratio(rows, circuits, part, value).filter(|_| circuits != Circuits::Separate);
                probes.row([
                    name.to_owned(),
                    part.name().to_owned(),
                    form(circuits).to_owned(),
                    spread.count.to_string(),
                    format!("{:.2}", spread.median),
                    format!("{:.2}-{:.2}", spread.q1, spread.q3),
                    ratio.map_or("-".to_owned(), |ratio| format!("{:.3}", ratio.median)),
                    ratio.map_or("-".to_owned(), |ratio| {
                        format!("{:.3}-{:.3}", ratio.low, ratio.high)
                    }),
                ]);
            }
        }
    }
    for (part, name, value) in USES {
        for circuits in FORMS {
            let Some(spread) = spread(rows, circuits, part, value) else {
                continue;
            };
            uses.row([
                name.to_owned(),
                form(circuits).to_owned(),
                spread.count.to_string(),
                format!("{:.3}", spread.median),
                format!("{:.3}", spread.min),
                format!("{:.3}", spread.max),
            ]);
        }
    }
    for part in Part::ALL {
        for circuits in FORMS {
            let of = |row: &&Row| (row.circuits, row.part) == (circuits, part);
            let Some(seconds) = Spread::of(rows.iter().filter(of).map(|row| row.seconds)) else {
                continue;
            };
            let sum = |account: fn(&Row) -> Account| rows.iter().filter(of).map(account).sum::<Account>();
            accounts.row([
                part.name().to_owned(),
                form(circuits).to_owned(),
                seconds.count.to_string(),
                format!("{:.1}", seconds.median),
                sum(|row| row.frames).text(),
                sum(|row| row.guests).text(),
                rows.iter()
                    .filter(of)
                    .map(|row| row.missing)
                    .sum::<u64>()
                    .to_string(),
            ]);
        }
    }
    format!("{}\n{}\n{}", probes.text(), uses.text(), accounts.text())
}

pub fn csv(rows: &[Row]) -> String {
    let mut text = "circuits,part,repetition,seconds,ct_p99_ms,ct_hosts_p99_ms,nast_p99_ms,asked,missing,\
                    vmct_mbit_s,vmct_allowed_mbit_s,bulk_mbit_s,bulk_guarantee_mbit_s,\
                    busiest_second_mbit_s,met_seconds,least_share,frames_lost,frames_duplicated,\
                    frames_reordered,messages_lost,messages_duplicated,messages_reordered\n"
        .to_owned();
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
    for row in rows {
        let measured = [row.ct_p99_ms, row.ct_hosts_p99_ms, row.nast_p99_ms];
        let held = [
            row.vmct_mbit_s,
            row.vmct_allowed_mbit_s,
            row.bulk_mbit_s,
            row.bulk_guarantee_mbit_s,
            row.busiest_second_mbit_s,
            row.met_seconds,
            row.least_share,
        ];
        let accounts = [row.frames, row.guests].map(|of| [of.lost, of.duplicated, of.reordered]);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{},{},{},{:.3},{},{},{},{},{}",
            form(row.circuits),
            row.part.name(),
            row.repetition,
            row.seconds,
            measured.map(number).join(","),
            row.asked,
            row.missing,
            held.map(number).join(","),
            accounts
                .as_flattened()
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(","),
        );
    }
    text
}

/// The probes' p99 while memory is copied.
pub fn boxes(rows: &[Row]) -> Boxes {
    let colors = ["#2f6f4f", "#4878a8", "#b0413e"];
    let groups = PROBES.iter().flat_map(|(name, value)| {
        FORMS.iter().zip(colors).map(move |(circuits, color)| Group {
            label: format!("{name}: {}", form(*circuits)),
            color,
            sample: rows
                .iter()
                .filter(|row| (row.circuits, row.part) == (*circuits, Part::Latency))
                .filter_map(value)
                .collect(),
        })
    });
    Boxes {
        title: "What those who stay wait for while a cluster moves".to_owned(),
        x_label: "who asks: circuits".to_owned(),
        y_label: "p99, ms".to_owned(),
        groups: groups.filter(|group| !group.sample.is_empty()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(circuits: Circuits, repetition: usize, ct_p99_ms: f64) -> Row {
        Row {
            ct_p99_ms: Some(ct_p99_ms),
            ..Row::new(circuits, Part::Latency, repetition)
        }
    }

    #[test]
    fn pairs_are_of_one_repetition() {
        let rows = [
            row(Circuits::Shared, 1, 2.0),
            row(Circuits::Shared, 2, 30.0),
            row(Circuits::Separate, 2, 10.0),
            row(Circuits::Separate, 1, 1.0),
            row(Circuits::Shared, 3, 7.0),
        ];
        let value: Value = |row| row.ct_p99_ms;
        let ratio = ratio(&rows, Circuits::Shared, Part::Latency, value).unwrap();
        assert_eq!((ratio.pairs, ratio.median), (2, 2.5));
        let text = summary(&rows);
        let line = text.lines().find(|line| line.contains("shared")).unwrap();
        assert!(line.contains("CT, guests") && line.contains("2.500"), "{text}");
        assert_eq!(boxes(&rows).groups.len(), 2);
    }

    #[test]
    fn a_line_has_a_field_for_each_name() {
        let text = csv(&[row(Circuits::Undivided, 1, 2.0)]);
        let fields: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(fields, [22, 22], "{text}");
    }
}
