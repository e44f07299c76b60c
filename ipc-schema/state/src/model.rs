//! The schema as plain data: what a compiler request (`capnp compile -o-`) says about types, without what no message depends
//! on (file order, comments, annotations, the names of files).
//!
//! The one idea: everything that asks about schemas (digests, names of added fields, what changes are compatible) asks this
//! model, which the build script and the lint share. Requests are those of schema.capnp, `CodeGeneratorRequest`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use capnp::message::ReaderOptions;
use capnp::schema_capnp::{code_generator_request, field, node, type_, value};
use capnp::serialize;

/// How deep structs may nest before names of fields are no longer made up.
const NESTING: usize = 24;

/// All types of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// By type id.
    pub types: BTreeMap<u64, Definition>,
}

/// One type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The file that defines it, such as `saved.capnp`.
    pub file: String,
    /// Its name in the file, such as `PendingEvent.ExceptionEvent`.
    pub name: String,
    /// What it consists of.
    pub body: Body,
}

/// What a type consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A struct, or a group of fields of one.
    Struct(Struct),
    /// Names by value.
    Enum(Vec<String>),
    /// Methods by ordinal, and the ids of the interfaces that it extends.
    Interface(Vec<Method>, Vec<u64>),
}

/// A struct or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struct {
    /// Whether it is a group: its offsets are those of the struct around it.
    pub group: bool,
    /// Place of the discriminant of its union in units of 16 bits, if it has one.
    pub discriminant: Option<u32>,
    /// In the order of ordinals.
    pub fields: Vec<Field>,
}

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its value of the discriminant, if it is a member of the union.
    pub member: Option<u16>,
    /// Where its value is.
    pub place: Place,
}

/// Where the value of a field is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the struct.
    Slot {
        /// The number after `@`.
        ordinal: u16,
        /// In units of the value's size.
        offset: u32,
        /// Of the value.
        kind: Type,
        /// As the text that [`Schema::canonical`] has for it.
        default: String,
    },
    /// In the fields of the group with this id.
    Group(u64),
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `Void`, `UInt8`, `Text`, ….
    Plain(&'static str),
    /// A list.
    List(Box<Type>),
    /// An enum, by id.
    Enum(u64),
    /// A struct, by id.
    Struct(u64),
    /// An interface, by id.
    Interface(u64),
}

/// A method of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// Id of the struct of its parameters.
    pub takes: u64,
    /// Id of the struct of its results.
    pub answers: u64,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(name) => f.write_str(name),
            Self::List(of) => write!(f, "List({of})"),
            Self::Enum(id) => write!(f, "enum {id:#x}"),
            Self::Struct(id) => write!(f, "struct {id:#x}"),
            Self::Interface(id) => write!(f, "interface {id:#x}"),
        }
    }
}

impl Type {
    /// The id of the type that this one leads to.
    pub fn target(&self) -> Option<u64> {
        match self {
            Self::Plain(_) => None,
            Self::List(of) => of.target(),
            Self::Enum(id) | Self::Struct(id) | Self::Interface(id) => Some(*id),
        }
    }

    fn parse(reader: type_::Reader<'_>, depth: usize) -> capnp::Result<Self> {
        use type_::Which::*;
        Ok(Self::Plain(match reader.which()? {
            Void(()) => "Void",
            Bool(()) => "Bool",
            Int8(()) => "Int8",
            Int16(()) => "Int16",
            Int32(()) => "Int32",
            Int64(()) => "Int64",
            Uint8(()) => "UInt8",
            Uint16(()) => "UInt16",
            Uint32(()) => "UInt32",
            Uint64(()) => "UInt64",
            Float32(()) => "Float32",
            Float64(()) => "Float64",
            Text(()) => "Text",
            Data(()) => "Data",
            AnyPointer(_) => "AnyPointer",
            List(list) if depth < NESTING => {
                return Ok(Self::List(Box::new(Self::parse(list.get_element_type()?, depth + 1)?)));
            }
            List(_) => return Err(capnp::Error::failed("lists of lists without end".into())),
            Enum(of) => return Ok(Self::Enum(of.get_type_id())),
            Struct(of) => return Ok(Self::Struct(of.get_type_id())),
            Interface(of) => return Ok(Self::Interface(of.get_type_id())),
        }))
    }
}

