//! Validation of fields of a saved state: each check refuses with the field's path and what is wrong with its value.
//!
//! The one idea: a state comes from a file, so a value is believed only after the code that relies on a bound has checked
//! that bound, and a refusal says which field it was.

use state::StateError;

/// The longest guest time in a state, nanoseconds: 146 years. Sums of two times cannot overflow.
pub const MAX_TIME: u64 = 1 << 62;

/// Refuses field `name` of the struct at path `at`.
pub fn refuse<T>(at: &str, name: &str, why: impl Into<String>) -> Result<T, StateError> {
    Err(StateError::field(format!("{at}.{name}"), why))
}

/// The value, if it has no bits outside `allowed`.
///
/// # Errors
/// The refusal.
pub fn bits<T: Copy + Into<u64>>(at: &str, name: &str, value: T, allowed: u64) -> Result<T, StateError> {
    match value.into() & !allowed {
        0 => Ok(value),
        _ => refuse(at, name, format!("{:#x} has bits outside {allowed:#x}", value.into())),
    }
}

/// The value, if it is at most `most`.
///
/// # Errors
/// The refusal.
pub fn most<T: Copy + Into<u64>>(at: &str, name: &str, value: T, most: u64) -> Result<T, StateError> {
    if value.into() > most {
        return refuse(at, name, format!("{} is above {most}", value.into()));
    }
    Ok(value)
}

/// The bytes, if there are as many as there must be.
///
/// # Errors
/// The refusal.
pub fn bytes<const N: usize>(at: &str, name: &str, value: capnp::Result<&[u8]>) -> Result<[u8; N], StateError> {
    let value = value?;
    match value.try_into() {
        Ok(bytes) => Ok(bytes),
        Err(_) => refuse(at, name, format!("has {} bytes; it must have {N}", value.len())),
    }
}

/// Refuses a list that has another length than `wanted`.
///
/// # Errors
/// The refusal.
pub fn length(at: &str, name: &str, found: u32, wanted: usize) -> Result<(), StateError> {
    if found as usize == wanted {
        return Ok(());
    }
    refuse(at, name, format!("has {found} elements; it must have {wanted}"))
}
