//! The stack machine: one match on the instructions, and what each does.

use std::collections::HashMap;

use super::{Global, PickleResult, StorageRef, TensorRef, Value};

#[derive(Default)]
pub struct Machine<'a> {
    input: &'a [u8],
    position: usize,
    stack: Vec<Value>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    pub texts: Vec<String>,
    sequences: Vec<Vec<Value>>,
    pub dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<StorageRef>,
    pub tensors: Vec<TensorRef>,
}

impl<'a> Machine<'a> {
    /// A machine at the beginning of a pickle.
    pub fn new(input: &'a [u8]) -> Self {
        Machine { input, ..Machine::default() }
    }

    /// Runs the pickle to its end; returns what it leaves.
    pub fn run(&mut self) -> PickleResult<Value> {
        loop {
            let opcode = self.byte()?;
            match opcode {
                // Framing: PROTO, FRAME, STOP.
                0x80 => {
                    self.byte()?;
                }
                0x95 => {
                    self.take(8)?;
                }
                b'.' => return self.pop(),
                // Constants.
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.stack.push(Value::Int(value.into()));
                }
                b'K' => {
                    let value = self.byte()?;
                    self.stack.push(Value::Int(value.into()));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.stack.push(Value::Int(value.into()));
                }
                0x8a => self.long()?,
                b'G' => {
                    let value = f64::from_be_bytes(self.array()?);
                    self.stack.push(Value::Float(value));
                }
                // Texts: BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, and Python 2's BINSTRING, SHORT_BINSTRING.
                b'X' | b'T' => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.text(length.into())?;
                }
                0x8c | b'U' => {
                    let length = self.byte()?;
                    self.text(length.into())?;
                }
                0x8d => {
                    let length = u64::from_le_bytes(self.array()?);
                    self.text(length)?;
                }
                // Containers.
                b'(' => self.marks.push(self.stack.len()),
                b')' | b']' => self.push_sequence(Vec::new()),
                b't' | b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push_sequence(items);
                }
                0x85..=0x87 => {
                    let count = usize::from(opcode - 0x84);
                    let first = self.floor_checked(count)?;
                    let items = self.stack.split_off(first);
                    self.push_sequence(items);
                }
                b'a' | b'e' => {
                    let items = if opcode == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
                    let list = self.top_sequence()?;
                    self.sequences[list].extend(items);
                }
                b'}' => self.push_dict(Vec::new()),
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push_dict(pairs(&items)?);
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }
                // The stack and the memo.
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.pop_to_mark()?;
                }
                b'q' => {
                    let slot = self.byte()?;
                    self.remember(slot.into())?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let slot = self.byte()?;
                    self.recall(slot.into())?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.recall(slot)?;
                }
                // Names, and what is made with them.
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.stack.push(Value::Global(Global::named(&module, &name)?));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (module, name) else {
                        return Err(self.damaged("a name that is not text"));
                    };
                    let global = Global::named(&self.texts[module], &self.texts[name])?;
                    self.stack.push(Value::Global(global));
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                // BUILD sets attributes (a state dict's `_metadata`); they say nothing about the tensors.
                b'b' => {
                    self.pop()?;
                    if !matches!(self.stack.last(), Some(Value::Dict(_))) {
                        return Err(self.damaged("attributes on something that is not a dict"));
                    }
                }
                // The instructions that only serve to make objects of classes.
                b'i' | b'o' | 0x81 | 0x92 => {
                    return Err("asks for code: it makes objects of a class. Only plain state dicts are read; save \
                                `model.state_dict()` alone"
                        .into());
                }
                _ => return Err(self.damaged(&format!("the unknown instruction 0x{opcode:02x}"))),
            }
        }
    }

    fn damaged(&self, what: &str) -> String {
        format!("its pickle has {what} at byte {}: the file is damaged, or not a state dict", self.position)
    }

    fn take(&mut self, count: u64) -> PickleResult<&[u8]> {
        let left = self.input.len() - self.position;
        if count > left as u64 {
            return Err(format!("its pickle is truncated: {count} bytes expected at {}, {left} left", self.position));
        }
        let start = self.position;
        self.position += count as usize;
        Ok(&self.input[start..self.position])
    }

    fn byte(&mut self) -> PickleResult<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> PickleResult<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn line(&mut self) -> PickleResult<String> {
        let rest = &self.input[self.position..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err("its pickle is truncated inside a name".into());
        };
        self.position += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn text(&mut self, length: u64) -> PickleResult<()> {
        let bytes = self.take(length)?.to_vec();
        let text = String::from_utf8(bytes).map_err(|_| self.damaged("text that is not UTF-8"))?;
        self.stack.push(Value::Text(self.texts.len()));
        self.texts.push(text);
        Ok(())
    }

    /// LONG1: a little-endian two's-complement integer of any length; more than 64 bits are no size of anything.
    fn long(&mut self) -> PickleResult<()> {
        let length = self.byte()?;
        let bytes = self.take(length.into())?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut full = [if negative { 0xff } else { 0 }; 8];
        let Some(low) = full.get_mut(..bytes.len()) else {
            return Err(self.damaged("an integer of more than 64 bits"));
        };
        low.copy_from_slice(bytes);
        self.stack.push(Value::Int(i64::from_le_bytes(full)));
        Ok(())
    }

    /// The lowest stack index that the current mark allows to pop.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn floor_checked(&self, count: usize) -> PickleResult<usize> {
        let first = self.stack.len().checked_sub(count).filter(|&first| first >= self.floor());
        first.ok_or_else(|| self.damaged("too few values on its stack"))
    }

    fn pop(&mut self) -> PickleResult<Value> {
        self.floor_checked(1)?;
        self.stack.pop().ok_or_else(|| "its pickle is damaged".into())
    }

    fn pop_to_mark(&mut self) -> PickleResult<Vec<Value>> {
        let Some(mark) = self.marks.pop() else {
            return Err(self.damaged("an end without a beginning"));
        };
        Ok(self.stack.split_off(mark))
    }

    fn push_sequence(&mut self, items: Vec<Value>) {
        self.stack.push(Value::Sequence(self.sequences.len()));
        self.sequences.push(items);
    }

    fn push_dict(&mut self, items: Vec<(Value, Value)>) {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(items);
    }

    fn top_sequence(&self) -> PickleResult<usize> {
        match self.stack.last() {
            Some(Value::Sequence(index)) => Ok(*index),
            _ => Err(self.damaged("items for something that is not a list")),
        }
    }

    fn set_items(&mut self, items: &[Value]) -> PickleResult<()> {
        let items = pairs(items)?;
        let Some(Value::Dict(index)) = self.stack.last() else {
            return Err(self.damaged("items for something that is not a dict"));
        };
        self.dicts[*index].extend(items);
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> PickleResult<()> {
        let Some(&value) = self.stack.last() else {
            return Err(self.damaged("nothing to remember"));
        };
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> PickleResult<()> {
        let Some(&value) = self.memo.get(&slot) else {
            return Err(self.damaged("a reference to nothing"));
        };
        self.stack.push(value);
        Ok(())
    }

    /// BINPERSID with `("storage", type, key, device, elements)`. The device is ignored: everything is read to memory.
    fn persistent(&mut self) -> PickleResult<()> {
        let Value::Sequence(index) = self.pop()? else {
            return Err(self.damaged("an external reference that is not a storage"));
        };
        let &[Value::Text(tag), Value::Global(Global::Storage(kind)), Value::Text(key), _, Value::Int(elements)] =
            self.sequences[index].as_slice()
        else {
            return Err(self.damaged("an external reference that is not a storage"));
        };
        if self.texts[tag] != "storage" {
            return Err(self.damaged("an external reference that is not a storage"));
        }
        let key = self.texts[key].clone();
        self.stack.push(Value::Storage(self.storages.len()));
        self.storages.push(StorageRef { kind, key, elements });
        Ok(())
    }

    /// REDUCE: the call of one of the known names, done here and not by Python.
    fn reduce(&mut self) -> PickleResult<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Global(function), Value::Sequence(arguments)) = (function, arguments) else {
            return Err(self.damaged("a call of something that cannot be called"));
        };
        let arguments = self.sequences[arguments].clone();
        match (function, arguments.as_slice()) {
            (Global::OrderedDict, []) => self.push_dict(Vec::new()),
            (Global::RebuildTensor, [Value::Storage(storage), Value::Int(offset), shape, strides, ..]) => {
                let tensor = TensorRef {
                    storage: self.storages[*storage].clone(),
                    offset: *offset,
                    shape: self.integers(*shape)?,
                    strides: self.integers(*strides)?,
                };
                self.stack.push(Value::Tensor(self.tensors.len()));
                self.tensors.push(tensor);
            }
            (Global::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => self.stack.push(*tensor),
            _ => return Err(self.damaged(&format!("a call of {function:?} with unexpected arguments"))),
        }
        Ok(())
    }

    fn integers(&self, sequence: Value) -> PickleResult<Vec<i64>> {
        let Value::Sequence(index) = sequence else {
            return Err(self.damaged("a shape that is not a tuple"));
        };
        let items = self.sequences[index].iter();
        let integers = items.map(|item| if let Value::Int(value) = item { Some(*value) } else { None });
        integers.collect::<Option<_>>().ok_or_else(|| self.damaged("a shape that is not made of integers"))
    }
}

fn pairs(items: &[Value]) -> PickleResult<Vec<(Value, Value)>> {
    if !items.len().is_multiple_of(2) {
        return Err("its pickle is damaged: a dict with a key that has no value".into());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}
