//! What happened in one move, for everybody who wants to follow it: replay, then live.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use transhume_protocol::event::{Event, Happening};

/// Progress of the page streams is dropped from the history beyond this; everything else is kept.
const EVENTS_MAX: usize = 100_000;

/// The events of one move.
#[derive(Debug, Clone)]
pub(crate) struct History {
    events: Arc<Mutex<Vec<Event>>>,
    length: Arc<watch::Sender<usize>>,
}

impl History {
    pub(crate) fn new() -> Self {
        Self {
            events: Arc::default(),
            length: Arc::new(watch::Sender::new(0)),
        }
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().expect("no holder of this lock panics")
    }

    /// Adds an event; its number is its place.
    pub(crate) fn push(&self, event: impl FnOnce(u64) -> Event) {
        let mut events = self.events();
        let event = event(events.len() as u64 + 1);
        if events.len() >= EVENTS_MAX && matches!(event.what, Happening::Progress { .. }) {
            return;
        }
        events.push(event);
        self.length.send_replace(events.len());
    }

    /// The events after the first `after`, as soon as there are any; `None` when the last one has been given.
    pub(crate) async fn after(&self, after: usize) -> Option<Vec<Event>> {
        let mut length = self.length.subscribe();
        loop {
            {
                let events = self.events();
                if events.len() > after {
                    return Some(events[after..].to_vec());
                }
                if events
                    .last()
                    .is_some_and(|event| matches!(event.what, Happening::Ended { .. }))
                {
                    return None;
                }
            }
            length.changed().await.ok()?;
        }
    }
}
