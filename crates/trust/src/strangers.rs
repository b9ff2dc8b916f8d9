//! Connections that have not said yet whose they are: none is waited for, each has its time, and
//! there are never many.

use std::collections::VecDeque;
use std::io;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::limits::{HANDSHAKE_MAX, STRANGERS_MAX};

/// Those of one listener. What each turns out to be comes from [`Strangers::next`].
#[derive(Debug)]
pub struct Strangers<T> {
    tasks: JoinSet<io::Result<T>>,
    in_turn: VecDeque<AbortHandle>,
}

impl<T> Default for Strangers<T> {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            in_turn: VecDeque::new(),
        }
    }
}

impl<T: Send + 'static> Strangers<T> {
    /// Hears one out; the oldest makes room for it.
    pub fn hear(&mut self, out: impl Future<Output = io::Result<T>> + Send + 'static) {
        self.in_turn.retain(|task| !task.is_finished());
        if self.in_turn.len() >= STRANGERS_MAX
            && let Some(oldest) = self.in_turn.pop_front()
        {
            oldest.abort();
        }
        let heard = async {
            let late = |_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it does not say whose it is",
                ))
            };
            timeout(HANDSHAKE_MAX, out).await.unwrap_or_else(late)
        };
        self.in_turn.push_back(self.tasks.spawn(heard));
    }

    /// The next one that is heard out; never, while there is none. May be dropped before it is
    /// done.
    pub async fn next(&mut self) -> io::Result<T> {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(heard)) => return heard,
                // It made room.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_has_its_time_and_the_newest_are_heard() {
        let mut strangers = Strangers::default();
        for _ in 0..3 * STRANGERS_MAX {
            strangers.hear(std::future::pending());
        }
        strangers.hear(async { Ok("known") });
        let mut late = 0;
        let begun = tokio::time::Instant::now();
        loop {
            match strangers.next().await {
                Ok(known) => {
                    assert_eq!((known, begun.elapsed().as_secs()), ("known", 0));
                    break;
                }
                Err(_) => late += 1,
            }
        }
        assert_eq!(late, 0);
        let error = strangers.next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), HANDSHAKE_MAX);
    }
}