impl Schema {
    /// Reads a compiler request.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn parse(mut request: &[u8]) -> capnp::Result<Self> {
        let mut options = ReaderOptions::new();
        options.traversal_limit_in_words(Some(1 << 24));
        let message = serialize::read_message(&mut request, options)?;
        Self::read(message.get_root()?)
    }

    /// Reads a compiler request that is a message already.
    ///
    /// # Errors
    /// What is no such request.
    pub fn read(request: code_generator_request::Reader<'_>) -> capnp::Result<Self> {
        let mut schema = Self::default();
        for node in request.get_nodes()? {
            if let Some(definition) = Definition::parse(node)? {
                schema.types.insert(node.get_id(), definition);
            }
        }
        Ok(schema)
    }

    /// The id of the type `name` in `file`.
    pub fn find(&self, file: &str, name: &str) -> Option<u64> {
        self.types.iter().find(|(_, definition)| definition.file == file && definition.name == name).map(|(id, _)| *id)
    }

    /// Ids of the types of `files`.
    pub fn of_files(&self, files: &[&str]) -> Vec<u64> {
        let ours = |definition: &Definition| files.contains(&definition.file.as_str());
        self.types.iter().filter(|(_, definition)| ours(definition)).map(|(id, _)| *id).collect()
    }

    /// Ids of all types that messages of the types `roots` can hold, the roots among them.
    pub fn reachable(&self, roots: &[u64]) -> BTreeSet<u64> {
        let (mut found, mut todo) = (BTreeSet::new(), roots.to_vec());
        while let Some(id) = todo.pop() {
            if let Some(definition) = self.types.get(&id)
                && found.insert(id)
            {
                todo.extend(definition.body.targets());
            }
        }
        found
    }

    /// All that a message of type `root` depends on, as text: equal texts, equal meaning of every bit.
    pub fn canonical(&self, root: u64) -> String {
        let mut text = format!("root {root:#x}\n");
        for id in self.reachable(&[root]) {
            if let Some(Definition { name, body, .. }) = self.types.get(&id) {
                // Writing into a string does not fail.
                let _ = writeln!(text, "type {id:#x} {name}\n{body}");
            }
        }
        text
    }

    /// Names of all fields below a type, such as `vcpus.clock`, without positions in lists; a type within itself is not
    /// followed. The name of the group `elided` is left out of the names of its members.
    pub fn paths(&self, root: u64, elided: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        self.add_paths(root, "", elided, &mut Vec::new(), &mut found);
        found
    }

    fn add_paths(&self, id: u64, prefix: &str, elided: &str, within: &mut Vec<u64>, found: &mut BTreeSet<String>) {
        let Some(Definition { body: Body::Struct(body), .. }) = self.types.get(&id) else { return };
        if within.contains(&id) || within.len() >= NESTING {
            return;
        }
        within.push(id);
        for field in &body.fields {
            let (below, name) = match &field.place {
                Place::Group(group) if prefix.is_empty() && field.name == elided => (Some(*group), String::new()),
                Place::Group(group) => (Some(*group), format!("{prefix}{}", field.name)),
                Place::Slot { kind, .. } => (kind.target(), format!("{prefix}{}", field.name)),
            };
            if let Some(below) = below {
                let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
                self.add_paths(below, &prefix, "", within, found);
            }
            if !name.is_empty() {
                found.insert(name);
            }
        }
        within.pop();
    }
}

impl Body {
    /// Ids of the types that it names.
    fn targets(&self) -> Vec<u64> {
        match self {
            Self::Struct(body) => {
                let target = |field: &Field| match &field.place {
                    Place::Slot { kind, .. } => kind.target(),
                    Place::Group(id) => Some(*id),
                };
                body.fields.iter().filter_map(target).collect()
            }
            Self::Enum(_) => Vec::new(),
            Self::Interface(methods, extends) => {
                let structs = methods.iter().flat_map(|method| [method.takes, method.answers]);
                structs.chain(extends.iter().copied()).collect()
            }
        }
    }
}

