//! Pictures, charts and tables for people to look at.

pub mod canvas;
pub mod chart;
pub mod colour;
pub mod compare;
pub mod coverage;
pub mod dominance;
pub mod font;
pub mod grid;
pub mod object;
pub mod page;
pub mod scatter;
pub mod table;

pub use canvas::{BLACK, Canvas};
pub use chart::{Chart, Series, small_multiples};
pub use compare::compare_picture;
pub use coverage::coverage_picture;
pub use dominance::dominance_picture;
pub use grid::grid_picture;
pub use object::{object_picture, survey_stretch};
pub use scatter::scatter_picture;
