//! The pickle inside a torch file: just the instructions that a state dictionary consists of.
//!
//! A pickle is a program. This machine knows dictionaries, tuples, numbers, text, and the few
//! names below; anything else, and above all any call of another function, is an error before it
//! could mean anything. Each instruction makes at most one value and none copies a container, so
//! memory stays within a small multiple of the pickle's length; tuples nest a few levels only.
//!
//! The `pytorch-reader` package is not used here: it gives a tensor's values only as a whole
//! (hundreds of megabytes, once per piece asked for), and passes over unknown calls in silence.
//! The tests hold this reader against it.

use std::collections::HashMap;
use std::rc::Rc;

use owl2::{Error, Result};

use super::ElementType;

/// Arguments of a call that hold a shape: two levels. The limit keeps dropping a tuple from
/// recursing without end.
const MAX_TUPLE_DEPTH: usize = 8;

/// What a storage's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StorageType {
    /// A type that weights may have.
    Float(ElementType),
    /// Another type of torch, by its class.
    Other(&'static str),
}

/// The classes of typed storages in `torch`.
const STORAGES: [(&str, StorageType); 10] = [
    ("FloatStorage", StorageType::Float(ElementType::F32)),
    ("HalfStorage", StorageType::Float(ElementType::F16)),
    ("BFloat16Storage", StorageType::Float(ElementType::BF16)),
    ("DoubleStorage", StorageType::Other("DoubleStorage")),
    ("LongStorage", StorageType::Other("LongStorage")),
    ("IntStorage", StorageType::Other("IntStorage")),
    ("ShortStorage", StorageType::Other("ShortStorage")),
    ("CharStorage", StorageType::Other("CharStorage")),
    ("ByteStorage", StorageType::Other("ByteStorage")),
    ("BoolStorage", StorageType::Other("BoolStorage")),
];

/// A run of elements in the file: the entry `data/<key>`.
#[derive(Debug, PartialEq)]
pub(crate) struct Storage {
    pub(crate) storage_type: StorageType,
    pub(crate) key: Rc<str>,
    pub(crate) n_elements: usize,
}

/// A tensor as the pickle describes it: a view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorView {
    pub(crate) storage: Rc<Storage>,
    /// In elements.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    /// In elements.
    pub(crate) strides: Vec<usize>,
}

/// The state dictionary in `pickle`: names and tensors, in its order.
pub(crate) fn state_dict(pickle: &[u8]) -> Result<Vec<(String, TensorView)>> {
    let mut machine = Machine {
        code: pickle,
        stack: Vec::new(),
        memo: HashMap::new(),
        dicts: Vec::new(),
    };
    let PickleValue::Dict(root) = machine.run()? else {
        return Err(Error::model(
            "holds something else than a dictionary of tensors; save the model's state_dict()",
        ));
    };
    std::mem::take(&mut machine.dicts[root])
        .into_iter()
        .map(|(name, value)| match value {
            PickleValue::Tensor(view) => Ok((name.to_string(), TensorView::clone(&view))),
            _ => Err(Error::model(format!(
                "has '{name}', which is not a tensor; save the model's state_dict() alone"
            ))),
        })
        .collect()
}

#[derive(Clone)]
enum PickleValue {
    Mark,
    None,
    Bool,
    Int(i64),
    Text(Rc<str>),
    Tuple(Rc<Tuple>),
    /// An index into the machine's dictionaries, so that all copies are one dictionary.
    Dict(usize),
    OrderedDictClass,
    RebuildTensor,
    StorageClass(StorageType),
    Storage(Rc<Storage>),
    Tensor(Rc<TensorView>),
}

struct Tuple {
    items: Vec<PickleValue>,
    depth: usize,
}

struct Machine<'a> {
    code: &'a [u8],
    stack: Vec<PickleValue>,
    memo: HashMap<u32, PickleValue>,
    dicts: Vec<Vec<(Rc<str>, PickleValue)>>,
}

fn damaged() -> Error {
    Error::model("has a damaged pickle; the file is truncated or not written by torch.save")
}

