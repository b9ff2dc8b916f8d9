//! One lab and what is measured in it.

use std::time::Duration;

use transhume_api::Client;
use transhume_lab::neighbours::{
    AskRates, Flow, GuestProbe, HostProbe, LinkWatch, Reading, busiest_second, mean_rate, meeting, p99,
    plateau, rates,
};
use transhume_lab::wire::ProbeStats;
use transhume_lab::{Circuits, Figures, HostState, Lab, LabUp, Traffic, collect, down, up};
use transhume_model::{Band, BandRates, BitRate, Mebibytes};
use transhume_protocol::report::MigrationReport;

use super::Wanted;
use super::measured::Row;
use super::moving::{Moving, Span};
use crate::args::Part;
use crate::client;
use crate::failure::Failure;
use crate::labs::progress;
use crate::measurement::Account;

/// Those of the guests that stay: one on each host.
const STAYING: u16 = 2;
/// What a guest needs beside the random memory.
const OTHER_MIB: u64 = 80;
/// Messages a second into each VM: what the guests' account of 0/0/0 is made of.
const RATE: u32 = 50;
const ASKS: AskRates = AskRates { asks: 100, reads: 20 };
/// Between boot and the first move: random memory is written.
const SETTLE: Duration = Duration::from_secs(4);
/// How long the probes look at a lab in which nothing moves.
const REST: Duration = Duration::from_secs(8);
const HOSTS: [&str; 2] = ["h1", "h2"];
/// Those that move, and those that stay.
const CLUSTERS: [&str; 2] = ["lab", "stay"];
/// What an answer or a read that did not come counts as.
const MISSING_MS: f64 = 1000.0;

pub struct Scene {
    lab: Lab,
    client: Client,
    options: LabUp,
    circuits: Circuits,
    link: BitRate,
    /// Where the movers are, by place in `HOSTS`.
    at: usize,
    before: Figures,
}

/// The probes under way.
struct Probes {
    /// Of the stayer on the host that is left: it asks the other.
    asks: GuestProbe,
    /// Of the other: the blocks that it reads come down the loaded link.
    reads: GuestProbe,
    hosts: HostProbe,
}

impl Scene {
    pub async fn up(wanted: &Wanted, circuits: Circuits) -> Result<Self, Failure> {
        let options = LabUp {
            hosts: HOSTS.len() as u16,
            vms: wanted.vms + STAYING,
            staying: STAYING,
            memory: Mebibytes(wanted.random_mib + OTHER_MIB),
            circuits,
            link_bits_per_s: Some(wanted.link.bits_per_s()),
            traffic: Traffic::Mesh,
            rate: RATE,
            run: Some(format!("/init load random {} 0", wanted.random_mib)),
            // A host that keeps pages would make every move but the first a short one.
            pages_off: vec!["known".to_owned(), "delta".to_owned()],
            owner: Some(std::process::id()),
            progress: progress(),
            ..LabUp::default()
        };
        let lab = up(&options).await?;
        tokio::time::sleep(SETTLE).await;
        let before = collect(&lab, false).await?;
        Ok(Scene {
            client: client::of_lab(),
            lab,
            options,
            circuits,
            link: wanted.link,
            at: 0,
            before,
        })
    }

    pub async fn down(self) -> Result<(), Failure> {
        down(&self.options.name, &self.options.progress).await?;
        Ok(())
    }

    /// One row.
    pub async fn measure(&mut self, part: Part, repetition: usize) -> Result<Row, Failure> {
        let mut row = Row::new(self.circuits, part, repetition);
        let mut reports = Vec::new();
        match part {
            Part::Rest => {
                let probes = self.begin().await?;
                tokio::time::sleep(REST).await;
                row.seconds = REST.as_secs_f64();
                end(probes, &mut row).await?;
            }
            Part::Latency => reports.push(self.latency(&mut row).await?),
            Part::Bulk => reports.push(self.bulk(&mut row).await?),
            Part::Alone => {
                let watch = LinkWatch::start(&self.lab, self.host(self.at)?);
                let (span, report) = self.lab_moves().await?.until_over(&self.client).await?;
                self.memory(&mut row, &watch.end()?, &span);
                reports.push(report);
            }
            Part::Two => reports.extend(self.two(&mut row).await?),
        }
        if part != Part::Rest {
            self.at = 1 - self.at;
        }
        let after = collect(&self.lab, false).await?;
        row.guests = Account::between(&self.before, &after, |_| true);
        row.frames = Account::of(&reports);
        self.before = after;
        Ok(row)
    }

    async fn latency(&self, row: &mut Row) -> Result<MigrationReport, Failure> {
        let watch = LinkWatch::start(&self.lab, self.host(self.at)?);
        let mut moving = self.lab_moves().await?;
        moving.until_copying().await?;
        let probes = self.begin().await?;
        moving.until_committed().await?;
        end(probes, row).await?;
        let (span, report) = moving.until_over(&self.client).await?;
        self.memory(row, &watch.end()?, &span);
        Ok(report)
    }

