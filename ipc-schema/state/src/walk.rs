//! Visits every field of a message by reflection, so that nobody keeps a list of fields by hand.
//!
//! The one idea: a message is a sequence of (path, value); printing, comparing and looking for what may not be ignored are
//! three things done with that sequence. The message may be hostile: the reader's limits bound what is read, and the visitor
//! ends the walk when it has seen enough.

use std::fmt::Write;
use std::ops::ControlFlow;

use capnp::dynamic_value::Reader;
use capnp::schema::Field;
use capnp::schema_capnp::field;
use capnp::{dynamic_list, dynamic_struct};

/// How deep structs may nest, as in messages.
const NESTING: usize = 24;
/// How many fields and elements are looked at. A message has far fewer, unless it has lists of elements without any bits.
const MAX_STEPS: u32 = 1 << 22;

/// One value, and where it is.
pub struct Visit<'a> {
    /// Such as `engine.vcpus[0].cpu.x86.rip`.
    pub path: &'a str,
    /// What is there: for a struct that is a member of a union, `Void` before its fields; for a list, itself before its
    /// elements. An error for what cannot be read.
    pub value: Result<Reader<'a>, String>,
    /// Whether the value is the one that a reader finds where nobody wrote anything.
    pub default: bool,
}

/// What is done with each value.
pub type Visitor<'a> = dyn FnMut(&Visit<'_>) -> ControlFlow<()> + 'a;

/// Visits all values below `root`. The name of the group `elided` of the root is left out of the paths.
pub fn walk(root: Reader<'_>, elided: &str, visit: &mut Visitor<'_>) -> ControlFlow<()> {
    let Reader::Struct(root) = root else { return ControlFlow::Continue(()) };
    Walk { path: String::new(), elided, steps: 0, visit }.fields(root, 0)
}

/// A path as the schema has it: without positions in lists.
pub fn without_positions(path: &str) -> String {
    let mut inside = false;
    let keep = |letter: &char| {
        let was = inside;
        inside = (inside || *letter == '[') && *letter != ']';
        !(was || inside)
    };
    path.chars().filter(keep).collect()
}

struct Walk<'a, 'b> {
    path: String,
    elided: &'a str,
    steps: u32,
    visit: &'a mut Visitor<'b>,
}

impl Walk<'_, '_> {
    fn tell(&mut self, value: Result<Reader<'_>, String>, default: bool) -> ControlFlow<()> {
        (self.visit)(&Visit { path: &self.path, value, default })
    }

    /// Counts one field or element.
    fn step(&mut self) -> ControlFlow<()> {
        self.steps += 1;
        if self.steps < MAX_STEPS {
            return ControlFlow::Continue(());
        }
        self.tell(Err("and more than anybody writes".into()), false)?;
        ControlFlow::Break(())
    }

    /// The fields that have a value: those outside the union, and the one that is selected.
    fn fields(&mut self, of: dynamic_struct::Reader<'_>, depth: usize) -> ControlFlow<()> {
        if depth > NESTING {
            return self.tell(Err("nests too deep".into()), false);
        }
        let outside = match of.get_schema().get_non_union_fields() {
            Ok(fields) => fields,
            Err(error) => return self.tell(Err(error.to_string()), false),
        };
        for field in outside {
            self.field(of, field, depth)?;
        }
        match of.which() {
            Ok(Some(field)) => self.field(of, field, depth),
            Ok(None) if of.get_schema().get_union_fields().is_ok_and(|members| members.is_empty()) => {
                ControlFlow::Continue(())
            }
            Ok(None) => self.below("?", |walk| {
                walk.tell(Err("a member of the union that this version does not know is selected".into()), false)
            }),
            Err(error) => self.tell(Err(error.to_string()), false),
        }
    }

