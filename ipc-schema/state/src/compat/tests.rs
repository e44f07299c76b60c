//! Plants changes in a compiler request: each bad one must be refused with its place, each good one accepted.

use capnp::schema_capnp::{code_generator_request, enumerant, field, method, node};

use super::*;
use crate::Message;

const SCHEMA: &[u8] = include_bytes!("../../../schema/frozen/schema.req");
const CONTROL: &[u8] = include_bytes!("../../../schema/frozen/control.req");
const FILES: &[&str] = &["saved.capnp", "snapshot.capnp", "control.capnp"];

/// The request with one type changed.
fn edited(request: &[u8], of: &str, edit: impl FnOnce(node::Builder<'_>)) -> Schema {
    let mut message = message(request);
    let root = message.get_root::<code_generator_request::Builder<'_>>().unwrap();
    let mut nodes = root.get_nodes().unwrap();
    let named =
        |node: node::Builder<'_>| node.get_display_name().unwrap().to_str().unwrap().ends_with(&format!(":{of}"));
    let index = (0..nodes.len()).find(|index| named(nodes.reborrow().get(*index))).unwrap();
    edit(nodes.get(index));
    Schema::read(message.get_root_as_reader().unwrap()).unwrap()
}

fn message(mut request: &[u8]) -> Message {
    let reader = capnp::serialize::read_message(&mut request, capnp::message::ReaderOptions::new()).unwrap();
    let mut message = Message::new_default();
    message.set_root(reader.get_root::<code_generator_request::Reader<'_>>().unwrap()).unwrap();
    message
}

/// What is refused of a change of one type, as lines.
fn refused(request: &[u8], of: &str, edit: impl FnOnce(node::Builder<'_>)) -> Vec<String> {
    let found = changes(&Schema::parse(request).unwrap(), &edited(request, of, edit), FILES);
    found.into_iter().map(|change| format!("{}: {}", change.place, change.problem)).collect()
}

fn body(node: node::Builder<'_>) -> node::struct_::Builder<'_> {
    match node.which().unwrap() {
        node::Struct(body) => body,
        _ => panic!("it is a struct"),
    }
}

/// Makes a change to the field `name`.
fn at(name: &'static str, edit: impl FnOnce(field::Builder<'_>)) -> impl FnOnce(node::Builder<'_>) {
    move |node| {
        let mut fields = body(node).get_fields().unwrap();
        let named = |field: field::Builder<'_>| field.get_name().unwrap().to_str().unwrap() == name;
        let index = (0..fields.len()).find(|index| named(fields.reborrow().get(*index))).unwrap();
        edit(fields.get(index));
    }
}

fn slot(field: field::Builder<'_>) -> field::slot::Builder<'_> {
    match field.which().unwrap() {
        field::Slot(slot) => slot,
        field::Group(_) => panic!("it is no group"),
    }
}

/// Makes the list of fields longer or shorter at its end.
fn resized(node: node::Builder<'_>, by: i32, edit: impl FnOnce(field::Builder<'_>)) {
    let mut copy = Message::new_default();
    let old = body(node);
    copy.set_root(old.reborrow_as_reader()).unwrap();
    let fields = copy.get_root_as_reader::<node::struct_::Reader<'_>>().unwrap().get_fields().unwrap();
    let length = fields.len().checked_add_signed(by).unwrap();
    let mut new = old.init_fields(length);
    for (index, field) in (0..length).zip(fields) {
        new.set_with_caveats(index, field).unwrap();
    }
    if by > 0 {
        edit(new.get(length - 1));
    }
}

fn nothing(_: field::Builder<'_>) {}

/// Writes a new field of type UInt64.
fn new_field(ordinal: u16, offset: u32, member: u16) -> impl FnOnce(field::Builder<'_>) {
    move |mut field| {
        field.set_name("added");
        field.set_discriminant_value(member);
        field.reborrow().get_ordinal().set_explicit(ordinal);
        let mut slot = field.init_slot();
        slot.set_offset(offset);
        slot.reborrow().init_type().set_uint64(());
        slot.init_default_value().set_uint64(0);
    }
}

#[test]
fn nothing_changed_is_nothing_refused() {
    for request in [SCHEMA, CONTROL] {
        let schema = Schema::parse(request).unwrap();
        assert_eq!(changes(&schema, &schema, FILES), []);
    }
    let reachable = |request, files: &[&str]| {
        let schema = Schema::parse(request).unwrap();
        schema.reachable(&schema.of_files(files)).len()
    };
    assert!(reachable(SCHEMA, &["saved.capnp"]) > 15, "the state of a vCPU is not seen");
    assert!(reachable(CONTROL, &["control.capnp"]) > 20, "parameters of methods are not seen");
}

#[test]
fn a_field_that_is_removed_is_refused() {
    let lines = refused(SCHEMA, "ClockState", |node| resized(node, -1, nothing));
    assert_eq!(lines, ["state.capnp:ClockState.tscHz: @1 was removed"]);
}

#[test]
fn a_field_that_is_renumbered_is_refused() {
    let lines = refused(SCHEMA, "ClockState", at("tscHz", |field| field.get_ordinal().set_explicit(2)));
    assert_eq!(lines[0], "state.capnp:ClockState.tscHz: was renumbered from @1 to @2");
}

#[test]
fn fields_that_change_numbers_are_refused() {
    let lines = refused(SCHEMA, "ClockState", |node| {
        let mut fields = body(node).get_fields().unwrap();
        fields.reborrow().get(0).get_ordinal().set_explicit(1);
        fields.get(1).get_ordinal().set_explicit(0);
    });
    assert!(lines[0].starts_with("state.capnp:ClockState.guestNanoseconds: is now 'tscHz'"), "{lines:?}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn a_field_of_another_type_is_refused() {
    let lines = refused(SCHEMA, "ClockState", at("tscHz", |field| slot(field).init_type().set_int64(())));
    assert_eq!(lines, ["state.capnp:ClockState.tscHz: was UInt64 and is Int64"]);
    let list = |field: field::Builder<'_>| slot(field).init_type().init_list().init_element_type().set_uint32(());
    let lines = refused(SCHEMA, "X86Core", at("gprs", list));
    assert_eq!(lines, ["state.capnp:X86Core.gprs: was List(UInt64) and is List(UInt32)"]);
    let lines = refused(SCHEMA, "X86Core", at("gdtr", |field| slot(field).init_type().init_struct().set_type_id(5)));
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn a_field_with_another_default_is_refused() {
    let lines = refused(SCHEMA, "ClockState", at("tscHz", |field| slot(field).init_default_value().set_uint64(9)));
    assert_eq!(lines, ["state.capnp:ClockState.tscHz: had the default 0 and has 9"]);
    let lines = refused(SCHEMA, "EngineState", at("cpuModel", |field| slot(field).init_default_value().set_text("x")));
    assert_eq!(lines, ["saved.capnp:EngineState.cpuModel: had the default \"\" and has \"x\""]);
}

#[test]
fn a_field_with_another_name_is_refused() {
    let lines = refused(SCHEMA, "ClockState", at("tscHz", |mut field| field.set_name("hz")));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("state.capnp:ClockState.tscHz: is now 'hz'"), "{lines:?}");
}

#[test]
fn a_field_that_moves_is_refused() {
    let lines = refused(SCHEMA, "ClockState", at("tscHz", |field| slot(field).set_offset(7)));
    assert_eq!(lines, ["state.capnp:ClockState.tscHz: was moved from offset 1 to 7"]);
}

#[test]
fn a_field_that_moves_in_or_out_of_a_union_is_refused() {
    let text = "was moved in or out of a union, or has another discriminant";
    let out = at("interrupt", |mut field| field.set_discriminant_value(field::NO_DISCRIMINANT));
    assert_eq!(refused(SCHEMA, "PendingEvent", out), [format!("state.capnp:PendingEvent.interrupt: {text}")]);
    let other = at("interrupt", |mut field| field.set_discriminant_value(9));
    assert_eq!(refused(SCHEMA, "PendingEvent", other), [format!("state.capnp:PendingEvent.interrupt: {text}")]);
    let inside = at("tscHz", |mut field| field.set_discriminant_value(0));
    assert_eq!(refused(SCHEMA, "ClockState", inside), [format!("state.capnp:ClockState.tscHz: {text}")]);
    // A group's members are its struct's.
    let lines = refused(SCHEMA, "VcpuState.cpu", |node| body(node).set_discriminant_offset(5));
    assert_eq!(lines, ["x86", "a64", "s390x"].map(|name| format!("state.capnp:VcpuState.cpu.{name}: {text}")));
}

#[test]
fn a_field_that_moves_into_a_group_is_refused() {
    // As if `process` had been put into a group of its own: only the group is left in the struct.
    let group = edited(SCHEMA, "SavedState", at("process", |mut field| field.set_name("other.process")));
    let found = changes(&Schema::parse(SCHEMA).unwrap(), &group, FILES);
    assert!(found[0].problem.starts_with("is now 'other.process'"), "{found:?}");
}

#[test]
fn a_new_field_in_the_place_of_an_old_one_is_refused() {
    let lines = refused(SCHEMA, "ClockState", |node| resized(node, 1, new_field(2, 1, field::NO_DISCRIMINANT)));
    assert_eq!(lines, ["state.capnp:ClockState.added: is new and lies where 'tscHz' is"]);
}

#[test]
fn enumerants_that_change_are_refused() {
    let swap = |node: node::Builder<'_>| {
        let mut names = enumerants(node).get_enumerants().unwrap();
        names.reborrow().get(0).set_name("halted");
        names.get(1).set_name("runnable");
    };
    let lines = refused(SCHEMA, "RunState", swap);
    assert_eq!(lines[0], "state.capnp:RunState.runnable: the enumerant @0 is 'halted' now");
    assert_eq!(lines.len(), 2);
    let lines = refused(SCHEMA, "RunState", |node| _ = enumerants(node).init_enumerants(0));
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[4], "state.capnp:RunState.shutdown: the enumerant @4 was removed");
}

fn enumerants(node: node::Builder<'_>) -> node::enum_::Builder<'_> {
    match node.which().unwrap() {
        node::Enum(body) => body,
        _ => panic!("it is an enum"),
    }
}

#[test]
fn a_type_with_another_id_or_name_is_refused() {
    let lines = refused(SCHEMA, "ClockState", |mut node| node.set_id(77));
    assert!(lines[0].starts_with("state.capnp:ClockState: its type id was 0x"), "{lines:?}");
    assert!(lines[0].ends_with(" and is 0x4d"), "{lines:?}");
    let lines = refused(SCHEMA, "ClockState", |mut node| node.set_display_name("state.capnp:Clock"));
    assert_eq!(lines, ["state.capnp:ClockState: was renamed to 'Clock'"]);
}

#[test]
fn a_type_that_is_removed_or_of_another_kind_is_refused() {
    let lines = refused(SCHEMA, "ClockState", |mut node| node.set_file(()));
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with(" was removed"), "{lines:?}");
    let lines = refused(SCHEMA, "ClockState", |node| _ = node.init_enum());
    assert_eq!(lines, ["state.capnp:ClockState: is another kind of type than it was"]);
}

#[test]
fn methods_that_change_are_refused() {
    let name = "control.capnp:Vm.inspect";
    let lines = refused(CONTROL, "Vm", |node| methods(node).get(0).set_name("look"));
    assert_eq!(lines, [format!("{name}: the method @0 is 'look' now")]);
    let lines = refused(CONTROL, "Vm", |node| methods(node).get(0).set_result_struct_type(4));
    assert_eq!(lines, [format!("{name}: takes or answers another type than it did")]);
    let lines = refused(CONTROL, "Vm", |node| _ = interface(node).init_methods(0));
    assert_eq!(lines[0], format!("{name}: the method @0 was removed"));
    let lines = refused(CONTROL, "Vm", |node| interface(node).init_superclasses(1).get(0).set_id(3));
    assert_eq!(lines, ["control.capnp:Vm: extends other interfaces than it did"]);
    // Parameters are fields like others.
    let lines = refused(CONTROL, "Vm.stop$Params", |node| resized(node, -1, nothing));
    assert_eq!(lines, ["control.capnp:Vm.stop$Params.timeoutSeconds: @0 was removed"]);
}

fn interface(node: node::Builder<'_>) -> node::interface::Builder<'_> {
    match node.which().unwrap() {
        node::Interface(body) => body,
        _ => panic!("it is an interface"),
    }
}

fn methods(node: node::Builder<'_>) -> capnp::struct_list::Builder<'_, method::Owned> {
    interface(node).get_methods().unwrap()
}

#[test]
fn additions_are_accepted() {
    let field = |node: node::Builder<'_>| resized(node, 1, new_field(2, 2, field::NO_DISCRIMINANT));
    assert!(refused(SCHEMA, "ClockState", field).is_empty());
    // A member of a union lies where the others are.
    let member = |node: node::Builder<'_>| resized(node, 1, new_field(4, 0, 4));
    assert!(refused(SCHEMA, "PendingEvent", member).is_empty());
    let enumerant = |node: node::Builder<'_>| {
        let names = ["runnable", "halted", "waitForInit", "initReceived", "shutdown", "sleeping"];
        let mut list: capnp::struct_list::Builder<'_, enumerant::Owned> = enumerants(node).init_enumerants(6);
        for (index, name) in (0..).zip(names) {
            list.reborrow().get(index).set_name(name);
        }
    };
    assert!(refused(SCHEMA, "RunState", enumerant).is_empty());
    let method = |node: node::Builder<'_>| {
        let mut copy = Message::new_default();
        let body = interface(node);
        copy.set_root(body.reborrow_as_reader()).unwrap();
        let old = copy.get_root_as_reader::<node::interface::Reader<'_>>().unwrap().get_methods().unwrap();
        let mut new = body.init_methods(old.len() + 1);
        for (index, method) in (0..).zip(old) {
            new.set_with_caveats(index, method).unwrap();
        }
        new.get(old.len()).set_name("added");
    };
    assert!(refused(CONTROL, "Vm", method).is_empty());
    // A type of a file that nothing kept depends on may go.
    assert!(refused(SCHEMA, "EngineFacts", |mut node| node.set_file(())).is_empty());
}

#[test]
fn the_canonical_form_has_all_that_counts_and_nothing_else() {
    let schema = Schema::parse(SCHEMA).unwrap();
    let root = schema.find("saved.capnp", "EngineState").unwrap();
    let canonical = schema.canonical(root);
    for part in ["X86Core", "PendingEvent.ExceptionEvent", "RunState", "waitForInit", "@10 cr8", "List(UInt64)"] {
        assert!(canonical.contains(part), "{part} is missing");
    }
    assert!(!canonical.contains("BoardState"));
    // Files and their order do not count.
    let moved = edited(SCHEMA, "ClockState", |mut node| node.set_display_name("clock.capnp:ClockState"));
    assert_eq!(moved.canonical(root), canonical);
    // The order of fields in the source does not, nor do comments.
    let order = edited(SCHEMA, "ClockState", at("tscHz", |mut field| field.set_code_order(9)));
    assert_eq!(order, schema);
    type Edit = Box<dyn FnOnce(node::Builder<'_>)>;
    let edits: [Edit; 6] = [
        Box::new(at("tscHz", |mut field| field.set_name("hz"))),
        Box::new(at("tscHz", |field| field.get_ordinal().set_explicit(2))),
        Box::new(at("tscHz", |field| slot(field).set_offset(2))),
        Box::new(at("tscHz", |field| slot(field).init_type().set_int64(()))),
        Box::new(at("tscHz", |field| slot(field).init_default_value().set_uint64(1))),
        Box::new(|node| resized(node, 1, new_field(2, 2, field::NO_DISCRIMINANT))),
    ];
    for edit in edits {
        assert_ne!(edited(SCHEMA, "ClockState", edit).canonical(root), canonical);
    }
}
