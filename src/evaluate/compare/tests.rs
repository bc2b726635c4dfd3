use super::*;
use crate::product::RecordArray;
use crate::random::{Key, Purpose};
use crate::sky::TanWcs;

const SIZE: i64 = 48;
const PRIOR_PITCH: f64 = 0.1;
const PITCH: f64 = 0.168;

fn wcs(pitch: f64, crpix: [f64; 2]) -> TanWcs {
    let degrees = pitch / 3600.0;
    TanWcs { crval: [150.0, 2.0], crpix, cd: [[-degrees, 0.0], [0.0, degrees]] }
}

/// A disc with a compact clump beside it, nJy per pixel of `pitch` arcsec; its centre is off by `at` arcsec.
fn galaxy(size: usize, pitch: f64, at: [f64; 2]) -> Vec<f64> {
    let centre = (size as f64 - 1.0) / 2.0;
    (0..size * size)
        .map(|index| {
            let x = ((index % size) as f64 - centre) * pitch - at[0];
            let y = ((index / size) as f64 - centre) * pitch - at[1];
            let clump = 4.0 * (-((x - 0.6).powi(2) + (y + 0.4).powi(2)) / 0.03).exp();
            1e4 * pitch * pitch * ((-x.hypot(y) / 0.4).exp() + clump)
        })
        .collect()
}

fn observed(noise: f64) -> Observed {
    let field =
        Field { size: SIZE, prior_pitch: PRIOR_PITCH, detector_pitch: PITCH, target: [14.2, 13.9], shape: [29, 29] };
    let psf = Psf::gaussian(41, 0.6, PITCH).unwrap();
    let operator = SamplingOperator::new(&field, std::slice::from_ref(&psf), Kind::Double, Device::Cpu).unwrap();
    let truth = Tensor::from_slice(&galaxy(SIZE as usize, PRIOR_PITCH, [0.0; 2])).view([1, 1, SIZE, SIZE]);
    let shape = [1, 1, 29, 29];
    let white = Tensor::from_slice(&Key::new(1, "compare", 0, Purpose::ObservationNoise, 0).normal(29 * 29));
    let data = operator.apply(&truth).unwrap() + white.to_kind(Kind::Double).view(shape) * noise;
    let weight = Tensor::full(shape, 1.0 / (noise * noise), (Kind::Double, Device::Cpu));
    Observed { field, psf, operator, data, weight, noise }
}

fn scoring() -> Scoring {
    Scoring { size: SIZE as usize, radius: 16.0, softening: 3.0 }
}

#[test]
fn deconvolution_is_nearer_to_the_truth_than_the_blurred_image() {
    let observed = observed(1.0);
    let truth = galaxy(SIZE as usize, PRIOR_PITCH, [0.0; 2]);
    let entries = compare(&observed, &truth, &[], &truth, &scoring(), &|image| image.to_vec()).unwrap();
    assert_eq!(
        entries.iter().map(|entry| entry.method.as_str()).collect::<Vec<_>>(),
        ["posterior mean", "Richardson-Lucy", "Wiener"]
    );
    assert_eq!(entries[0].score.psnr, f64::INFINITY);
    // One iteration of Richardson-Lucy is a blurred image.
    let mut first = None;
    deconvolve::richardson_lucy(&observed, 1, &mut |_, image| first = Some(image.to_vec())).unwrap();
    let blurred = scoring().score(&first.unwrap(), &truth);
    for entry in &entries[1..] {
        assert!(entry.score.psnr > blurred.psnr + 1.0, "{}: {:?}, blurred {blurred:?}", entry.method, entry.score);
        assert!((entry.score.flux_ratio - 1.0).abs() < 0.03, "{}: {:?}", entry.method, entry.score);
    }
    assert!(entries[1].chosen.unwrap() > 2.0, "{:?}", entries[1].chosen);
}

#[test]
fn a_sharp_image_is_brought_to_place_and_flux() {
    let observed = observed(0.5);
    // Finer pixels, shifted by (0.13, -0.07) arcsec, in other units, with another reference pixel.
    let sharp: Vec<f32> = galaxy(201, 0.03, [0.13, -0.07]).iter().map(|value| (value / 50.0) as f32).collect();
    let image = RecordArray { shape: vec![201, 201], values: sharp };
    let to = wcs(PRIOR_PITCH, [(SIZE as f64 - 1.0) / 2.0; 2]);
    let (reference, found) = reference::matched(&image, &wcs(0.03, [100.0; 2]), &to, &observed).unwrap();
    // An eighth of a product pixel, and half a per cent: the sharp image has the pixels of the grid added to its PSF.
    assert!((found.shift_arcsec[0] + 0.13).abs() < 0.012 && (found.shift_arcsec[1] - 0.07).abs() < 0.012, "{found:?}");
    assert!((found.flux_factor / 50.0 - 1.0).abs() < 0.01, "{found:?}");
    let truth = galaxy(SIZE as usize, PRIOR_PITCH, [0.0; 2]);
    let score = scoring().score(&reference, &truth);
    assert!((score.flux_ratio - 1.0).abs() < 0.01 && score.psnr > 25.0, "{score:?}");
    let elsewhere = TanWcs { crval: [150.1, 2.0], ..wcs(0.03, [100.0; 2]) };
    assert!(reference::matched(&image, &elsewhere, &to, &observed).is_err());
}
