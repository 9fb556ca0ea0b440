//! What a step costs, and one more row in it, as far as steps have shown it.

/// An observation counts for so much less after each later one.
const FADING: f64 = 0.99;
/// Assumed of a device of which nothing is known: what a step costs without its rows, in rows.
const FIXED_ROWS: f64 = 11.0;
/// What is assumed of a row counts as this sum of squared distances of row counts.
const ASSUMED_WEIGHT: f64 = 20.0;
/// A drafted row has to save so much more than it costs: what is known of either is a guess.
const MARGIN: f64 = 1.25;

/// The times of steps as a line over their rows: a fixed part, and as much again for each row.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepTime {
    weight: f64,
    rows: f64,
    time: f64,
    rows_squared: f64,
    rows_time: f64,
}

impl StepTime {
    /// A step of so many rows took this time, in any unit.
    pub fn observe(&mut self, rows: usize, time: f64) {
        let rows = rows as f64;
        let fade = |sum: &mut f64, new: f64| *sum = *sum * FADING + new;
        fade(&mut self.weight, 1.0);
        fade(&mut self.rows, rows);
        fade(&mut self.time, time);
        fade(&mut self.rows_squared, rows * rows);
        fade(&mut self.rows_time, rows * time);
    }

    /// Means of rows and time, and the time of a row.
    fn line(&self) -> (f64, f64, f64) {
        if self.weight == 0.0 || self.time <= 0.0 {
            return (1.0, 1.0 + FIXED_ROWS, 1.0);
        }
        let (rows, time) = (self.rows / self.weight, self.time / self.weight);
        let squares = (self.rows_squared - self.weight * rows * rows).max(0.0);
        let products = self.rows_time - self.weight * rows * time;
        let assumed = time / (rows + FIXED_ROWS);
        let slope = (products + assumed * ASSUMED_WEIGHT) / (squares + ASSUMED_WEIGHT);
        (rows, time, slope.clamp(assumed * 0.05, time / rows.max(1.0)))
    }

    /// The time of one more row.
    pub fn row(&self) -> f64 {
        self.line().2
    }

    /// The time of a step of so many rows.
    pub fn step(&self, rows: usize) -> f64 {
        let (mean, time, row) = self.line();
        (time + (rows as f64 - mean) * row).max(row)
    }

    /// With which probability a draft has to be accepted to be worth its row, and what making it `takes`, where `streams` get a token a
    /// step.
    pub fn worth(&self, streams: usize, takes: f64) -> f32 {
        let takes = if self.weight > 0.0 { takes } else { 0.0 };
        // A token more is a step less for one of the streams.
        (MARGIN * (self.row() + takes) * streams.max(1) as f64 / self.step(streams.max(1))) as f32
    }

    /// The time that accepted drafts have saved in a step of `streams` sequences; negative where they have cost more.
    pub fn saved(&self, streams: usize, drafted: usize, accepted: usize) -> f64 {
        accepted as f64 * self.step(streams.max(1)) / streams.max(1) as f64 - drafted as f64 * self.row()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_steps_is_found() {
        let mut times = StepTime::default();
        for round in 0..200 {
            let rows = 1 + round % 9;
            times.observe(rows, 30.0 + 2.0 * rows as f64);
        }
        assert!((times.row() - 2.0).abs() < 0.2, "{}", times.row());
        assert!((times.step(1) - 32.0).abs() < 1.0 && (times.step(20) - 70.0).abs() < 5.0);
        assert!((times.saved(1, 4, 3) - (3.0 * 32.0 - 4.0 * 2.0)).abs() < 5.0);
    }

    #[test]
    fn a_full_step_is_worth_no_draft() {
        // Products of many rows: each costs as much as its share.
        let mut times = StepTime::default();
        for round in 0..400 {
            let rows = 16 + round % 8;
            times.observe(rows, 4.0 * rows as f64);
        }
        assert!(times.worth(16, 0.0) > 1.0, "{}", times.worth(16, 0.0));
        // One stream that reads weights.
        let mut times = StepTime::default();
        (0..400).for_each(|round| times.observe(1 + round % 6, 60.0 + 3.0 * (1 + round % 6) as f64));
        assert!(times.worth(1, 0.0) < 0.1 && times.worth(4, 0.0) < 0.3);
        // A draft that takes a third of a step has to be right more often.
        assert!((0.3..0.6).contains(&times.worth(1, 20.0)), "{}", times.worth(1, 20.0));
    }

    #[test]
    fn a_line_through_one_point_is_assumed() {
        let mut times = StepTime::default();
        assert!((0.05..0.2).contains(&times.worth(1, 0.0)));
        assert!(times.worth(8, 0.0) > times.worth(1, 0.0));
        (0..100).for_each(|_| times.observe(1, 50.0));
        assert!((0.05..0.2).contains(&times.worth(1, 0.0)));
        // Noise makes no row free, nor dearer than a step.
        (0..100).for_each(|round| times.observe(1 + round % 2, 50.0 - 40.0 * (round % 2) as f64));
        assert!(times.row() > 0.0 && times.worth(1, 0.0) <= 1.25);
    }
}