impl fmt::Display for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Struct(body) => {
                let word = if body.group { "group" } else { "struct" };
                writeln!(f, "{word} discriminant={:?}", body.discriminant)?;
                body.fields.iter().try_for_each(|field| writeln!(f, "{field}"))
            }
            Self::Enum(names) => {
                writeln!(f, "enum")?;
                names.iter().enumerate().try_for_each(|(value, name)| writeln!(f, "{value} {name}"))
            }
            Self::Interface(methods, extends) => {
                writeln!(f, "interface {extends:x?}")?;
                methods
                    .iter()
                    .try_for_each(|method| writeln!(f, "{} {:#x} -> {:#x}", method.name, method.takes, method.answers))
            }
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, member, place } = self;
        match place {
            Place::Slot { ordinal, offset, kind, default } => {
                write!(f, "@{ordinal} {name} member={member:?} offset={offset} {kind} = {default}")
            }
            Place::Group(id) => write!(f, "{name} member={member:?} group {id:#x}"),
        }
    }
}

impl Definition {
    /// Nothing for files, constants and annotations, which no message holds.
    fn parse(reader: node::Reader<'_>) -> capnp::Result<Option<Self>> {
        let display = reader.get_display_name()?.to_str()?;
        let (file, name) = display.split_once(':').unwrap_or((display, ""));
        let body = match reader.which()? {
            node::Struct(body) => Body::Struct(Struct {
                group: body.get_is_group(),
                discriminant: (body.get_discriminant_count() > 0).then(|| body.get_discriminant_offset()),
                fields: body.get_fields()?.iter().map(Field::parse).collect::<capnp::Result<_>>()?,
            }),
            node::Enum(body) => {
                let name = |reader: capnp::schema_capnp::enumerant::Reader<'_>| Ok(reader.get_name()?.to_string()?);
                Body::Enum(body.get_enumerants()?.iter().map(name).collect::<capnp::Result<_>>()?)
            }
            node::Interface(body) => {
                let method = |reader: capnp::schema_capnp::method::Reader<'_>| {
                    let (takes, answers) = (reader.get_param_struct_type(), reader.get_result_struct_type());
                    Ok(Method { name: reader.get_name()?.to_string()?, takes, answers })
                };
                let methods = body.get_methods()?.iter().map(method).collect::<capnp::Result<_>>()?;
                Body::Interface(methods, body.get_superclasses()?.iter().map(|above| above.get_id()).collect())
            }
            node::File(()) | node::Const(_) | node::Annotation(_) => return Ok(None),
        };
        Ok(Some(Self { file: file.into(), name: name.into(), body }))
    }
}

impl Field {
    fn parse(reader: field::Reader<'_>) -> capnp::Result<Self> {
        let member = Some(reader.get_discriminant_value()).filter(|value| *value != field::NO_DISCRIMINANT);
        let place = match reader.which()? {
            field::Group(group) => Place::Group(group.get_type_id()),
            field::Slot(slot) => Place::Slot {
                ordinal: match reader.get_ordinal().which()? {
                    field::ordinal::Explicit(ordinal) => ordinal,
                    field::ordinal::Implicit(()) => {
                        return Err(capnp::Error::failed("a field that is no group has no ordinal".into()));
                    }
                },
                offset: slot.get_offset(),
                kind: Type::parse(slot.get_type()?, 0)?,
                default: default(slot.get_default_value()?)?,
            },
        };
        Ok(Self { name: reader.get_name()?.to_string()?, member, place })
    }
}

/// A default value as text, the same for the same value.
fn default(reader: value::Reader<'_>) -> capnp::Result<String> {
    use value::Which::*;
    Ok(match reader.which()? {
        Void(()) | Interface(()) => "()".into(),
        Bool(value) => value.to_string(),
        Int8(value) => value.to_string(),
        Int16(value) => value.to_string(),
        Int32(value) => value.to_string(),
        Int64(value) => value.to_string(),
        Uint8(value) => value.to_string(),
        Uint16(value) | Enum(value) => value.to_string(),
        Uint32(value) => value.to_string(),
        Uint64(value) => value.to_string(),
        Float32(value) => format!("{:#x}", value.to_bits()),
        Float64(value) => format!("{:#x}", value.to_bits()),
        Text(value) => format!("{:?}", value?.to_str()?),
        Data(value) => format!("{:x?}", value?),
        List(value) | Struct(value) | AnyPointer(value) if value.is_null() => "null".into(),
        List(value) | Struct(value) | AnyPointer(value) => {
            let mut message = capnp::message::Builder::new_default();
            message.set_root_canonical(value)?;
            format!("{:x?}", serialize::write_message_to_words(&message))
        }
    })
}
