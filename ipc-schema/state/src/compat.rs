//! Which changes of the schema old states, old messages and old programs survive: fields, enumerants and methods may be
//! added at the end, and nothing else may change.
//!
//! The one idea: the frozen schema is compared as data. A struct is taken flat, with the fields of its groups, so that every
//! field has one ordinal, one place, and one chain of unions that it is a member of; each of those must be as it was.

use std::collections::BTreeMap;

use crate::model::{Body, Definition, Field, Method, Place, Schema, Struct, Type};

/// A change that somebody's messages do not survive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The type, field, enumerant or method, such as `state.capnp:VcpuState.cpu.x86`.
    pub place: String,
    /// What became of it.
    pub problem: String,
}

/// How deep groups may nest.
const NESTING: usize = 16;

/// All incompatible changes from `frozen` to `current`, of the types that are defined in `files` and of all that messages of
/// those can hold.
#[must_use]
pub fn changes(frozen: &Schema, current: &Schema, files: &[&str]) -> Vec<Change> {
    let mut found = Found { frozen, current, changes: Vec::new() };
    for id in frozen.reachable(&frozen.of_files(files)) {
        if let Some(old) = frozen.types.get(&id) {
            found.definition(id, old);
        }
    }
    found.changes
}

/// A field of a struct taken flat.
struct Flat<'a> {
    /// With the groups that it is in.
    path: String,
    /// Place and value of the discriminant of each union that it is in.
    unions: Vec<(u32, u16)>,
    offset: u32,
    kind: &'a Type,
    default: &'a str,
}

struct Found<'a> {
    frozen: &'a Schema,
    current: &'a Schema,
    changes: Vec<Change>,
}

impl Found<'_> {
    fn say(&mut self, place: String, problem: impl Into<String>) {
        self.changes.push(Change { place, problem: problem.into() });
    }

    fn definition(&mut self, id: u64, old: &Definition) {
        let place = format!("{}:{}", old.file, old.name);
        let Some(new) = self.current.types.get(&id) else {
            let problem = match self.current.find(&old.file, &old.name) {
                Some(other) => format!("its type id was {id:#x} and is {other:#x}"),
                None => format!("type {id:#x} was removed"),
            };
            return self.say(place, problem);
        };
        // A file may be split: only the name counts, since paths and digests have it.
        if new.name != old.name {
            self.say(place.clone(), format!("was renamed to '{}'", new.name));
        }
        match (&old.body, &new.body) {
            // Groups are looked at with the struct that they are in.
            (Body::Struct(old), Body::Struct(new)) if old.group && new.group => {}
            (Body::Struct(old), Body::Struct(new)) if old.group == new.group => self.fields(&place, old, new),
            (Body::Enum(old), Body::Enum(new)) => self.enumerants(&place, old, new),
            (Body::Interface(old, below), Body::Interface(new, above)) => {
                if below != above {
                    self.say(place.clone(), "extends other interfaces than it did");
                }
                self.methods(&place, old, new);
            }
            _ => self.say(place, "is another kind of type than it was"),
        }
    }

    fn fields(&mut self, place: &str, old: &Struct, new: &Struct) {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        flatten(self.frozen, old, "", &[], 0, &mut before);
        flatten(self.current, new, "", &[], 0, &mut after);
        for (ordinal, was) in &before {
            let place = format!("{place}.{}", was.path);
            match after.get(ordinal) {
                Some(is) => self.field(place, was, is),
                None => {
                    let other = after.iter().find(|(_, is)| is.path == was.path);
                    let problem = match other {
                        Some((other, _)) => format!("was renumbered from @{ordinal} to @{other}"),
                        None => format!("@{ordinal} was removed"),
                    };
                    self.say(place, problem);
                }
            }
        }
        self.overlaps(place, &before, &after);
    }

    fn field(&mut self, place: String, was: &Flat<'_>, is: &Flat<'_>) {
        let mut say = |problem: String| self.say(place.clone(), problem);
        if was.path != is.path {
            say(format!("is now '{}': renamed, renumbered, or moved in or out of a group", is.path));
        }
        if was.unions != is.unions {
            say("was moved in or out of a union, or has another discriminant".into());
        }
        if was.offset != is.offset {
            say(format!("was moved from offset {} to {}", was.offset, is.offset));
        }
        if was.kind != is.kind {
            say(format!("was {} and is {}", was.kind, is.kind));
        }
        if was.default != is.default {
            say(format!("had the default {} and has {}", was.default, is.default));
        }
    }

    /// A compiler never lets a new field use the bits of an old one outside a union; a request made by hand may.
    fn overlaps(&mut self, place: &str, before: &BTreeMap<u16, Flat<'_>>, after: &BTreeMap<u16, Flat<'_>>) {
        for (_, new) in after.iter().filter(|(ordinal, _)| !before.contains_key(ordinal)) {
            let together = |old: &&Flat<'_>| {
                // Members of one union share bits if they are different members.
                let apart = old.unions.iter().zip(&new.unions).any(|(old, new)| old.0 == new.0 && old.1 != new.1);
                !apart && bits(old).is_some_and(|old| bits(new).is_some_and(|new| share(old, new)))
            };
            if let Some(old) = before.values().find(together) {
                let problem = format!("is new and lies where '{}' is", old.path);
                self.say(format!("{place}.{}", new.path), problem);
            }
        }
    }

    fn enumerants(&mut self, place: &str, old: &[String], new: &[String]) {
        for (value, was) in old.iter().enumerate() {
            match new.get(value) {
                Some(is) if is == was => {}
                Some(is) => self.say(format!("{place}.{was}"), format!("the enumerant @{value} is '{is}' now")),
                None => self.say(format!("{place}.{was}"), format!("the enumerant @{value} was removed")),
            }
        }
    }

    fn methods(&mut self, place: &str, old: &[Method], new: &[Method]) {
        for (ordinal, was) in old.iter().enumerate() {
            match new.get(ordinal) {
                Some(is) if is == was => {}
                Some(is) if is.name != was.name => {
                    self.say(format!("{place}.{}", was.name), format!("the method @{ordinal} is '{}' now", is.name));
                }
                Some(_) => self.say(format!("{place}.{}", was.name), "takes or answers another type than it did"),
                None => self.say(format!("{place}.{}", was.name), format!("the method @{ordinal} was removed")),
            }
        }
    }
}

