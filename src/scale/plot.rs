//! Speed-up over virtual CPUs as a picture: what was measured, the fitted law, and what would be perfect.

use super::law::Law;
use super::measure::Point;
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (720, 480);
/// Points of the law's curve.
const STEPS: u32 = 200;

/// Writes an SVG file. The error is what the drawing library or the host says.
pub fn draw(path: &Path, points: &[Point], law: Option<&Law>) -> Result<(), String> {
    render(path, points, law).map_err(|error| error.to_string())
}

fn render(path: &Path, points: &[Point], law: Option<&Law>) -> Result<(), Box<dyn std::error::Error>> {
    let Some(first) = points.first() else { return Ok(()) };
    let unit = first.speed() / f64::from(first.cpus);
    let measured: Vec<(f64, f64)> = points.iter().map(|point| (f64::from(point.cpus), point.speed() / unit)).collect();
    let widest = measured.iter().map(|(cpus, _)| *cpus).fold(1.0, f64::max);
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..widest * 1.05, 0.0..widest * 1.05)?;
    chart.configure_mesh().x_desc("virtual CPUs").y_desc("speed-up").draw()?;
    let perfect = LineSeries::new([(0.0, 0.0), (widest, widest)], BLACK.mix(0.3));
    chart
        .draw_series(perfect)?
        .label("perfect")
        .legend(|(x, y)| Rectangle::new([(x, y), (x + 16, y + 1)], BLACK.mix(0.3)));
    if let Some(law) = law {
        let curve = (1..=STEPS).map(|step| f64::from(step) / f64::from(STEPS) * widest);
        let curve = curve.filter(|n| *n >= 1.0).map(|n| (n, law.speed(n) / unit));
        chart
            .draw_series(LineSeries::new(curve, BLUE))?
            .label("universal scalability law")
            .legend(|(x, y)| Rectangle::new([(x, y), (x + 16, y + 1)], BLUE));
    }
    chart
        .draw_series(measured.iter().map(|&point| Circle::new(point, 4, RED.filled())))?
        .label("measured")
        .legend(|(x, y)| Circle::new((x + 8, y), 4, RED.filled()));
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).border_style(BLACK.mix(0.2)).draw()?;
    area.present()?;
    Ok(())
}