    /// Goes on with `name` added to the path.
    fn below(&mut self, name: &str, then: impl FnOnce(&mut Self) -> ControlFlow<()>) -> ControlFlow<()> {
        let before = self.path.len();
        if before > 0 && !name.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(name);
        let flow = then(self);
        self.path.truncate(before);
        flow
    }

    fn field(&mut self, of: dynamic_struct::Reader<'_>, field: Field, depth: usize) -> ControlFlow<()> {
        self.step()?;
        let name = field.get_proto().get_name().ok().and_then(|name| name.to_str().ok()).unwrap_or("?");
        let member = field.get_proto().get_discriminant_value();
        // The choice says something even if all that it leads to is default.
        let selected = !matches!(member, 0 | field::NO_DISCRIMINANT);
        let value = of.get(field).map_err(|error| error.to_string());
        if depth == 0 && name == self.elided {
            return match value {
                Ok(Reader::Struct(group)) => self.fields(group, depth + 1),
                _ => ControlFlow::Continue(()),
            };
        }
        self.below(name, |walk| match value {
            Ok(Reader::Struct(inner)) => {
                if member != field::NO_DISCRIMINANT {
                    walk.tell(Ok(Reader::Void), !selected)?;
                }
                walk.fields(inner, depth + 1)
            }
            Ok(Reader::List(list)) => walk.list(list, selected, depth + 1),
            value => {
                let default = !selected && value.as_ref().is_ok_and(|value| is_default(value, field));
                walk.tell(value, default)
            }
        })
    }

    fn list(&mut self, list: dynamic_list::Reader<'_>, selected: bool, depth: usize) -> ControlFlow<()> {
        if depth > NESTING {
            return self.tell(Err("nests too deep".into()), false);
        }
        // The list as such first: that it has elements says something even if they are all default.
        self.tell(Ok(Reader::List(list)), list.is_empty() && !selected)?;
        let mut position = String::new();
        for index in 0..list.len() {
            self.step()?;
            position.clear();
            // Writing into a string does not fail.
            let _ = write!(position, "[{index}]");
            let value = list.get(index).map_err(|error| error.to_string());
            self.below(&position, |walk| match value {
                Ok(Reader::Struct(inner)) => walk.fields(inner, depth + 1),
                Ok(Reader::List(inner)) => walk.list(inner, false, depth + 1),
                value => walk.tell(value, false),
            })?;
        }
        ControlFlow::Continue(())
    }
}

/// Whether a value that is no struct and no list is the one that the schema has for it.
fn is_default(value: &Reader<'_>, field: Field) -> bool {
    let Ok(field::Slot(slot)) = field.get_proto().which() else { return false };
    let Ok(default) = slot.get_default_value().and_then(|default| Reader::new(default, field.get_type())) else {
        return false;
    };
    match (value, default) {
        (Reader::Text(value), Reader::Text(default)) => value.as_bytes() == default.as_bytes(),
        (Reader::Data(value), Reader::Data(default)) => *value == default,
        (value, default) => scalar(value).is_some_and(|bits| Some(bits) == scalar(&default)),
    }
}

/// The bits of a value that has a fixed number of them.
fn scalar(value: &Reader<'_>) -> Option<u64> {
    Some(match value {
        Reader::Void => 0,
        Reader::Bool(value) => u64::from(*value),
        Reader::Int8(value) => i64::from(*value).cast_unsigned(),
        Reader::Int16(value) => i64::from(*value).cast_unsigned(),
        Reader::Int32(value) => i64::from(*value).cast_unsigned(),
        Reader::Int64(value) => value.cast_unsigned(),
        Reader::UInt8(value) => u64::from(*value),
        Reader::UInt16(value) => u64::from(*value),
        Reader::UInt32(value) => u64::from(*value),
        Reader::UInt64(value) => *value,
        Reader::Float32(value) => u64::from(value.to_bits()),
        Reader::Float64(value) => value.to_bits(),
        Reader::Enum(value) => u64::from(value.get_value()),
        _ => return None,
    })
}
