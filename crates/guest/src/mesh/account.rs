//! Accounts for the numbered messages of one peer: received, duplicated, reordered, longest
//! silence. Pure.

use std::time::Duration;

/// Numbers this far below the highest one are still told apart.
const WINDOW: u64 = 1 << 15;

/// What was received from one peer. Loss is what the peer sent minus `received`, once nothing is in
/// flight.
#[derive(Debug)]
pub struct Account {
    pub received: u64,
    pub duplicated: u64,
    pub reordered: u64,
    highest: u64,
    seen: Vec<u64>,
    silence: Silence,
}

impl Account {
    pub fn new() -> Self {
        Account {
            received: 0,
            duplicated: 0,
            reordered: 0,
            highest: 0,
            seen: vec![0; (WINDOW / 64) as usize],
            silence: Silence::default(),
        }
    }

    /// Takes message `number` that came at `now` (since boot).
    pub fn arrived(&mut self, number: u64, now: Duration) {
        self.silence.heard(now);
        if number > self.highest {
            self.forget_between(self.highest, number);
            self.highest = number;
            self.mark(number);
            self.received += 1;
        } else if number == 0 || self.highest - number >= WINDOW || self.marked(number) {
            // Too old to know whether it is a first copy: calling it a duplicate keeps "received" a
            // lower bound.
            self.duplicated += 1;
        } else {
            self.mark(number);
            self.received += 1;
            self.reordered += 1;
        }
    }

    /// The peer said that it stops sending: what follows is no silence.
    pub fn stopped(&mut self, now: Duration) {
        self.silence.stopped(now);
    }

    pub fn gap(&self, now: Duration) -> Duration {
        self.silence.longest(now)
    }

    pub fn reset_gap(&mut self) {
        self.silence.reset();
    }

    fn forget_between(&mut self, old: u64, new: u64) {
        if new - old >= WINDOW {
            self.seen.fill(0);
        } else {
            for number in old + 1..=new {
                let (word, bit) = place(number);
                self.seen[word] &= !bit;
            }
        }
    }

    fn mark(&mut self, number: u64) {
        let (word, bit) = place(number);
        self.seen[word] |= bit;
    }

    fn marked(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.seen[word] & bit != 0
    }
}

fn place(number: u64) -> (usize, u64) {
    let slot = number % WINDOW;
    ((slot / 64) as usize, 1 << (slot % 64))
}

/// The longest time between two signs of life, the running one included.
#[derive(Debug, Default)]
pub struct Silence {
    last: Option<Duration>,
    longest: Duration,
}

impl Silence {
    pub fn heard(&mut self, now: Duration) {
        self.longest = self.longest(now);
        self.last = Some(now);
    }

    pub fn stopped(&mut self, now: Duration) {
        self.longest = self.longest(now);
        self.last = None;
    }

    pub fn longest(&self, now: Duration) -> Duration {
        self.last
            .map_or(self.longest, |last| self.longest.max(now.saturating_sub(last)))
    }

    /// Counts anew; a peer that was not heard since is heard from its next sign on.
    pub fn reset(&mut self) {
        *self = Silence::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn every_message_is_counted_once_and_in_its_kind() {
        let mut account = Account::new();
        for number in [1, 2, 4, 3, 3, 4, 7] {
            account.arrived(number, ms(0));
        }
        assert_eq!(
            (account.received, account.duplicated, account.reordered),
            (5, 2, 1)
        );
    }

    #[test]
    fn the_window_slides_without_remembering_old_numbers() {
        let mut account = Account::new();
        account.arrived(5, ms(0));
        account.arrived(5 + WINDOW, ms(0)); // the same slot
        account.arrived(4 + WINDOW, ms(0)); // never seen, though slot 4 was
        account.arrived(5, ms(0)); // outside the window
        assert_eq!(
            (account.received, account.duplicated, account.reordered),
            (3, 1, 1)
        );
        account.arrived(10 * WINDOW, ms(0));
        account.arrived(10 * WINDOW - 1, ms(0));
        assert_eq!(account.received, 5);
    }

    #[test]
    fn number_zero_is_nobodys() {
        let mut account = Account::new();
        account.arrived(0, ms(0));
        assert_eq!((account.received, account.duplicated), (0, 1));
    }

    #[test]
    fn a_silence_runs_until_the_peer_says_that_it_stops() {
        let mut account = Account::new();
        account.arrived(1, ms(10));
        assert_eq!(account.gap(ms(15)), ms(5));
        account.arrived(2, ms(40));
        account.stopped(ms(42));
        assert_eq!(account.gap(ms(500)), ms(30));
        account.reset_gap();
        account.arrived(3, ms(900));
        assert_eq!(account.gap(ms(904)), ms(4));
    }
}
