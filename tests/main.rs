//! The one integration-test binary: tests of the real program, and of its parts together.

#[path = "suite/arithmetic.rs"]
mod arithmetic;
#[path = "suite/bad_objects.rs"]
mod bad_objects;
#[path = "suite/calibration.rs"]
mod calibration;
#[path = "suite/catalogue.rs"]
mod catalogue;
#[path = "suite/chaos.rs"]
mod chaos;
#[path = "suite/common.rs"]
mod common;
#[path = "suite/crash.rs"]
mod crash;
#[path = "suite/damage.rs"]
mod damage;
#[path = "suite/deaths.rs"]
mod deaths;
#[path = "suite/disk.rs"]
mod disk;
#[path = "suite/doctor.rs"]
mod doctor;
#[path = "suite/draw.rs"]
mod draw;
#[path = "suite/estimate.rs"]
mod estimate;
#[path = "suite/evaluate.rs"]
mod evaluate;
#[path = "suite/failpoints.rs"]
mod failpoints;
#[path = "suite/foreign.rs"]
mod foreign;
#[path = "suite/import.rs"]
mod import;
#[path = "suite/inputs.rs"]
mod inputs;
#[path = "suite/layout.rs"]
mod layout;
#[path = "suite/mpi.rs"]
mod mpi;
#[path = "suite/pack.rs"]
mod pack;
#[path = "suite/photo_z.rs"]
mod photo_z;
#[path = "suite/posterior.rs"]
mod posterior;
#[path = "suite/prior.rs"]
mod prior;
#[path = "suite/products.rs"]
mod products;
#[path = "suite/quality.rs"]
mod quality;
#[path = "suite/report.rs"]
mod report;
#[path = "suite/simulate.rs"]
mod simulate;
#[path = "suite/slurm.rs"]
mod slurm;
#[path = "suite/statmorph.rs"]
mod statmorph;
