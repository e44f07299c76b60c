//! Keyed registers as messages have them, to and from plain data.
//!
//! The one idea: what is odd about a list (a size that no register has, a value of another length, more registers than there
//! are) is found where it is read, and named by its position.

use capnp::struct_list;
use wire::state_capnp::keyed_register;

use crate::StateError;
use crate::tolerance::{MAX_REGISTERS, Register};

/// Reads a list; `path` is its place, such as `engine.vcpus[0].registers`.
///
/// # Errors
/// [`StateError::Field`] for what is no register, or too many.
pub fn read(list: struct_list::Reader<'_, keyed_register::Owned>, path: &str) -> Result<Vec<Register>, StateError> {
    if list.len() as usize > MAX_REGISTERS {
        return Err(StateError::field(path, format!("has {} registers; at most {MAX_REGISTERS}", list.len())));
    }
    let mut registers = Vec::with_capacity(list.len() as usize);
    for (index, reader) in list.iter().enumerate() {
        let (id, size, bytes) = (reader.get_id(), reader.get_size(), reader.get_value()?);
        let wrong = |why: String| Err(StateError::field(format!("{path}[{index}]"), format!("register {id:#x} {why}")));
        if !(1..=16).contains(&size) {
            return wrong(format!("has a size of {size} bytes; a register has 1 to 16"));
        }
        if bytes.len() != usize::from(size) {
            return wrong(format!("has a size of {size} bytes and a value of {}", bytes.len()));
        }
        let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u128::from(*byte));
        registers.push(Register { id, size, value });
    }
    Ok(registers)
}

/// Writes registers into a list of the same length, in their order.
pub fn write(mut list: struct_list::Builder<'_, keyed_register::Owned>, registers: &[Register]) {
    for (index, register) in (0..list.len()).zip(registers) {
        let mut builder = list.reborrow().get(index);
        builder.set_id(register.id);
        builder.set_size(register.size);
        let bytes = register.value.to_le_bytes();
        builder.set_value(bytes.get(..usize::from(register.size)).unwrap_or(&bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;
    use wire::state_capnp::vcpu_state;

    fn list(message: &Message) -> struct_list::Reader<'_, keyed_register::Owned> {
        message.get_root_as_reader::<vcpu_state::Reader<'_>>().unwrap().get_registers().unwrap()
    }

    #[test]
    fn registers_come_back_as_they_went() {
        let registers = [(0x10, 8, 0x0102_0304_0506_0708), (1, 1, 0xff), (u64::MAX, 16, u128::MAX - 5), (2, 4, 7)]
            .map(|(id, size, value)| Register { id, size, value });
        let mut message = Message::new_default();
        write(message.init_root::<vcpu_state::Builder<'_>>().init_registers(4), &registers);
        assert_eq!(list(&message).get(0).get_value().unwrap(), [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(read(list(&message), "r").unwrap(), registers);
    }

    #[test]
    fn what_is_no_register_is_named() {
        let mut message = Message::new_default();
        let why = |size, bytes: &[u8], message: &mut Message| {
            let mut list = message.init_root::<vcpu_state::Builder<'_>>().init_registers(2);
            write(list.reborrow(), &[Register { id: 1, size: 1, value: 1 }]);
            let mut bad = list.get(1);
            bad.set_id(0x174);
            bad.set_size(size);
            bad.set_value(bytes);
            read(self::list(message), "engine.vcpus[0].registers").unwrap_err().to_string()
        };
        let place = "field 'engine.vcpus[0].registers[1]': register 0x174 has a size of";
        assert_eq!(why(0, &[], &mut message), format!("{place} 0 bytes; a register has 1 to 16"));
        assert_eq!(why(17, &[0; 17], &mut message), format!("{place} 17 bytes; a register has 1 to 16"));
        assert_eq!(why(8, &[0; 7], &mut message), format!("{place} 8 bytes and a value of 7"));
        message.init_root::<vcpu_state::Builder<'_>>().init_registers(MAX_REGISTERS as u32 + 1);
        assert!(read(list(&message), "r").unwrap_err().to_string().starts_with("field 'r': has 4097 registers"));
    }
}