/// All fields of a struct and its groups by ordinal.
fn flatten<'a>(
    schema: &'a Schema,
    of: &'a Struct,
    prefix: &str,
    unions: &[(u32, u16)],
    depth: usize,
    found: &mut BTreeMap<u16, Flat<'a>>,
) {
    for Field { name, member, place } in &of.fields {
        let path = format!("{prefix}{name}");
        let mut unions = unions.to_vec();
        unions.extend(member.map(|member| (of.discriminant.unwrap_or(u32::MAX), member)));
        match place {
            Place::Slot { ordinal, offset, kind, default } => {
                found.insert(*ordinal, Flat { path, unions, offset: *offset, kind, default });
            }
            Place::Group(id) if depth < NESTING => {
                if let Some(Definition { body: Body::Struct(group), .. }) = schema.types.get(id) {
                    flatten(schema, group, &format!("{path}."), &unions, depth + 1, found);
                }
            }
            Place::Group(_) => {}
        }
    }
}

/// First bit and number of bits of a value: in the data section, or (`true`) among the pointers.
fn bits(field: &Flat<'_>) -> Option<(bool, u64, u64)> {
    let size = match field.kind {
        Type::Plain("Void") => return None,
        Type::Plain("Bool") => 1,
        Type::Plain("Int8" | "UInt8") => 8,
        Type::Plain("Int16" | "UInt16") | Type::Enum(_) => 16,
        Type::Plain("Int32" | "UInt32" | "Float32") => 32,
        Type::Plain("Int64" | "UInt64" | "Float64") => 64,
        _ => return Some((true, u64::from(field.offset), 1)),
    };
    Some((false, u64::from(field.offset) * size, size))
}

fn share(one: (bool, u64, u64), other: (bool, u64, u64)) -> bool {
    one.0 == other.0 && one.1 < other.1 + other.2 && other.1 < one.1 + one.2
}

#[cfg(test)]
mod tests;
