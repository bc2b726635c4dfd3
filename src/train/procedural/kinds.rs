//! How each kind of galaxy is put together from components.

use super::canvas::Canvas;
use super::components::{Bar, Disc, Frame, Sersic};
use super::palette::{Colour, Palette};
use super::texture::{Arms, Pattern, Ring, Texture};
use super::{Kind, Truth};
use crate::train::stream::Stream;

/// Half-light radius of an exponential disc in scale lengths.
const R50_PER_SCALE: f64 = 1.678;
/// Below this axis ratio a disc is painted as seen from its edge.
const EDGE_ON: f64 = 0.27;

/// Paints one galaxy.
pub struct Painter<'a> {
    pub canvas: &'a mut Canvas,
    pub bands: &'a [String],
    pub extinction: Vec<f32>,
    pub palette: Palette,
    pub stream: &'a mut Stream,
    /// Position of the nucleus, kpc from the centre of the grid.
    pub centre: [f32; 2],
}

/// A disc together with its texture, as the knots need it.
struct Painted {
    disc: Disc,
    texture: Texture,
}

impl Painter<'_> {
    /// Paints the galaxy of `truth.kind` and `truth.size_kpc`, and notes down what it became.
    pub fn paint(&mut self, truth: &mut Truth) {
        match truth.kind {
            Kind::Spiral => self.spiral(truth),
            Kind::Lenticular => self.lenticular(truth),
            Kind::Elliptical => self.elliptical(truth),
            Kind::Irregular => self.irregular(truth),
            Kind::Clumpy => self.clumpy(truth),
            Kind::Merger => self.merger(truth),
        }
    }

    fn sed(&self, colour: Colour) -> Vec<f32> {
        colour.sed(self.bands)
    }

    fn frame(&self, truth: &Truth, axis_ratio: f64) -> Frame {
        let [x, y] = self.centre;
        Frame { x, y, angle: truth.position_angle as f32, axis_ratio: axis_ratio as f32 }
    }

    /// Apparent axis ratio of an oblate body of this thickness at a random orientation.
    fn inclination(&mut self, thickness: f64) -> (f64, f64) {
        let cosine = self.stream.uniform();
        (cosine, flattened(cosine, thickness))
    }

    fn disc_profile(&mut self, scale: f64) -> (f32, f32) {
        // Pohlen & Trujillo (2006): most discs bend down, some are pure exponentials, some bend up.
        match self.stream.choice(&[0.35, 0.5, 0.15]) {
            0 => (100.0, scale as f32),
            1 => ((scale * self.stream.range(1.6, 3.6)) as f32, (scale * self.stream.range(0.3, 0.65)) as f32),
            _ => ((scale * self.stream.range(2.2, 4.0)) as f32, (scale * self.stream.range(1.4, 2.0)) as f32),
        }
    }

    fn bulge(&mut self, truth: &Truth, flux: f64, r50: f64, index: f64, cosine: f64) {
        let thickness = self.stream.range(0.55, 0.85);
        let frame = self.frame(truth, flattened(cosine, thickness));
        let inner = self.sed(self.palette.old);
        let outer = self.sed(self.palette.old.towards(self.palette.young, 0.15));
        Sersic { frame, r50: r50 as f32, index: index as f32, boxiness: 2.0 }.paint(
            self.canvas,
            flux,
            [&inner, &outer],
            &self.extinction,
        );
    }

    fn disc(&mut self, disc: Disc, flux: f64, pattern: Pattern, old: Colour, young: Colour) -> Painted {
        let texture = Texture::new(&pattern, self.stream);
        let (old, young) = (self.sed(old), self.sed(young));
        disc.paint(self.canvas, flux, [&old, &young], &self.extinction, Some(&texture));
        Painted { disc, texture }
    }

    /// Star-forming knots, placed where the disc's young light is.
    fn knots(&mut self, painted: &Painted, flux: f64, count: usize, sigma: [f64; 2]) {
        // Luminosities follow a power law dN/dL ~ L^-1.8 over a factor of 30 (HII region luminosity function).
        let weights: Vec<f64> = (0..count).map(|_| (1.0 - 0.934 * self.stream.uniform()).powf(-1.0 / 0.8)).collect();
        let total: f64 = weights.iter().sum();
        let disc = painted.disc;
        for weight in weights {
            let radius = (disc.scale as f64 * -((1.0 - self.stream.uniform()) * (1.0 - self.stream.uniform())).ln())
                .min(1.1 * disc.break_radius as f64)
                .min(3.5 * disc.scale as f64);
            let mut azimuths = [0.0; 8];
            let mut light = [0.0; 8];
            for (azimuth, light) in azimuths.iter_mut().zip(&mut light) {
                *azimuth = self.stream.angle();
                *light = f64::from(painted.texture.at(radius as f32, *azimuth as f32)[1]).powf(1.5);
            }
            let azimuth = azimuths[self.stream.choice(&light)];
            let (x, y) = disc.frame.project(radius as f32, azimuth as f32);
            let blue = self.palette.young.towards(self.palette.old, self.stream.range(-0.25, 0.15));
            let sed = self.sed(blue);
            let size = self.stream.log_range(sigma[0], sigma[1]);
            let axis_ratio = self.stream.range(0.6, 1.0) as f32;
            let angle = self.stream.angle() as f32;
            self.canvas.add_knot(flux * weight / total, &sed, [x, y], size as f32, axis_ratio, angle);
        }
    }

    /// A lane of dust across a disc seen from its edge.
    fn dust_lane(&mut self, disc: &Disc) {
        let depth = self.stream.range(0.6, 3.0) as f32;
        let height = disc.scale * disc.frame.axis_ratio * self.stream.range(0.25, 0.5) as f32;
        let shift = disc.scale * disc.frame.axis_ratio * self.stream.range(-0.35, 0.35) as f32;
        let length = disc.scale * self.stream.range(1.5, 2.5) as f32;
        let frame = disc.frame;
        let covered = self.stream.range(0.5, 0.85) as f32;
        self.canvas.attenuate(covered, &self.extinction, |x, y| {
            let (u, v) = frame.along(x, y);
            depth * (-u.abs() / length - 0.5 * ((v - shift) / height).powi(2)).exp()
        });
    }

    fn spiral(&mut self, truth: &mut Truth) {
        let stream = &mut *self.stream;
        let bulge_fraction = stream.log_normal(0.10, 0.8).min(0.55);
        let bar = stream.chance(0.4);
        let style = stream.choice(&[0.4, 0.33, 0.27]);
        let thickness = stream.range(0.10, 0.2);
        let scale = truth.size_kpc / (R50_PER_SCALE * (1.0 - 0.55 * bulge_fraction));
        let (cosine, axis_ratio) = self.inclination(thickness);
        let (break_radius, outer_scale) = self.disc_profile(scale);
        let edge_on = axis_ratio < EDGE_ON;
        let activity = self.stream.range(0.15, 1.0);
        let stream = &mut *self.stream;
        let bar_length = scale * stream.range(0.6, 1.3);
        let bar_azimuth = stream.angle();
        let number = [2, stream.integer(3, 4), stream.integer(2, 3)][style];
        let pitch = stream.range(9.0, 30.0).to_radians();
        let contrast = [1.0, 0.75, 0.25][style];
        let arms = Arms {
            number: number as f32,
            pitch: pitch as f32,
            strength: [
                (contrast * stream.range(0.3, 1.1)) as f32,
                (contrast * stream.range(1.5, 7.0) * (0.4 + activity)) as f32,
            ],
            sharpness: stream.range(1.8, 5.0) as f32,
            start: if bar { bar_length / scale } else { stream.range(0.25, 0.6) } as f32,
            azimuth: bar_azimuth as f32,
            end: stream.range(2.5, 5.5) as f32,
            sense: if stream.chance(0.5) { 1.0 } else { -1.0 },
            dust: (contrast * stream.range(0.0, 1.2)) as f32,
        };
        let mut rings = Vec::new();
        if stream.chance(if bar { 0.3 } else { 0.1 }) {
            let radius = if bar { bar_length / scale } else { stream.range(0.8, 2.2) };
            let strength = [stream.range(0.1, 0.6) as f32, stream.range(1.0, 4.0) as f32];
            rings.push(Ring { radius: radius as f32, width: stream.range(0.12, 0.3) as f32, strength });
        }
        let pattern = Pattern {
            arms: Some(arms),
            rings,
            flocculence: [stream.range(0.2, 0.55), stream.range(0.3, 0.7), stream.range(0.5, 0.95)][style] as f32,
            floccules: stream.range(3.0, 8.0) as f32,
            lopsided: [(0.13 * stream.normal()).abs() as f32, stream.angle() as f32],
            scale: scale as f32,
        };
        let young_centre = 0.35 * activity;
        let disc = Disc {
            frame: self.frame(truth, axis_ratio),
            scale: scale as f32,
            break_radius,
            outer_scale,
            young: [young_centre as f32, (young_centre + self.stream.range(0.1, 0.5)).min(0.95) as f32],
            edge_on,
            bend: if self.stream.chance(0.15) { (0.15 * scale * self.stream.normal()) as f32 } else { 0.0 },
        };
        let bar_fraction = if bar { self.stream.range(0.04, 0.16) } else { 0.0 };
        let knot_fraction = activity * self.stream.range(0.02, 0.14);
        let disc_fraction = 1.0 - bulge_fraction - bar_fraction - knot_fraction;
        let body = self.palette.old.towards(self.palette.middle, self.stream.range(0.3, 1.0));
        let painted = self.disc(disc, disc_fraction, pattern, body, self.palette.young);
        if bar {
            let sed = self.sed(self.palette.old.towards(self.palette.middle, 0.3));
            let width = self.stream.range(0.18, 0.4) as f32;
            Bar { frame: disc.frame, azimuth: bar_azimuth as f32, length: bar_length as f32, width }.paint(
                self.canvas,
                bar_fraction,
                &sed,
                &self.extinction,
            );
        }
        let index = self.stream.range(1.0, 4.0);
        let bulge_size = (scale * self.stream.log_range(0.12, 0.5)).max(0.15);
        self.bulge(truth, bulge_fraction, bulge_size, index, cosine);
        let count = self.stream.integer(12, 30) + (60.0 * activity) as usize;
        self.knots(&painted, knot_fraction, count, [0.08, 0.35]);
        if edge_on {
            self.dust_lane(&disc);
        }
        truth.axis_ratio = axis_ratio;
        truth.bulge_fraction = bulge_fraction;
        truth.barred = bar;
        truth.arms = number as u32;
        truth.pitch = pitch;
    }

    fn lenticular(&mut self, truth: &mut Truth) {
        let bulge_fraction = self.stream.range(0.2, 0.65);
        let scale = truth.size_kpc / (R50_PER_SCALE * (1.0 - 0.55 * bulge_fraction));
        let thickness = self.stream.range(0.18, 0.3);
        let (cosine, axis_ratio) = self.inclination(thickness);
        let (break_radius, outer_scale) = self.disc_profile(scale);
        let mut rings = Vec::new();
        if self.stream.chance(0.3) {
            let strength = [self.stream.range(0.2, 1.0) as f32, self.stream.range(0.0, 2.0) as f32];
            let radius = self.stream.range(0.8, 2.4) as f32;
            rings.push(Ring { radius, width: self.stream.range(0.15, 0.4) as f32, strength });
        }
        let lopsided = [(0.04 * self.stream.normal()).abs() as f32, self.stream.angle() as f32];
        let pattern = Pattern { rings, lopsided, scale: scale as f32, ..Pattern::default() };
        let disc = Disc {
            frame: self.frame(truth, axis_ratio),
            scale: scale as f32,
            break_radius,
            outer_scale,
            young: [0.02, self.stream.range(0.0, 0.2) as f32],
            edge_on: axis_ratio < EDGE_ON,
            bend: 0.0,
        };
        let body = self.palette.old.towards(self.palette.middle, self.stream.range(0.0, 0.35));
        let bar = self.stream.chance(0.3);
        let bar_fraction = if bar { self.stream.range(0.05, 0.2) } else { 0.0 };
        self.disc(disc, 1.0 - bulge_fraction - bar_fraction, pattern, body, self.palette.middle);
        if bar {
            let sed = self.sed(self.palette.old);
            let (azimuth, width) = (self.stream.angle() as f32, self.stream.range(0.25, 0.45) as f32);
            let length = (scale * self.stream.range(0.7, 1.5)) as f32;
            Bar { frame: disc.frame, azimuth, length, width }.paint(self.canvas, bar_fraction, &sed, &self.extinction);
        }
        let index = self.stream.range(1.5, 4.5);
        let bulge_size = (scale * self.stream.log_range(0.2, 0.7)).max(0.2);
        self.bulge(truth, bulge_fraction, bulge_size, index, cosine);
        if disc.edge_on && self.stream.chance(0.35) {
            self.dust_lane(&disc);
        }
        truth.axis_ratio = axis_ratio;
        truth.bulge_fraction = bulge_fraction;
        truth.barred = bar;
    }

    fn elliptical(&mut self, truth: &mut Truth) {
        let axis_ratio = (1.0 - (0.28 * self.stream.normal()).abs()).max(0.4);
        // Larger spheroids have higher Sersic indices (Caon, Capaccioli & D'Onofrio 1993).
        let index = (2.8 * (truth.size_kpc / 3.0).powf(0.3) * (0.25 * self.stream.normal()).exp()).clamp(1.2, 6.5);
        let frame = self.frame(truth, axis_ratio);
        let inner = self.sed(self.palette.old);
        let gradient = self.stream.range(0.05, 0.3);
        let outer = self.sed(self.palette.old.towards(self.palette.young, gradient));
        let boxiness = self.stream.range(1.8, 2.25) as f32;
        Sersic { frame, r50: truth.size_kpc as f32, index: index as f32, boxiness }.paint(
            self.canvas,
            1.0,
            [&inner, &outer],
            &self.extinction,
        );
        if self.stream.chance(0.08) {
            let disc = Disc {
                frame: Frame { axis_ratio: self.stream.range(0.15, 0.3) as f32, ..frame },
                scale: (0.25 * truth.size_kpc) as f32,
                break_radius: 100.0,
                outer_scale: 1.0,
                young: [0.0, 0.0],
                edge_on: true,
                bend: 0.0,
            };
            self.dust_lane(&disc);
        }
        truth.axis_ratio = axis_ratio;
        truth.bulge_fraction = 1.0;
    }

    fn irregular(&mut self, truth: &mut Truth) {
        let scale = truth.size_kpc / R50_PER_SCALE;
        let thickness = self.stream.range(0.3, 0.6);
        let (cosine, axis_ratio) = self.inclination(thickness);
        let stream = &mut *self.stream;
        let pattern = Pattern {
            flocculence: stream.range(0.4, 0.95) as f32,
            floccules: stream.range(1.2, 3.5) as f32,
            lopsided: [stream.range(0.08, 0.5) as f32, stream.angle() as f32],
            scale: scale as f32,
            ..Pattern::default()
        };
        let disc = Disc {
            frame: self.frame(truth, axis_ratio),
            scale: (scale * 1.25) as f32,
            break_radius: (scale * self.stream.range(1.0, 2.2)) as f32,
            outer_scale: (scale * self.stream.range(0.4, 0.8)) as f32,
            young: [self.stream.range(0.4, 0.9) as f32, self.stream.range(0.3, 0.9) as f32],
            edge_on: false,
            bend: (0.2 * scale * self.stream.normal()) as f32,
        };
        let knot_fraction = self.stream.range(0.03, 0.25);
        let body = self.palette.middle.towards(self.palette.young, self.stream.range(0.0, 0.5));
        let core = if self.stream.chance(0.3) { self.stream.range(0.02, 0.12) } else { 0.0 };
        let painted = self.disc(disc, 1.0 - knot_fraction - core, pattern, body, self.palette.young);
        let count = self.stream.integer(4, 22);
        self.knots(&painted, knot_fraction, count, [0.12, 0.5]);
        if core > 0.0 {
            self.bulge(truth, core, 0.35 * scale, 1.2, cosine);
        }
        truth.axis_ratio = axis_ratio;
    }

    fn clumpy(&mut self, truth: &mut Truth) {
        let scale = truth.size_kpc / R50_PER_SCALE;
        let thickness = self.stream.range(0.22, 0.4);
        let (cosine, axis_ratio) = self.inclination(thickness);
        let stream = &mut *self.stream;
        let pattern = Pattern {
            flocculence: stream.range(0.3, 0.8) as f32,
            floccules: stream.range(1.5, 4.0) as f32,
            lopsided: [stream.range(0.05, 0.35) as f32, stream.angle() as f32],
            scale: scale as f32,
            ..Pattern::default()
        };
        let disc = Disc {
            frame: self.frame(truth, axis_ratio),
            scale: scale as f32,
            break_radius: (scale * self.stream.range(1.5, 3.0)) as f32,
            outer_scale: (scale * self.stream.range(0.4, 0.9)) as f32,
            young: [self.stream.range(0.3, 0.7) as f32, self.stream.range(0.4, 0.9) as f32],
            edge_on: false,
            bend: (0.12 * scale * self.stream.normal()) as f32,
        };
        let knot_fraction = self.stream.range(0.12, 0.45);
        let bulge_fraction = if self.stream.chance(0.45) { self.stream.range(0.04, 0.25) } else { 0.0 };
        let painted =
            self.disc(disc, 1.0 - knot_fraction - bulge_fraction, pattern, self.palette.middle, self.palette.young);
        let count = self.stream.integer(3, 9);
        self.knots(&painted, knot_fraction, count, [0.2, 0.65]);
        if bulge_fraction > 0.0 {
            self.bulge(truth, bulge_fraction, 0.4 * scale, 1.5, cosine);
        }
        truth.axis_ratio = axis_ratio;
        truth.bulge_fraction = bulge_fraction;
    }

    fn merger(&mut self, truth: &mut Truth) {
        let size = truth.size_kpc;
        let partner = self.stream.log_range(0.12, 0.9) / 2.0;
        let tails = self.stream.range(0.03, 0.14);
        // The main galaxy is a disturbed spiral at reduced size; the canvas is scaled back at the end by normalisation.
        truth.size_kpc = 0.75 * size;
        self.spiral(truth);
        truth.size_kpc = size;
        let angle = self.stream.angle();
        let distance = size * self.stream.range(0.7, 2.6);
        let place =
            [self.centre[0] + (distance * angle.cos()) as f32, self.centre[1] + (distance * angle.sin()) as f32];
        let directions = [angle + self.stream.range(1.8, 4.4), angle + self.stream.range(-1.4, 1.4)];
        self.tail(tails / 2.0, self.centre, directions[0], size);
        self.tail(tails / 2.0, place, directions[1], size);
        let frame = Frame {
            x: place[0],
            y: place[1],
            angle: self.stream.angle() as f32,
            axis_ratio: self.stream.range(0.3, 1.0) as f32,
        };
        let scale = (size * self.stream.range(0.18, 0.5)) as f32;
        let pattern = Pattern {
            flocculence: self.stream.range(0.2, 0.8) as f32,
            floccules: 3.0,
            lopsided: [self.stream.range(0.1, 0.5) as f32, self.stream.angle() as f32],
            scale,
            ..Pattern::default()
        };
        let young = self.stream.range(0.1, 0.7) as f32;
        let (break_radius, outer_scale) = (3.0 * scale, 0.6 * scale);
        let disc = Disc { frame, scale, break_radius, outer_scale, young: [young; 2], edge_on: false, bend: 0.0 };
        let painted = self.disc(disc, 0.7 * partner, pattern, self.palette.middle, self.palette.young);
        self.knots(&painted, 0.1 * partner, 8, [0.1, 0.4]);
        let sed = self.sed(self.palette.old);
        Sersic { frame, r50: 0.4 * scale, index: 2.0, boxiness: 2.0 }.paint(
            self.canvas,
            0.2 * partner,
            [&sed, &sed],
            &self.extinction,
        );
    }

    /// A tidal tail: a curved train of wide, overlapping knots that fades outwards.
    fn tail(&mut self, flux: f64, from: [f32; 2], towards: f64, size: f64) {
        const KNOTS: usize = 26;
        let length = size * self.stream.range(1.6, 4.0);
        let turn = self.stream.range(-1.6, 1.6);
        let width = size * self.stream.range(0.1, 0.24);
        let youth = self.stream.range(0.0, 0.8);
        let sed = self.sed(self.palette.middle.towards(self.palette.young, youth));
        let (mut x, mut y) = (f64::from(from[0]), f64::from(from[1]));
        let step = length / KNOTS as f64;
        for knot in 0..KNOTS {
            let along = knot as f64 / KNOTS as f64;
            let direction = towards + turn * along;
            x += step * direction.cos();
            y += step * direction.sin();
            let weight = (1.0 - along) * (1.0 + 0.25 * self.stream.normal()).max(0.1) * 2.0 / KNOTS as f64;
            let sigma = (width * (1.0 + 0.8 * along)).max(0.8 * step);
            self.canvas.add_knot(flux * weight, &sed, [x as f32, y as f32], sigma as f32, 0.7, direction as f32);
        }
    }

    /// Something else in the field: a satellite or a chance neighbour, 0.5 to 4 magnitudes fainter.
    pub fn companion(&mut self, size: f64) {
        let flux = 10f64.powf(-0.4 * self.stream.range(0.5, 4.0));
        let angle = self.stream.angle();
        let distance = size + self.stream.range(3.0, 22.0);
        let frame = Frame {
            x: self.centre[0] + (distance * angle.cos()) as f32,
            y: self.centre[1] + (distance * angle.sin()) as f32,
            angle: self.stream.angle() as f32,
            axis_ratio: self.stream.range(0.3, 1.0) as f32,
        };
        let colour = self.palette.young.towards(self.palette.old, self.stream.range(-0.1, 1.1));
        let colour = Colour { g_r: colour.g_r + 0.1 * self.stream.normal(), ..colour };
        let sed = self.sed(colour);
        let r50 = (self.stream.log_range(0.4, 2.2) * flux.powf(0.15)) as f32;
        let index = self.stream.range(0.8, 2.5) as f32;
        Sersic { frame, r50, index, boxiness: 2.0 }.paint(self.canvas, flux, [&sed, &sed], &self.extinction);
    }
}

fn flattened(cosine: f64, thickness: f64) -> f64 {
    (cosine * cosine + thickness * thickness * (1.0 - cosine * cosine)).sqrt()
}
