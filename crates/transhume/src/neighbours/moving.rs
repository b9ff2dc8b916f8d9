//! One move, watched for the instants between which is measured.

use std::collections::BTreeMap;
use std::time::Duration;

use transhume_api::{Client, Events, MoveOrder};
use transhume_lab::neighbours::Reading;
use transhume_model::{MigrationId, VmName, WallMicros};
use transhume_protocol::event::{Event, Happening};
use transhume_protocol::report::MigrationReport;
use transhume_protocol::step::Step;

use crate::clusters::cluster_name;
use crate::failure::{Failure, Kind};
use crate::measurement::committed;

/// A guest that still writes its random memory is refused: it is asked again, so often and after so
/// long.
const ORDERS_MAX: usize = 10;
const AGAIN: Duration = Duration::from_secs(3);

/// A move under way.
pub struct Moving {
    migration: MigrationId,
    events: Events,
    /// Bytes that each VM's page stream sent so far.
    wire: BTreeMap<VmName, u64>,
    sent: Vec<Reading>,
    copying: Option<WallMicros>,
    /// Guests stand still or will: what is left to send is no longer the links' matter alone.
    captured: bool,
    committed: Option<WallMicros>,
    over: bool,
}

/// A move from the start of copying to its commit.
pub struct Span {
    /// How long.
    pub seconds: f64,
    /// What its page streams had sent until capture, by the coordinator's clock.
    pub sent: Vec<Reading>,
}

impl Moving {
    /// Begins a move of all VMs of a cluster on one host, in one batch.
    pub async fn order(client: &Client, cluster: &str, from: &str, to: &str) -> Result<Self, Failure> {
        let order = MoveOrder {
            from: vec![from.to_owned()],
            to: vec![to.to_owned()],
            ..MoveOrder::default()
        };
        let migration = accepted(client, cluster, &order).await?;
        Ok(Moving {
            migration,
            events: client.events(migration, 0).await?,
            wire: BTreeMap::new(),
            sent: Vec::new(),
            copying: None,
            captured: false,
            committed: None,
            over: false,
        })
    }

    /// Until all page streams have begun.
    pub async fn until_copying(&mut self) -> Result<(), Failure> {
        self.until(|moving| moving.copying.is_some()).await
    }

    /// Until the journal holds the commit.
    pub async fn until_committed(&mut self) -> Result<(), Failure> {
        self.until(|moving| moving.committed.is_some()).await
    }

    /// Until the end; anything but a commit is a failure.
    pub async fn until_over(mut self, client: &Client) -> Result<(Span, MigrationReport), Failure> {
        self.until(|moving| moving.over).await?;
        let report = committed(client.report(self.migration).await?)?;
        let seconds = self
            .copying
            .zip(self.committed)
            .map_or(0.0, |(begin, end)| end.0.saturating_sub(begin.0) as f64 / 1e6);
        Ok((
            Span {
                seconds,
                sent: self.sent,
            },
            report,
        ))
    }

    /// A move that ends sooner has no more to wait for.
    async fn until(&mut self, reached: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        while !self.over && !reached(self) {
            let Some(event) = self.events.next().await? else {
                let message = format!("the coordinator no longer tells of migration {}", self.migration);
                return Err(Failure::other(message));
            };
            self.take(event);
        }
        Ok(())
    }

    fn take(&mut self, event: Event) {
        match event.what {
            Happening::StepEntered {
                step: Step::CreateTargetBuffers,
                ..
            } => self.copying = self.copying.or(Some(event.at)),
            Happening::StepEntered {
                step: Step::Capture, ..
            } => self.captured = true,
            Happening::Progress { vm, pages } if !self.captured => {
                self.wire.insert(vm, pages.wire.0);
                self.sent.push(Reading {
                    at: Duration::from_micros(event.at.0),
                    bytes: self.wire.values().sum(),
                });
            }
            Happening::Committed { .. } => self.committed = self.committed.or(Some(event.at)),
            Happening::Ended { .. } => self.over = true,
            _ => {}
        }
    }
}

async fn accepted(client: &Client, cluster: &str, order: &MoveOrder) -> Result<MigrationId, Failure> {
    let cluster = cluster_name(cluster)?;
    for _ in 1..ORDERS_MAX {
        match client.migrate(&cluster, order).await.map_err(Failure::from) {
            Err(failure) if failure.kind == Kind::Refused => {
                eprintln!("refused, and asked again: {}", failure.message);
                tokio::time::sleep(AGAIN).await;
            }
            answer => return answer.map(|accepted| accepted.migration),
        }
    }
    Ok(client.migrate(&cluster, order).await?.migration)
}
