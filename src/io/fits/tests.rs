use std::io::Write;

use super::*;
use crate::sky::wcs::TanWcs;

fn wcs() -> TanWcs {
    TanWcs { crval: [150.1, -2.3], crpix: [10.25, 20.5], cd: [[-4.6666666666664e-5, 1e-7], [2e-7, 4.7e-5]] }
}

fn write(path: &std::path::Path) -> Vec<f32> {
    let values: Vec<f32> = (0..35 * 50).map(|index| index as f32 * 0.5 - 3.0).collect();
    let bits: Vec<i32> = (0..35 * 50).collect();
    let keywords = vec![
        Keyword::number("FLUXMAG0", 63095734448.01944, "counts of magnitude 0"),
        Keyword::text("FILTER", "i", ""),
        Keyword::integer("COUNT", -12, ""),
    ];
    let shape = [35, 50];
    write_images(
        path,
        &[
            NewImage { name: "", shape: &[], pixels: Pixels::Floats(&[]), wcs: None, keywords: Vec::new() },
            NewImage { name: "IMAGE", shape: &shape, pixels: Pixels::Floats(&values), wcs: Some(wcs()), keywords },
            NewImage { name: "MASK", shape: &shape, pixels: Pixels::Integers(&bits), wcs: None, keywords: Vec::new() },
        ],
    )
    .unwrap();
    values
}

/// The header of a primary image, padded to a block, with 4 kB of zeros behind it.
fn by_hand(path: &std::path::Path, cards: &[&str]) {
    let mut bytes = Vec::new();
    for card in ["SIMPLE  =                    T"].iter().chain(cards).chain(&["END"]) {
        write!(bytes, "{card:<80}").unwrap();
    }
    bytes.resize(2880, b' ');
    bytes.resize(2880 * 3, 0);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_written_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    // Brackets and a plus are cfitsio's own syntax in a file's name; here they are only a name.
    let path = folder.path().join("a[1]+2.fits");
    let values = write(&path);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    let mut fits = Fits::open(&path).unwrap();
    let hdu = fits.first_image().unwrap();
    assert_eq!((hdu.number, hdu.name.as_str(), hdu.shape.clone()), (1, "IMAGE", vec![35, 50]));
    let section = fits.section(&hdu, (3, 10), (20, 50)).unwrap();
    assert_eq!(section.shape, [7, 30]);
    assert_eq!(section.values[..30], values[3 * 50 + 20..4 * 50]);
    assert_eq!(section.values[6 * 30..], values[9 * 50 + 20..10 * 50]);
    let mask = fits.hdus()[2].clone();
    assert!(mask.is_integer && !hdu.is_integer);
    assert_eq!(fits.integer_section(&mask, (34, 35), (49, 50)).unwrap().values, [35 * 50 - 1]);
    let mut header = fits.header(1);
    assert_eq!(header.number("FLUXMAG0").unwrap(), Some(63095734448.01944));
    assert_eq!(header.text("FILTER").unwrap().as_deref(), Some("i"));
    assert_eq!(header.text("COUNT").unwrap().as_deref(), Some("-12"));
    assert_eq!((header.number("NOTHING").unwrap(), header.text("NOTHING").unwrap()), (None, None));
    assert!(header.number("FILTER").unwrap_err().to_string().contains("FILTER of HDU 1 is not a number"));
    assert_eq!(header.wcs().unwrap(), wcs());
    let error = fits.section(&hdu, (30, 36), (0, 50)).unwrap_err().to_string();
    assert!(error.contains("rows 30..36") && error.contains("a[1]+2.fits"), "{error}");
    write(&path);
    assert_eq!(read_image(&path).unwrap().values, values, "an existing file is replaced");
}

#[test]
fn gzipped_files_read_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.fits");
    let values = write(&path);
    let zipped = folder.path().join("b.fits.gz");
    let mut encoder =
        flate2::write::GzEncoder::new(std::fs::File::create(&zipped).unwrap(), flate2::Compression::fast());
    encoder.write_all(&std::fs::read(&path).unwrap()).unwrap();
    encoder.finish().unwrap();
    assert_eq!(read_image(&zipped).unwrap().values, values);
    // Cut short, it is an error.
    let whole = std::fs::read(&zipped).unwrap();
    std::fs::write(&zipped, &whole[..whole.len() / 2]).unwrap();
    assert!(read_image(&zipped).unwrap_err().to_string().contains("b.fits.gz"));
}