    async fn bulk(&self, row: &mut Row) -> Result<MigrationReport, Failure> {
        let (from, to) = (self.host(self.at)?, self.host(1 - self.at)?);
        let watch = LinkWatch::start(&self.lab, from);
        let mut moving = self.lab_moves().await?;
        moving.until_copying().await?;
        let flow = Flow::start(from, to)?;
        let begun = flow.reading();
        moving.until_committed().await?;
        let readings = [begun, flow.reading()];
        drop(flow);
        let (span, report) = moving.until_over(&self.client).await?;
        self.memory(row, &watch.end()?, &span);
        row.bulk_mbit_s = mean_rate(&readings).map(megabits);
        row.bulk_guarantee_mbit_s = self.rates(Band::Ct).map(|rates| of(rates.guaranteed));
        Ok(report)
    }

    /// Both clusters leave at once, over one link.
    async fn two(&self, row: &mut Row) -> Result<Vec<MigrationReport>, Failure> {
        let from = HOSTS[self.at];
        let watch = LinkWatch::start(&self.lab, self.host(self.at)?);
        let [one, other] =
            CLUSTERS.map(|cluster| Moving::order(&self.client, cluster, from, HOSTS[1 - self.at]));
        let (one, other) = futures::future::try_join(one, other).await?;
        let both = futures::future::try_join(one.until_over(&self.client), other.until_over(&self.client));
        let ((one, first), (other, second)) = both.await?;
        let readings = watch.end()?;
        let met = meeting(&one.sent, &other.sent);
        self.memory(row, &readings, &one);
        row.busiest_second_mbit_s = busiest_second(&readings).map(megabits);
        row.met_seconds = met.map(|met| met.seconds);
        row.least_share = met.map(|met| met.least_share);
        Ok(vec![first, second])
    }

    async fn lab_moves(&self) -> Result<Moving, Failure> {
        Moving::order(&self.client, CLUSTERS[0], HOSTS[self.at], HOSTS[1 - self.at]).await
    }

    fn host(&self, place: usize) -> Result<&HostState, Failure> {
        Ok(self.lab.host(HOSTS[place])?)
    }

    fn rates(&self, band: Band) -> Option<BandRates> {
        rates(self.circuits, band, self.link)
    }

    /// What VMCT took of the link that was left, beside what it may.
    fn memory(&self, row: &mut Row, readings: &[Reading], span: &Span) {
        row.seconds = span.seconds;
        if let Some(rates) = self.rates(Band::Vmct) {
            row.vmct_mbit_s = plateau(readings).map(megabits);
            row.vmct_allowed_mbit_s = Some(of(rates.ceiling));
        }
    }

    async fn begin(&self) -> Result<Probes, Failure> {
        let stayers = self.lab.state.vms.iter().rev().take(usize::from(STAYING));
        let names: Vec<&str> = stayers.map(|vm| vm.name.as_str()).collect();
        // The last VM is on the second host.
        let (left, reached) = (names[1 - self.at], names[self.at]);
        Ok(Probes {
            asks: GuestProbe::start(&self.lab, left, reached, ASKS).await?,
            reads: GuestProbe::start(&self.lab, reached, left, ASKS).await?,
            hosts: HostProbe::start(self.host(self.at)?, self.host(1 - self.at)?, ASKS.asks)?,
        })
    }
}

async fn end(probes: Probes, row: &mut Row) -> Result<(), Failure> {
    let hosts = probes.hosts.end();
    let (asks, reads) = (probes.asks.end(), probes.reads.end());
    let (asks, reads): (ProbeStats, ProbeStats) = futures::future::try_join(asks, reads).await?;
    row.ct_p99_ms = p99(waits(&asks.answers_us, asks.answers_missing));
    row.ct_hosts_p99_ms = p99(waits(&hosts.micros, hosts.missing));
    row.nast_p99_ms = p99(waits(&reads.reads_us, reads.reads_failed));
    row.asked = asks.answers_us.len() as u64 + asks.answers_missing;
    row.missing = asks.answers_missing + hosts.missing + reads.reads_failed;
    Ok(())
}

/// Milliseconds; what did not come waited longest.
fn waits(micros: &[u32], missing: u64) -> impl Iterator<Item = f64> {
    let came = micros.iter().map(|us| f64::from(*us) / 1e3);
    came.chain((0..missing).map(|_| MISSING_MS))
}

fn megabits(bytes_per_s: f64) -> f64 {
    bytes_per_s * 8.0 / 1e6
}

fn of(rate: BitRate) -> f64 {
    rate.bits_per_s() as f64 / 1e6
}
