//! How a write is done, and the thread on which everything is that goes to etcd.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::super::JournalError;
use super::super::record::seal;
use super::gateway::{Compare, Op, Txn};
use super::lead::Shared;
use super::members::Failed;

/// A write that no majority took in this time ends the coordinator, also where its lease is still
/// being renewed.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// Its own thread carries what goes to etcd, so that a lease is renewed whatever the core does.
#[derive(Debug)]
pub(super) struct Background(Option<Runtime>);

impl Background {
    pub(super) fn new() -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(1)
            .thread_name("etcd")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(super) fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("there until it is dropped")
    }

    /// Waits for work of that thread, also on a thread of another runtime.
    pub(super) fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        self.runtime().spawn(async move { drop(done.send(work.await)) });
        result
            .recv()
            .expect("work of the runtime's thread does not panic")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Records that are written together.
#[derive(Default)]
pub(super) struct Puts {
    pub(super) operations: Vec<Op>,
    pub(super) bytes: usize,
}

impl Puts {
    pub(super) fn put(&mut self, key: String, record: &impl Serialize) {
        let value = seal(record);
        self.bytes += key.len() + value.len();
        self.operations.push(Op::Put(key, value));
    }
}

/// Done once or not: one that nobody confirmed is asked again, and comparisons tell.
pub(super) async fn write(
    shared: Arc<Shared>,
    revision: i64,
    last: Vec<u8>,
    next: Vec<u8>,
    mut operations: Vec<Op>,
) -> Result<(), JournalError> {
    let lost = |why: String| JournalError::LeaseLost { why };
    if let Some(why) = shared.why_lost() {
        return Err(lost(why));
    }
    let (leader, head) = (shared.keys.leader(), shared.keys.head());
    operations.push(Op::Put(head.clone(), next.clone()));
    let txn = Txn {
        when: vec![
            Compare::Created(leader.clone(), revision),
            Compare::Holds(head.clone(), last),
        ],
        then: operations,
        otherwise: vec![Op::Get(leader), Op::Get(head.clone())],
    };
    let begun = Instant::now();
    let until = || shared.lease_ends().min(begun + WRITE_MAX);
    let answer = match shared.members.txn(until, &txn).await {
        Ok(answer) if answer.succeeded => return Ok(()),
        Ok(answer) => answer.got,
        Err(Failed::Refused(why)) => {
            return Err(JournalError::Etcd { place: head, why });
        }
        Err(Failed::Away(why)) if shared.lease_is_over() => {
            return Err(lost(format!("it ran out while a write waited ({why})")));
        }
        Err(Failed::Away(why)) => {
            return Err(JournalError::Unwritten {
                waited_ms: begun.elapsed().as_millis() as u64,
                why,
            });
        }
    };
    let at = |index: usize| answer.get(index).and_then(Option::as_ref);
    if at(0).is_none_or(|leader| leader.create_revision != revision) {
        return Err(lost("its key is gone, or another's".to_owned()));
    }
    // An attempt whose answer was lost has done it.
    match at(1).is_some_and(|head| head.value == next) {
        true => Ok(()),
        false => Err(lost("somebody else wrote in its place".to_owned())),
    }
}
