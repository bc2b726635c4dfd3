use super::*;

#[test]
fn drawing_is_a_pure_function_of_seed_and_index() {
    let grid = Grid::demonstration();
    let first = draw(1, 17, &grid);
    let again = draw(1, 17, &grid);
    assert_eq!(first.image, again.image);
    assert_eq!(first.truth, again.truth);
    assert_ne!(first.image, draw(1, 18, &grid).image);
    assert_ne!(first.image, draw(2, 17, &grid).image);
}

#[test]
fn galaxies_are_normalised_centred_and_of_sane_size_and_colour() {
    let grid = Grid::demonstration();
    let count = 120;
    let mut sizes = Vec::new();
    let mut companions = 0;
    for index in 0..count {
        let Galaxy { truth, image } = draw(5, index, &grid);
        assert!(image.iter().all(|value| value.is_finite() && *value >= 0.0), "galaxy {index}");
        assert!((truth.flux[1] - 1.0).abs() < 1e-5, "galaxy {index}: {:?}", truth.flux);
        let colour = |a: usize, b: usize| -2.5 * (truth.flux[a] / truth.flux[b]).log10();
        let (g_r, r_i) = (colour(0, 1), colour(1, 2));
        assert!((-0.1..2.0).contains(&g_r) && (-0.15..1.4).contains(&r_i), "galaxy {index}: {g_r} {r_i}");
        sizes.push(truth.r50_kpc);
        companions += u32::from(truth.companions > 0);
    }
    sizes.sort_by(f64::total_cmp);
    let median = sizes[sizes.len() / 2];
    assert!((2.5..4.5).contains(&median), "median r50 {median} kpc");
    assert!((0.04..0.25).contains(&(f64::from(companions) / count as f64)));
}

/// The half-light radius of a painted spheroid is the one asked for: profile, subsampling and reduction together.
#[test]
fn a_spheroid_has_its_half_light_radius() {
    use super::components::{Frame, Sersic};
    let grid = Grid { bands: vec!["r".into()], reference: 0, ..Grid::demonstration() };
    for (index, tolerance) in [(1.0, 0.03), (4.0, 0.12)] {
        let mut canvas = Canvas::new(&grid);
        let frame = Frame { x: 0.0, y: 0.0, angle: 0.3, axis_ratio: 1.0 };
        Sersic { frame, r50: 4.0, index, boxiness: 2.0 }.paint(&mut canvas, 1.0, [&[1.0], &[1.0]], &[1.0]);
        let image = canvas.reduce(BLUR_FWHM_PIXELS);
        let r50 = half_light_radius(&image, grid.size, [0.0; 2]) * grid.pixel_kpc;
        // n = 4 loses a tenth of its light beyond the field; the blur adds a little.
        assert!((r50 / 4.0 - 1.0).abs() < tolerance, "n = {index}: {r50}");
    }
}

/// Writes contact sheets and statistics to look at: `cargo test --release procedural_gallery -- --ignored --nocapture`.
#[test]
#[ignore = "writes pictures to look at"]
fn procedural_gallery() {
    let grid = Grid::demonstration();
    let start = std::time::Instant::now();
    let galaxies: Vec<Galaxy> = (0..256).map(|index| draw(11, index, &grid)).collect();
    println!("{:.2} ms per galaxy", start.elapsed().as_secs_f64() / 256.0 * 1e3);
    let images: Vec<Vec<f32>> = galaxies.iter().map(|galaxy| galaxy.image.clone()).collect();
    for sheet in 0..2 {
        let path = std::env::temp_dir().join(format!("unseeing-procedural-{sheet}.png"));
        crate::train::gallery::write(&path, &images[sheet * 80..(sheet + 1) * 80], &grid, 10).unwrap();
    }
    crate::train::gallery::print_statistics(&images, &grid);
    for (index, galaxy) in galaxies.iter().take(80).enumerate() {
        let truth = &galaxy.truth;
        println!(
            "{index} {:?} size {:.1} r50 {:.1} b/t {:.2}",
            truth.kind, truth.size_kpc, truth.r50_kpc, truth.bulge_fraction
        );
    }
}
