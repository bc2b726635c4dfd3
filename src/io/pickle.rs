//! A restricted reader of Python pickles: just enough for a saved state dict, and nothing that runs code.
//!
//! A pickle is a program for a small stack machine; its `GLOBAL` and `REDUCE` instructions can call any Python function.
//! Here the only names that exist are those a state dict needs (see [`Global::named`]); any other is an error that names
//! it. Values live in an arena and are referred to by index, so that shared or deeply nested values cost nothing to copy
//! or drop, and everything that is allocated is bounded by the length of the pickle.

use tch::Kind;

mod machine;

use machine::Machine;

/// What the file asks for, or why it cannot be read. The caller adds the file's name.
pub type PickleResult<T> = std::result::Result<T, String>;

/// A value of the machine. Containers are indices into the arena.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(usize),
    /// Tuples and lists.
    Sequence(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

/// The names that a state dict may refer to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Kind),
}

impl Global {
    /// The only lookup of names: everything else is refused.
    fn named(module: &str, name: &str) -> PickleResult<Global> {
        let kind = match (module, name) {
            ("collections", "OrderedDict") => return Ok(Global::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => return Ok(Global::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => return Ok(Global::RebuildParameter),
            ("torch", "FloatStorage") => Kind::Float,
            ("torch", "HalfStorage") => Kind::Half,
            ("torch", "BFloat16Storage") => Kind::BFloat16,
            ("torch", "DoubleStorage") => Kind::Double,
            ("torch", "LongStorage") => Kind::Int64,
            ("torch", "IntStorage") => Kind::Int,
            ("torch", "ShortStorage") => Kind::Int16,
            ("torch", "CharStorage") => Kind::Int8,
            ("torch", "ByteStorage") => Kind::Uint8,
            ("torch", "BoolStorage") => Kind::Bool,
            _ => {
                return Err(format!(
                    "asks for code: {}.{}. Only plain state dicts are read, and nothing in a file is ever executed; \
                     save `model.state_dict()` alone",
                    module.escape_default(),
                    name.escape_default()
                ));
            }
        };
        Ok(Global::Storage(kind))
    }
}

/// A storage that the pickle refers to: a file of the archive.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageRef {
    pub kind: Kind,
    /// Its name below `data/` in the archive.
    pub key: String,
    /// Number of elements.
    pub elements: i64,
}

/// A tensor as a view of a storage; sizes, strides and offset are in elements, and as the file says: unchecked.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorRef {
    pub storage: StorageRef,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

/// Reads a pickled state dict: names and tensor views, in the file's order.
pub fn read_state_dict(pickle: &[u8]) -> PickleResult<Vec<(String, TensorRef)>> {
    let mut machine = Machine::new(pickle);
    let Value::Dict(top) = machine.run()? else {
        return Err("is not a state dict (a dict of tensors); save `model.state_dict()` alone".into());
    };
    let mut entries = Vec::with_capacity(machine.dicts[top].len());
    for (key, value) in &machine.dicts[top] {
        let Value::Text(key) = key else {
            return Err(format!("has a key that is not text ({key:?}): it is not a state dict"));
        };
        let key = machine.texts[*key].clone();
        let Value::Tensor(tensor) = value else {
            return Err(format!(
                "`{key}` is not a tensor: it is not a plain state dict; save `model.state_dict()` alone"
            ));
        };
        entries.push((key, machine.tensors[*tensor].clone()));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_refused_by_name() {
        // What `pickle.dumps` writes for an object whose __reduce__ is (os.system, ("true",)), protocols 2 and 4.
        let cases: [&[u8]; 2] = [
            b"\x80\x02cos\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.",
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
        ];
        for pickle in cases {
            let error = read_state_dict(pickle).unwrap_err();
            assert!(error.contains("asks for code: os.system"), "{error}");
        }
        let error = read_state_dict(b"\x80\x02ctorch\nComplexFloatStorage\n.").unwrap_err();
        assert!(error.contains("torch.ComplexFloatStorage"), "{error}");
        assert!(read_state_dict(b"\x80\x02}\x81.").unwrap_err().contains("asks for code"));
    }

    #[test]
    fn damage_is_an_error() {
        let cases: [&[u8]; 12] = [
            b"",
            b"\x80",
            b".",
            b"(.",
            b"\x80\x02}q\x00",
            b"\x80\x02X\xff\xff\xff\xffa.",
            b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.",
            b"\x80\x02h\x07.",
            b"\x80\x02}(K\x01u.",
            b"\x80\x02K\x01Q.",
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
            b"\x80\x02(K\x01\x85.",
        ];
        for pickle in cases {
            assert!(read_state_dict(pickle).is_err(), "{pickle:?}");
        }
    }

    #[test]
    fn nested_and_shared_values_cost_no_more_than_their_bytes() {
        // A million nested tuples, then one that is doubled thirty times: neither recursion nor 2^30 values.
        let mut pickle = b"\x80\x02)".to_vec();
        pickle.extend(std::iter::repeat_n(0x85, 1_000_000));
        for _ in 0..30 {
            pickle.extend_from_slice(b"q\x00h\x00\x86");
        }
        pickle.push(b'.');
        assert!(read_state_dict(&pickle).unwrap_err().contains("not a state dict"));
    }
}