#[test]
fn projections_in_all_spellings_and_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.fits");
    let image = ["BITPIX  = -32", "NAXIS   = 2", "NAXIS1  = 4", "NAXIS2  = 3"];
    let place = ["CRVAL1  = 10.0", "CRVAL2  = 20.0", "CRPIX1  = 2.0", "CRPIX2  = 3.0"];
    let tan = ["CTYPE1  = 'RA---TAN'", "CTYPE2  = 'DEC--TAN'"];
    let read = |more: &[&str]| {
        let cards: Vec<&str> = image.iter().chain(&place).chain(more).copied().collect();
        by_hand(&path, &cards);
        Fits::open(&path).unwrap().header(0).wcs()
    };
    let delta = ["CDELT1  = -0.001", "CDELT2  = 0.002"];
    let with = |more: &[&'static str]| [tan.as_slice(), &delta, more].concat();
    assert_eq!(read(&with(&[])).unwrap().cd, [[-0.001, 0.0], [0.0, 0.002]]);
    assert_eq!(read(&with(&[])).unwrap().crpix, [1.0, 2.0]);
    let turned = read(&with(&["PC1_1   = 0.0", "PC1_2   = 1.0", "PC2_1   = -1.0", "PC2_2   = 0.0"])).unwrap();
    assert_eq!(turned.cd, [[0.0, -0.001], [-0.002, 0.0]]);
    let rotated = read(&with(&["CROTA2  = 90.0"])).unwrap().cd;
    // AIPS convention: CD1_2 = -CDELT2 sin, CD2_1 = CDELT1 sin.
    assert!((rotated[0][1] + 0.002).abs() < 1e-15 && (rotated[1][0] + 0.001).abs() < 1e-15);
    let message = read(&tan).unwrap_err().to_string();
    assert!(message.contains("pixel scale is unknown"), "{message}");
    let message = read(&["CTYPE1  = 'RA---SIN'", "CTYPE2  = 'DEC--SIN'"]).unwrap_err().to_string();
    assert!(message.contains("CTYPE1 is `RA---SIN`, expected `RA---TAN`"), "{message}");
    let message = read(&[tan.as_slice(), &["CD1_1   = 0.0", "CD2_2   = 1.0"]].concat()).unwrap_err().to_string();
    assert!(message.contains("not invertible"), "{message}");
}

#[test]
fn scaled_integers_and_blanks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.fits");
    let scale = ["BSCALE  = 0.5", "BZERO   = 10.0", "BLANK   = 0"];
    by_hand(&path, &[&["BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 4", "NAXIS2  = 3"], scale.as_slice()].concat());
    assert!(read_image(&path).unwrap().values.iter().all(|value| value.is_nan()), "BLANK is NaN");
    by_hand(&path, &[&["BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 4", "NAXIS2  = 3"], &scale[..2]].concat());
    assert_eq!(read_image(&path).unwrap().values, [10.0; 12]);
}

#[test]
fn headers_that_promise_too_much_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.fits");
    for side in ["3000", "100000", "2000000000", "9000000000000000000"] {
        by_hand(&path, &["BITPIX  = -32", "NAXIS   = 2", &format!("NAXIS1  = {side}"), &format!("NAXIS2  = {side}")]);
        let message = read_image(&path).unwrap_err().to_string();
        assert!(message.contains("a.fits"), "{side}: {message}");
    }
    by_hand(&path, &["BITPIX  = 8", "NAXIS   = 0"]);
    let message = read_image(&path).unwrap_err().to_string();
    assert!(message.contains("no HDU holds a two-dimensional image; it has HDU 0 (empty)"), "{message}");
}

/// Whatever stands in a file, reading it gives numbers or an error: no panic, no crash.
#[test]
fn damaged_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.fits");
    write(&path);
    let image = std::fs::read(&path).unwrap();
    let columns = [
        NewColumn::new("id", Cells::Integers(vec![Some(1); 50])),
        NewColumn::new("x", Cells::Floats(vec![1.0; 50])),
        NewColumn::new("name", Cells::Texts(vec!["abc".into(); 50])),
    ];
    write_table(&path, &columns, &[]).unwrap();
    let table = std::fs::read(&path).unwrap();
    let mut outcomes = [0; 2];
    for seed in 0..300u32 {
        let mut bytes = if seed % 2 == 0 { image.clone() } else { table.clone() };
        let key = crate::random::Key::new(3, "damage", seed, crate::random::Purpose::Evaluation, 0);
        for pair in key.uniform(16).chunks(2) {
            // Mostly in the headers, where it matters.
            let reach = bytes.len().min(8640);
            bytes[(pair[0] * reach as f64) as usize] = (pair[1] * 256.0) as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        let read = if seed % 2 == 0 {
            read_image(&path).map(|_| ())
        } else {
            Table::open(&path).and_then(|mut table| {
                let count = table.rows().min(50);
                (0..table.names().count()).try_for_each(|column| table.read(column, 0, count).map(|_| ()))
            })
        };
        outcomes[usize::from(read.is_err())] += 1;
    }
    assert!(outcomes[0] > 20 && outcomes[1] > 20, "the damage is too small or too large: {outcomes:?}");
}
