//! Candidates that wait for nobody: one that reads what is there, and one that puts a backup where
//! nothing is.

use std::time::Instant;

use transhume_protocol::message::FleetId;

use super::super::JournalError;
use super::gateway::{self, Done};
use super::lead::{Candidate, LOOK_MAX, Lead, View};
use super::members::Failed;

impl Candidate {
    /// What is there, for whoever only reads it; also while somebody leads.
    pub(super) async fn see(&self) -> Result<View, JournalError> {
        let view = self.read(self.look_once().await?)?;
        self.check(&view)?;
        match (view.restoring, &view.head) {
            (true, _) => Err(self.half_restored()),
            (false, None) => Err(JournalError::NotThere {
                path: self.place.clone(),
            }),
            (false, Some(_)) => Ok(view),
        }
    }

    /// Refused where somebody leads, and where anything is but a part of this fleet's backup.
    pub(super) async fn check_free(&self, fleet: &FleetId) -> Result<View, JournalError> {
        let view = self.read(self.look_once().await?)?;
        self.check(&view)?;
        if let Some(found) = view.fleet.as_ref().filter(|found| *found != fleet) {
            return Err(JournalError::OtherFleet {
                path: self.place.clone(),
                found: found.clone(),
                expected: fleet.clone(),
            });
        }
        if view.leader.is_some() {
            return Err(JournalError::InUse {
                path: self.place.clone(),
            });
        }
        let all = self.shared.keys.all();
        let until = Instant::now() + LOOK_MAX;
        let any = gateway::range(all.as_bytes(), &all, 1, true);
        let any = self.shared.members.range(|| until, &any).await;
        match any.map_err(|failed| self.unread(failed))?.kvs.is_empty() || view.restoring {
            true => Ok(view),
            false => Err(JournalError::NotEmpty {
                place: self.place.display().to_string(),
            }),
        }
    }

    /// Takes the lead where a backup is to be put; what is left of an earlier one is removed.
    pub(super) async fn begin_restore(mut self, fleet: &FleetId) -> Result<Lead, JournalError> {
        let view = self.check_free(fleet).await?;
        let lead = self.take(&view, Some(fleet)).await?;
        lead.ok_or_else(|| JournalError::InUse {
            path: self.place.clone(),
        })
    }

    async fn look_once(&self) -> Result<Done, JournalError> {
        self.look().await.map_err(|failed| self.unread(failed))
    }

    fn unread(&self, failed: Failed) -> JournalError {
        let (Failed::Away(why) | Failed::Refused(why)) = failed;
        self.unusable(why)
    }
}
