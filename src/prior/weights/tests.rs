use std::io::{Cursor, Write};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

const NAME: &str = "w.pt";

/// An archive as `torch.save` makes it, from its parts.
fn archive(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in parts {
        writer.start_file(format!("w/{name}"), options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// The pickle of `{name: view of storage "0"}`.
fn pickle(storage: &str, elements: i32, views: &[(&str, i32, &[i32], &[i32])]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }
    fn integer(out: &mut Vec<u8>, value: i32) {
        out.push(b'J');
        out.extend(value.to_le_bytes());
    }
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (name, offset, shape, strides) in views {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{storage}\n").as_bytes());
        text(&mut out, "0");
        text(&mut out, "cuda:0");
        integer(&mut out, elements);
        out.extend(b"tQ");
        integer(&mut out, *offset);
        for tuple in [shape, strides] {
            out.push(b'(');
            tuple.iter().for_each(|&value| integer(&mut out, value));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u}X\x09\x00\x00\x00_metadata}sb.");
    out
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn values(weights: &Weights, name: &str) -> Vec<f32> {
    crate::sampler::to_vec(weights.find(name).unwrap()).unwrap()
}

fn load(bytes: &[u8]) -> Result<Weights> {
    Weights::from_bytes(Path::new(NAME), bytes)
}

fn load_error(bytes: &[u8]) -> String {
    let error = load(bytes).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with(NAME), "the message names the file: {error}");
    error
}

#[test]
fn views_strides_offsets_and_shared_storages() {
    let data = floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let views: [(&str, i32, &[i32], &[i32]); 4] = [
        ("whole", 0, &[6], &[1]),
        ("transposed", 0, &[3, 2], &[1, 3]),
        ("tail", 4, &[2], &[1]),
        ("scalar", 3, &[], &[]),
    ];
    let bytes =
        archive(&[("data.pkl", &pickle("FloatStorage", 6, &views)), ("data/0", &data), ("byteorder", b"little")]);
    let weights = load(&bytes).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["whole", "transposed", "tail", "scalar"]);
    assert_eq!(weights.get("transposed", &[3, 2]).unwrap().size(), [3, 2]);
    assert_eq!(values(&weights, "transposed"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(values(&weights, "tail"), [4.0, 5.0]);
    assert_eq!(values(&weights, "scalar"), [3.0]);
    assert_eq!(weights.parameters(), 6 + 6 + 2 + 1);
}

#[test]
fn other_kinds_become_f32() {
    let half: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let brain: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    let double: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    for (storage, data) in [("HalfStorage", half), ("BFloat16Storage", brain), ("DoubleStorage", double)] {
        let bytes = archive(&[("data.pkl", &pickle(storage, 2, &[("a", 0, &[2], &[1])])), ("data/0", &data)]);
        assert_eq!(values(&load(&bytes).unwrap(), "a"), [1.5, -2.0], "{storage}");
    }
}

#[test]
fn a_file_that_asks_for_code_is_refused() {
    let evil = b"\x80\x02cos\nsystem\nX\x0a\x00\x00\x00touch /tmpq\x01\x85R.";
    let error = load_error(&archive(&[("data.pkl", evil)]));
    assert!(error.contains("asks for code: os.system"), "{error}");
    let error = load_error(&archive(&[("data.pkl", b"\x80\x02cbuiltins\neval\n.")]));
    assert!(error.contains("asks for code: builtins.eval"), "{error}");
}

#[test]
fn absurd_sizes_are_refused_before_they_are_allocated() {
    let data = floats(&[0.0; 4]);
    let views: [(i32, &[i32], &[i32]); 6] = [
        (0, &[5], &[1]),
        (1, &[4], &[1]),
        (0, &[i32::MAX, i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0, 0]),
        (0, &[2, 2], &[i32::MAX, 1]),
        (-1, &[2], &[1]),
        (0, &[2, 2], &[1]),
    ];
    for (offset, shape, strides) in views {
        let bytes =
            archive(&[("data.pkl", &pickle("FloatStorage", 4, &[("a", offset, shape, strides)])), ("data/0", &data)]);
        assert!(load_error(&bytes).contains("tensor `a`"));
    }
    // A storage that claims more elements than its bytes, and many views that together are absurd.
    for elements in [5, i32::MAX, -1] {
        let bytes =
            archive(&[("data.pkl", &pickle("FloatStorage", elements, &[("a", 0, &[1], &[1])])), ("data/0", &data)]);
        assert!(load_error(&bytes).contains("has 16 bytes, expected"));
    }
    let names: Vec<String> = (0..9).map(|index| index.to_string()).collect();
    let many: Vec<(&str, i32, &[i32], &[i32])> =
        names.iter().map(|name| (name.as_str(), 0, &[4][..], &[0][..])).collect();
    let bytes = archive(&[("data.pkl", &pickle("FloatStorage", 4, &many)), ("data/0", &data)]);
    assert!(load_error(&bytes).contains("absurdly"));
}

#[test]
fn every_truncation_is_an_error() {
    let data = floats(&[0.0; 4]);
    let bytes = archive(&[("data.pkl", &pickle("FloatStorage", 4, &[("a", 0, &[4], &[1])])), ("data/0", &data)]);
    load(&bytes).unwrap();
    for length in 0..bytes.len() {
        load_error(&bytes[..length]);
    }
    // The pickle cut inside an intact archive, the storage missing, and a flipped bit in the storage.
    let whole = pickle("FloatStorage", 4, &[("a", 0, &[4], &[1])]);
    for length in 0..whole.len() {
        load_error(&archive(&[("data.pkl", &whole[..length]), ("data/0", &data)]));
    }
    load_error(&archive(&[("data.pkl", &whole)]));
    let mut flipped = archive(&[("data.pkl", &whole), ("data/0", &[0x55; 16])]);
    let position = flipped.windows(16).position(|window| window == [0x55; 16]).unwrap();
    flipped[position] ^= 1;
    assert!(load_error(&flipped).contains("data/0"));
}

#[test]
fn safetensors_round_trip_in_both_precisions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let tensors = vec![
        ("z".to_string(), Tensor::from_slice(&[1.0f32, 2.5, -3.0, 0.125]).view([2, 2])),
        ("a".to_string(), Tensor::from_slice(&[7.0f32]).view(())),
    ];
    let metadata = HashMap::from([("card".to_string(), "{}".to_string()), ("b".to_string(), "2".to_string())]);
    for half in [false, true] {
        write_safetensors(&path, &tensors, metadata.clone(), half).unwrap();
        let first = std::fs::read(&path).unwrap();
        let weights = Weights::read(&path).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["z", "a"]);
        for (name, tensor) in &tensors {
            assert_eq!(&weights.get(name, &tensor.size()).unwrap(), tensor);
        }
        assert_eq!(weights.metadata().get("card").map(String::as_str), Some("{}"));
        write_safetensors(&path, &tensors, metadata.clone(), half).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap(), "equal weights, equal bytes");
        for length in 0..first.len() {
            load_error(&first[..length]);
        }
    }
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let views: [(&str, i32, &[i32], &[i32]); 2] = [("a", 0, &[2, 2], &[2, 1]), ("b", 0, &[4], &[1])];
    let data = floats(&[0.0; 4]);
    let bytes = archive(&[("data.pkl", &pickle("FloatStorage", 4, &views)), ("data/0", &data)]);
    let weights = load(&bytes).unwrap();
    let error = weights.get("a", &[4]).unwrap_err().to_string();
    assert!(error.contains("w.pt") && error.contains("`a`") && error.contains("[2, 2]") && error.contains("[4]"));
    let error = weights.get("c", &[4]).unwrap_err().to_string();
    assert!(error.contains("w.pt") && error.contains("`c`"));
    let error = weights.check(&[("a".into(), vec![2, 2])]).unwrap_err().to_string();
    assert!(error.contains("1 tensors that the network does not have") && error.contains("`b`"));
}
