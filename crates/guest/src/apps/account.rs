//! What a checker counts between two looks. Pure: `now` is an argument.

use std::time::Duration;

use transhume_guest::app::{AppStats, ClusterStats, LATE_MS};

use super::Trouble;

/// The account, and what is under way.
pub struct Account {
    stats: AppStats,
    /// The last look.
    since: Duration,
    begun: Option<Duration>,
    cluster_before: ClusterStats,
    cluster_now: ClusterStats,
}

impl Account {
    pub fn new(now: Duration) -> Self {
        Account {
            stats: AppStats::default(),
            since: now,
            begun: None,
            cluster_before: ClusterStats::default(),
            cluster_now: ClusterStats::default(),
        }
    }

    /// It was tried, and does not serve yet.
    pub fn not_serving(&mut self, why: String) {
        self.stats.trouble = Some(why);
    }

    /// From here on it counts.
    pub fn serving(&mut self, now: Duration, cluster: ClusterStats) {
        *self = Account {
            cluster_before: cluster,
            cluster_now: cluster,
            ..Account::new(now)
        };
        self.stats.serving = true;
    }

    pub fn begin(&mut self, now: Duration) {
        self.begun = Some(now);
    }

    pub fn end(&mut self, now: Duration, ended: Result<(), Trouble>) {
        let took_ms = self.under_way_ms(now);
        self.begun = None;
        self.stats.slowest_ms = self.stats.slowest_ms.max(took_ms);
        match ended {
            Ok(()) => {
                self.stats.operations += 1;
                self.stats.late += u64::from(took_ms > LATE_MS);
            }
            Err(trouble) => {
                match trouble {
                    Trouble::Failed(_) => self.stats.failed += 1,
                    Trouble::Wrong(_) => self.stats.wrong += 1,
                }
                self.stats.trouble.get_or_insert_with(|| trouble.text());
            }
        }
    }

    /// All that was seen of the cluster so far.
    pub fn cluster(&mut self, so_far: ClusterStats) {
        self.cluster_now = so_far;
    }

    /// What came since the last look; the next one begins here. An operation under way counts as
    /// slow in both spans, and as done in that of its end.
    pub fn look(&mut self, now: Duration) -> AppStats {
        let (before, so_far) = (self.cluster_before, self.cluster_now);
        // A server that was started again counts from 0.
        let stats = AppStats {
            span_ms: now.saturating_sub(self.since).as_millis() as u64,
            slowest_ms: self.stats.slowest_ms.max(self.under_way_ms(now)),
            cluster: ClusterStats {
                elections: so_far.elections.saturating_sub(before.elections),
                link_breaks: so_far.link_breaks.saturating_sub(before.link_breaks),
                full_copies: so_far.full_copies.saturating_sub(before.full_copies),
            },
            ..self.stats.clone()
        };
        if self.stats.serving {
            self.stats = AppStats {
                serving: true,
                ..AppStats::default()
            };
        }
        self.since = now;
        self.cluster_before = so_far;
        stats
    }

    fn under_way_ms(&self, now: Duration) -> u64 {
        self.begun
            .map_or(0, |begun| now.saturating_sub(begun).as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn serving() -> Account {
        let mut account = Account::new(ms(0));
        account.serving(ms(100), ClusterStats::default());
        account
    }

    fn operate(account: &mut Account, from: u64, to: u64, ended: Result<(), Trouble>) {
        account.begin(ms(from));
        account.end(ms(to), ended);
    }

    #[test]
    fn every_operation_counts_once_and_a_look_begins_anew() {
        let mut account = serving();
        operate(&mut account, 200, 205, Ok(()));
        operate(&mut account, 300, 1301, Ok(()));
        operate(&mut account, 1400, 6400, Err(Trouble::Failed("first".into())));
        operate(&mut account, 6500, 6510, Err(Trouble::Wrong("second".into())));
        let stats = account.look(ms(7000));
        let counts = (stats.operations, stats.late, stats.failed, stats.wrong);
        assert_eq!(counts, (2, 1, 1, 1));
        assert_eq!((stats.span_ms, stats.slowest_ms), (6900, 5000));
        assert_eq!(stats.trouble.as_deref(), Some("first"));
        let rest = account.look(ms(7500));
        let nothing = AppStats {
            serving: true,
            span_ms: 500,
            ..AppStats::default()
        };
        assert_eq!(rest, nothing);
    }

    #[test]
    fn what_is_under_way_is_slow_already_but_not_done() {
        let mut account = serving();
        account.begin(ms(200));
        let stats = account.look(ms(1500));
        assert_eq!((stats.operations, stats.slowest_ms), (0, 1300));
        account.end(ms(1700), Ok(()));
        let stats = account.look(ms(1800));
        assert_eq!((stats.operations, stats.late, stats.slowest_ms), (1, 1, 1500));
    }

    #[test]
    fn why_it_does_not_serve_is_said_at_every_look() {
        let mut account = Account::new(ms(0));
        account.not_serving("refused".into());
        for _ in 0..2 {
            let stats = account.look(ms(10));
            assert_eq!(
                (stats.serving, stats.trouble.as_deref()),
                (false, Some("refused"))
            );
        }
        account.serving(ms(20), ClusterStats::default());
        assert_eq!(account.look(ms(30)).trouble, None);
    }

    #[test]
    fn of_the_cluster_only_what_is_new_counts() {
        let elections = |elections| ClusterStats {
            elections,
            ..ClusterStats::default()
        };
        let mut account = Account::new(ms(0));
        account.serving(ms(0), elections(7));
        account.cluster(elections(9));
        assert_eq!(account.look(ms(1)).cluster.elections, 2);
        account.cluster(elections(1));
        assert_eq!(account.look(ms(2)).cluster.elections, 0, "started again");
    }
}
