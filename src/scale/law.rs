//! The universal scalability law: N. J. Gunther, "Guerrilla Capacity Planning", chapter 4.
//!
//! Speed on n processors is `unit · n / (1 + contention · (n - 1) + coherency · n · (n - 1))`. Divided the other way round it
//! is linear in its parameters, so that least squares give them at once; parameters that would come out negative are 0.

use serde::Serialize;

/// The parameters.
#[derive(Serialize, Clone, Copy, Debug, PartialEq)]
pub struct Law {
    /// Speed of one processor.
    pub unit: f64,
    /// The part of the work that is done one at a time.
    pub contention: f64,
    /// The cost of keeping pairs of processors in agreement.
    pub coherency: f64,
}

impl Law {
    /// Speed on `n` processors.
    pub fn speed(&self, n: f64) -> f64 {
        self.unit * n / (1.0 + self.contention * (n - 1.0) + self.coherency * n * (n - 1.0))
    }

    /// The number of processors beyond which more make it slower, if there is one.
    pub fn peak(&self) -> Option<f64> {
        (self.coherency > 0.0).then(|| ((1.0 - self.contention).max(0.0) / self.coherency).sqrt())
    }
}

/// Fits the law to (processors, speed). `None` for fewer than three points, or speeds that are not positive.
pub fn fit(points: &[(f64, f64)]) -> Option<Law> {
    if points.len() < 3 || points.iter().any(|(_, speed)| *speed <= 0.0) {
        return None;
    }
    // n / speed = a + b (n - 1) + c n (n - 1). Relative errors count: each equation is divided by its left side.
    let terms = |n: f64| [1.0, n - 1.0, n * (n - 1.0)];
    let mut used = [true; 3];
    loop {
        let rows: Vec<([f64; 3], f64)> = points
            .iter()
            .map(|&(n, speed)| {
                let weight = speed / n;
                let mut row = terms(n).map(|term| term * weight);
                row.iter_mut().zip(used).filter(|(_, used)| !used).for_each(|(term, _)| *term = 0.0);
                (row, 1.0)
            })
            .collect();
        let [a, b, c] = least_squares(&rows, used)?;
        match (b < 0.0, c < 0.0) {
            (_, true) => used[2] = false,
            (true, false) => used[1] = false,
            (false, false) => {
                return (a > 0.0).then(|| Law { unit: 1.0 / a, contention: b / a, coherency: c / a });
            }
        }
    }
}

/// Solves the normal equations by elimination; parameters that are not `used` are 0.
fn least_squares(rows: &[([f64; 3], f64)], used: [bool; 3]) -> Option<[f64; 3]> {
    let mut matrix = [[0.0; 4]; 3];
    for (i, line) in matrix.iter_mut().enumerate() {
        for (row, value) in rows {
            for j in 0..3 {
                line[j] += row[i] * row[j];
            }
            line[3] += row[i] * value;
        }
        if !used[i] {
            line[i] = 1.0;
        }
    }
    for i in 0..3 {
        let pivot = (i..3).max_by(|&a, &b| matrix[a][i].abs().total_cmp(&matrix[b][i].abs()))?;
        matrix.swap(i, pivot);
        if matrix[i][i].abs() < 1e-12 {
            return None;
        }
        let line = matrix[i];
        for (_, other) in matrix.iter_mut().enumerate().filter(|(j, _)| *j != i) {
            let factor = other[i] / line[i];
            other.iter_mut().zip(line).for_each(|(x, y)| *x -= factor * y);
        }
    }
    Some(std::array::from_fn(|i| matrix[i][3] / matrix[i][i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

    #[test]
    fn a_known_law_is_found_again() {
        let law = Law { unit: 3.0, contention: 0.05, coherency: 0.001 };
        let found = fit(&COUNTS.map(|n| (n, law.speed(n)))).expect("a law");
        assert!((found.unit - 3.0).abs() < 1e-6, "{found:?}");
        assert!((found.contention - 0.05).abs() < 1e-6 && (found.coherency - 0.001).abs() < 1e-8, "{found:?}");
        assert!((law.peak().expect("a peak") - 30.8).abs() < 0.1);
    }

    #[test]
    fn perfect_scaling_has_no_costs() {
        // Measured a little better than linear: no negative cost comes of it.
        let found = fit(&COUNTS.map(|n| (n, n * (1.0 + 0.001 * n)))).expect("a law");
        assert_eq!((found.contention, found.coherency), (0.0, 0.0));
        assert_eq!(found.peak(), None);
    }

    #[test]
    fn too_little_is_no_law() {
        assert_eq!(fit(&[(1.0, 1.0), (2.0, 2.0)]), None);
        assert_eq!(fit(&[(1.0, 1.0), (2.0, 0.0), (4.0, 2.0)]), None);
        assert_eq!(fit(&[(2.0, 1.0), (2.0, 1.0), (2.0, 1.0)]), None);
    }
}
