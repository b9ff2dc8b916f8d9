//! How far a move is and how long it still takes, told so that neither runs backwards.

use transhume_model::Millis;

/// Of one move.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outlook {
    done: f64,
    /// When it is over as told last; a time of the clock that is given in.
    over_at: Option<Millis>,
}

impl Outlook {
    /// Takes into account what has been sent, what is left and how fast it goes, bytes and bytes
    /// per second. Without a rate that suffices the time stays as it was told last.
    pub fn see(&mut self, now: Millis, sent: f64, left: f64, bytes_per_s: Option<f64>) {
        let all = sent + left;
        if all > 0.0 {
            self.done = self.done.max((sent / all).clamp(0.0, 1.0));
        }
        let seconds = match bytes_per_s {
            Some(rate) if rate > 0.0 => left / rate,
            Some(_) | None => return,
        };
        let at = now + Millis((seconds * 1000.0).min(f64::from(u32::MAX)) as u64);
        self.over_at = Some(self.over_at.map_or(at, |told| told.min(at)));
    }

    /// The first that is told: what was forecast at worst.
    pub fn forecast(over_at: Millis) -> Self {
        Outlook {
            done: 0.0,
            over_at: Some(over_at),
        }
    }

    /// Share that is done, 0 to 1; never less than before.
    pub fn done(&self) -> f64 {
        self.done
    }

    /// Time left; never more than told before less what has passed. `None` while nobody can say,
    /// or where it should have been over by now.
    pub fn left(&self, now: Millis) -> Option<Millis> {
        let over_at = self.over_at?;
        (over_at > now).then(|| Millis(over_at.0 - now.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_share_nor_time_runs_backwards() {
        let mut outlook = Outlook::forecast(Millis(20_000));
        assert_eq!(
            (outlook.done(), outlook.left(Millis(0))),
            (0.0, Some(Millis(20_000)))
        );
        outlook.see(Millis(1_000), 50.0, 50.0, Some(10.0));
        assert_eq!(
            (outlook.done(), outlook.left(Millis(1_000))),
            (0.5, Some(Millis(5_000)))
        );
        // Much is dirtied: less is done than was thought, and it takes longer.
        outlook.see(Millis(2_000), 60.0, 140.0, Some(10.0));
        assert_eq!(
            (outlook.done(), outlook.left(Millis(2_000))),
            (0.5, Some(Millis(4_000)))
        );
        outlook.see(Millis(3_000), 80.0, 20.0, None);
        assert_eq!(
            (outlook.done(), outlook.left(Millis(3_000))),
            (0.8, Some(Millis(3_000)))
        );
        assert_eq!(outlook.left(Millis(7_000)), None, "it should have been over");
    }
}