impl Machine<'_> {
    /// Runs to the end and gives the value that is left.
    ///
    /// The instructions are those of Python's `pickletools`, by their names there.
    fn run(&mut self) -> Result<PickleValue> {
        loop {
            match self.byte()? {
                // PROTO: newer protocols differ by instructions, which are refused one by one.
                0x80 => _ = self.byte()?,
                b'.' => return self.pop(),
                b'(' => self.stack.push(PickleValue::Mark),
                b'N' => self.stack.push(PickleValue::None),
                // NEWTRUE, NEWFALSE
                0x88 | 0x89 => self.stack.push(PickleValue::Bool),
                // BININT1, BININT2, BININT, LONG1
                b'K' => self.int(1)?,
                b'M' => self.int(2)?,
                b'J' => self.int(4)?,
                0x8a => self.long()?,
                b'X' => self.text()?,
                b'c' => self.global()?,
                b'}' => self.new_dict(),
                b')' => self.tuple(Vec::new())?,
                // TUPLE1, TUPLE2, TUPLE3
                n @ 0x85..=0x87 => {
                    let items = self.pop_last(usize::from(n - 0x84))?;
                    self.tuple(items)?;
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.tuple(items)?;
                }
                // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
                b'q' => {
                    let key = self.byte()?.into();
                    self.put(key)?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.put(key)?;
                }
                b'h' => {
                    let key = self.byte()?.into();
                    self.get(key)?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.get(key)?;
                }
                // SETITEM, SETITEMS
                b's' => {
                    let items = self.pop_last(2)?;
                    self.set_items(items)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(items)?;
                }
                // BINPERSID
                b'Q' => self.persistent_id()?,
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                other => {
                    return Err(Error::model(format!(
                        "has pickle instruction {other:#04x}, which no state dictionary needs"
                    )));
                }
            }
        }
    }

    fn take(&mut self, n_bytes: usize) -> Result<&[u8]> {
        let (taken, rest) = self.code.split_at_checked(n_bytes).ok_or_else(damaged)?;
        self.code = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.code.split_first_chunk().ok_or_else(damaged)?;
        self.code = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn pop(&mut self) -> Result<PickleValue> {
        self.stack.pop().ok_or_else(damaged)
    }

    fn pop_last(&mut self, n: usize) -> Result<Vec<PickleValue>> {
        let start = self.stack.len().checked_sub(n).ok_or_else(damaged)?;
        Ok(self.stack.split_off(start))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<PickleValue>> {
        let mark = self
            .stack
            .iter()
            .rposition(|value| matches!(value, PickleValue::Mark))
            .ok_or_else(damaged)?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    /// BININT is signed, the shorter ones are not.
    fn int(&mut self, n_bytes: usize) -> Result<()> {
        let mut bytes = [0; 4];
        bytes[..n_bytes].copy_from_slice(self.take(n_bytes)?);
        self.stack
            .push(PickleValue::Int(i32::from_le_bytes(bytes).into()));
        Ok(())
    }

    /// A signed number of up to eight bytes; storages of more than 2^31 elements have one.
    fn long(&mut self) -> Result<()> {
        let n_bytes = usize::from(self.byte()?);
        let taken = self.take(n_bytes)?;
        if n_bytes > 8 {
            return Err(damaged());
        }
        let sign = taken.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut bytes = [if sign { 0xff } else { 0 }; 8];
        bytes[..n_bytes].copy_from_slice(taken);
        self.stack.push(PickleValue::Int(i64::from_le_bytes(bytes)));
        Ok(())
    }

    fn text(&mut self) -> Result<()> {
        let n_bytes = u32::from_le_bytes(self.array()?) as usize;
        let text = std::str::from_utf8(self.take(n_bytes)?).map_err(|_| damaged())?;
        let text = Rc::from(text);
        self.stack.push(PickleValue::Text(text));
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let end = self
            .code
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(damaged)?;
        let line = self.take(end + 1)?;
        String::from_utf8(line[..end].to_vec()).map_err(|_| damaged())
    }

    fn global(&mut self) -> Result<()> {
        let (module, name) = (self.line()?, self.line()?);
        let storage = STORAGES.iter().find(|(class, _)| *class == name);
        let value = match (&*module, &*name, storage) {
            ("collections", "OrderedDict", _) => PickleValue::OrderedDictClass,
            ("torch._utils", "_rebuild_tensor_v2", _) => PickleValue::RebuildTensor,
            ("torch", _, Some((_, storage_type))) => PickleValue::StorageClass(*storage_type),
            _ => {
                return Err(Error::model(format!(
                    "asks for '{module}.{name}', which no state dictionary of plain tensors needs; it was not run"
                )));
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn new_dict(&mut self) {
        self.stack.push(PickleValue::Dict(self.dicts.len()));
        self.dicts.push(Vec::new());
    }

    fn tuple(&mut self, items: Vec<PickleValue>) -> Result<()> {
        let depth = items
            .iter()
            .map(|item| match item {
                PickleValue::Tuple(inner) => inner.depth + 1,
                _ => 1,
            })
            .max()
            .unwrap_or(1);
        if depth > MAX_TUPLE_DEPTH {
            return Err(damaged());
        }
        self.stack
            .push(PickleValue::Tuple(Rc::new(Tuple { items, depth })));
        Ok(())
    }

    fn put(&mut self, key: u32) -> Result<()> {
        let value = self.stack.last().ok_or_else(damaged)?.clone();
        self.memo.insert(key, value);
        Ok(())
    }

    fn get(&mut self, key: u32) -> Result<()> {
        let value = self.memo.get(&key).ok_or_else(damaged)?.clone();
        self.stack.push(value);
        Ok(())
    }

    fn set_items(&mut self, items: Vec<PickleValue>) -> Result<()> {
        let Some(PickleValue::Dict(dict)) = self.stack.last() else {
            return Err(damaged());
        };
        let dict = &mut self.dicts[*dict];
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            let (PickleValue::Text(key), Some(value)) = (key, items.next()) else {
                return Err(damaged());
            };
            dict.push((key, value));
        }
        Ok(())
    }

    /// `('storage', class, key, device, number of elements)`.
    fn persistent_id(&mut self) -> Result<()> {
        let PickleValue::Tuple(id) = self.pop()? else {
            return Err(damaged());
        };
        let [
            PickleValue::Text(tag),
            PickleValue::StorageClass(storage_type),
            PickleValue::Text(key),
            PickleValue::Text(_),
            PickleValue::Int(n_elements),
        ] = id.items.as_slice()
        else {
            return Err(damaged());
        };
        if &**tag != "storage" {
            return Err(damaged());
        }
        self.stack.push(PickleValue::Storage(Rc::new(Storage {
            storage_type: *storage_type,
            key: key.clone(),
            n_elements: usize::try_from(*n_elements).map_err(|_| damaged())?,
        })));
        Ok(())
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        match (function, arguments) {
            (PickleValue::OrderedDictClass, PickleValue::Tuple(arguments))
                if arguments.items.is_empty() =>
            {
                self.new_dict();
            }
            (PickleValue::RebuildTensor, PickleValue::Tuple(arguments)) => {
                let view = rebuild_tensor(&arguments.items)?;
                self.stack.push(PickleValue::Tensor(Rc::new(view)));
            }
            _ => return Err(damaged()),
        }
        Ok(())
    }

    /// Sets attributes of an object. Only a state dictionary has some (`_metadata`, the versions
    /// of its modules), and they do not concern the tensors.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.stack.last() {
            Some(PickleValue::Dict(_)) => Ok(()),
            _ => Err(damaged()),
        }
    }
}

/// `_rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks)`.
fn rebuild_tensor(arguments: &[PickleValue]) -> Result<TensorView> {
    let [
        PickleValue::Storage(storage),
        PickleValue::Int(offset),
        PickleValue::Tuple(shape),
        PickleValue::Tuple(strides),
        PickleValue::Bool,
        PickleValue::Dict(_) | PickleValue::None,
    ] = arguments
    else {
        return Err(damaged());
    };
    let (shape, strides) = (sizes(shape)?, sizes(strides)?);
    if shape.len() != strides.len() {
        return Err(damaged());
    }
    Ok(TensorView {
        storage: storage.clone(),
        offset: usize::try_from(*offset).map_err(|_| damaged())?,
        shape,
        strides,
    })
}

fn sizes(tuple: &Tuple) -> Result<Vec<usize>> {
    tuple
        .items
        .iter()
        .map(|item| match item {
            PickleValue::Int(n) => usize::try_from(*n).map_err(|_| damaged()),
            _ => Err(damaged()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pickle of the file that torch wrote for the tests; entries are stored as they are.
    fn pickle() -> Vec<u8> {
        let file = include_bytes!("../../../tests/fixtures/torch/small.bin");
        let start = file
            .windows(2)
            .position(|part| part == b"\x80\x02")
            .unwrap();
        // It ends where the next entry begins, but for zeros between.
        let rest = &file[start..];
        let end = rest
            .windows(4)
            .position(|part| part == b"PK\x03\x04")
            .unwrap();
        let end = rest[..end].iter().rposition(|&byte| byte == b'.').unwrap();
        rest[..=end].to_vec()
    }

    #[test]
    fn names_and_views_are_those_that_torch_wrote() {
        let tensors = state_dict(&pickle()).unwrap();
        let (name, view) = &tensors[0];
        assert_eq!(name, "lm_head.weight");
        assert_eq!(view.shape.len(), 2);
        let sizes: usize = view.shape.iter().product();
        assert!(view.offset + sizes <= view.storage.n_elements);
    }

    /// Each byte is another instruction, length or number in turn, and the pickle ends anywhere.
    #[test]
    fn any_byte_may_be_another() {
        let good = pickle();
        let step = if cfg!(miri) { 3 } else { 1 };
        let mut n_refused = 0;
        for at in (0..good.len()).step_by(step) {
            for byte in [0, b'.', b'(', b't', b'R', b'q', 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = byte;
                n_refused += usize::from(state_dict(&bad).is_err());
            }
            assert!(state_dict(&good[..at]).is_err());
        }
        assert!(n_refused > good.len() / step);
    }
}
